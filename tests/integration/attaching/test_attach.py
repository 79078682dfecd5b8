"""Attaching to programs that know nothing of us, and detaching: what can be hooked then, and what is as before.

Where the machine does not let a process trace its children, all of this is skipped, with the reason.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable, Dict, Iterable, Iterator, List

import pytest

import xpc_instrument
from tests import programs
from tests.attaching import proof
from tests.attaching.proof import Target
from tests.programs import Program, children
from xpc_instrument.attaching.attach import _bring, attach_process, attach_tree
from xpc_instrument.attaching.examination import examine
from xpc_instrument.attaching.job import Job
from xpc_instrument.cli import main
from xpc_instrument.core.config.file import from_probes, with_on_demand
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.errors import ApplicationNotFoundError, AttachError

_REFUSED = proof.why_not() if sys.platform.startswith("linux") else "takes Linux"
pytestmark = [pytest.mark.skipif(bool(_REFUSED), reason=f"nothing can be attached to here: {_REFUSED}")]


@pytest.fixture
def start_target() -> Iterator[Callable[[str], Target]]:
    """Start a program of `tests/attaching/targets.py`."""
    running: List[Target] = []

    def start(kind: str) -> Target:
        target = Target(kind)
        running.append(target)
        return target.wait_ready()

    yield start
    for target in running:
        programs.killed.add(target.pid)
        assert target.end() == -signal.SIGKILL


def await_pids(calls: SimpleQueue[int], number: int, working: Iterable[int] = ()) -> set[int]:
    """Those of so many processes, as their calls come; `working` are those of `WORKS`, which are told to."""
    for pid in working:
        os.kill(pid, signal.SIGUSR1)
    seen: set[int] = set()
    while len(seen) < number:
        seen.add(calls.get(timeout=30))
    return seen


SHOP = """
import gc, os, sys, time, _thread
def charge(amount): return amount
collected = []
def look(phase, _, main=_thread.get_ident()):
    # What the application has collected in whatever thread may wait for one that imports.
    frame = sys._getframe() if _thread.get_ident() != main else None
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            collected.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
gc.callbacks.append(look)
gc.set_threshold(30)
def audit():
    return {"descriptors": sorted(os.listdir("/proc/self/fd")), "path": list(sys.path), "finders": [id(one) for one in sys.meta_path],
            "code": id(charge.__code__), "threads": len(os.listdir("/proc/self/task")), "environment": dict(os.environ),
            "interval": sys.getswitchinterval(), "threshold": (gc.get_threshold(), gc.isenabled()), "collected": list(collected), "names": sorted(globals())}
before = audit()
print("ready", flush=True)
for line in sys.stdin:
    if line == "charge\\n":
        print("charged", charge(5), flush=True)
    else:
        for _ in range(500):
            # The last thread needs a moment to end.
            now = audit()
            if now == before:
                break
            time.sleep(0.01)
        print("same" if now == before else [(name, before[name], now[name]) for name in before if before[name] != now[name]], flush=True)
"""


@pytest.mark.version
def test_a_running_program_is_hooked_and_left_as_it_was(run_program: Callable[..., Program]) -> None:
    program = run_program("line = _ = now = before = None\n" + SHOP)
    program.read_until("ready")
    for _ in range(3):
        app = xpc_instrument.attach(program.pid)
        seen: SimpleQueue[Any] = SimpleQueue()
        app.after("__main__:charge", lambda call, seen=seen: seen.put(call.result))
        program.send_line("charge")
        assert program.read_line() == "charged 5"
        assert seen.get(timeout=30) == 5
        assert app.detach() == [program.pid]
        program.send_line("audit")
        assert program.read_line() == "same"
        assert discovery.processes() == []
    program.kill()


@pytest.mark.version
@pytest.mark.parametrize("kind", ["accept", "timed_lock", "reads_input", "signal_wait", "busy", "full_pipe", "without_threading"])
def test_a_target_goes_on_as_before(kind: str, start_target: Callable[[str], Target]) -> None:
    target = start_target(kind)
    for _ in range(2):
        proof.go_through(target)


@pytest.mark.version
def test_a_signal_ends_what_it_would_have_ended(run_program: Callable[..., Program]) -> None:
    program = run_program(
        "import time\nprint('ready', flush=True)\ntry:\n    time.sleep(1000)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    program.read_until("ready")
    with xpc_instrument.attach(program.pid) as app:
        app.detach()
    program.signal(signal.SIGINT)
    assert program.read_line() == "interrupted"
    assert program.wait() == 0


@pytest.mark.version
def test_a_program_without_threading_ends_by_itself(start_target: Callable[[str], Target]) -> None:
    target = Target("without_threading").wait_ready()
    attach_process(target.pid)
    assert target.process.stdin is not None
    target.process.stdin.close()
    assert target.process.wait(30) == 0
    target.end()


@pytest.mark.version
def test_attachers_that_are_killed_harm_nobody(start_target: Callable[[str], Target]) -> None:
    target = start_target("short_sleeps")
    chance = random.Random(1)
    for _ in range(10):
        proof.kill_attacher(target, 0.03, chance)
    proof.settle(target)


@pytest.mark.version
def test_children_that_are_forked_while_it_attaches_have_whole_modules(start_target: Callable[[str], Target]) -> None:
    proof.go_through(start_target("forking"), hooked=False)


# Works once for each SIGUSR1, which only its main thread waits for.
WORKS = """
import os, signal, sys
def work(): return 1
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
def serve():
    while signal.sigwait({signal.SIGUSR1}):
        work()
"""


FORKS_AT_ONCE = (
    WORKS
    + """
for _ in range(2):
    if os.fork() == 0:
        serve()
print("ready", flush=True)
before = len(sys.modules)
while len(sys.modules) == before:
    pass
for _ in range(4):
    if os.fork() == 0:
        serve()
print("forked", flush=True)
serve()
"""
)


@pytest.mark.version
def test_children_that_are_forked_while_it_attaches_can_be_hooked(run_program: Callable[..., Program]) -> None:
    program = run_program(FORKS_AT_ONCE)
    program.read_until("ready")
    attach_process(program.pid, app="forks")
    program.read_until("forked")
    refused: List[str] = []
    attach_tree(program.pid, app="forks", say=refused.append)
    assert not refused
    with xpc_instrument.connect("forks") as app:
        seen: SimpleQueue[int] = SimpleQueue()
        app.before("__main__:work", lambda call: seen.put(call.pid))
        assert len(app.pids) == 7 and await_pids(seen, 7, app.pids) == set(app.pids)
        assert len(app.detach()) == 7
    # From Python 3.12 on it may say that there was a second thread.
    assert "Exception" not in program.text


@pytest.mark.version
def test_two_that_attach_at_once_find_one_agent(start_target: Callable[[str], Target]) -> None:
    target = start_target("short_sleeps")
    second = subprocess.Popen(
        [sys.executable, "-m", "xpc_instrument.cli", "attach", str(target.pid)], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    first = attach_process(target.pid)
    assert second.communicate(timeout=30)[0] and second.returncode == 0
    assert [(entry.app, entry.pid) for entry in discovery.processes()] == [(first.app, target.pid)]
    with xpc_instrument.connect(target.pid) as app:
        app.detach()


FORKING = WORKS + "if os.fork() == 0: print('child', flush=True)\nserve()\n"


@pytest.mark.version
def test_a_tree_is_one_application(run_program: Callable[..., Program]) -> None:
    program = run_program(FORKING)
    program.read_until("child")
    pids = sorted([program.pid, *children(program.pid)])
    for pid in pids:
        # Each by itself is an application of its own, though they have one name.
        xpc_instrument.attach(pid, app="tree").close()
    with pytest.raises(xpc_instrument.AmbiguousApplicationError, match=rf"pid {pids[0]} .*, and pid {pids[1]} "):
        xpc_instrument.connect("tree")
    with xpc_instrument.connect("tree", root=pids[1]) as app:
        assert app.pids == pids[1:]
    with xpc_instrument.connect("tree", all=True) as app:
        assert app.detach() == pids
    with xpc_instrument.attach(program.pid, app="tree", tree=True) as app:
        assert app.pids == pids and len(pids) == 2
        seen: SimpleQueue[int] = SimpleQueue()
        app.before("__main__:work", lambda call: seen.put(call.pid))
        assert await_pids(seen, 2, pids) == set(pids)
        assert app.detach() == pids
    assert discovery.processes() == []


@pytest.mark.version
def test_a_child_that_is_forked_later_is_instrumented(run_program: Callable[..., Program]) -> None:
    program = run_program(
        WORKS + "print('ready', flush=True)\nsys.stdin.readline()\nprint('child', os.fork() or os.getpid(), flush=True)\nserve()\n"
    )
    program.read_until("ready")
    xpc_instrument.attach(program.pid, app="later").close()
    with xpc_instrument.connect("later") as app:
        seen: SimpleQueue[int] = SimpleQueue()
        app.before("__main__:work", lambda call: seen.put(call.pid))
        program.send_line()
        for _ in range(2):
            program.read_until("child")
        pids = [program.pid, *children(program.pid)]
        assert await_pids(seen, 2, pids) == set(pids)
        app.detach()


def test_a_program_that_started_its_agent_itself_goes_on_after_a_fork_when_it_was_left_and_attached_to(
    run_program: Callable[..., Program],
) -> None:
    program = run_program(
        "import os, sys, xpc_agent\nfrom xpc_agent.guard import guard\ndef work(): return 1\nxpc_agent.start(app='again', on_demand=['**'])\n"
        "print('ready', flush=True)\nfor line in sys.stdin:\n    child = os.fork()\n    if not child: os._exit(0)\n    os.waitpid(child, 0)\n"
        "    print(guard.on, work(), flush=True)\n"
    )
    program.read_until("ready")
    with xpc_instrument.connect(program.pid) as app:
        app.detach()
    with xpc_instrument.attach(program.pid) as app:
        app.instead("__main__:work", lambda: 2)
        for _ in range(2):
            program.send_line()
            assert program.read_line() == "False 2"
        app.detach()
    program.kill()


@pytest.mark.version
@pytest.mark.skipif(sys.version_info < (3, 14), reason="sys.remote_exec came with 3.14")
def test_python_s_own_way_in_where_the_machine_code_cannot_go(run_program: Callable[..., Program]) -> None:
    program = run_program("import time\ndef work(): return 1\nprint('ready', flush=True)\nwhile True: work(); time.sleep(0.005)\n")
    program.read_until("ready")
    examination = examine(program.pid)
    examination.way = "remote"
    report = _bring(examination, with_on_demand(from_probes("remote", ()), ("**",)), time.monotonic() + 10)
    assert report["app"] == "remote"
    with xpc_instrument.connect(program.pid) as app:
        seen: SimpleQueue[int] = SimpleQueue()
        app.before("__main__:work", lambda call: seen.put(call.pid))
        assert seen.get(timeout=30) == program.pid
        app.detach()


@pytest.mark.version
@pytest.mark.skipif(sys.version_info < (3, 14), reason="sys.remote_exec came with 3.14")
def test_python_s_own_way_is_given_up_without_a_word_of_python(
    run_program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpc_instrument.attaching.attach.TIMEOUT", 0.3)
    program = run_program("import sys\nprint('ready', flush=True)\nsys.stdin.readline()\nprint('over')\n")
    program.read_until("ready")
    examination = examine(program.pid)
    examination.way = "remote"
    with pytest.raises(AttachError, match="its main thread is blocked in a system call"):
        _bring(examination, from_probes("remote", ()), time.monotonic() + 0.3)
    program.send_line()
    assert program.wait() == 0
    assert program.output == ["ready", "over"]


@pytest.mark.version
@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="takes root, and a Python that anybody may run")
def test_root_attaches_to_another_user_s_program_lists_it_and_detaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = 65534
    folder = tempfile.mkdtemp(prefix="xpc-test-")
    os.chown(folder, nobody, nobody)
    program = subprocess.Popen(
        ["/usr/bin/python3", "-c", "import time\nprint('ready', flush=True)\ntime.sleep(1000)"],
        stdout=subprocess.PIPE,
        env={**os.environ, "XPC_INSTRUMENT_RUNTIME_DIR": f"{folder}/runtime"},
        user=nobody,
        group=nobody,
        extra_groups=[],
        cwd="/",
    )
    try:
        assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        for name in (str(program.pid), "theirs"):
            status, said = _said(capsys, str(program.pid), "--app", "theirs")
            assert status == 0 and f"sudo -u nobody XPC_INSTRUMENT_RUNTIME_DIR={folder}/runtime xpc-instrument watch {program.pid}" in said
            assert [(entry.app, entry.pid) for entry in discovery.processes()] == [("theirs", program.pid)]
            # Root lets nothing of theirs run in itself, and so cannot talk to it.
            assert main(["ls", str(program.pid)]) == 5 and f"sudo -u '#{nobody}'" in capsys.readouterr().out
            assert main(["detach", name]) == 0
            assert capsys.readouterr().out == f"detached from theirs: 1 process ({program.pid})\n"
            assert discovery.processes() == [] and os.listdir(f"{folder}/runtime") == []
        assert main(["detach", str(program.pid)]) == 4
        # All that it imports was handed over in memory.
        assert not [line for line in Path(f"/proc/{program.pid}/maps").read_text().splitlines() if "wrapt" in line]
    finally:
        program.kill()
        program.communicate()
        shutil.rmtree(folder)
    assert discovery.processes() == []


# refusals ------------------------------------------------------------------------------------------------------------------


def _said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["attach", *words])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def _refused(run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str], source: str, *words: str) -> tuple[Program, str]:
    """A program that is ready and cannot be attached to, and what is said of it."""
    program = run_program(source)
    program.read_until("ready")
    status, said = _said(capsys, str(program.pid), *words)
    assert status == 6, said
    return program, said


def _sleeper(run_program: Callable[..., Program], **environment: str) -> Program:
    program = run_program("import time\nprint('ready', flush=True)\ntime.sleep(1000)\n", env=environment)
    program.read_until("ready")
    return program


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"XPC_INSTRUMENT_DISABLE": "1"}, "its environment has XPC_INSTRUMENT_DISABLE set"),
        ({"PYTHON_DISABLE_REMOTE_DEBUG": "1"}, "remote debugging is disabled in it"),
    ],
)
def test_a_program_that_forbids_it_is_left_alone(
    environment: Dict[str, str], why: str, run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = _said(capsys, str(_sleeper(run_program, **environment).pid))
    assert status == 6 and why in said
    assert discovery.processes() == []


def test_a_program_that_forbids_it_by_itself_is_left_alone(run_program: Callable[..., Program]) -> None:
    program = run_program("import os, time\nos.environ['XPC_INSTRUMENT_DISABLE'] = '1'\nprint('ready', flush=True)\ntime.sleep(1000)\n")
    program.read_until("ready")
    with pytest.raises(AttachError, match="XPC_INSTRUMENT_DISABLE"):
        xpc_instrument.attach(program.pid)
    assert len(os.listdir(f"/proc/{program.pid}/task")) == 1


def test_a_stopped_program_is_refused(run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]) -> None:
    program = _sleeper(run_program)
    program.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    status, said = _said(capsys, str(program.pid))
    assert status == 6 and f"it is stopped; let it go on first: kill -CONT {program.pid}" in said


def test_a_program_that_is_traced_is_refused(run_program: Callable[..., Program], tmp_path: Path) -> None:
    program = _sleeper(run_program)
    tracer = run_program(
        "import os, sys\nfrom xpc_instrument.attaching.thread import ptrace\npid = int(sys.argv[1])\n"
        "ptrace(0x4206, pid)\nprint('traces', flush=True)\nsys.stdin.readline()\n",
        str(program.pid),
        name="tracer.py",
    )
    tracer.read_until("traces")
    with pytest.raises(AttachError, match=rf"it is traced by process {tracer.pid} \(python.*\); end the debugger or strace first"):
        xpc_instrument.attach(program.pid)
    tracer.send_line()
    assert tracer.wait() == 0


def test_another_program_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Else what has just begun may still become a Python.
    monkeypatch.setattr("xpc_instrument.attaching.attach._STARTING", 0.0)
    other = subprocess.Popen(["sleep", "1000"])
    try:
        status, said = _said(capsys, str(other.pid))
        assert status == 6 and "no Python that exports its functions runs in it" in said
    finally:
        other.kill()
        other.wait()


def test_a_pid_of_nobody_is_no_application(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    assert _said(capsys, str(done.pid))[0] == 4
    with pytest.raises(ApplicationNotFoundError):
        xpc_instrument.attach(done.pid)


def test_one_that_keeps_the_lock_is_given_up_and_left_as_it_was(
    run_program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpc_instrument.attaching.attach.TIMEOUT", 0.3)
    source = (
        "import ctypes, sys\nprint('ready', flush=True)\nctypes.PyDLL(None).getchar()\nprint('over', flush=True)\nsys.stdin.readline()\n"
    )
    program = run_program(source)
    program.read_until("ready")
    with pytest.raises(AttachError, match="keeps the global interpreter lock"):
        xpc_instrument.attach(program.pid)
    program.send_line()
    program.read_until("over")
    while len(os.listdir(f"/proc/{program.pid}/task")) > 1:
        time.sleep(0.001)
    assert discovery.processes() == []
    program.send_line()
    assert program.wait() == 0


def test_a_check_says_all_and_changes_nothing(run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]) -> None:
    program = _sleeper(run_program)
    before = Path(f"/proc/{program.pid}/maps").read_text()
    status, said = _said(capsys, str(program.pid), "--check")
    assert status == 0
    assert said.startswith(f"{program.pid}: python {'.'.join(map(str, sys.version_info[:3]))}"[:12])
    libc = "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
    assert said.splitlines()[0].endswith(f", {libc}") and "  ok    same user" in said and "machine code fits" in said
    assert Path(f"/proc/{program.pid}/maps").read_text() == before
    assert len(os.listdir(f"/proc/{program.pid}/task")) == 1
    program.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    status, said = _said(capsys, str(program.pid), "--check")
    assert status == 6 and "  FAIL  it is stopped" in said and f"remedy: let it go on first: kill -CONT {program.pid}" in said


def test_the_commands_say_what_they_did(run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]) -> None:
    program = _sleeper(run_program)
    status, said = _said(capsys, str(program.pid))
    name = f"program-{program.pid}"
    assert status == 0 and said.startswith(f"attached to {program.pid} (python 3.") and f'as "{name}" in ' in said
    assert _said(capsys, str(program.pid))[1].startswith(f'{program.pid} has the agent already, as "{name}"')
    assert main(["detach", name]) == 0
    assert capsys.readouterr().out == f"detached from {name}: 1 process ({program.pid})\n"
    assert main(["ls", str(program.pid)]) == 4
    assert f"xpc-instrument attach {program.pid}" in capsys.readouterr().err


ODD = """
import sys
def exec(*_): print("exec was called", flush=True)
def open(*_): print("open was called", flush=True)
class Wrapper:
    def __init__(self, module): self.__dict__.update(vars(module))
wrapper = sys.modules["__main__"] = Wrapper(sys.modules["__main__"])
print("ready", flush=True)
for line in sys.stdin:
    print("same" if sys.modules["__main__"] is wrapper else "replaced", flush=True)
"""


@pytest.mark.version
def test_no_name_of_the_main_module_is_used_and_one_that_is_no_module_stays(run_program: Callable[..., Program]) -> None:
    program = run_program(ODD)
    program.read_until("ready")
    xpc_instrument.attach(program.pid).detach()
    program.send_line()
    assert program.read_line() == "same"
    program.kill()


# As `dataclasses.dataclass` does.
LOOKING = """
import sys
assert "typing" not in sys.modules
print("ready", flush=True)
while "xpc_agent.life.attached" not in sys.modules:
    typing = sys.modules.get("typing")
    assert typing is None or hasattr(typing, "get_type_hints")
print(typing is not None, flush=True)
sys.stdin.readline()
"""


@pytest.mark.version
def test_typing_is_not_seen_half_imported(run_program: Callable[..., Program]) -> None:
    program = run_program(LOOKING)
    program.read_until("ready")
    xpc_instrument.attach(program.pid).detach()
    assert program.read_line() == "True"
    program.send_line()
    assert program.wait() == 0


def test_a_file_of_the_application_is_not_run_in_place_of_the_standard_library_s(
    run_program: Callable[..., Program], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("selectors", "json"):
        (tmp_path / f"{name}.py").write_text(f"print('{name} was run', flush=True)\nraise SystemExit\n")
    program = _sleeper(run_program)
    status, said = _said(capsys, str(program.pid))
    assert status == 6 and str(tmp_path) in said and "would be imported in place of the standard library's module" in said
    for name in ("selectors", "json"):
        (tmp_path / f"{name}.py").unlink()
    assert _said(capsys, str(program.pid))[0] == 0
    program.kill()
    assert "was run" not in program.text


def test_one_that_has_another_version_installed_is_refused_and_nothing_of_it_imported(
    run_program: Callable[..., Program], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "xpc_instrument"
    (package / "core").mkdir(parents=True)
    for name, text in (("__init__", "print('imported', flush=True)\n"), ("core/__init__", ""), ("core/version", "__version__ = '0.0.1'\n")):
        (package / f"{name}.py").write_text(text)
    program = _sleeper(run_program)
    status, said = _said(capsys, str(program.pid))
    assert status == 6 and "it has another version of xpc-instrument installed, 0.0.1, and this is" in said
    assert len(os.listdir(f"/proc/{program.pid}/task")) == 1 and discovery.processes() == []
    program.kill()
    assert "imported" not in program.text


def test_the_stand_in_stays_out_where_a_file_of_the_application_is_in_the_way(run_program: Callable[..., Program], tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "selectors.py").write_text("print('selectors was run', flush=True)\n")
    (folder / "pay.py").write_text("def charge(): return 1\n")
    (folder / "main.py").write_text("import pay\nprint('charged', pay.charge(), flush=True)\n")
    program = run_program(
        command=[
            *(sys.executable, "-m", "xpc_instrument.cli", "run", "--app", "pay", "--probe", "pay:charge", "--"),
            *(sys.executable, "shop/main.py"),
        ],
        cwd=tmp_path,
    )
    assert program.wait() == 0
    assert "charged 1" in program.text and "selectors was run" not in program.text and f"{folder}/selectors.py" in program.text


def test_a_thread_is_named_as_one(run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]) -> None:
    program = run_program(
        "import threading, time\nthread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)\nthread.start()\n"
        "print('thread', thread.native_id, flush=True)\ntime.sleep(1000)\n"
    )
    thread = program.read_until("thread").split()[1]
    status, said = _said(capsys, thread)
    assert status == 6 and f"it is a thread of process {program.pid}" in said
    program.kill()


def test_one_without_free_descriptors_or_memory_or_files_is_refused(
    run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "import mmap, os, resource, time\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\nkept = [os.pipe() for _ in range(29)]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\nkept += [mmap.mmap(-1, 980 << 20)]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "print('ready', flush=True)\ntime.sleep(1000)\n"
    )
    program, said = _refused(run_program, capsys, source, "--check")
    assert "descriptors open, and may have 64" in said
    assert "MiB of address space, and may have 1024" in said and f"prlimit --pid {program.pid} --as=" in said
    assert "it may write files of 0 bytes at most (RLIMIT_FSIZE)" in said
    program.kill()


# Has itself killed for any socket, as by a filter of systemd's.
FILTERED = """
import ctypes, struct, sys
program = b"".join(struct.pack("<HBBI", *one) for one in [(32, 0, 0, 0), (21, 0, 1, 41), (6, 0, 0, 0x80000000), (6, 0, 0, 0x7fff0000)])
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(Program(4, program)), 0, 0) == 0
print("ready", flush=True)
sys.stdin.readline()
print("lives")
"""


def test_one_that_its_own_filter_would_end_is_refused(run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]) -> None:
    program, said = _refused(run_program, capsys, FILTERED)
    assert "its seccomp filter would end it for system calls of the agent (socket)" in said or "may not be read" in said
    program.send_line()
    assert program.read_line() == "lives" and program.wait() == 0


def test_one_whose_main_thread_has_ended_is_refused(run_program: Callable[..., Program], capsys: pytest.CaptureFixture[str]) -> None:
    source = (
        "import ctypes, sys, threading\nmain = threading.main_thread()\ndef wait():\n    with open('/proc/self/stat') as file:\n"
        "        while file.read().rpartition(')')[2].split()[0] != 'Z': file.seek(0)\n    print('ready', flush=True)\n"
        "    sys.stdin.readline()\nthreading.Thread(target=wait).start()\nctypes.CDLL(None).syscall(60, 0)\n"
    )
    program, said = _refused(run_program, capsys, source)
    assert "its main thread has ended, while others go on; start it with: xpc-instrument run" in said
    program.kill()


@pytest.mark.version
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_one_that_does_not_see_python_s_files_any_more_is_refused_and_goes_on(
    run_program: Callable[..., Program], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    source = "import os, sys\nos.chroot(sys.argv[1])\nprint('ready', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)\n"
    program = run_program(source, str(root))
    program.read_until("ready")
    status, said = _said(capsys, str(program.pid))
    assert status == 6 and "no folder can be made that it sees; make room in its /tmp, mount a tmpfs there in its container" in said
    (root / "tmp").mkdir()
    for _ in range(2):
        status, said = _said(capsys, str(program.pid))
        assert status == 6 and "it cannot import what the agent needs of the standard library (No module named " in said, said
        assert "Traceback" not in said
    assert os.listdir(root / "tmp") == []
    program.send_line("goes on")
    assert program.read_line() == "goes on"
    program.kill()


@pytest.mark.parametrize("answer", [b"junk\n", b"[]\n", b"{}\n", b'{"refusal": 1}\n', b"x" * 40_000])
def test_an_answer_that_is_none_of_the_agent_s_is_refused(answer: bytes) -> None:
    with Job(os.getpid(), os.getuid(), os.getgid()) as job:
        pipe = os.open(f"{job.path}/report", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, answer)
            with pytest.raises(AttachError, match="its answer is not what the agent says"):
                job.await_report(time.monotonic() + 10)
        finally:
            os.close(pipe)

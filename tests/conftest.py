"""Fixtures for all tests: a private runtime directory, real programs in real processes, and a look for what was left behind.

- `runtime_dir` (every test has it, asked for or not): a short private folder, in `XPC_INSTRUMENT_RUNTIME_DIR`. When the test ends,
  nothing that it started may be there: no process, thread or open socket, and no file in the folder unless its process was killed.
- `run_program`: starts Python source, or any command, as a real process; see `tests/programs.py`.
"""

from __future__ import annotations

import compileall
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, List, Set

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from tests import programs
from tests.programs import Program, children, wait_for_exit

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell script: programs would inherit that, and Ctrl-C would end none of them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long what is ending at the end of a test may take, in seconds, for all of it together.
_GRACE = 5.0


def pytest_configure() -> None:
    """Searches end by their number of examples, never by the clock: how fast the machine is, is no property of what is tested.

    They try the same examples each time and everywhere, so that what fails with a change fails by it; Hypothesis does so by itself only
    where a variable such as CI is set, and then nobody can repeat it elsewhere. `--hypothesis-profile=default` tries others, as does fuzzing.
    """
    settings.register_profile(
        "searching", max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("searching")


def pytest_sessionstart() -> None:
    """Compile the project, for the thousands of programs that import it: with PYTHONDONTWRITEBYTECODE, each would do so anew."""
    root = Path(__file__).resolve().parents[1]
    for folder in ("xpc_instrument", "agent", "benchmarks", "tests"):
        # What cannot be written, in a folder that is read only, is compiled by each as before.
        compileall.compile_dir(root / folder, quiet=2)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what was imported and collected: each `gc.collect()` of a test went through all of that, too."""
    # The first search makes Hypothesis's own random numbers, and warns if the collector knows of nobody who holds them.
    given(strategies.none())(lambda _: None)()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the test's own (mode 0700), with a path short enough for unix sockets, which have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="xpc", dir="/tmp" if os.path.isdir("/tmp") else None))
    monkeypatch.setenv("XPC_INSTRUMENT_RUNTIME_DIR", str(folder))
    programs.killed.clear()
    threads = _threads()
    processes = set(children(os.getpid()))
    sockets = _sockets()
    try:
        yield folder
        left = _left_behind(folder, threads, processes, sockets)
        assert not left, f"the test left behind: {', '.join(left)}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _threads() -> Set[threading.Thread]:
    """The threads that run; not the dummies that logging makes for threads that were started below `threading`, and nobody can join."""
    return {thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)} - {
        kept.reader for kept in programs.kept
    }


def _left_behind(folder: Path, threads: Set[threading.Thread], processes: Set[int], sockets: Set[str]) -> List[str]:
    deadline = time.monotonic() + _GRACE
    left = []
    for pid in _processes_of(folder) | (
        set(children(os.getpid())) - processes - {kept.pid for kept in programs.kept} - _of_the_standard_library()
    ):
        if not wait_for_exit(pid, max(0.0, deadline - time.monotonic())):
            left.append(f"process {pid} ({_command(pid)})")
            os.kill(pid, signal.SIGKILL)
        elif pid in children(os.getpid()):
            left.append(f"process {pid} (it ended, but nobody waited for it)")
    for thread in _threads() - threads:
        while thread.ident is None and time.monotonic() < deadline:
            # It is being started, and cannot be joined yet.
            time.sleep(0.001)
        thread.join(max(0.0, deadline - time.monotonic()))
    left += [f"thread {thread.name}" for thread in _threads() - threads]
    if _sockets() - sockets:
        gc.collect()
        left += sorted(f"open {name}" for name in _sockets() - sockets)
    left += [f"{path.name} in the runtime directory" for path in sorted(folder.iterdir()) if not _may_stay(path)]
    return left


def _may_stay(path: Path) -> bool:
    """A process that was killed has no time to clean up; whoever looks next does. Its files name its pid, or no pid at all.

    Nor has the thread of one that ends in the middle of announcing itself, which leaves what it has begun to write.
    """
    if not programs.killed and path.suffix != ".tmp":
        return False
    middle = path.name.rsplit(".", 2)[1:2]
    return not (middle and middle[0].isdigit() and os.path.exists(f"/proc/{middle[0]}"))


def _pids() -> Set[str]:
    return {name for name in os.listdir("/proc") if name.isdigit()} if os.path.isdir("/proc") else set()


# Those that ran before any test began: their environment need not be read after each test.
_OTHERS = _pids()


def _processes_of(folder: Path) -> Set[int]:
    """The living processes that were started with this runtime directory, whoever their parent is; none where there is no /proc."""
    found = set()
    setting = b"XPC_INSTRUMENT_RUNTIME_DIR=" + os.fsencode(folder)
    for name in _pids() - _OTHERS:
        if int(name) != os.getpid():
            try:
                environment = Path("/proc", name, "environ").read_bytes()
            except OSError:
                continue  # it has ended, or is another user's
            if setting in environment.split(b"\0"):
                found.add(int(name))
    return found


def _of_the_standard_library() -> Set[int]:
    """multiprocessing keeps one helper for the life of the process that uses it."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    pid = getattr(getattr(module, "_resource_tracker", None), "_pid", None)
    return set() if pid is None else {pid}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except OSError:
        return "it has just ended"


def _sockets() -> Set[str]:
    """The sockets that this process has open; none where there is no /proc."""
    found = set()
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture
def run_program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start Python source as a real program: `run_program(source, *args, name=..., command=..., env=..., cwd=...)`.

    The source is written to `tmp_path / name` and run by this interpreter; with `command`, that is run instead, in `tmp_path`. Returns a
    `Program`: `read_line(timeout)`, `read_until("ready")`, `send_line(text)`, `signal(number)`, `kill()`, `wait()`, `pid`, `output`.
    What still runs when the test ends is killed, with all that it started.
    """
    running: List[Program] = []

    def start(source: str = "", *args: str, name: str = "program.py", **options: object) -> Program:
        if source:
            path = tmp_path / name
            path.write_text(source)
        else:
            path = tmp_path
        program = Program(path, *args, **options)  # type: ignore[arg-type]
        running.append(program)
        return program

    yield start
    for program in running:
        program.end()

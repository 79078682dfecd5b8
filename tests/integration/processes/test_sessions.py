"""Sessions as scripts use them: what ends a registration, forks of a script, and what is told to those who mistype."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, command, start_app
from tests.integration.cli.test_cli import cli
from tests.programs import PATIENCE, Program, wait_for
from xpc_instrument import ApplicationNotFoundError, ChannelError, Session, TargetError


@pytest.mark.parametrize(
    ("form", "change", "result"),
    [
        ("as passed", lambda call: call.kwargs.update(currency="USD"), "'[1] USD'"),
        ("canonical", lambda call: setattr(call, "args", (call.args[0], "USD")), "'[1] USD'"),
        ("canonical", lambda call: call.args[0].append(2), "'[1, 2] EUR'"),
        ("canonical", lambda call: setattr(call, "args", ([7],)), "'[7] EUR'"),
        ("as passed", lambda call: call.kwargs.pop("currency"), "'[1] EUR'"),
        ("canonical", lambda call: None, "'[1] EUR'"),
    ],
    ids=["a keyword", "by position", "in an argument", "all", "one less", "nothing"],
)
def test_what_an_around_hook_changes_in_the_arguments_reaches_the_original(
    app: App, session: Session, form: Any, change: Any, result: str
) -> None:
    def hook(call: Any) -> Any:
        change(call)
        return call.proceed()

    session.around("shop:charge", hook, form=form)
    assert app.evaluate("shop.charge([1], currency='EUR')") == result


FAMILY = """
import os, sys, shop
print("ready", flush=True)
for line in sys.stdin:
    if not line.strip():
        break
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, str(shop.charge(1)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    print("=>", os.read(reader, 100).decode(), flush=True)
"""


def test_a_number_of_calls_counts_for_all_processes_together(run_program: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def charge(n):\n    return n\n")
    (tmp_path / "main.py").write_text(FAMILY)
    words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--app", "shop", "--probe", "shop:charge", "--", sys.executable, "main.py"]
    program = run_program(command=words, cwd=tmp_path)
    program.read_until("ready")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda n: "hooked", limit=2)
        answers = []
        for _ in range(4):
            program.send_line("go")
            answers.append(program.read_until("=>"))
        assert answers == ["=> hooked", "=> hooked", "=> 1", "=> 1"]


def test_a_hook_whose_time_is_over_is_not_armed_and_takes_no_place(begin_app: Callable[..., App]) -> None:
    begin_app('[limits]\nmax-hooks = 1\n[[probe]]\ntarget = "shop:charge"\n')

    def state() -> str:
        (process,) = as_json(command("ls", "shop", "--json").stdout)
        return str(process["probes"][0]["state"])

    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: None, expires=0.001)
        while state() == "armed":
            pass
        session.before("shop:charge", lambda call: None, expires=0.001)
        over = time.monotonic() + 0.001
        while time.monotonic() < over:
            pass
        handle = session.before("shop:charge", lambda call: None)
        assert state() == "armed"
        handle.remove()


# The threads are the session's, in a script, which no fork has to find without any.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_that_closes_the_session_leaves_it_to_its_parent(app: App, session: Session) -> None:
    session.instead("shop:charge", lambda n: "hooked")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            try:
                session.before("shop:charge", print)
            except ChannelError as error:
                os.write(writer, str(error).encode())
            session.close()
        finally:
            os._exit(0)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
    assert f"belongs to the process {os.getpid()}".encode() in os.read(reader, 1000)
    os.close(reader)
    assert app.evaluate("shop.charge(1)") == "'hooked'"


def test_what_is_no_target_name_or_time_is_answered_with_what_was_expected(app: App, session: Session) -> None:
    with pytest.raises(TargetError, match=r"target 'nonsense': expected package\.module:Qualified\.name"):
        session.before("nonsense", print)
    with pytest.raises(ValueError, match="expires=inf: expected seconds above 0, at most"):
        session.before("shop:charge", print, expires=float("inf"))
    with pytest.raises(ApplicationNotFoundError, match="'a b' is no app name; expected"):
        xpc_instrument.connect("a b")
    for nothing in (True, None):
        with pytest.raises(TypeError, match="expected an app name, a pid or an address"):
            xpc_instrument.connect(nothing)  # type: ignore[arg-type]


def test_the_doorbell_of_a_killed_script_is_taken_down_by_who_looks(
    app: App, run_program: Callable[..., Program], runtime_dir: Path
) -> None:
    script = run_program(
        'import xpc_instrument\napp = xpc_instrument.connect("shop")\nprint("joined", flush=True)\napp.run()\n', name="s.py"
    )
    script.read_until("joined")
    script.signal(signal.SIGKILL)
    script.wait()
    assert [path.suffix for path in runtime_dir.iterdir() if path.suffix == ".bell"] == [".bell"]
    with xpc_instrument.connect("shop"):
        command("ps")
        assert [path.suffix for path in runtime_dir.iterdir()].count(".bell") == 1
    assert [path for path in runtime_dir.iterdir() if path.suffix == ".bell"] == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["env", "python3", "-I", "-c", "1"], "-I ignores the environment"),
        (["env", "-i", sys.executable, "-c", "1"], "-i takes PYTHONPATH from it"),
        (["env", "PYTHONPATH=/nowhere", sys.executable, "-c", "1"], "PYTHONPATH=/nowhere takes PYTHONPATH from it"),
    ],
)
def test_env_that_keeps_the_agent_out_is_refused(tmp_path: Path, words: Any, why: str) -> None:
    done = cli("run", "--probe", "json:dumps", "--", *words, cwd=tmp_path)
    assert done.returncode == 6
    assert why in done.stderr


def test_env_that_lets_the_agent_in_is_run(tmp_path: Path) -> None:
    code = "import os, xpc_agent.life.control as l; print(os.environ['MINE'], l.current() is not None)"
    done = cli("run", "--probe", "json:dumps", "--", "env", "MINE=5", sys.executable, "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "5 True", "")


LEAVING = """
import logging, sys, threading, shop, xpc_agent
logging.basicConfig(stream=sys.stdout, format="%(name)s %(message)s")
xpc_agent.start("xpc-instrument.toml")
print("ready", flush=True)
sys.stdin.readline()
thread = threading.Thread(target=lambda: print("=>", shop.charge(1), flush=True))
thread.start()
sys.stdin.readline()
xpc_agent.stop()
thread.join()
print("left", flush=True)
"""


def test_an_application_that_leaves_while_a_hook_runs_goes_on_without_it_and_calls_that_no_failure(
    run_program: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text("def charge(n):\n    return n\n")
    (tmp_path / "xpc-instrument.toml").write_text(
        'app = "shop"\n[defaults]\ntimeout = 30.0\non-failure = "raise"\n[[probe]]\ntarget = "shop:charge"\n'
    )
    program = run_program(LEAVING)
    program.read_until("ready")
    entered, left = threading.Event(), threading.Event()

    def hook(n: int) -> str:
        entered.set()
        wait_for(left)
        return "hooked"

    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", hook)
        program.send_line()
        wait_for(entered)
        program.send_line()
        program.read_until("left")
        left.set()
    assert program.wait() == 0
    assert program.output == ["ready", "=> 1", "left"]


IMPORTING = """
import os, sys
print("importing", os.getpid(), flush=True)
sys.stdin.readline()
import shop
print("ready", flush=True)
sys.stdin.readline()
print("=>", shop.charge(1), flush=True)
"""


@pytest.mark.parametrize("by", ["name", "pid"])
def test_a_process_that_has_not_imported_its_targets_yet_is_said_to_be_waited_for_and_is(
    run_program: Callable[..., Program], tmp_path: Path, by: str
) -> None:
    (tmp_path / "shop.py").write_text("def charge(n):\n    return n\n")
    (tmp_path / "main.py").write_text(IMPORTING)
    # The shell is what was started with the agent; what it starts may be a short-lived helper, and shows itself only with a target.
    command = ["sh", "-c", f"{sys.executable} main.py; :"]
    run = [sys.executable, "-m", "xpc_instrument.cli", "run", "--app", "shop", "--probe", "shop:charge", "--"]
    program = run_program(command=[*run, *command], cwd=tmp_path)
    pid = int(program.read_until("importing").split()[1])
    application = "shop" if by == "name" else pid
    seen = "no instrumented application is called 'shop'" if by == "name" else f"process {pid} was started with the agent, but has not"
    with pytest.raises(ApplicationNotFoundError, match=rf"{seen}.*wait for it with connect\(\.\.\., timeout=SECONDS\)"):
        xpc_instrument.connect(application)
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(xpc_instrument.connect, application, timeout=PATIENCE)
        program.send_line()
        with connecting.result(PATIENCE) as session:
            session.instead("shop:charge", lambda n: "hooked")
            program.read_until("ready")
            program.send_line()
            assert program.read_until("=>") == "=> hooked"
            assert program.wait() == 0


def test_an_application_at_a_fixed_address_is_waited_for(run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path) -> None:
    address = f"unix:{runtime_dir}/fixed.sock"
    with pytest.raises(ConnectionRefusedError):
        xpc_instrument.connect(address, timeout=0.01)
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(xpc_instrument.connect, address, timeout=PATIENCE)
        app = start_app(run_program, tmp_path, f'[manager]\naddress = "{address}"\n[[probe]]\ntarget = "shop:*"\n')
        with connecting.result(PATIENCE) as session:
            session.instead("shop:charge", lambda amount: "hooked")
            assert app.evaluate("shop.charge(1)") == "'hooked'"


def test_a_handle_says_that_its_hook_is_over_and_why(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        twice = session.before("shop:charge", lambda call: None, limit=2)
        shown = repr(twice)
        app.evaluate("shop.charge(1)")
        assert (twice.over, repr(twice)) == ("", shown)
        app.evaluate("shop.charge(1)")
        assert (twice.over, repr(twice)) == ("limit", f"{shown[:-1]}, over: limit>")
        long = session.before("shop:charge", lambda call: None, expires=1000)
        brief = session.before("shop:charge", lambda call: None, expires=0.001)
        over = time.monotonic() + 0.001
        while time.monotonic() < over:
            pass
        assert (long.over, brief.over) == ("", "expires")
        brief.remove()
        assert brief.over == "removed"
    assert (long.over, twice.over) == ("removed", "removed")

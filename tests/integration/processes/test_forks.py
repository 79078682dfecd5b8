"""Forked and spawned children of an application are covered by the session that hooked their parent."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import xpc_instrument
from tests.programs import Program
from xpc_instrument.core.discovery import entry as discovery

pytestmark = pytest.mark.version

PAY = "def charge(n):\n    return f'{n} paid'\n"

MAIN = """
import multiprocessing, os, sys, pay

def child():
    print("child", os.getpid(), pay.charge(1), flush=True)

def fork():
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def forking_charge(n):
    pid = os.fork()
    if pid == 0:
        return "in the child"
    os.waitpid(pid, 0)
    return "in the parent"

if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        word = line.strip()
        if not word:
            break
        if word == "os.fork":
            status = fork()
        elif word == "inside":
            result = forking_charge(1)
            print(f"got {result}\\n", end="", flush=True)  # in one write, so that the log of another thread does not come in between
            if result == "in the child":
                os._exit(0)
            status = 0
        else:
            process = multiprocessing.get_context(word).Process(target=child)
            process.start()
            process.join()
            status = process.exitcode
        print("joined", status, pay.charge(2), flush=True)
"""


@pytest.fixture
def program(run_program: Callable[..., Program], tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "pay.py").write_text(PAY)
    (tmp_path / "main.py").write_text(MAIN)
    words = ["run", "--app", "pay", "--probe", "pay:charge", "--probe", "main:forking_charge", "--"]
    started = run_program(
        command=[sys.executable, "-m", "xpc_instrument.cli", *words, sys.executable, "-W", "error::DeprecationWarning", "main.py"],
        cwd=tmp_path,
    )
    started.read_until("ready")
    yield started
    # A child that left by `os._exit` could not tidy up; whoever looks next does.
    discovery.processes()


@pytest.mark.parametrize("way", ["os.fork", "fork", "spawn", "forkserver"])
def test_a_child_that_calls_at_once_is_hooked_from_its_birth(program: Program, way: str) -> None:
    seen: List[int] = []

    def stand_in(call: Any) -> str:
        seen.append(call.pid)
        return f"hooked {call.args[0]}"

    with xpc_instrument.connect("pay") as session:
        session.around("pay:charge", stand_in)
        program.send_line(way)
        words = program.read_until("child").split()
        assert words[2:] == ["hooked", "1"]
        assert program.read_until("joined") == "joined 0 hooked 2"
        assert seen == [int(words[1]), program.pid]
    program.send_line("")
    assert program.wait() == 0
    assert "Warning" not in program.text


def test_children_of_an_application_without_hooks_run_the_original(program: Program) -> None:
    for way in ("os.fork", "spawn"):
        program.send_line(way)
        assert program.read_until("child").endswith("1 paid")
        assert program.read_until("joined") == "joined 0 2 paid"


def test_a_fork_inside_proceed_gives_both_processes_their_own_result(program: Program) -> None:
    seen: Dict[str, int] = {}
    with xpc_instrument.connect("pay") as session:
        session.around("main:forking_charge", lambda call: call.proceed())
        session.after("main:forking_charge", lambda call: seen.update({call.result: call.pid}))
        program.send_line("inside")
        lines = {program.read_until("got"), program.read_until("got")}
        assert lines == {"got in the child", "got in the parent"}
        assert program.read_until("joined").startswith("joined 0")
    assert seen.keys() == {"in the child", "in the parent"}
    assert seen["in the parent"] == program.pid != seen["in the child"]


def test_many_forks_find_no_thread_of_ours(program: Program) -> None:
    # Both that there are: the host's, and the one that sends the events of hooks that nobody waits for.
    with xpc_instrument.connect("pay") as session:
        session.before("pay:charge", lambda call: None, wait=False)
        for _ in range(40):
            program.send_line("os.fork")
            assert program.read_until("joined") == "joined 0 2 paid"
    program.send_line("")
    assert program.wait() == 0
    assert "Warning" not in program.text


def test_a_script_that_was_killed_does_not_hold_up_a_child(program: Program, run_program: Callable[..., Program]) -> None:
    script = run_program(
        'import xpc_instrument\napp = xpc_instrument.connect("pay")\n'
        'app.instead("pay:charge", lambda n: "hooked")\nprint("hooked", flush=True)\napp.run()\n',
        name="script.py",
    )
    script.read_until("hooked")
    script.signal(signal.SIGKILL)
    script.wait()
    program.send_line("os.fork")
    assert program.read_until("child").endswith("1 paid")
    assert program.read_until("joined") == "joined 0 2 paid"


def test_a_session_covers_the_application_after_a_restart(run_program: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "pay.py").write_text(PAY)
    (tmp_path / "main.py").write_text(MAIN)
    words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--app", "pay", "--probe", "pay:charge", "--", sys.executable, "main.py"]
    first = run_program(command=words, cwd=tmp_path)
    first.read_until("ready")
    with xpc_instrument.connect("pay") as session:
        session.instead("pay:charge", lambda n: "hooked")
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        second = run_program(command=words, cwd=tmp_path)
        second.read_until("ready")
        second.send_line("fork")
        assert second.read_until("joined") == "joined 0 hooked"
    assert [entry.pid for entry in discovery.processes("pay")] == [second.pid]

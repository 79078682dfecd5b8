"""Many scripts that come, go and die: the application has as many descriptors, threads, hooks and bytes afterwards as before."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.faults import Faulty, start_faulty
from tests.programs import Program
from xpc_instrument import discovery

pytestmark = pytest.mark.long

# How much memory a thousand rounds may leave behind, in bytes: far less than a kilobyte each.
SLACK = 600_000

CROWD = """
import sys, threading, xpc_instrument

mode, count, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
problems = []
meeting = threading.Barrier(count)

def visit():
    try:
        for number in range(rounds):
            with xpc_instrument.connect("shop") as session:
                handle = getattr(session, mode)("till:pay", lambda *args: "hooked" if mode == "instead" else None)
                if number % 2:
                    handle.remove()
                meeting.wait(60)
    except BaseException as error:
        problems.append(f"{type(error).__name__}: {error}")
        meeting.abort()

threads = [threading.Thread(target=visit) for _ in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("problems", problems, flush=True)
"""

FORKER = """
import os, signal, sys
import xpc_instrument

xpc_instrument.connect  # imported once, and not in each child
for number in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        session = xpc_instrument.connect("shop")
        session.instead("till:pay", lambda n: "hooked")
        os.kill(os.getpid(), signal.SIGKILL)
    if os.waitpid(pid, 0)[1] != signal.SIGKILL:
        print("problem: a child could not register", flush=True)
        break
print("done", flush=True)
sys.stdin.readline()
"""

BUSY = """
import threading, till

stop = threading.Event()
seen = {}

def work():
    while not stop.is_set():
        outcome = till.pay(0)
        seen[outcome] = seen.get(outcome, 0) + 1
        del till.ran[:]

def start():
    global thread
    thread = threading.Thread(target=work)
    thread.start()

def end():
    stop.set()
    thread.join()
    return seen
"""


@pytest.fixture
def app(run_program: Callable[..., Program], tmp_path: Path) -> Faulty:
    (tmp_path / "working.py").write_text(BUSY)
    app = start_faulty(run_program, tmp_path, timeout=5.0, more="[limits]\nmax-hooks = 100\n")
    app.value("globals().update(working=__import__('working'))")
    return app


def test_two_hundred_scripts_come_and_go_while_the_application_calls(app: Faulty, run_program: Callable[..., Program]) -> None:
    before = app.resources()
    app.value("working.start()")
    # Three processes with fifteen sessions at a time each, five times over.
    crowds = [run_program(CROWD, mode, "15", "5", name=f"crowd_{mode}.py") for mode in ("before", "around", "instead")]
    for crowd in crowds:
        assert crowd.read_until("problems") == "problems []"
        assert crowd.wait() == 0
    seen = app.value("working.end()")
    # An `around` hook that does not proceed gives None.
    assert seen.keys() <= {"paid", "hooked", None}
    assert app.value("till.pay(1)") == "paid"
    app.disarmed()
    app.settles_at(before)
    assert app.value("len([n for n in sys.modules['xpc_agent.lifecycle'].current().table._peers])") == 0


def test_sixty_scripts_that_come_at_once_are_all_let_in(app: Faulty, run_program: Callable[..., Program]) -> None:
    before = app.resources()
    crowd = run_program(CROWD, "instead", "60", "2")
    assert crowd.read_until("problems") == "problems []"
    assert crowd.wait() == 0
    app.disarmed()
    app.settles_at(before)


def test_a_script_that_registers_and_dies_a_thousand_times_leaves_nothing_behind(app: Faulty, run_program: Callable[..., Program]) -> None:
    def die(times: int) -> None:
        forker = run_program(FORKER, str(times), name="forker.py")
        assert forker.read_until("done", timeout=50) == "done"
        assert "problem" not in forker.text
        forker.send_line()
        assert forker.wait() == 0

    keep = "sorted((point.target, point.state, len(point.hooks)) for point in sys.modules['xpc_agent.lifecycle'].current().table.points.values())"
    state = app.value(keep)
    die(100)
    app.disarmed()
    assert app.value("till.pay(1)") == "paid"
    before, memory = app.resources(), app.value("till.memory()")
    die(900)
    app.disarmed()
    app.settles_at(before)
    assert app.value("till.memory()") - memory < SLACK
    assert app.value(keep) == state
    assert app.value("till.pay(1)") == "paid"
    discovery.processes()
    assert [name for name in os.listdir(discovery.runtime_dir()) if name.endswith(".bell")] == []


@pytest.mark.parametrize("mode", ["before", "after", "around", "instead"])
def test_hundreds_of_calls_that_fail_cost_the_application_nothing(app: Faulty, mode: str) -> None:
    def hook(*args: Any) -> Any:
        raise SystemExit

    with xpc_instrument.connect("shop") as session:
        getattr(session, mode)("till:pay", hook)
        app.value("[till.pay(n) for n in range(300)] and till.ran.clear()")
        before, memory = app.resources(), app.value("till.memory()")
        app.value("[till.pay(n) for n in range(2000)] and till.ran.clear()")
        assert app.resources() == before
        assert app.value("till.memory()") - memory < SLACK
        getattr(session, mode)("till:pay", lambda *args: threading.Lock())
        app.value("[till.pay(n) for n in range(500)] and till.ran.clear()")
        assert app.resources() == before

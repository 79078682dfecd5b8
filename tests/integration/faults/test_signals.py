"""Signals in a thread that waits for a hook: what a handler raises reaches the application at once, and no signal prolongs a wait."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from tests.integration.fault_fixture import Faulty, await_rest, begin_faulty, holds_once
from tests.programs import wait_for

# On each version of Python; the rest of a table on the oldest and the newest.
on_each = pytest.mark.version

TIMEOUT = 0.3

HANDLERS = """
import signal, time, till

class SoftTimeLimit(Exception):
    pass

class Interrupt(BaseException):
    pass

kinds = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit, "TimeoutError": TimeoutError, "OSError": OSError,
         "SoftTimeLimit": SoftTimeLimit, "Interrupt": Interrupt, "ValueError": ValueError}

def raises(name):
    def handler(number, frame):
        raise kinds[name](f"by a handler at {time.monotonic()}")
    signal.signal(signal.SIGUSR1, handler)

class Method:
    def __init__(self, name):
        self.name = name
    def handle(self, number, frame):
        self.deeper()
    def deeper(self):
        raise kinds[self.name](f"by a handler at {time.monotonic()}")

def raises_in_a_method(name):
    signal.signal(signal.SIGUSR1, Method(name).handle)

ticks = 0

def ticking(period):
    def handler(number, frame):
        global ticks
        ticks += 1
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, period, period)

def quiet():
    signal.setitimer(signal.ITIMER_REAL, 0)
"""

ENDS = ["KeyboardInterrupt", "SystemExit", "Interrupt"]
# Time limits of task queues and home-made ones are ordinary exceptions, OSErrors among them.
LIMITS = ["TimeoutError", "OSError", "SoftTimeLimit", "ValueError"]


@pytest.fixture
def start(begin_app: Callable[..., App], tmp_path: Path) -> Callable[..., Faulty]:
    def start_with(timeout: float, more: str = "") -> Faulty:
        (tmp_path / "handlers.py").write_text(HANDLERS)
        app = begin_faulty(begin_app, tmp_path, timeout, more)
        app.value("globals().update(handlers=__import__('handlers'))")
        return app

    return start_with


@pytest.mark.parametrize(
    ("mode", "name", "way"),
    [
        pytest.param("around", "KeyboardInterrupt", "raises", marks=on_each),
        pytest.param("around", "TimeoutError", "raises", marks=on_each),
        pytest.param("instead", "SoftTimeLimit", "raises_in_a_method", marks=on_each),
        pytest.param("before", "SystemExit", "raises", marks=on_each),
        pytest.param("after", "ValueError", "raises", marks=on_each),
        *(("around", name, "raises") for name in [*ENDS, *LIMITS] if name not in ("KeyboardInterrupt", "TimeoutError")),
        ("instead", "Interrupt", "raises_in_a_method"),
        ("instead", "OSError", "raises_in_a_method"),
        ("before", "TimeoutError", "raises"),
        ("after", "SystemExit", "raises"),
    ],
)
def test_what_a_signal_handler_raises_in_a_thread_that_waits_for_a_hook_reaches_the_application(
    start: Callable[..., Faulty], mode: str, name: str, way: str
) -> None:
    app = start(20)
    inside, leave, warm = threading.Event(), threading.Event(), threading.Event()
    app.value(f"handlers.{way}({name!r})")

    def hook(*args: Any) -> None:
        if not warm.is_set():
            return
        inside.set()
        wait_for(leave)

    with xpc_instrument.connect("shop") as session:
        handle = getattr(session, mode)("till:pay", hook)

        def attempt(number: int) -> float:
            inside.clear()
            leave.clear()
            warm.clear()
            app.heat("till.pay('warm')")
            app.value("till.ran.__setitem__(slice(None), [one for one in till.ran if one != 'warm'])")
            warm.set()
            app.start(f"till.timed(lambda: till.pay({number}))")
            wait_for(inside)
            app.program.signal(signal.SIGUSR1)
            done = eval(app.result())
            leave.set()
            outcome, _, raised = done["outcome"].rpartition(" ")
            assert outcome == f"raised {name}: by a handler at"
            return float(done["ended"]) - float(raised)

        holds_once(attempt)
        ran = app.ran
        # Interrupted before the original, or after it: never in the middle, and never twice.
        assert ran == ([] if mode != "after" else list(range(len(ran))))
        handle.remove()
        with session.instead("till:pay", lambda *args: "hooked"):
            assert app.value("till.pay(99)") == "hooked"
    assert app.value("till.pay(99)") == "paid"


@on_each
def test_what_a_handler_raises_while_the_original_runs_inside_proceed_is_the_outcome_of_the_original(start: Callable[..., Faulty]) -> None:
    app = start(20)
    app.value("handlers.raises('KeyboardInterrupt')")
    with xpc_instrument.connect("shop") as session:
        session.around("till:hold", lambda call: call.proceed())
        app.start("till.timed(lambda: till.hold(1))")
        app.program.find_line("original 1")
        # Python notices a signal before a wait, or in it, but not in the moment in which the wait begins: then it waits to the end.
        await_rest(app.program.pid)
        app.program.signal(signal.SIGUSR1)
        assert eval(app.result())["outcome"].startswith("raised KeyboardInterrupt: by a handler")
        assert app.ran == [1]
        with session.instead("till:pay", lambda *args: "hooked"):
            assert app.value("till.pay(99)") == "hooked"


@on_each
@pytest.mark.parametrize(("kind", "period"), [("sync", 0.002), ("async", 0.02)])
def test_a_timer_that_ticks_does_not_prolong_the_wait(start: Callable[..., Faulty], kind: str, period: float) -> None:
    app = start(TIMEOUT)
    leave, warm = threading.Event(), threading.Event()
    expression = "till.pay({})" if kind == "sync" else "asyncio.run(till.pay_async({}))"
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay" if kind == "sync" else "till:pay_async", lambda *args: warm.is_set() and wait_for(leave))
        if kind == "sync":
            app.heat("till.pay(1)")
        warm.set()
        app.value(f"handlers.ticking({period})")

        def attempt(number: int) -> float:
            done = app.timed(expression.format(number))
            assert done["outcome"] == "paid"
            return float(done["ended"] - done["began"]) - TIMEOUT

        holds_once(attempt)
        app.value("handlers.quiet()")
        assert app.value("handlers.ticks") > 5
        leave.set()


@on_each
def test_a_thread_that_is_interrupted_many_times_leaves_no_lane_behind(start: Callable[..., Faulty]) -> None:
    """At any instruction: a lane that nobody gives back would be missed by the invocations to come."""
    app = start(20, "[limits]\nmax-lanes = 2\n")
    app.value("handlers.raises('KeyboardInterrupt')")
    script = (
        "def storm(calls):\n"
        "    import random, signal, threading, time, till\n"
        "    got = {}\n"
        "    for number in range(calls):\n"
        "        try:\n"
        "            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 4e-4))\n"
        "            outcome = till.pay(number)\n"
        "            signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "        except KeyboardInterrupt:\n"
        "            outcome = 'interrupted'\n"
        "        got[outcome] = got.get(outcome, 0) + 1\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    return got\n"
        "def interrupt(number, frame):\n"
        "    raise KeyboardInterrupt\n"
    )
    app.value(f"exec({script!r}, globals())")
    assert app.value("__import__('signal').signal(14, interrupt) is not None")
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", lambda *args: "hooked")
        interrupted = 0
        for _ in range(20):
            # How many of them fall into a call depends on how fast the machine is.
            got = app.value("storm(1500)")
            assert got.keys() <= {"hooked", "interrupted"}
            interrupted += got.get("interrupted", 0)
            if interrupted > 20:
                break
        assert interrupted > 20
        assert app.value("till.pay(1)") == "hooked"
        lanes = "[(len(p.lanes), len(p.lanes._free)) for p in sys.modules['xpc_agent.life.control'].current().host.peers.values()]"
        (known, free) = app.value(lanes)[0]
        assert known == free

"""No thread of the application waits without a limit for a lock of ours in which another one may be held up.

Whatever Python code runs, a collection of garbage may begin in it, and a `__del__`, or a reducer, wait there for a lock of the application's.
If that belongs to a thread that then waits for a lock of ours, both wait for ever, though without us neither would.
"""

from __future__ import annotations

import ast
from typing import Any, Callable, List, Tuple

import pytest

from tests.integration.app_fixture import App
from xpc_instrument import connect

# `race` has one thread stop within `place`, a function of ours, as a `__del__` would, while another one has the lock that it waits for and
# does the same. A profile function stands for what is collected: it runs where it is told to.
RACE = """
import logging, os, sys, threading, time
import shop

lock = threading.RLock()
stopped = threading.Event()

def stop():
    stopped.set()
    with lock:
        pass

def stopping(place):
    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_name == place:
            sys.setprofile(None)
            stop()
    return profile

def race(place, first, second):
    def run():
        sys.setprofile(stopping(place))
        try:
            first()
        finally:
            sys.setprofile(None)

    stopped.clear()
    with lock:
        thread = threading.Thread(target=run)
        thread.start()
        came = stopped.wait(20)
        began = time.monotonic()
        outcome = second()
        took = time.monotonic() - began
        was_stopped = thread.is_alive()
    thread.join()
    return came and was_stopped, outcome, took

class Slow:
    pickled = 0
    def __reduce__(self):
        Slow.pickled += 1
        # First by pickle, which finds that the class has to cross by value.
        if Slow.pickled == 2:
            stop()
        return Slow, ()

class Local:
    pass

def another():
    return type("Another", (), {})()

def fork():
    child = os.fork()
    if not child:
        os._exit(7)
    return os.waitpid(child, 0)[1] >> 8

def pay(times=1):
    return [shop.charge(1) for _ in range(times)][-1]

def log_stopped():
    with logging._lock:
        stop()

def ask_levels_anew():
    logging.getLogger("shop").setLevel(logging.INFO)
"""
# How long the second thread may take, in seconds: less than the deadline of a hook, and than what waits for ever.
SOON = 5.0


@pytest.fixture
def race(begin_app: Callable[..., App]) -> Callable[..., Tuple[Any, ...]]:
    app = begin_app('[defaults]\ntimeout = 20\nsuspend-for = 60\n[[probe]]\ntarget = "shop:*"\n')
    app.evaluate(f"exec({RACE!r}, globals())")

    def race(place: str, first: str, second: str = "") -> Tuple[Any, ...]:
        found = ast.literal_eval(app.evaluate(f"race({place!r}, lambda: {first}, lambda: {second or first})"))
        assert found[0] is True, f"the first thread never came to {place}"
        return found[1:]  # type: ignore[no-any-return]

    return race


def test_a_thread_that_stops_within_a_lock_of_ours_holds_up_no_other(race: Callable[..., Tuple[Any, ...]]) -> None:
    def broken(call: Any) -> Any:
        raise KeyError("of the hook")

    def stand_in(value: Any) -> str:
        return "hooked"

    took: List[Tuple[str, float]] = []

    def check(expected: Any, place: str, *what: str) -> None:
        outcome, seconds = race(place, *what)
        assert outcome == expected, place
        took.append((place, seconds))

    with connect("shop") as session:
        # A reducer, within what pickles code by value.
        with session.instead("shop:charge", stand_in):
            # No thread of the application has to import it, and another one to wait for that.
            assert race("run", "stop()", "[sys.modules[name].__name__ for name in ('cloudpickle', 'pickletools')]")[0]
            check("hooked", "nothing of ours", "shop.charge(Slow())", "shop.charge(Local())")
            # And within the lock that cloudpickle has.
            check("hooked", "_get_or_create_tracker_id", "shop.charge(another())", "shop.charge(another())")
        # The hook is suspended.
        with session.around("shop:charge", broken):
            check("1 EUR", "_swing", "pay(3)", "pay()")
        # Its failures are summed up.
        with session.around("shop:charge", broken):
            check("1 EUR", "_drain", "__import__('xpc_agent').stats()", "pay(3)")
        # The lock of `logging`, and the first line of a hook.
        with session.around("shop:charge", broken):
            check("1 EUR", "nothing of ours", "ask_levels_anew() or log_stopped()", "pay()")
        # The row of a hook that is left to chance is drawn.
        with session.before("shop:charge", print, wait=False, sample=0.5):
            check("1 EUR", "_lay", "pay(100)")
        # Which of the invocations with a fault are the first two.
        with session.inject("shop:charge", "2*return('injected')"):
            check("1 EUR", "_choose", "pay()", "pay(3)")
        # Forks.
        check(7, "_pause", "fork()")
    assert max(seconds for _, seconds in took) < SOON, took

"""Hooks that keep failing are suspended and come back; `sample` and `rate` are obeyed before anything is sent."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, listing, start_app
from tests.programs import PATIENCE, Program, wait_for

TIMEOUT = 0.2
PAUSE = 0.5
SETTINGS = f"timeout = {TIMEOUT}\nsuspend-for = {PAUSE}"

# A probe script of its own: prints what it is called with and what it is told.
SCRIPT = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
import xpc_instrument
app = xpc_instrument.connect("shop")
app.after("shop:charge", lambda call: sys.stdout.write(f"told of {call.args[0]}\\n"))
print("armed")
app.run()
"""

# In the application: what a call gives, and how many seconds it took.
TIMED = "(lambda now, start: ({0}, now() - start))(__import__('time').monotonic, __import__('time').monotonic())"


@pytest.fixture
def start(begin_app: Callable[..., App]) -> Callable[..., App]:
    """Start the application with these settings of all probes."""

    def start(settings: str = SETTINGS, more: str = "") -> App:
        return begin_app(f'[defaults]\n{settings}\n[[probe]]\ntarget = "shop:*"\n{more}')

    return start


def timed(app: App, expression: str) -> Any:
    """What an expression gives in the application, and how many seconds it took there."""
    return eval(app.evaluate(TIMED.format(expression)))


def probe(target: str = "shop:charge") -> Dict[str, Any]:
    """What `ls` tells of a probe point."""
    found: Dict[str, Any] = next(one for one in as_json(listing("--json"))[0]["probes"] if one["target"] == target)
    return found


def until(condition: Callable[[], Any]) -> None:
    """Ask again and again, each time a round trip to a process, until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {PATIENCE} s"


class Stuck:
    """A hook that does not answer until it is told to, and counts how often it was called."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = threading.Event()
        self.free = threading.Event()

    def __call__(self, call: Any) -> Any:
        self.calls += 1
        self.called.set()
        self.free.wait(20)
        return call.proceed() if call.mode.value == "around" else None


# suspension ------------------------------------------------------------------------------------------------------------------


def test_a_script_that_is_stopped_is_suspended_while_that_of_another_goes_on(
    start: Callable[..., App], run_program: Callable[..., Program]
) -> None:
    app = start(f"timeout = {TIMEOUT}\nsuspend-for = 1.0")
    stopped, other = run_program(SCRIPT), run_program(SCRIPT)
    for script in (stopped, other):
        script.read_until("armed")
    assert app.evaluate("shop.charge(0)") == "'0 EUR'"
    stopped.signal(signal.SIGSTOP)
    os.waitpid(stopped.pid, os.WUNTRACED)  # until it has stopped; it is not reaped
    try:
        for number in (1, 2, 3):
            result, seconds = timed(app, f"shop.charge({number})")
            assert result == f"{number} EUR"
            assert seconds >= TIMEOUT
        # The pause has just begun: these calls wait for the script that answers, and for no other.
        assert [timed(app, f"shop.charge({number})")[1] < TIMEOUT for number in (4, 5, 6)] == [True] * 3
        for number in range(7):
            other.read_until(f"told of {number}")
    finally:
        stopped.signal(signal.SIGCONT)
    told = stopped.read_until("suspends the after hook on shop:charge")
    assert told.startswith("WARNING")
    assert f"pid {app.program.pid}" in told
    assert "failed 3 times in a row (timeout)" in told
    until(lambda: app.evaluate("shop.charge(7)") and not any(hook["suspended"] for hook in probe()["hooks"]))
    stopped.read_until("INFO shop")
    app.evaluate("shop.charge(8)")
    stopped.read_until("told of 8")
    assert app.log().count("it is suspended") == 1
    for script in (stopped, other):
        script.signal(signal.SIGINT)
        assert script.wait() == 0


@pytest.mark.parametrize(
    ("mode", "target", "expression", "result"),
    [
        ("before", "shop:charge", "shop.charge(1)", "1 EUR"),
        ("around", "shop:charge", "shop.charge(1)", "1 EUR"),
        ("after", "shop:wait_a_little", "asyncio.run(shop.wait_a_little(1))", 2),
    ],
)
def test_one_invocation_tries_a_hook_after_the_pause_and_its_success_brings_it_back(
    start: Callable[..., App], mode: str, target: str, expression: str, result: Any
) -> None:
    app = start()
    stuck = Stuck()
    with xpc_instrument.connect("shop") as session:
        handle = getattr(session, mode)(target, stuck)
        try:
            for _ in range(3):
                assert timed(app, expression)[0] == result
            session.stats()  # what it was told before has arrived when this is answered
            assert handle.suspended == [app.program.pid]
            assert timed(app, expression)[1] < TIMEOUT
            # Tried until it is well again; each trial that fails costs one time-out and doubles the pause.
            until(lambda: timed(app, expression)[1] >= TIMEOUT)
            assert stuck.calls == 4
            assert timed(app, expression)[1] < TIMEOUT
            assert handle.suspensions == 1
        finally:
            stuck.free.set()
        until(lambda: app.evaluate(expression) and session.stats() and handle.suspended == [])
        calls = stuck.calls
        assert timed(app, expression)[0] == result
        assert stuck.calls == calls + 1
        (stats,) = (one for one in session.stats() if one.target == target)
        # A trial may be late where the machine is crowded.
        assert stats.timeouts >= 4
        assert stats.suspensions == 1
        assert stats.skipped["suspended"] >= 2
        assert stats.state == "armed"


def test_ls_says_that_a_probe_point_is_suspended_if_all_its_hooks_are(start: Callable[..., App]) -> None:
    app = start("timeout = 0.05\nsuspend-for = 600.0\nsuspend-at-most = 600.0")
    stuck = Stuck()
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", stuck)
        try:
            app.evaluate("[shop.charge(1) for _ in range(5)]")
            found = probe()
            assert found["state"] == "suspended"
            assert found["reason"].startswith(f"before:{os.getpid()} failed 3 times in a row (timeout), tried again in ")
            assert found["stats"]["skipped"] == {"suspended": 2}
            assert "suspended" in listing()
            assert "1 now" in listing("--stats")
            session.before("shop:charge", lambda call: None)
            assert probe()["state"] == "armed"
        finally:
            stuck.free.set()


def test_with_zero_no_hook_is_suspended(start: Callable[..., App]) -> None:
    app = start("timeout = 0.05\nsuspend-after = 0")
    stuck = Stuck()
    with xpc_instrument.connect("shop") as session:
        handle = session.before("shop:charge", stuck)
        try:
            app.evaluate("[shop.charge(1) for _ in range(6)]")
            assert handle.suspended == []
            assert probe()["stats"]["failures"] == {"timeout": 6}
        finally:
            stuck.free.set()


def test_a_hook_whose_exception_is_its_answer_is_not_suspended_and_no_observer_is(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:

        def broken(call: Any) -> None:
            raise ZeroDivisionError

        observer = session.before("shop:charge", broken)
        session.around("shop:charge", broken, raises=ArithmeticError)
        for _ in range(5):
            assert app.evaluate("shop.charge(1)").startswith("raised ZeroDivisionError")
        assert observer.failures == 5
        assert probe()["state"] == "armed"
        assert probe()["stats"]["failures"] == {"raised": 5}


def test_results_that_cannot_cross_suspend_too_and_what_ends_well_in_between_breaks_the_row(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        handle = session.instead("shop:charge", lambda good: "hooked" if good else threading.Lock())
        app.evaluate("[shop.charge(x) for x in (0, 0, 1, 0, 0, 1)]")
        assert handle.suspended == []
        assert app.evaluate("[shop.charge(x) for x in (0, 0, 0, 1)]") == "['0 EUR', '0 EUR', '0 EUR', '1 EUR']"
        session.stats()
        assert handle.suspended == [app.program.pid]
        assert probe()["stats"]["failures"] == {"unpicklable": 7}


def test_waiting_in_vain_for_a_free_lane_counts(start: Callable[..., App]) -> None:
    app = start("timeout = 20", '[[probe]]\ntarget = "shop:charge"\ntimeout = 0.1\n[limits]\nmax-lanes = 1\n')
    stuck = Stuck()
    with xpc_instrument.connect("shop") as session:
        # The only lane of the session is held by the hook of a target with much time.
        session.around("shop:nested", stuck)
        session.before("shop:charge", lambda call: None)
        try:
            app.evaluate("shop.threading.Thread(target=shop.nested, args=(0,)).start()")
            wait_for(stuck.called)
            app.evaluate("[shop.charge(1) for _ in range(4)]")
            stats = probe()["stats"]
            assert stats["failures"] == {"timeout": 3}
            assert stats["suspensions"] == 1
            assert stats["waited-us"] >= 290_000
        finally:
            stuck.free.set()


def test_a_member_of_a_fixed_address_tells_the_script_through_the_host(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path
) -> None:
    config = f'[manager]\naddress = "unix:{runtime_dir}/fixed.sock"\n[defaults]\n{SETTINGS}\n[[probe]]\ntarget = "shop:*"\n'
    start_app(run_program, tmp_path, config)
    member = start_app(run_program, tmp_path, config)
    stuck = Stuck()
    with xpc_instrument.connect(f"unix:{runtime_dir}/fixed.sock") as session:
        handle = session.before("shop:charge", stuck)
        try:
            member.evaluate("[shop.charge(1) for _ in range(3)]")
            until(lambda: session.stats() and handle.suspended == [member.program.pid])
        finally:
            stuck.free.set()
        until(lambda: member.evaluate("shop.charge(1)") and handle.suspended == [])


# terms -----------------------------------------------------------------------------------------------------------------------


def test_a_sample_of_the_invocations_calls_the_hook_and_a_forked_child_has_a_chance_of_its_own(start: Callable[..., App]) -> None:
    app = start("timeout = 20")
    seen: Dict[int, List[int]] = {}
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: seen.setdefault(call.pid, []).append(call.args[0]), sample=0.25)
        app.evaluate("shop.charge(-1)")
        app.evaluate("__import__('random').seed(1)")
        work = "[shop.charge(n) for n in range(1000)]"
        app.evaluate(
            f"(lambda os: (lambda pid: (os.waitpid(pid, 0), {work}) if pid else ({work}, os._exit(0)))(os.fork()))(__import__('os'))"
        )
        samples = list(seen.values())
        assert len(samples) == 2
        assert all(150 < len(sample) < 350 for sample in samples)
        assert [n for n in samples[0] if n >= 0] != [n for n in samples[1] if n >= 0]
        stats = next(one for one in session.stats() if one.target == "shop:charge")
        assert stats.calls + stats.skipped["sample"] == 1001


def test_a_rate_lets_no_more_through_than_the_bucket_holds_whatever_the_threads_do(start: Callable[..., App]) -> None:
    app = start("timeout = 20")
    calls: List[float] = []
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: calls.append(time.monotonic()), rate=100)
        work = "[shop.charge(1) for _ in range(2000)]"
        started = time.monotonic()
        app.evaluate(
            f"(lambda ts: [t.start() for t in ts] + [t.join() for t in ts])"
            f"([shop.threading.Thread(target=lambda: {work}) for _ in range(8)])"
        )
        lasted = time.monotonic() - started
        assert 10 <= len(calls) <= 10 + 100 * lasted
        stats = next(one for one in session.stats() if one.target == "shop:charge")
        assert stats.calls == len(calls)
        assert stats.calls + stats.skipped["rate"] == 8 * 2000


def test_a_limit_counts_no_invocation_that_chance_keeps_out(start: Callable[..., App]) -> None:
    app = start("timeout = 20")
    calls: List[int] = []
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: calls.append(call.args[0]), limit=5, sample=0.1)
        app.evaluate("[shop.charge(n) for n in range(1000)]")
        assert len(calls) == 5
        assert calls != [0, 1, 2, 3, 4]
        assert probe()["state"] == "ready"
        assert probe()["stats"]["calls"] == 5

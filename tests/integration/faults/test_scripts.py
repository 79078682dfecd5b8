"""A probe script that is killed or stopped at any step of an invocation: the original runs once, and nobody waits longer than need be."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple, Union

import pytest

from tests.integration.app_fixture import App
from tests.integration.fault_fixture import SCRIPT, Faulty, begin_faulty, holds_once, stop
from tests.programs import Program

MODES = ["before", "after", "around", "instead"]
# "hot" is "sync" on a lane whose calls went through memory before.
KINDS = ["sync", "async", "hot"]
# All modes where a thread waits; elsewhere one that only observes and one that decides, since what is waited with is the same.
WAYS = [("sync", mode) for mode in MODES] + [(kind, mode) for kind in ("async", "hot") for mode in ("after", "around")]
WARM = 200
# Seconds that a hook has, where the test waits for the end of them.
TIMEOUT = 0.2

Script = Callable[..., Program]


@pytest.fixture
def app(begin_app: Callable[..., App], tmp_path: Path) -> Faulty:
    return begin_faulty(begin_app, tmp_path)


@pytest.fixture
def hasty(begin_app: Callable[..., App], tmp_path: Path) -> Faulty:
    return begin_faulty(begin_app, tmp_path, timeout=TIMEOUT)


@pytest.fixture
def script(run_program: Callable[..., Program], request: pytest.FixtureRequest) -> Script:
    """Start a script that breaks at this step; its hook is armed when this returns."""

    def start(kind: str, name: str, mode: str, step: str) -> Program:
        target = f"till:{name}" + ("_async" if kind == "async" else "")
        program = run_program(SCRIPT, target, mode, step, *([str(WARM)] if kind == "hot" else []), name="script.py")
        program.read_until("hooked")
        if kind == "hot":
            faulty: Faulty = request.getfixturevalue("hasty" if "hasty" in request.fixturenames else "app")
            faulty.value(f"[till.{name}('warm') for _ in range({WARM})][:0]")
            faulty.value("till.ran.__setitem__(slice(None), [one for one in till.ran if one != 'warm'])")
        return program

    return start


def call(kind: str, name: str, number: Union[int, str]) -> str:
    return f"till.{name}({number})" if kind != "async" else f"asyncio.run(till.{name}_async({number}))"


def dying(program: Program) -> float:
    """When a script that ends itself did so."""
    moment = float(program.read_until("dying").split()[1])
    program.wait()
    return moment


def kill(program: Program) -> float:
    """End a script; returns when."""
    moment = time.monotonic()
    program.kill()
    return moment


# killed -----------------------------------------------------------------------------------------------------------------------


def killed_before_it_receives(app: Faulty, script: Script, kind: str, mode: str, number: int) -> float:
    program = script(kind, "pay", mode, "waits")
    stop(program)
    app.begin("call", call(kind, "pay", number))
    assert app.value("till.begun['call'].thread.is_alive()")
    return kill(program)


def killed_in_the_hook(app: Faulty, script: Script, kind: str, mode: str, number: int) -> float:
    program = script(kind, "pay", mode, "waits")
    app.begin("call", call(kind, "pay", number))
    program.read_until("=inside")
    return kill(program)


def killed_in_its_answer(app: Faulty, script: Script, kind: str, mode: str, number: int) -> float:
    program = script(kind, "pay", mode, "half of an answer")
    app.begin("call", call(kind, "pay", number))
    return dying(program)


def killed_as_it_proceeds(app: Faulty, script: Script, kind: str, mode: str, number: int) -> float:
    program = script(kind, "pay", mode, "half of proceed")
    app.begin("call", call(kind, "pay", number))
    return dying(program)


def killed_after_proceed(app: Faulty, script: Script, kind: str, mode: str, number: int) -> float:
    program = script(kind, "pay", mode, "dies after proceed")
    app.begin("call", call(kind, "pay", number))
    return dying(program)


STEPS: List[Tuple[Any, str, str]] = [
    *((step, *way) for step in (killed_before_it_receives, killed_in_the_hook, killed_in_its_answer) for way in WAYS),
    *((step, kind, "around") for step in (killed_as_it_proceeds, killed_after_proceed) for kind in KINDS),
]


@pytest.mark.parametrize(("step", "kind", "mode"), STEPS, ids=lambda value: getattr(value, "__name__", value))
def test_the_application_goes_on_as_soon_as_the_script_is_killed(app: Faulty, script: Script, step: Any, mode: str, kind: str) -> None:
    before = app.resources()

    def attempt(number: int) -> float:
        killed = step(app, script, kind, mode, number)
        done = app.end("call")
        assert done["outcome"] == "paid"
        return float(done["ended"] - killed)

    holds_once(attempt)
    ran = app.ran
    assert ran == list(range(len(ran)))
    app.settles_at(before)
    assert app.value(call(kind, "pay", 99)) == "paid"


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_killed_while_the_original_runs_inside_proceed_leaves_its_outcome(app: Faulty, script: Script, kind: str) -> None:
    def attempt(number: int) -> float:
        app.value("till.release.clear()")
        program = script(kind, "hold", "around", "proceeds")
        app.begin("call", call(kind, "hold", number))
        app.program.find_line(f"original {number}")
        program.kill()
        app.disarmed()
        released = app.value("till.let_go()")
        done = app.end("call")
        assert done["outcome"] == "held"
        return float(done["ended"] - released)

    holds_once(attempt)
    ran = app.ran
    assert ran == list(range(len(ran)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_killed_while_large_arguments_are_on_their_way_is_waited_for_no_longer(app: Faulty, script: Script, kind: str) -> None:
    def attempt(number: int) -> float:
        program = script(kind, "pay", "instead", "waits")
        stop(program)
        # Far more than a socket takes: the thread stands in the middle of sending.
        app.begin("call", call(kind, "pay", f"b'x' * 30_000_000 + bytes([{number}])"))
        assert app.value("till.begun['call'].thread.is_alive()")
        killed = kill(program)
        done = app.end("call")
        assert done["outcome"] == "paid"
        return float(done["ended"] - killed)

    holds_once(attempt)
    ran = app.value("[one[-1] for one in till.ran]")
    assert ran == list(range(len(ran)))


# stopped ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "mode"), WAYS)
def test_a_script_stopped_before_the_call_costs_its_deadline_and_hooks_again_once_continued(
    hasty: Faulty, script: Script, mode: str, kind: str
) -> None:
    hooked = "hooked" if mode in ("around", "instead") else "paid"
    program = script(kind, "pay", mode, "answers")
    assert hasty.value(call(kind, "pay", -1)) == hooked
    stop(program)
    originals = [] if mode == "instead" else [-1]

    def attempt(number: int) -> float:
        done = hasty.timed(call(kind, "pay", number))
        originals.append(number)
        assert done["outcome"] == "paid"
        assert done["ended"] - done["began"] >= TIMEOUT
        return float(done["ended"] - done["began"] - TIMEOUT)

    holds_once(attempt)
    assert hasty.ran == originals
    program.signal(signal.SIGCONT)
    # The lane that was dropped is replaced when the script gets to it; what it finds in the old one does nothing.
    assert hooked in [hasty.value(call(kind, "pay", 50 + number)) for number in range(5)]
    ran = [number for number in hasty.ran if number < 50]
    assert ran == originals


@pytest.mark.parametrize(("kind", "mode"), WAYS)
def test_a_script_stopped_inside_its_hook_costs_its_deadline_and_runs_nothing_afterwards(
    hasty: Faulty, script: Script, mode: str, kind: str
) -> None:
    program = script(kind, "pay", mode, "proceeds late" if mode == "around" else "waits")
    originals = []

    def attempt(number: int) -> float:
        hasty.begin("call", call(kind, "pay", number))
        program.read_until("=inside")
        stop(program)
        done = hasty.end("call")
        originals.append(number)
        assert done["outcome"] == "paid"
        program.signal(signal.SIGCONT)
        program.send_line()
        if mode == "around":
            # It asks for the original when that has run long since.
            program.read_until("=late")
        return float(done["ended"] - done["began"] - TIMEOUT)

    holds_once(attempt)
    assert hasty.ran == originals


@pytest.mark.parametrize("mode", ["around", "instead"])
def test_a_script_that_is_stopped_and_continued_within_its_deadline_has_hooked(app: Faulty, script: Script, mode: str) -> None:
    program = script("sync", "pay", mode, "waits")
    for _ in range(3):
        app.begin("call", "till.pay(1)")
        program.read_until("=inside")
        stop(program)
        program.send_line()
        assert app.value("till.begun['call'].thread.is_alive()")
        program.signal(signal.SIGCONT)
        assert app.end("call")["outcome"] == "hooked"
    assert app.ran == []

"""Hooks that look run nothing of the application's, and leave each object as it was: of every kind, in every mode."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import start_app
from tests.programs import Program
from xpc_instrument import Call, Session

pytestmark = pytest.mark.version

THINGS = Path(__file__).with_name("untouched.py")
TARGETS = ("give", "agive", "fail", "Till.take")
# How often each object is passed in each mode. With all ways and objects 60 are more than 10,000 calls in each mode.
ROUNDS = int(os.environ.get("XPC_UNTOUCHED_ROUNDS", "1"))


def look(call: Call) -> None:
    """What a hook does that only shows what there is."""
    repr((call, call.args, call.kwargs, call.arguments, call.result, call.instance, type(call.args[0])))
    assert "things" not in sys.modules


async def look_later(call: Call) -> None:
    look(call)


def proceed(call: Call) -> Any:
    look(call)
    return call.proceed()


def change_another(call: Call) -> Any:
    call.args = (call.args[0], 2, *call.args[2:])
    result = call.proceed()
    repr(result)
    return result


async def proceed_later(call: Call) -> Any:
    return await call.proceed_async()


MODES: Dict[str, Callable[[Session, str], Any]] = {
    "before": lambda session, target: session.before(target, look),
    "after": lambda session, target: session.after(target, look),
    "around": lambda session, target: session.around(target, proceed),
    "around, one changed": lambda session, target: session.around(target, change_another),
    "before, async": lambda session, target: session.before(target, look_later),
    "around, async": lambda session, target: session.around(target, proceed_later),
    "before, not waited for": lambda session, target: session.before(target, look, wait=False),
    "after, not waited for": lambda session, target: session.after(target, look, wait=False),
    "as passed": lambda session, target: session.around(target, proceed, form="as passed"),
}


def test_nothing_of_the_application_runs_and_every_object_stays_the_same(run_program: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "things.py").write_text(THINGS.read_text())
    app = start_app(
        run_program, tmp_path, '[defaults]\ntimeout = 20.0\n[[probe]]\ntarget = "things:*"\n[[probe]]\ntarget = "things:Till.take"\n'
    )
    assert app.evaluate("globals().update(things=__import__('things'))") == "None"
    assert app.evaluate("things.turn(1)") == "[]"
    with xpc_instrument.connect("shop") as session:
        for mode, register in MODES.items():
            failures: List[BaseException] = []
            handles = [register(session, f"things:{target}") for target in TARGETS]
            for handle in handles:
                handle.on_failure(failures.append)
            assert app.evaluate(f"things.turn({ROUNDS}, {'not waited' in mode})") == "[]", mode
            for handle in handles:
                handle.remove()
            if "not waited" in mode:
                assert all(handle.delivered for handle in handles), mode
            assert (app.evaluate("things.settle()"), failures) == ("[]", []), mode
            assert (
                sum(handle.delivered or 0 for handle in handles) + sum(handle.dropped or 0 for handle in handles) > 0 or "not" not in mode
            )
    assert app.evaluate("things.end()") == "None"

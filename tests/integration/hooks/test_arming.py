"""Arming in several processes at once: what one of them does, or does not, makes no difference to the others."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.integration.fault_fixture import holds_once, stop
from tests.programs import PATIENCE, Program, killed
from xpc_instrument import Session, TargetError
from xpc_instrument.core.model.errors import DeadlineError
from xpc_instrument.core.model.limits import Limits

Apps = Tuple[App, App, App]

# How long a session waits for a process, in seconds, where a test goes through all of it.
_SHORT = 1.0


@pytest.fixture
def apps(run_program: Callable[..., Program], tmp_path: Path) -> Apps:
    """Three processes of one application."""
    return (start_app(run_program, tmp_path), start_app(run_program, tmp_path), start_app(run_program, tmp_path))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def connect(timeout: float) -> Session:
    return xpc_instrument.connect("shop", limits=Limits(connect_timeout=timeout), all=True)


def until(app: App, expression: str, result: str) -> None:
    """Evaluate it again and again until the result is this."""
    deadline = time.monotonic() + PATIENCE
    while app.evaluate(expression) != result:
        assert time.monotonic() < deadline, f"{expression} was never {result}"


def hooked_except(apps: List[App], session: Session, pool: ThreadPoolExecutor) -> Future[Any]:
    """Register a hook while a process is stopped, and wait until all the others are hooked."""
    registration = pool.submit(session.instead, "shop:charge", lambda amount: "hooked")
    for app in apps:
        until(app, "shop.charge(1)", "'hooked'")
    assert not registration.done()
    return registration


@pytest.mark.parametrize("first", [False, True], ids=["a later hook", "the first hook, for which a lane is opened"])
def test_while_one_process_is_stopped_the_others_are_armed_and_so_is_that_one_when_it_goes_on(
    apps: Apps, pool: ThreadPoolExecutor, first: bool
) -> None:
    with connect(PATIENCE) as session:
        if not first:
            session.before("shop:charge", lambda call: None)
        stop(apps[0].program)
        registration = hooked_except([*apps[1:]], session, pool)
        apps[0].program.signal(signal.SIGCONT)
        registration.result(PATIENCE)
        assert [app.evaluate("shop.charge(1)") for app in apps] == ["'hooked'"] * 3


def test_a_process_that_dies_while_it_is_asked_is_no_error(apps: Apps, pool: ThreadPoolExecutor) -> None:
    with connect(PATIENCE) as session:
        session.before("shop:charge", lambda call: None)
        stop(apps[0].program)
        registration = hooked_except([*apps[1:]], session, pool)
        apps[0].program.kill()
        with registration.result(PATIENCE):
            assert len(session.pids) == 2
        assert apps[1].evaluate("shop.charge(1)") == "'1 EUR'"


@pytest.mark.parametrize("first", [False, True], ids=["a later hook", "the first hook, for which a lane is opened"])
def test_a_process_that_does_not_answer_fails_the_registration_in_one_time_out_and_no_process_keeps_the_hook(
    apps: Apps, first: bool
) -> None:
    with connect(_SHORT) as session:
        if not first:
            session.before("shop:charge", lambda call: None)
        stop(apps[0].program)

        def attempt(number: int) -> float:
            started = time.monotonic()
            with pytest.raises(
                DeadlineError, match=rf"shop:charge: 1 of 3 processes .* 1 s: shop \(pid {apps[0].program.pid}\)\. The hook is"
            ):
                session.instead("shop:charge", lambda amount: "hooked")
            late = time.monotonic() - started - _SHORT
            assert [app.evaluate("shop.charge(1)") for app in apps[1:]] == ["'1 EUR'"] * 2
            return late

        holds_once(attempt)
        apps[0].program.signal(signal.SIGCONT)
        # It answers when it has dealt with all that it was asked before.
        session.stats()
        assert apps[0].evaluate("shop.charge(1)") == "'1 EUR'"
        with session.instead("shop:charge", lambda amount: "hooked"):
            assert [app.evaluate("shop.charge(1)") for app in apps] == ["'hooked'"] * 3


def test_a_process_that_does_not_answer_holds_up_no_removal_in_the_others(apps: Apps, pool: ThreadPoolExecutor) -> None:
    with connect(PATIENCE) as session:
        handle = session.instead("shop:charge", lambda amount: "hooked")
        stop(apps[0].program)
        removal = pool.submit(handle.remove)
        for app in apps[1:]:
            until(app, "shop.charge(1)", "'1 EUR'")
        assert not removal.done()
        apps[0].program.signal(signal.SIGCONT)
        removal.result(PATIENCE)
        assert apps[0].evaluate("shop.charge(1)") == "'1 EUR'"


def test_a_process_that_was_too_late_to_be_joined_is_waited_for_by_nobody_and_is_hooked_when_it_answers(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    stop(apps[0].program)
    with connect(_SHORT) as session:
        assert session.pids == sorted(app.program.pid for app in apps[1:])
        assert f"cannot join shop (pid {apps[0].program.pid})" in caplog.text

        def attempt(number: int) -> float:
            started = time.monotonic()
            with session.instead("shop:charge", lambda amount: "hooked"):
                assert apps[1].evaluate("shop.charge(1)") == "'hooked'"
            return time.monotonic() - started

        holds_once(attempt, bound=_SHORT / 2)
        session.instead("shop:charge", lambda amount: "hooked")
        apps[0].program.signal(signal.SIGCONT)
        until(apps[0], "shop.charge(1)", "'hooked'")
        assert len(session.pids) == 3


def test_a_session_is_closed_while_a_process_that_does_not_answer_is_asked(apps: Apps, pool: ThreadPoolExecutor) -> None:
    session = connect(PATIENCE)
    session.before("shop:charge", lambda call: None)
    stop(apps[0].program)
    registration = hooked_except([*apps[1:]], session, pool)
    session.close()
    with pytest.raises(xpc_instrument.ChannelError, match="closed"):
        registration.result(PATIENCE)
    assert apps[1].evaluate("shop.charge(1)") == "'1 EUR'"
    killed.add(apps[0].program.pid)


def test_a_target_that_only_one_process_has_is_hooked_there_and_one_that_none_has_is_an_error(
    apps: Apps, run_program: Callable[..., Program], tmp_path: Path
) -> None:
    fourth = start_app(run_program, tmp_path, '[[probe]]\ntarget = "math:sqrt"\n')
    with connect(PATIENCE) as session:
        session.instead("math:sqrt", lambda number: "hooked")
        assert fourth.evaluate("__import__('math').sqrt(4)") == "'hooked'"
        session.instead("shop:charge", lambda amount: "hooked")
        assert [app.evaluate("shop.charge(1)") for app in apps] == ["'hooked'"] * 3
        with pytest.raises(TargetError, match="math:cos is no probe point of shop"):
            session.before("math:cos", print)


def test_threads_that_register_at_once_arm_all_their_hooks_everywhere(apps: Apps) -> None:
    targets = ["charge", "fail", "nested"]
    with connect(PATIENCE) as session, ThreadPoolExecutor(len(targets)) as several:
        handles = list(several.map(lambda name: session.instead(f"shop:{name}", lambda *args: "hooked"), targets))
        for app in apps:
            assert [app.evaluate(f"shop.{name}(1)") for name in targets] == ["'hooked'"] * len(targets)
        list(several.map(lambda handle: handle.remove(), handles))
        assert [app.evaluate("shop.charge(1)") for app in apps] == ["'1 EUR'"] * 3

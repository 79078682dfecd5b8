"""Hooks in another process: all modes, all values, and failing open, on a real application."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, List
from unittest.mock import Mock

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from tests.programs import PATIENCE, Program
from xpc_instrument import Manager, Session, TargetError
from xpc_instrument.core.discovery import entry as discovery


@pytest.mark.version
def test_before_sees_the_call_and_the_original_runs(app: App, session: Session) -> None:
    seen: List[Any] = []
    session.before("shop:charge", lambda call: seen.append((call.args, call.kwargs, call.arguments, call.pid, call.target)))
    assert app.evaluate("shop.charge(3, currency='USD')") == "'3 USD'"
    assert seen == [((3, "USD"), {}, {"amount": 3, "currency": "USD"}, app.program.pid, "shop:charge")]


@pytest.mark.parametrize(
    ("target", "expression"),
    [("shop:charge", "shop.charge(3, currency='USD')"), ("shop:wait_a_little", "asyncio.run(shop.wait_a_little(number=4))")],
)
@pytest.mark.parametrize("mode", ["before", "around", "after"])
def test_a_hook_sees_the_canonical_form_unless_it_asks_for_the_callers_own_or_is_a_mock(
    app: App, session: Session, mode: str, target: str, expression: str
) -> None:
    seen: List[Any] = []

    def hook(call: Any) -> Any:
        seen.append((call.args, call.kwargs))
        return call.proceed() if mode == "around" else None

    spy = Mock(side_effect=hook)
    register = getattr(session, mode)
    for options in ({}, {"form": "as passed"}, {"form": "canonical"}):
        handle = register(target, hook, **options)
        app.evaluate(expression)
        handle.remove()
    register(target, spy)
    app.evaluate(expression)
    canonical, passed = (((3, "USD"), {}), ((3,), {"currency": "USD"})) if target == "shop:charge" else (((4,), {}), ((), {"number": 4}))
    assert seen == [canonical, passed, canonical, passed]


@pytest.mark.version
def test_after_sees_result_and_duration(app: App, session: Session) -> None:
    seen: List[Any] = []
    session.after("shop:charge", lambda call: seen.append((call.result, call.exception, 0 < call.duration < 30)))
    app.evaluate("shop.charge(3)")
    assert seen == [("3 EUR", None, True)]


@pytest.mark.version
def test_after_sees_the_exception_and_the_application_gets_it_too(app: App, session: Session) -> None:
    seen: List[Any] = []
    session.after("shop:fail", seen.append)
    assert app.evaluate("shop.fail('no')") == "raised ValueError: no"
    assert isinstance(seen[0].exception, ValueError)
    assert str(seen[0].exception) == "no"


@pytest.mark.version
def test_around_proceeds_with_other_arguments_and_changes_the_result(app: App, session: Session) -> None:
    @session.around("shop:charge")
    def double(call: Any) -> Any:
        call.args = (call.args[0] * 2,)
        return call.proceed() + "!"

    assert app.evaluate("shop.charge(3)") == "'6 EUR!'"
    assert app.calls == "[6]"


@pytest.mark.version
def test_around_that_returns_what_it_got_gives_the_applications_own_object(app: App, session: Session) -> None:
    session.around("shop:unique", lambda call: call.proceed())
    assert app.evaluate("shop.unique() is shop.calls") == "True"


def test_around_that_changed_what_it_got_gives_the_changed_copy(app: App, session: Session) -> None:
    @session.around("shop:unique")
    def add(call: Any) -> Any:
        result = call.proceed()
        result.append("added")
        return result

    assert app.evaluate("shop.unique()") == "['added']"
    assert app.calls == "['added']" or app.evaluate("len(shop.calls)") == "0"


@pytest.mark.parametrize("size", [20_000, 70_000])
def test_what_around_changes_in_place_in_a_large_buffer_counts(app: App, session: Session, size: int) -> None:
    """From 64 KB on it travels beside the pickle, as a large array does, and is loaded where it arrives."""

    def change_argument(call: Any) -> Any:
        call.args[0][0] = 7
        return call.proceed()

    def change_result(call: Any) -> Any:
        result = call.proceed()
        result[-1][0] = 8
        return result

    session.around("shop:charge", change_argument, values="copy")
    session.around("shop:unique", change_result, values="copy")
    made = f"__import__('pickle').PickleBuffer(bytearray({size}))"
    app.evaluate(f"shop.charge({made}) and 0")
    assert app.evaluate("(len(shop.calls[-1]), shop.calls[-1][0], shop.calls[-1][1])") == f"({size}, 7, 0)"
    app.evaluate(f"shop.calls.append({made})")
    assert app.evaluate("(lambda got: (len(got), got[0], got[1]))(shop.unique()[-1])") == f"({size}, 8, 0)"


@pytest.mark.version
def test_an_exception_of_the_original_passes_through_around_unchanged(app: App, session: Session) -> None:
    session.around("shop:fail", lambda call: call.proceed())
    assert app.evaluate("shop.fail('x')") == "raised ValueError: x"
    assert app.calls == "['x']"


@pytest.mark.version
def test_instead_is_called_exactly_like_the_original(app: App, session: Session) -> None:
    mock = Mock(return_value={"ok": True})
    session.instead("shop:charge", mock)
    assert app.evaluate("shop.charge(3, currency='USD')") == "{'ok': True}"
    mock.assert_called_once_with(3, currency="USD")
    assert app.calls == "[]"


def test_a_mock_in_a_methods_place_does_not_get_the_instance_and_a_function_does(app: App, session: Session) -> None:
    mock = Mock(return_value=1)
    handle = session.instead("shop:Order.total", mock)
    assert app.evaluate("shop.Order(7).total(factor=2)") == "1"
    mock.assert_called_once_with(factor=2)
    handle.remove()
    session.instead("shop:Order.total", lambda self, factor=1: self.number * 100 + factor)
    assert app.evaluate("shop.Order(7).total()") == "701"


@pytest.mark.version
def test_exceptions_of_instead_are_raised_in_the_application(app: App, session: Session) -> None:
    session.instead("shop:charge", Mock(side_effect=TimeoutError("slow bank")))
    assert app.evaluate("shop.charge(1)") == "raised TimeoutError: slow bank"


class _Own(Exception):
    pass


def test_an_exception_class_of_the_test_module_arrives_with_its_own_name(app: App, session: Session) -> None:
    def refuse(*args: Any) -> None:
        raise _Own("mine")

    session.instead("shop:charge", refuse)
    assert app.evaluate("shop.charge(1)") == "raised _Own: mine"


@pytest.mark.version
@pytest.mark.parametrize(
    ("target", "expression", "result"),
    [
        ("shop:Order.made", "shop.Order.made(4)", "4"),
        ("shop:Order.twice", "shop.Order.twice(4)", "8"),
        ("shop:Order.label", "shop.Order(4).label", "'order 4'"),
        ("shop:Order.__init__", "shop.Order(4).number", "4"),
        ("shop:wait_a_little", "asyncio.run(shop.wait_a_little(4))", "5"),
        ("shop:count", "list(shop.count(3))", "[0, 1, 2]"),
    ],
)
def test_every_kind_of_target_can_be_forwarded(begin_app: Callable[..., App], target: str, expression: str, result: str) -> None:
    app = begin_app('[[probe]]\ntarget = "shop:*"\n[[probe]]\ntarget = "shop:Order.__init__"\n')
    with xpc_instrument.connect("shop") as session:
        seen: List[str] = []
        session.before(target, lambda call: seen.append("before"))
        session.after(target, lambda call: seen.append("after"))
        session.around(target, lambda call: call.proceed())
        assert app.evaluate(expression) == result
        assert seen == ["before", "after"]


@pytest.mark.version
def test_async_hooks_are_awaited(app: App, session: Session) -> None:
    async def hook(number: int) -> int:
        return number + 10

    session.instead("shop:wait_a_little", hook)
    assert app.evaluate("asyncio.run(shop.wait_a_little(4))") == "14"


@pytest.mark.version
def test_several_hooks_nest_newest_outermost(app: App, session: Session) -> None:
    order: List[str] = []

    def around(name: str) -> Callable[[Any], Any]:
        def hook(call: Any) -> Any:
            order.append(f"{name} in")
            result = call.proceed()
            order.append(f"{name} out")
            return result

        return hook

    session.before("shop:charge", lambda call: order.append("before 1"))
    session.before("shop:charge", lambda call: order.append("before 2"))
    session.around("shop:charge", around("old"))
    session.around("shop:charge", around("new"))
    session.after("shop:charge", lambda call: order.append("after 1"))
    session.after("shop:charge", lambda call: order.append("after 2"))
    app.evaluate("shop.charge(1)")
    assert order == ["before 1", "before 2", "new in", "old in", "old out", "new out", "after 2", "after 1"]


@pytest.mark.version
def test_what_cannot_be_pickled_arrives_as_a_reference_and_goes_back_as_itself(app: App, session: Session) -> None:
    seen: List[Any] = []

    @session.around("shop:give_lock")
    def look(call: Any) -> Any:
        lock = call.proceed()
        seen.append((repr(lock).startswith("<reference to _thread.lock"), lock.locked()))
        return lock

    assert app.evaluate("type(shop.give_lock()).__name__") == "'lock'"
    assert seen == [(True, False)]


def test_a_reference_is_dead_after_its_call(app: App, session: Session) -> None:
    kept: List[Any] = []
    session.before("shop:Order.total", lambda call: kept.append(call.instance))
    app.evaluate("shop.Order(1).total()")
    with pytest.raises(xpc_instrument.ReferenceExpiredError, match="has ended"):
        kept[0].number  # noqa: B018


@pytest.mark.version
def test_a_stand_in_for_a_method_may_return_its_instance_and_loses_it_with_the_call(app: App, session: Session) -> None:
    kept: List[Any] = []

    def stand_in(self: Any, factor: int = 1) -> Any:
        kept.append(self)
        if factor == 7:
            # That of an earlier call, on the lane that it came on.
            with pytest.raises(xpc_instrument.ReferenceExpiredError, match="has ended"):
                kept[0].number  # noqa: B018
            raise ValueError("seven")
        return self

    handle = session.instead("shop:Order.total", stand_in)
    assert app.evaluate("(lambda order: order.total() is order)(shop.Order(5))") == "True"
    assert app.evaluate("shop.Order(6).total(7)") == "raised ValueError: seven"
    assert app.evaluate("[order.total(2) is order for order in map(shop.Order, range(20))] == [True] * 20") == "True"
    assert handle.failures == 0
    with pytest.raises(xpc_instrument.ReferenceExpiredError, match="has ended"):
        kept[0].number  # noqa: B018


@pytest.mark.version
def test_the_session_that_closes_leaves_the_application_as_it_was(app: App) -> None:
    before = app.evaluate("[id(shop.charge), id(shop.charge.__code__), sorted(shop.charge.__dict__), id(shop.Order.__dict__['total'])]")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", Mock(return_value=0))
        session.instead("shop:Order.total", Mock(return_value=0))
        assert app.evaluate("shop.charge(1)") == "0"
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    after = app.evaluate("[id(shop.charge), id(shop.charge.__code__), sorted(shop.charge.__dict__), id(shop.Order.__dict__['total'])]")
    assert after == before


def test_a_registration_for_two_calls_ends_after_two(app: App, session: Session) -> None:
    session.instead("shop:charge", Mock(return_value=0), limit=2)
    assert [app.evaluate("shop.charge(1)") for _ in range(3)] == ["0", "0", "'1 EUR'"]


# A thread that has the lock of all probe points, as the one that serves has while it arms something and the garbage collector runs a `__del__`.
HOLD = """
import threading
from xpc_agent.life import control
held, free = threading.Event(), threading.Event()
def hold():
    with control._agent.table.changing():
        held.set()
        free.wait(60)
threading.Thread(target=hold).start()
held.wait()
"""


def test_the_call_with_which_the_terms_of_a_hook_are_over_waits_for_no_lock(app: App, session: Session) -> None:
    seen: List[Any] = []
    for number, targets in enumerate(("shop:charge", ["shop:charge", "shop:fail"])):
        handle = session.before(targets, seen.append, limit=1)
        app.evaluate(f"exec({HOLD!r}, globals())")
        assert app.evaluate("shop.charge(1), shop.charge(2)") == "('1 EUR', '2 EUR')"
        app.evaluate("free.set()")
        assert (len(seen), handle.over) == (number + 1, "limit")
        assert not [one for one in session.stats() if one.hooks]


def test_wrong_targets_are_refused_with_the_nearest_name(app: App, session: Session) -> None:
    with pytest.raises(TargetError, match=r"shop:chargee .*shop:charge"):
        session.before("shop:chargee", print)


def test_a_mode_that_the_config_forbids_is_refused(begin_app: Callable[..., App]) -> None:
    begin_app('[[probe]]\ntarget = "shop:*"\nallow = ["before"]\n')
    with xpc_instrument.connect("shop") as session, pytest.raises(TargetError, match="does not allow the mode 'instead'"):
        session.instead("shop:charge", print)


def test_a_plain_manager_with_a_callback_named_like_a_target_is_called_instead(app: App) -> None:
    with Manager(discovery.find("shop")[0].address) as manager:
        assert manager.register("shop:charge", lambda amount: amount + 1)
        assert app.evaluate("shop.charge(1)") == "2"
        seen: List[Any] = []
        assert manager.register("before:shop:fail", seen.append)
        assert app.evaluate("shop.fail('x')") == "raised ValueError: x"
        assert seen == ["x"]
        assert manager.unregister("shop:charge")
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"


# failing open -------------------------------------------------------------------------------------------------------------


def test_a_before_hook_that_raises_is_reported_to_the_script_only(app: App, session: Session, caplog: pytest.LogCaptureFixture) -> None:
    def broken(call: Any) -> None:
        raise ZeroDivisionError("my bug")

    handle = session.before("shop:charge", broken)
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.calls == "[1]"
    assert handle.failures == 1
    assert isinstance(handle.last_failure, ZeroDivisionError)
    # Logged after the answer: the application does not wait for it.
    deadline = time.monotonic() + PATIENCE
    while "my bug" not in caplog.text and time.monotonic() < deadline:
        os.sched_yield()
    assert "my bug" in caplog.text


def test_a_result_that_cannot_be_pickled_fails_open(app: App, session: Session) -> None:
    session.instead("shop:charge", lambda *args: threading.Lock())
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.calls == "[1]"
    assert "(unpicklable)" in app.log()


def test_a_hook_past_its_deadline_fails_open_and_is_logged_once(begin_app: Callable[..., App]) -> None:
    app = begin_app('[defaults]\ntimeout = 0.2\n[[probe]]\ntarget = "shop:*"\n')
    release = threading.Event()
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda *args: release.wait(20))
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        assert app.evaluate("shop.charge(2)") == "'2 EUR'"
        release.set()
    assert app.calls == "[1, 2]"
    assert app.log().count("(timeout)") == 1


def test_on_failure_raise_raises(begin_app: Callable[..., App]) -> None:
    config = '[defaults]\ntimeout = 0.2\non-failure = "raise"\n[[probe]]\ntarget = "shop:*"\n'
    app = begin_app(config)
    release = threading.Event()
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda *args: release.wait(20))
        assert app.evaluate("shop.charge(1)").startswith("raised HookTimeoutError: the instead hook of pid")
        release.set()
    assert app.calls == "[]"


SCRIPT = """
import os, sys, xpc_instrument
app = xpc_instrument.connect("shop")
mode = sys.argv[1]
def hook(call):
    if mode == "after proceed":
        call.proceed()
    print("inside", flush=True)
    sys.stdin.readline()
app.around("shop:charge", hook)
print("hooked", flush=True)
app.run()
"""


@pytest.mark.parametrize("mode", ["before proceed", "after proceed"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_script_that_is_killed_or_stopped_inside_a_hook_leaves_one_run_of_the_original(
    app: App, run_program: Callable[..., Program], mode: str, number: int
) -> None:
    script = run_program(SCRIPT, mode, name="script.py")
    script.read_until("hooked")
    app.start("shop.charge(5)")
    script.read_until("inside")
    script.signal(number)
    assert app.result() == "'5 EUR'"
    assert app.calls == "[5]"
    if number == signal.SIGKILL:
        assert app.evaluate("shop.charge(6)") == "'6 EUR'"


def test_ctrl_c_on_the_script_disarms(app: App, run_program: Callable[..., Program]) -> None:
    # Another thread takes it, which does not end what the main one waits for.
    script = run_program(
        "import logging, signal, sys, threading, xpc_instrument\nlogging.basicConfig(level=logging.INFO)\n"
        "def interrupt():\n    sys.stdin.readline()\n    signal.pthread_kill(threading.get_ident(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        'app = xpc_instrument.connect("shop")\napp.instead("shop:charge", lambda *a: "hooked")\napp.run()\n',
        name="script.py",
    )
    script.read_until("Ctrl-C ends it")
    assert app.evaluate("shop.charge(1)") == "'hooked'"
    script.send_line()
    assert script.wait() == 0
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


def test_rubbish_on_the_socket_leaves_the_application_unharmed(app: App) -> None:
    import socket

    address = discovery.find("shop")[0].address.partition(":")[2]
    for garbage in (os.urandom(5000), b"\x01" * 12, b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address)
            sock.sendall(garbage)
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", Mock(return_value=2))
        assert app.evaluate("shop.charge(1)") == "2"


@pytest.mark.version
def test_the_main_module_started_with_m_can_be_hooked_under_its_own_name(run_program: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(
        "import sys\ndef double(n):\n    return n * 2\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    if not line.strip():\n        break\n    print('=>', double(int(line)), flush=True)\n"
    )
    program = run_program(
        command=[sys.executable, "-m", "xpc_instrument.cli", "run", "--app", "tool", "--probe", "tool:double", "--", "-m", "tool"],
        cwd=tmp_path,
    )
    program.read_until("ready")
    with xpc_instrument.connect("tool") as session:
        session.instead("tool:double", lambda n: n + 1)
        program.send_line("5")
        assert program.read_until("=>") == "=> 6"


@pytest.mark.parametrize("mode", ["before", "after", "around"])
def test_the_application_does_not_wait_for_what_the_script_logs(app: App, session: Session, mode: str) -> None:
    """As where standard error is a pipe that nobody reads just now."""
    free, logged = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            free.wait(20)
            logged.set()

    def hook(call: Any) -> Any:
        if mode == "around":
            return threading.Lock()
        raise ValueError("no")

    slow = Slow()
    logging.getLogger("xpc_instrument").addHandler(slow)
    try:
        handle = getattr(session, mode)("shop:charge", hook)
        took = app.evaluate("[__import__('time').perf_counter(), shop.charge(1), __import__('time').perf_counter()]")
        assert handle.failures == 1
        assert not logged.is_set()
        free.set()
        assert logged.wait(20)
    finally:
        free.set()
        logging.getLogger("xpc_instrument").removeHandler(slow)
    started, _, ended = eval(took)
    assert ended - started < 10


def test_a_decorator_without_its_target_says_so(session: Session) -> None:
    with pytest.raises(TypeError, match=r"before\(\): expected a target such as"):

        @session.before  # type: ignore[arg-type, call-overload, unused-ignore]
        def log(call: Any) -> None: ...


def test_an_observer_may_raise_what_has_no_text(app: App, session: Session) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def hook(call: Any) -> None:
        raise Mute

    handle = session.before("shop:charge", hook)
    for _ in range(5):
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert handle.failures == 5
    assert isinstance(handle.last_failure, Mute)
    (stats,) = [one for one in session.stats() if one.target == "shop:charge"]
    assert (stats.failures, stats.suspensions) == ({"raised": 5}, 0)

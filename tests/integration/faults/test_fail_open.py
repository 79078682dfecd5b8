"""Whatever a probe script does, the application goes on: hooks that fail in every way, scripts that die, lie or talk rubbish."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable, Dict, Iterator, List
from unittest.mock import Mock

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, listing
from tests.programs import Program, wait_for
from xpc_instrument import Session
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.codec import HEADER, Frame
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.wire.wire import Wire

MODES = ["before", "after", "around", "instead"]
# What is hooked, how the application calls it, and what the original gives.
FUNCTION = ("shop:charge", "shop.charge(1)", "'1 EUR'")
COROUTINE = ("shop:wait_a_little", "asyncio.run(shop.wait_a_little(1))", "2")
RAISE = '[defaults]\ntimeout = {}\non-failure = "raise"\n[[probe]]\ntarget = "shop:*"\n'


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    return begin_app('[defaults]\ntimeout = 20\n[[probe]]\ntarget = "shop:*"\n')


def failures(target: str = "shop:charge") -> Dict[str, int]:
    """The counters of a probe point, as a user gets them."""
    listed = as_json(listing("--json"))
    found: Dict[str, int] = next(probe["failures"] for probe in listed[0]["probes"] if probe["target"] == target)
    return found


# what a hook gives or raises --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "expression", "result"), [FUNCTION, COROUTINE])
@pytest.mark.parametrize("mode", ["around", "instead"])
def test_a_result_that_cannot_be_pickled_fails_open(
    app: App, session: Session, mode: str, target: str, expression: str, result: str
) -> None:
    handle = getattr(session, mode)(target, lambda *args: threading.Lock())
    assert app.evaluate(expression) == result
    assert app.evaluate(expression) == result
    assert handle.failures == 2
    assert failures(target) == {"unpicklable": 2}
    assert app.log().count("(unpicklable)") == 1
    assert app.calls in ("[1, 1]", "[]")


@pytest.mark.parametrize("mode", ["before", "after"])
def test_what_an_observer_returns_is_of_no_interest(app: App, session: Session, mode: str) -> None:
    getattr(session, mode)("shop:charge", lambda call: threading.Lock())
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert failures() == {}


@pytest.mark.parametrize(("target", "expression", "result"), [FUNCTION, COROUTINE])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_hook_that_ends_its_thread_ends_neither_application_nor_script(
    app: App, session: Session, error: Any, asynchronous: bool, target: str, expression: str, result: str
) -> None:
    def leave(*args: Any) -> None:
        raise error

    async def leave_async(*args: Any) -> None:
        raise error

    handles = [getattr(session, mode)(target, leave_async if asynchronous else leave) for mode in MODES]
    assert app.evaluate(expression) == result
    assert app.evaluate(expression) == result
    for handle in handles:
        assert isinstance(handle.last_failure, error)
        assert handle.failures == 2
    assert failures(target) == {"raised": 8}


@pytest.mark.parametrize(("target", "expression", "result"), [FUNCTION, COROUTINE])
def test_observers_that_raise_are_counted_and_logged_once(app: App, session: Session, target: str, expression: str, result: str) -> None:
    session.before(target, Mock(side_effect=ZeroDivisionError("mine")))
    session.after(target, Mock(side_effect=ZeroDivisionError("mine")))
    for _ in range(3):
        assert app.evaluate(expression) == result
    assert failures(target) == {"raised": 6}
    assert app.log().count("xpc_agent WARNING") == 2


def test_what_the_script_cannot_load_it_sees_as_a_reference(app: App, session: Session) -> None:
    # The class lives in the application's module `shop`, which this process lacks.
    seen: List[Any] = []
    session.before("shop:charge", lambda call: seen.append((type(call.args[0]).__name__, call.args[0].items)))
    assert app.evaluate("shop.charge(shop.Plain(5)).startswith('<shop.Plain')") == "True"
    assert seen == [("Reference", 5)]
    assert failures() == {}


class Unloadable:
    """Breaks where it is loaded."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_result_that_the_application_cannot_load_fails_open(app: App, session: Session) -> None:
    session.instead("shop:charge", lambda *args: Unloadable())
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert failures() == {"payload": 1}
    session.instead("shop:charge", lambda *args: "loaded")
    assert app.evaluate("shop.charge(1)") == "'loaded'"


# failing after proceed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["shop:charge", "shop:fail"])
@pytest.mark.parametrize("failing", ["unpicklable", "SystemExit", "timeout"])
@pytest.mark.parametrize("on_failure", ["original", "raise"])
def test_an_around_hook_that_fails_after_proceed_keeps_the_outcome(
    begin_app: Callable[..., App], target: str, failing: str, on_failure: str
) -> None:
    timeout = 0.2 if failing == "timeout" else 20
    app = begin_app(f'[defaults]\ntimeout = {timeout}\non-failure = "{on_failure}"\n[[probe]]\ntarget = "shop:*"\n')
    release = threading.Event()

    def hook(call: Any) -> Any:
        try:
            call.proceed()
        except ValueError:
            pass
        if failing == "timeout":
            release.wait(60)
        if failing == "SystemExit":
            raise SystemExit
        return threading.Lock()

    with xpc_instrument.connect("shop") as session:
        session.around(target, hook)
        name = target.partition(":")[2]
        assert app.evaluate(f"shop.{name}('x')") == ("'x EUR'" if name == "charge" else "raised ValueError: x")
        assert app.calls == "['x']"
        release.set()


def test_the_outcome_that_is_kept_is_the_original_object(app: App, session: Session) -> None:
    def hook(call: Any) -> Any:
        call.proceed()
        raise SystemExit

    session.around("shop:unique", hook)
    assert app.evaluate("shop.unique() is shop.calls") == "True"


def test_inner_hooks_and_the_original_run_once_where_an_outer_hook_fails(app: App, session: Session) -> None:
    inner: List[Any] = []
    session.around("shop:charge", lambda call: (inner.append(1), call.proceed())[1] + "!")
    session.around("shop:charge", lambda call: (call.proceed(), threading.Lock())[1])
    session.around("shop:charge", lambda call: threading.Lock())
    assert app.evaluate("shop.charge(1)") == "'1 EUR!'"
    assert (inner, app.calls) == ([1], "[1]")


# tasks that are cancelled -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_task_that_is_cancelled_while_it_waits_for_a_hook_ends_at_once(app: App, session: Session, mode: str) -> None:
    release = threading.Event()

    def hook(*args: Any) -> None:
        release.wait(60)

    getattr(session, mode)("shop:wait_a_little", hook)
    begun = time.monotonic()
    assert app.evaluate("asyncio.run(asyncio.wait_for(shop.wait_a_little(1), 0.2))").startswith("raised TimeoutError")
    assert time.monotonic() - begun < 10
    assert failures("shop:wait_a_little") == {"interrupted": 1}
    release.set()
    assert app.evaluate("asyncio.run(shop.wait_a_little(1))") in ("2", "None")


# scripts that die or lie ------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, xpc_instrument
app = xpc_instrument.connect("shop")
getattr(app, sys.argv[2])(sys.argv[1], lambda *args: print("inside", flush=True) or sys.stdin.readline())
print("hooked", flush=True)
app.run()
"""


def test_a_script_that_is_killed_between_calls_is_disarmed(app: App, run_program: Callable[..., Program]) -> None:
    script = run_program(SCRIPT, "shop:charge", "instead", name="script.py")
    script.read_until("hooked")
    script.kill()
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.evaluate("shop.charge(2)") == "'2 EUR'"
    assert app.calls == "[1, 2]"


ENDING = """
import os
def end(pid, raises):
    shop.calls.append(raises)
    os.kill(pid, 9)
    if raises:
        raise ValueError("its own")
    return "done"
def items(pid, raises):
    yield end(pid, raises)
shop.end, shop.items = end, items
"""
WATCHING = """
import sys, xpc_instrument
app = xpc_instrument.connect("shop")
for mode in ("before", "around", "after"):
    getattr(app, mode)("shop:end", lambda call: call.proceed() if call.mode == "around" else None)
app.before("shop:items", lambda call: None)
app.after("shop:items", lambda call: None)
print("hooked", flush=True)
app.run()
"""


@pytest.mark.version
@pytest.mark.parametrize(("expression", "result"), [("shop.end({}, False)", "'done'"), ("list(shop.items({}, False))", "['done']")])
def test_a_script_that_is_killed_while_the_original_runs_changes_nothing(
    app: App, run_program: Callable[..., Program], expression: str, result: str
) -> None:
    app.evaluate(f"exec({ENDING!r}, dict(shop=shop, __name__='shop'))")
    for raises, got in [(False, result), (True, "raised ValueError: its own")]:
        script = run_program(WATCHING, name=f"script_{raises}.py")
        script.read_until("hooked")
        assert app.evaluate(expression.replace("False", str(raises)).format(script.pid)) == got
        script.kill()
    assert app.calls == "[False, True]"


RUBBISH = [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", HEADER.pack(Opcode.PING, 3, 0, 0, 1), HEADER.pack(Opcode.RETURN, 0, 0, 0, 2**32 - 1)]
FRAMES = [(Opcode.RETURN, b"no pickle"), (Opcode.RAISE, b"(."), (Opcode.FAILED, b"{"), (Opcode.RESULT, b""), (Opcode.RETURN_SAME, b"")]
FRAMES += [
    (Opcode.PROCEED, b"no pickle"),
    (Opcode.PROCEED, b"I1\n."),
    (Opcode.REFER, b'{"op": [[[]]]}'),
    (Opcode.REFER, b"[]"),
    (Opcode.PING, b"{}"),
]


@pytest.fixture
def liar(app: App) -> Iterator[Callable[[Callable[[Wire, Frame], None], str], Joiner]]:
    """A script that shakes hands as it should, registers an `around` hook, and then answers calls as it likes."""
    joined: List[Joiner] = []

    def join(answer: Callable[[Wire, Frame], None], name: str = "around:shop:charge") -> Joiner:
        joiner = Joiner(parse_address(discovery.find("shop")[0].address), b"", limits=Limits(), serve=answer)
        joined.append(joiner)
        joiner.connect(time.monotonic() + 20)
        joiner.register(name, 1, "call", terms={}, timeout=20)
        return joiner

    yield join
    for joiner in joined:
        joiner.close()


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_bytes_that_are_no_frames_on_a_lane_fail_open(app: App, liar: Any, rubbish: bytes) -> None:
    liar(lambda wire, frame: wire.sock.sendall(rubbish))
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.calls == "[1]"
    assert failures() == {"channel": 1}


@pytest.mark.parametrize(("opcode", "body"), FRAMES)
def test_frames_that_make_no_sense_on_a_lane_fail_open(app: App, liar: Any, opcode: Opcode, body: bytes) -> None:
    liar(lambda wire, frame: wire.sock.sendall(HEADER.pack(opcode, 0, 0, 0, len(body)) + body))
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.calls == "[1]"
    assert sum(failures().values()) == 1
    assert set(failures()) <= {"channel", "payload"}


@pytest.mark.parametrize("rubbish", [*RUBBISH, HEADER.pack(Opcode.REGISTER, 0, 0, 0, 2) + b"[]", HEADER.pack(Opcode.CALL, 0, 0, 0, 0)])
def test_rubbish_on_the_control_connection_ends_the_session(app: App, liar: Any, rubbish: bytes) -> None:
    joiner = liar(lambda wire, frame: pytest.fail("it was called"))
    joiner._control.sock.sendall(rubbish)
    joiner._thread.join(20)
    assert not joiner.alive
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", Mock(return_value="hooked"))
        assert app.evaluate("shop.charge(1)") == "'hooked'"


@pytest.mark.parametrize("data", [{"count": "many"}, {"count": -5}, {"count": None}, {}])
def test_notices_with_odd_contents_do_no_harm(app: App, liar: Any, data: Any) -> None:
    joiner = liar(lambda wire, frame: wire.send_frame(Opcode.FAILED, 0, b'{"cause": "test", "message": ""}', None))
    joiner.notify("no-lane", **data)
    joiner.notify("hook-answer", **data)
    assert joiner.query("probes", 20).data["app"] == "shop"
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert failures() == {"other": 1}


# on-failure = "raise" ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(begin_app: Callable[..., App]) -> App:
    return begin_app(RAISE.format(20))


@pytest.mark.parametrize(("target", "expression", "result"), [FUNCTION, COROUTINE])
@pytest.mark.parametrize("mode", MODES)
def test_a_hook_whose_script_is_killed_raises_while_the_original_has_not_run(
    strict: App, run_program: Callable[..., Program], mode: str, target: str, expression: str, result: str
) -> None:
    script = run_program(SCRIPT, target, mode, name="script.py")
    script.read_until("hooked")
    strict.start(expression)
    script.read_until("inside")
    script.kill()
    if mode == "after":
        assert strict.result() == result
    else:
        assert strict.result().startswith(f"raised HookFailedError: the {mode} hook of pid {script.pid} on {target} failed: ")
        assert strict.calls == "[]"
    assert failures(target) == {"channel": 1}


@pytest.mark.parametrize(("target", "expression", "result"), [FUNCTION, COROUTINE])
@pytest.mark.parametrize("mode", MODES)
def test_a_hook_that_does_not_answer_raises_while_the_original_has_not_run(
    begin_app: Callable[..., App], mode: str, target: str, expression: str, result: str
) -> None:
    app = begin_app(RAISE.format(0.1))
    release = threading.Event()
    with xpc_instrument.connect("shop") as session:
        getattr(session, mode)(target, lambda *args: release.wait(60))
        answer = app.evaluate(expression)
        if mode == "after":
            assert answer == result
        else:
            assert answer.startswith(f"raised HookTimeoutError: the {mode} hook of pid {os.getpid()} on {target} failed: ")
            assert app.calls == "[]"
        assert failures(target) == {"timeout": 1}
        release.set()


@pytest.mark.parametrize(("target", "expression", "result"), [FUNCTION, COROUTINE])
@pytest.mark.parametrize("mode", ["around", "instead"])
@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (lambda *args: threading.Lock(), "_thread.lock cannot be pickled"),
        (lambda *args: Unloadable(), "cannot be loaded here: ValueError"),
        (Mock(side_effect=SystemExit), "ended with SystemExit"),
    ],
)
def test_a_hook_that_decides_and_gives_no_usable_answer_raises(
    strict: App, mode: str, hook: Any, words: str, target: str, expression: str, result: str
) -> None:
    with xpc_instrument.connect("shop") as session:
        getattr(session, mode)(target, hook)
        answer = strict.evaluate(expression)
        assert answer.startswith(f"raised HookFailedError: the {mode} hook of pid {os.getpid()} on {target} failed: ")
        assert words in answer
    assert strict.evaluate(expression) == result


@pytest.mark.parametrize(("target", "expression", "result"), [FUNCTION, COROUTINE])
@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
@pytest.mark.parametrize("mode", ["before", "after"])
def test_what_an_observer_itself_raises_never_reaches_the_application(
    strict: App, mode: str, error: Any, target: str, expression: str, result: str
) -> None:
    with xpc_instrument.connect("shop") as session:
        handle = getattr(session, mode)(target, Mock(side_effect=error("mine")))
        assert strict.evaluate(expression) == result
        assert isinstance(handle.last_failure, error)


def test_what_a_hook_that_decides_raises_is_no_failure(strict: App) -> None:
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", Mock(side_effect=TimeoutError("slow bank")))
        assert strict.evaluate("shop.charge(1)") == "raised TimeoutError: slow bank"
        assert failures() == {}


def test_removing_a_hook_in_the_middle_of_its_calls_fails_none_of_them(strict: App) -> None:
    entered = threading.Event()

    def hook(*args: Any) -> str:
        entered.set()
        return "hooked"

    with xpc_instrument.connect("shop") as session:
        for _ in range(10):
            handle = session.instead("shop:charge", hook)
            entered.clear()
            strict.start("[shop.charge(1) for _ in range(1000)] and None")
            wait_for(entered)
            handle.remove()
            assert strict.result() == "None"
    assert failures() == {}
    assert "xpc_agent" not in strict.log()


# nothing is left --------------------------------------------------------------------------------------------------------------

KINDS = ["charge", "Order.total", "Order.made", "Order.twice", "Order.label", "Special.total", "root"]


def test_when_the_last_script_has_gone_every_object_is_the_same(begin_app: Callable[..., App]) -> None:
    probes = "".join(f'[[probe]]\ntarget = "shop:{name}"\n' for name in KINDS)
    app = begin_app(probes)
    assert app.evaluate("keep()") == "None"
    with xpc_instrument.connect("shop") as session:
        for name in KINDS:
            session.around(f"shop:{name}", lambda call: call.proceed())
        assert app.evaluate("shop.Special(2).total(), shop.Order.made(3), shop.Order.twice(4), shop.Order(5).label, shop.root(9)") == (
            "(2, 3, 8, 'order 5', 3.0)"
        )
        changed = eval(app.evaluate("differences()"))
        assert "shop.charge.__code__" in changed
        assert "shop.Special['total']" in changed
        with xpc_instrument.connect("shop") as second:
            second.before("shop:charge", print)
    assert app.evaluate("differences()") == "[]"


# what is left of a call ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["unpicklable", "late", "raises", "original raises", "after it raised", "before it raises", "handler raises"]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_of_a_failure_waits_for_the_garbage_collector(begin_app: Callable[..., App], how: str, is_async: bool) -> None:
    """An application may have switched it off; the arguments, and what the lane holds, would stay for ever."""
    if how == "handler raises" and is_async:
        pytest.skip("the loop runs the handler")
    timeout = 0.1 if how == "late" else 20
    app = begin_app(f'[defaults]\ntimeout = {timeout}\nsuspend-after = 0\n[[probe]]\ntarget = "shop:*"\n')
    target = "shop:wait_a_little" if is_async else "shop:charge"
    app.evaluate("exec('import gc, signal; shop.gc = gc; shop.signal = signal; gc.disable()')")
    app.evaluate(
        "exec('class Arg:\\n def __mul__(self, n): raise LookupError\\n def __str__(self): raise LookupError\\n __add__ = __radd__ = __mul__\\n"
        "def late(signum, frame): raise TimeoutError\\n"
        "async def attempt():\\n try: await shop.wait_a_little(Arg())\\n except Exception: pass\\n"
        "shop.Arg = Arg; shop.attempt = attempt; signal.signal(signal.SIGALRM, late)', {'shop': shop, 'signal': shop.signal})"
    )

    free = threading.Event()

    def late(call: Any) -> None:
        free.wait(20)

    def raises(*args: Any) -> None:
        raise ValueError("so it is to be")

    with xpc_instrument.connect("shop") as session:
        if how == "unpicklable":
            session.around(target, lambda call: threading.Lock())
        elif how in ("late", "handler raises"):
            session.around(target, late)
        elif how == "raises":
            session.instead(target, raises)
        elif how == "original raises":
            session.around(target, lambda call: call.proceed())
        elif how == "after it raised":
            session.after(target, lambda call: None)
        else:
            session.before(target, lambda call: None)
        call = "asyncio.run(shop.attempt())" if is_async else "shop.charge(shop.Arg())"
        if how == "handler raises":
            call = f"[shop.signal.setitimer(shop.signal.ITIMER_REAL, 0.1), {call}]"
        app.evaluate(call)
        app.evaluate("shop.gc.collect() and None")
        for _ in range(3):
            answer = app.evaluate(call)
            assert answer == ("raised TimeoutError: " if how == "handler raises" else answer)
        app.evaluate("shop.calls.clear()")
        try:
            assert app.evaluate("sum(type(one) is shop.Arg for one in shop.gc.get_objects())") == "0"
        finally:
            free.set()
    app.evaluate("[shop.gc.enable(), shop.signal.signal(shop.signal.SIGALRM, shop.signal.SIG_DFL)]")

"""What a hook raises: what the application gets of it, and what the script has, mode by mode, in real processes."""

from __future__ import annotations

import ast
import asyncio
import functools
import logging
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple
from unittest.mock import Mock, create_autospec

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, listing, start_app
from tests.programs import Program, wait_for
from xpc_instrument import Manager, Session, XpcError
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.errors import ChannelError, DeadlineError, PayloadError

CONFIG = '[defaults]\ntimeout = 20\nsuspend-after = 0\n[[probe]]\ntarget = "shop:*"\n'


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    return begin_app(CONFIG)


@pytest.fixture
def logged() -> Iterator[List[logging.LogRecord]]:
    """What the script logs from WARNING on."""
    records: List[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keeper = Keeper(logging.WARNING)
    logging.getLogger("xpc_instrument").addHandler(keeper)
    yield records
    logging.getLogger("xpc_instrument").removeHandler(keeper)


# the table -------------------------------------------------------------------------------------------------------------------

# What the hook does, and then raises.
NOTHING, PROCEEDS, CATCHES, REFERS = "nothing", "proceeds", "catches", "refers"
# What the application gets: the answer of the hook, or what the original gives.
ANSWER, ORIGINAL = "answer", "original"


class Own(ValueError):
    """Of the script's own; it crosses by value."""


class Row(NamedTuple):
    mode: str
    does: str
    error: Any
    raises: Any
    gets: str
    """What the application gets."""
    fails: bool
    """Whether the script has it as a failure."""


def _ours() -> Exception:
    return PayloadError("of the library")


OBSERVERS = [
    Row(mode, NOTHING, error, (), ORIGINAL, True) for mode in ("before", "after") for error in (KeyError("bug"), Own("own"), _ours())
]
INSTEAD = [
    Row("instead", NOTHING, TimeoutError("slow bank"), (), ANSWER, False),
    Row("instead", NOTHING, Own("declined"), (), ANSWER, False),
    Row("instead", NOTHING, _ours(), (), ORIGINAL, True),
    Row("instead", NOTHING, ChannelError("of the library"), (), ORIGINAL, True),
]
AROUND = [
    Row("around", does, error, raises, gets, gets == ORIGINAL)
    for does in (NOTHING, PROCEEDS, CATCHES, REFERS)
    for error, raises, gets in [
        (KeyError("bug"), (), ORIGINAL),
        (KeyError("bug"), TimeoutError, ORIGINAL),
        (KeyError("bug"), (TimeoutError, OSError), ORIGINAL),
        (KeyError("meant"), KeyError, ANSWER),
        (KeyError("meant"), LookupError, ANSWER),
        (KeyError("meant"), (TimeoutError, LookupError), ANSWER),
        (KeyError("meant"), Exception, ANSWER),
        (Own("meant"), Own, ANSWER),
        (_ours(), Exception, ORIGINAL),
        (DeadlineError("late"), TimeoutError, ORIGINAL),
    ]
]
TABLE = [*OBSERVERS, *INSTEAD, *AROUND]
# What is hooked, how it is called, what that gives, and what it notes in `shop.calls`.
TARGETS = {
    "returns": ("shop:charge", "shop.charge(1)", "'1 EUR'"),
    "raises": ("shop:fail", "shop.fail(1)", "raised ValueError: 1"),
    "async": ("shop:wait_a_little", "asyncio.run(shop.wait_a_little(1))", "2"),
}


def make_hook(row: Row, is_async: bool) -> Callable[..., Any]:
    def raise_it(*args: Any) -> None:
        if row.does in (PROCEEDS, CATCHES):
            try:
                args[0].proceed()
            except ValueError:
                pass
        if row.does == REFERS:
            args[0].thread  # noqa: B018
        raise row.error

    async def raise_it_async(*args: Any) -> None:
        if row.does in (PROCEEDS, CATCHES):
            try:
                await args[0].proceed_async()
            except ValueError:
                pass
        await asyncio.sleep(0)
        raise row.error

    return raise_it_async if is_async else raise_it


def text_of(error: Exception) -> str:
    return f"raised {type(error).__name__}: {error}"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_application_and_the_script_get_what_the_table_says(
    app: App, session: Session, logged: List[logging.LogRecord], target: str, is_async: bool
) -> None:
    name, expression, result = TARGETS[target]
    for row in TABLE:
        logged.clear()
        app.evaluate("shop.calls.clear()")
        options: Dict[str, Any] = {"raises": row.raises} if row.raises else {}
        told: List[BaseException] = []
        done = threading.Event()
        with getattr(session, row.mode)(name, make_hook(row, is_async), **options) as handle:

            @handle.on_failure
            def tell(error: BaseException, told: List[BaseException] = told, done: threading.Event = done) -> None:
                told.append(error)
                done.set()

            assert app.evaluate(expression) == (text_of(row.error) if row.gets == ANSWER else result), row
            if row.fails:
                wait_for(done)
        assert told == ([row.error] if row.fails else []), row
        assert handle.last_failure is (row.error if row.fails else None), row
        assert handle.failures == row.fails, row
        errors = [one for one in logged if one.levelno >= logging.ERROR]
        assert len(errors) == row.fails, row
        if row.fails:
            assert errors[0].getMessage() == f"the {row.mode} hook on {name} failed"
            assert errors[0].exc_info is not None
            assert errors[0].exc_info[1] is row.error
        if target != "async":
            # The original once, unless its place was taken.
            proceeded = row.does in (PROCEEDS, CATCHES)
            assert app.calls == ("[1]" if proceeded or row.gets == ORIGINAL else "[]"), row


# what is beside the table -----------------------------------------------------------------------------------------------------


def test_what_proceed_raised_goes_on_whatever_the_registration_names(app: App, session: Session) -> None:
    handle = session.around("shop:fail", lambda call: call.proceed(), raises=KeyError)
    assert app.evaluate("shop.fail('x')") == "raised ValueError: x"
    assert handle.failures == 0


def test_what_an_earlier_proceed_raised_goes_on_too(app: App, session: Session) -> None:
    def hook(call: Any) -> Any:
        caught = []
        for text in ("first", "second"):
            call.args = (text,)
            try:
                call.proceed()
            except ValueError as error:
                caught.append(error)
        raise caught[0]

    handle = session.around("shop:fail", hook)
    assert app.evaluate("shop.fail('x')") == "raised ValueError: first"
    assert handle.failures == 0
    assert app.calls == "['first', 'second']"


def test_an_error_of_the_hook_that_was_made_of_the_originals_is_its_own(app: App, session: Session) -> None:
    def hook(call: Any) -> Any:
        try:
            return call.proceed()
        except ValueError as error:
            raise RuntimeError("made of it") from error

    handle = session.around("shop:fail", hook)
    assert app.evaluate("shop.fail('x')") == "raised ValueError: x"
    assert isinstance(handle.last_failure, RuntimeError)


def test_arguments_that_cannot_be_sent_are_a_failure_and_the_original_runs_with_its_own(app: App, session: Session) -> None:
    def hook(call: Any) -> Any:
        call.args = (threading.Lock(),)
        return call.proceed()

    handle = session.around("shop:charge", hook, raises=Exception)
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert isinstance(handle.last_failure, XpcError)
    assert app.calls == "[1]"


class Unpicklable(TimeoutError):
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Demanding(LookupError):
    """As many are whose `__init__` wants more than it passes on, and builds the text."""

    def __init__(self, code: str, reason: str = "x", *, cannot: str) -> None:
        super().__init__(f"[{code}] {reason}")
        self.code, self.lock = code, threading.Lock()


@functools.cache
def unknown(base: type) -> Any:
    """A class that crosses neither by name nor by value."""
    return type("Unknown", (base,), {"__module__": __name__, "lock": threading.Lock()})


# Called by the application: all that an exception is, and the exceptions that lead to it.
SEEN = """
import traceback
def seen(error):
    if error is None:
        return None
    members = [seen(one) for one in getattr(error, "exceptions", ())]
    notes = [note.partition(":")[0] for note in getattr(error, "__notes__", ())]
    trace = [(frame.name, frame.line) for frame in traceback.extract_tb(error.__traceback__)][-1:]
    code = getattr(error, "code", None)
    return type(error).__name__, str(error), code, seen(error.__cause__), seen(error.__context__), error.__suppress_context__, members, notes, trace
def caught(function, *args):
    try:
        function(*args)
    except Exception as error:
        return seen(error)
def while_handling(function, *args):
    try:
        raise KeyError("handled")
    except KeyError:
        return caught(function, *args)
shop.__dict__.update(seen=seen, caught=caught, while_handling=while_handling)
"""


@pytest.fixture
def seeing(app: App) -> App:
    app.evaluate(f"exec({SEEN!r}, dict(shop=shop))")
    return app


@pytest.mark.parametrize("mode", ["around", "instead"])
def test_the_application_gets_a_hooks_exception_whole(seeing: App, session: Session, mode: str) -> None:
    def hook(*args: Any) -> None:
        try:
            raise Demanding("7", "no money", cannot="")
        except Demanding as error:
            raise Unpicklable("slow bank") from error

    getattr(session, mode)("shop:charge", hook, **({"raises": Exception} if mode == "around" else {}))
    here = [("hook", 'raise Demanding("7", "no money", cannot="")')]
    cause = ("Demanding", "[7] no money", "7", None, None, False, [], ["did not cross"], here)
    line = [("hook", 'raise Unpicklable("slow bank") from error')]
    expected = ("Unpicklable", "slow bank", None, cause, cause, True, [], [], line)
    assert app_literal(seeing, "shop.caught(shop.charge, 1)") == expected
    # As if it had been raised in this place: what is being handled there is the context of the first.
    handled = app_literal(seeing, "shop.while_handling(shop.charge, 1)")
    assert (handled[:3], handled[3][:3], handled[3][4][:2]) == (expected[:3], cause[:3], ("KeyError", "'handled'"))
    session.instead("shop:charge", Mock(side_effect=TimeoutError("slow bank")))
    assert app_literal(seeing, "shop.while_handling(shop.charge, 1)")[3:5] == (None, handled[3][4])
    assert app_literal(seeing, "shop.caught(shop.charge, 1)")[3:7] == (None, None, False, [])


def app_literal(app: App, expression: str) -> Any:
    return ast.literal_eval(app.evaluate(expression))


@pytest.mark.parametrize("mode", ["around", "instead"])
def test_a_class_that_cannot_be_had_there_is_the_nearest_that_can(app: App, session: Session, mode: str) -> None:
    def hook(*args: Any) -> None:
        raise unknown(unknown(BrokenPipeError))(32, "no bank")

    handle = getattr(session, mode)("shop:charge", hook, **({"raises": OSError} if mode == "around" else {}))
    assert app.evaluate("shop.charge(1)") == "raised BrokenPipeError: [Errno 32] no bank"
    assert handle.last_failure is None
    assert app.calls == "[]"
    (stats,) = (one for one in session.stats() if one.target == "shop:charge")
    assert stats.failures == {}


def test_the_application_gets_its_very_own_exception_back(app: App, session: Session) -> None:
    app.evaluate(f"exec({VERY_OWN!r}, dict(shop=shop))")

    def raises_it(call: Any) -> Any:
        return call.proceed()

    def raises_the_first(call: Any) -> Any:
        caught = []
        for _ in range(2):
            try:
                call.proceed()
            except ValueError as error:
                caught.append(error)
        raise caught[0]

    def raises_of_it(call: Any) -> Any:
        try:
            call.proceed()
        except ValueError as error:
            raise LookupError(error) from error

    for hook, which in ((raises_it, "error"), (raises_the_first, "error"), (raises_of_it, "error.__cause__, error.args[0]")):
        with session.around("shop:fail", hook, raises=LookupError):
            found = app.evaluate(f"shop.own(lambda error: [{which}])")
            assert found == ("[True, True, True]" if "cause" in which else "[True, True]"), hook
    assert app.evaluate("shop.own(lambda error: [error])") == "[True, True]"


# What is raised is one of two objects in turn; whether the exception is the first, with its own traceback and context.
VERY_OWN = """
import traceback
def own(which):
    made = [ValueError(object()), ValueError("second")]
    context = made[0].__context__ = KeyError("before")
    calls, shop.calls = shop.calls, Raising(list(made))
    try:
        shop.fail("x")
    except Exception as error:
        found = which(error)
        names = [frame.name for frame in traceback.extract_tb(made[0].__traceback__)]
        return [one is made[0] for one in found] + [names[-2:] == ["fail", "append"] and made[0].__context__ is context]
    finally:
        shop.calls = calls
class Raising:
    def __init__(self, left): self.left = left
    def append(self, text): raise self.left.pop(0)
shop.own = own
"""


def test_an_around_hook_with_a_bug_is_suspended(begin_app: Callable[..., App]) -> None:
    app = begin_app('[defaults]\ntimeout = 20\nsuspend-for = 600.0\nsuspend-at-most = 600.0\n[[probe]]\ntarget = "shop:*"\n')
    called: List[int] = []

    def bug(call: Any) -> Any:
        called.append(1)
        return call.nothing_of_that_name

    with xpc_instrument.connect("shop") as session:
        handle = session.around("shop:charge", bug)
        assert app.evaluate("[shop.charge(1) for _ in range(5)]") == "['1 EUR', '1 EUR', '1 EUR', '1 EUR', '1 EUR']"
        (stats,) = (one for one in session.stats() if one.target == "shop:charge")
        assert (len(called), stats.failures, stats.suspensions) == (3, {"raised": 3}, 1)
        assert "(raised)" in str(stats.hooks[0].suspended) or handle.suspended == [app.program.pid]
    assert app.calls == "[1, 1, 1, 1, 1]"


def test_a_function_as_a_stand_in_that_raises_is_logged_once_per_type_and_a_mock_is_not(
    app: App, session: Session, logged: List[logging.LogRecord]
) -> None:
    errors: List[Exception] = [KeyError("a"), KeyError("b"), OSError("c"), KeyError("d")]

    def stand_in(number: int) -> None:
        raise errors[number]

    with session.instead("shop:charge", stand_in) as handle:
        for number, error in enumerate(errors):
            assert app.evaluate(f"shop.charge({number})") == text_of(error)
    for made in (Mock, lambda **how: Mock(spec=stand_in, **how), lambda **how: create_autospec(stand_in, **how)):
        with session.instead("shop:charge", made(side_effect=KeyError("a"))):
            assert app.evaluate("shop.charge(1)") == "raised KeyError: 'a'"
    assert handle.failures == 0
    seen = [one.exc_info[1] for one in logged if one.exc_info is not None]
    assert seen == [errors[0], errors[2]]
    assert "shop:charge" in logged[0].getMessage()


def test_a_plain_manager_gives_its_exceptions_as_the_answer_but_none_of_ours(app: App) -> None:
    address = str(discovery.find("shop")[0].address)
    manager = Manager(address[len("unix:") :])
    manager.connect()
    try:
        manager.register("shop:charge", Mock(side_effect=TimeoutError("slow bank")))
        assert app.evaluate("shop.charge(1)") == "raised TimeoutError: slow bank"
        for error, got in (
            (PayloadError("of the library"), "'1 EUR'"),
            (Unpicklable("x"), "raised Unpicklable: x"),
            (Demanding("7", cannot=""), "raised Demanding: [7] x"),
            (unknown(TimeoutError)("x"), "raised TimeoutError: x"),
        ):
            manager.register("shop:charge", Mock(side_effect=error))
            assert app.evaluate("shop.charge(1)") == got
        (probe,) = (one for one in as_json(listing("--json"))[0]["probes"] if one["target"] == "shop:charge")
        assert probe["failures"] == {"raised": 1}
    finally:
        manager.shutdown()


def test_hooks_that_nobody_waits_for_report_what_they_raise(app: App, session: Session, logged: List[logging.LogRecord]) -> None:
    told: List[BaseException] = []
    three = threading.Event()
    error = KeyError("bug")

    def hook(call: Any) -> None:
        raise error

    with session.after("shop:charge", hook, wait=False) as handle:

        @handle.on_failure
        def tell(error: BaseException) -> None:
            told.append(error)
            if len(told) == 3:
                three.set()

        assert app.evaluate("[shop.charge(1) for _ in range(3)]") == "['1 EUR', '1 EUR', '1 EUR']"
        wait_for(three)
    assert told == [error] * 3
    assert handle.failures == 3
    assert [one.getMessage() for one in logged] == ["the after hook on shop:charge failed"] * 3


def test_a_function_that_is_told_of_failures_and_fails_itself_stops_no_other(
    app: App, session: Session, logged: List[logging.LogRecord]
) -> None:
    second = threading.Event()

    def hook(call: Any) -> None:
        raise KeyError("bug")

    handle = session.around("shop:charge", hook)

    @handle.on_failure
    def broken(error: BaseException) -> None:
        raise OSError("cannot be told")

    handle.on_failure(lambda error: second.set())
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    wait_for(second)
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert any("told of failures" in one.getMessage() for one in logged)


@pytest.mark.parametrize("raises", [KeyError("an instance"), "KeyError", BaseException, SystemExit, (KeyError, int), [KeyError], None])
def test_what_no_exception_type_is_cannot_be_named(session: Session, raises: Any) -> None:
    with pytest.raises(ValueError, match=r"shop:charge: raises=.*expected a class derived from Exception"):
        session.around("shop:charge", print, raises=raises)


@pytest.mark.parametrize("raises", [XpcError, (KeyError, ChannelError)])
def test_errors_of_ours_cannot_be_named(session: Session, raises: Any) -> None:
    with pytest.raises(ValueError, match="no error of xpc-instrument itself ever reaches the application"):
        session.around("shop:charge", print, raises=raises)


@pytest.mark.parametrize("mode", ["before", "after", "instead"])
def test_only_around_names_what_it_raises(session: Session, mode: str) -> None:
    with pytest.raises(TypeError, match="raises"):
        getattr(session, mode)("shop:charge", print, raises=KeyError)


# through the host of a fixed address ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("raises", "error"), [((), KeyError("bug")), (KeyError, KeyError("meant"))])
def test_a_process_behind_a_fixed_address_gets_the_same(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path, raises: Any, error: Exception
) -> None:
    config = f'[manager]\naddress = "unix:{runtime_dir}/fixed.sock"\n{CONFIG}'
    host = start_app(run_program, tmp_path, config)
    member = start_app(run_program, tmp_path, config)

    def hook(call: Any) -> None:
        raise error

    with xpc_instrument.connect(f"unix:{runtime_dir}/fixed.sock") as session:
        handle = session.around("shop:charge", hook, raises=raises)
        for app in (host, member):
            assert app.evaluate("shop.charge(1)") == (text_of(error) if raises else "'1 EUR'")
        assert handle.last_failure is (None if raises else error)

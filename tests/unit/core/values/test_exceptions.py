"""Exceptions across processes."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import threading
import traceback
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.core.values.elsewhere import OTHER, SAME, Foreign
from xpc_instrument.core.model.errors import PayloadError, RemoteError, RemoteTraceback
from xpc_instrument.core.values import fields
from xpc_instrument.core.values.exceptions import dump_exception, dump_looked_at, load_exception, load_for_application
from xpc_instrument.core.values.pickling import RECORD_SLACK
from xpc_instrument.core.values.references import Reference, Table
from xpc_instrument.core.values.traits import PeerProfile

if sys.version_info < (3, 11):
    BaseExceptionGroup = ExceptionGroup = Exception
GROUPS = pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups of exceptions before Python 3.11")


class Polite(Exception):
    """Its `args` do not fit its `__init__`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


class ByKeyword(Exception):
    """Wants keywords."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class BuiltTwice(OSError):
    """Would build its text once more if its `__init__` ran again."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(f"[{code}] {text}")
        self.code = code


class Slotted(ValueError):
    """Has a slot."""

    __slots__ = ("code",)

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class TextOfAttributes(Exception):
    """Its text is not in its arguments."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"the code is {self.code}"


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Refuses every assignment."""

    code: int


class Careful(Exception):
    """Pickles in a way of its own, which leaves out what cannot be pickled and makes it anew."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Careful, self.args


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("I say nothing")


class LoudText(str):
    """A text with code of its own."""

    def __format__(self, spec: str) -> str:
        raise RuntimeError("formatted")

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("cut")


class Loud(Exception):
    """Gives a text that is no plain str."""

    def __str__(self) -> str:
        return LoudText("loud text")


def elsewhere(base: type = Exception, name: str = "Missing", **namespace: Any) -> Any:
    """A class that says it is in a module that no process has."""
    return type(name, (base,), {"__module__": "nowhere.errors", **namespace})


def raised(error: BaseException, cause: Any = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def across(error: BaseException, traits: PeerProfile = SAME) -> BaseException:
    """From a callback to who called it."""
    return load_exception(dump_exception(error, traits)[0])


def into(error: BaseException, traits: PeerProfile = SAME, table: Optional[Table] = None) -> Any:
    """From a hook into the application."""
    return load_for_application(bytes(dump_exception(error, traits)[0]), table or Table())


class Asker:
    """A call under way, in which nobody is to ask for anything."""

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        raise AssertionError(f"the application was asked to {op} {name}")


def out_of(error: BaseException, traits: PeerProfile = SAME, table: Optional[Table] = None) -> Any:
    """From the application to a hook that looks."""
    return load_exception(dump_looked_at(error, traits, table or Table())[0], asker=Asker())


def described(error: Optional[BaseException], seen: Tuple[int, ...] = ()) -> Any:
    """All that an exception is, as it can be compared; a text in the place of one that contains it."""
    if error is None:
        return None
    if id(error) in seen:
        return f"the one {len(seen) - seen.index(id(error))} above"

    def value(one: Any) -> Any:
        if isinstance(one, BaseException):
            return described(one, (*seen, id(error)))
        return [type(one), *map(value, one)] if type(one) in (list, tuple) else one

    return {
        "type": type(error),
        "text": None if isinstance(error, Mute) else str(error),
        "args": value(error.args),
        "slots": {name: value(one) for name, one in fields.get_fields(error).items()},
        "attributes": {name: value(one) for name, one in error.__dict__.items()},
        "cause": value(error.__cause__),
        "context": value(error.__context__),
        "suppressed": error.__suppress_context__,
        "members": value(list(getattr(error, "exceptions", ()))),
    }


SINGLE: List[Callable[[], BaseException]] = [
    lambda: ValueError("no", 5),
    lambda: KeyError("k"),
    lambda: OSError(2, "gone", "file"),
    lambda: OSError(5, "moved", "from", None, "to"),
    lambda: BlockingIOError(11, "later", 7),
    lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "why"),
    lambda: SyntaxError("bad", ("file.py", 3, 4, "x = = 1")),
    lambda: ImportError("no such", name="shop", path="/shop"),
    lambda: StopIteration(5),
    lambda: SystemExit(3),
    lambda: Polite(404, "not here"),
    lambda: ByKeyword(code=3),
    lambda: BuiltTwice("no money", 7),
    lambda: Slotted("text", 8),
    lambda: TextOfAttributes(9),
    lambda: Frozen(5),
    lambda: Mute("x"),
]


@pytest.mark.parametrize("way", [into, out_of])
@pytest.mark.parametrize("make", SINGLE)
def test_an_exception_arrives_as_it_was(make: Callable[[], BaseException], way: Callable[..., Any]) -> None:
    error = raised(make())
    before = described(error)
    arrived = way(error)
    if way is out_of:
        # The first of its chain has the traceback as its cause.
        fields.set_cause(arrived, None)
    assert described(arrived) == before
    assert described(error) == before


def test_what_comes_back_from_a_callback_has_its_traceback_as_the_end_of_its_chain() -> None:
    for make in (lambda: OSError(2, "gone", "file"), lambda: Frozen(5)):
        try:
            raise make()
        except Exception as caught:
            error: BaseException = caught
        arrived = across(error)
        assert (type(arrived), arrived.args, str(arrived)) == (type(error), error.args, str(error))
        assert isinstance(arrived.__cause__, RemoteTraceback)
        assert "raise make()" in str(arrived.__cause__)
        assert not arrived.__suppress_context__
    arrived = across(raised(ValueError("no"), raised(ZeroDivisionError("the first cause"))))
    assert isinstance(arrived.__cause__, ZeroDivisionError)
    text = str(arrived.__cause__.__cause__)
    assert isinstance(arrived.__cause__.__cause__, RemoteTraceback)
    assert "ZeroDivisionError: the first cause" in text
    assert "direct cause" in text
    assert text.rstrip().endswith('ValueError: no\n"""')


def test_what_a_hook_raises_has_a_traceback_through_the_lines_of_the_script() -> None:
    arrived = into(raised(ValueError("no"), raised(KeyError("cause"))))
    assert arrived.__cause__.__cause__ is None
    for one in (arrived, arrived.__cause__):
        (frame,) = traceback.extract_tb(one.__traceback__)
        assert (frame.name, frame.filename, frame.line) == ("raised", __file__, "raise error from cause")


def test_notes_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("no")
    error.__dict__["__notes__"] = ["one", "two"]
    assert into(error).__notes__ == out_of(error).__notes__ == ["one", "two"]


# chains and groups -----------------------------------------------------------------------------------------------------------


def chained() -> BaseException:
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise Polite(1, "context")  # noqa: B904
    except Polite as error:
        return raised(ValueError("outer"), error)


@GROUPS
def test_a_group_arrives_with_its_members_and_those_of_its_members() -> None:
    class Own(ExceptionGroup):
        pass

    own = Own("own", [ByKeyword(code=1), raised(OSError(2, "gone", "file"))])
    own.code = 5  # type: ignore[attr-defined]
    group = raised(BaseExceptionGroup("all", [chained(), own, KeyboardInterrupt()]))
    before = described(group)
    assert described(into(group)) == before
    arrived = out_of(group)
    assert type(arrived) is BaseExceptionGroup
    first, second, third = arrived.exceptions
    assert described(first) == described(into(group.exceptions[0]))  # type: ignore[attr-defined]
    assert isinstance(second, RemoteError) and isinstance(second, ExceptionGroup)
    assert (second.message, second.exceptions[0].code, type(third)) == ("own", 1, KeyboardInterrupt)  # type: ignore[attr-defined]


@GROUPS
def test_one_member_that_cannot_be_rebuilt_takes_no_other_with_it() -> None:
    missing = elsewhere(TimeoutError)
    group = ExceptionGroup("all", [ValueError("v"), missing("slow"), ByKeyword(code=1)])
    seen = across(group, OTHER).exceptions  # type: ignore[attr-defined]
    assert [type(one) for one in seen[::2]] == [ValueError, ByKeyword]
    assert isinstance(seen[1], RemoteError)
    assert isinstance(seen[1], TimeoutError)
    assert str(seen[1]).startswith("nowhere.errors.Missing: slow (it arrives as a RemoteError, because")
    assert [type(one) for one in into(group, OTHER).exceptions] == [ValueError, TimeoutError, ByKeyword]


def test_exceptions_among_the_arguments_and_attributes_arrive_as_such() -> None:
    error = RuntimeError("all", [ByKeyword(code=1), 5], raised(Polite(2, "b")))
    error.reason = error.args[2]  # type: ignore[attr-defined]
    arrived = into(error)
    assert described(arrived) == described(error)
    assert arrived.reason is arrived.args[2]


def test_a_chain_in_a_circle_arrives_as_such() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__context__, second.__context__ = second, first
    first.args = (second, first)
    for way in (into, out_of):
        arrived = way(first)
        assert arrived.__context__.__context__ is arrived.args[1] is arrived


def test_a_long_chain_is_cut_at_its_far_end() -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 1000):
        error = raised(ValueError(number), error)
    seen = 0
    arrived: Any = into(error)
    while arrived is not None:
        assert arrived.args == (999 - seen,)
        arrived, seen = arrived.__cause__, seen + 1
    assert seen == 200


def test_a_group_with_too_many_members_keeps_their_number() -> None:
    if fields.GROUP is not None:
        arrived = into(ExceptionGroup("all", [ValueError(number) for number in range(1000)]))
        assert len(arrived.exceptions) == 1000
        assert arrived.exceptions[5].args == (5,)
        assert "left out" in str(arrived.exceptions[999])


# what cannot cross -----------------------------------------------------------------------------------------------------------


def test_an_exception_of_a_local_class_arrives_as_itself() -> None:
    class Own(Exception):
        pass

    assert type(across(raised(Own("mine")))).__name__ == "Own"
    assert type(into(raised(Own("mine")))).__name__ == "Own"


def test_the_application_gets_the_nearest_class_that_it_knows_with_text_and_fields_and_a_note() -> None:
    class Odd(OSError):
        def __str__(self) -> str:
            return "odd text"

    for make, nearest, text in [
        (lambda: elsewhere(elsewhere(TimeoutError))(110, "slow"), TimeoutError, "[Errno 110] slow"),
        (lambda: elsewhere(Odd)("a", "b"), OSError, "odd text"),
        (lambda: elsewhere(BuiltTwice)("no money", 7), BuiltTwice, "[7] no money"),
        (lambda: elsewhere()("x", 1), Exception, "('x', 1)"),
    ]:
        error = make()
        error.more = 5
        # Of another version, to which no class crosses by value.
        arrived = into(raised(error, KeyError("cause")), OTHER)
        assert (type(arrived), str(arrived), arrived.more) == (nearest, text, 5)
        assert type(arrived.__cause__) is KeyError
        (note,) = arrived.__notes__
        assert note.startswith("it was raised as nowhere.errors.Missing, which cannot be had here: ")
        assert not isinstance(arrived, RemoteError)


def test_no_error_of_ours_comes_along_into_the_application() -> None:
    arrived = into(raised(ValueError("no"), raised(PayloadError("ours"))))
    assert type(arrived.__cause__) is ValueError
    assert str(arrived.__cause__) == "ours"
    assert isinstance(into(PayloadError("ours")), PayloadError)


def test_values_that_cannot_be_pickled_are_left_out_with_a_note_and_nothing_else_is() -> None:
    error = Slotted("text", 8)
    error.lock, error.code = threading.Lock(), threading.Lock()  # type: ignore[attr-defined, assignment]
    error.kept = 5  # type: ignore[attr-defined]
    arrived = into(raised(error))
    assert (type(arrived), arrived.args, arrived.kept) == (Slotted, ("text",), 5)
    assert not hasattr(arrived, "lock")
    assert not hasattr(arrived, "code")
    assert [note.partition(":")[2][:8] for note in arrived.__notes__] == [" 'code':", " 'lock':"]
    lock = threading.Lock()
    assert str(into(ValueError(lock))) == str(lock)
    assert into(ValueError("a", lock)).args == ("a", repr(lock))


def test_a_class_that_pickles_its_own_way_is_asked_where_something_would_be_lost() -> None:
    arrived = into(raised(Careful("text")))
    assert (type(arrived), arrived.args) == (Careful, ("text",))
    assert arrived.lock.acquire(False)
    assert "__notes__" not in arrived.__dict__


def test_the_object_that_lacks_an_attribute_is_not_copied() -> None:
    error = AttributeError("no x", **({"name": "x", "obj": threading.Lock()} if sys.version_info >= (3, 10) else {}))
    arrived = into(raised(error))
    assert (arrived.args, getattr(arrived, "name", "x")) == (("no x",), "x")
    assert "__notes__" not in arrived.__dict__


def test_exceptions_without_a_usable_text_cross() -> None:
    assert type(across(raised(Mute("x")))) is Mute
    assert type(across(raised(Loud("x")))) is Loud
    arrived = across(raised(elsewhere(Loud)("x")), OTHER)
    assert (type(arrived).__name__, str(arrived)[:32]) == ("RemoteError", "nowhere.errors.Missing: loud tex")


def test_an_exception_stays_within_half_the_limit_and_the_room_of_a_lane() -> None:
    class Deep(Exception):
        pass

    error: BaseException = ValueError("\U0001f600" * 100_000)
    for _ in range(300):
        error = raised(Deep("\U0001f600" * 1000), error)
    for limit in (1, 1000, 1_000_000):
        profile = PeerProfile("3.11", "3.11", limit)
        for dumped in (dump_exception(error, profile), dump_looked_at(error, profile)):
            assert len(dumped[0]) <= limit // 2 + RECORD_SLACK
            assert issubclass(type(load_exception(dumped[0], asker=Asker())), Exception)
    assert str(into(error, PeerProfile("3.11", "3.11", 1))) == str(error)


@pytest.mark.parametrize("record", [("text", "trace"), (0, [("no node",)]), (-1, []), (5, []), "text"])
def test_an_exception_in_an_unknown_form_is_refused(record: Any) -> None:
    with pytest.raises(PayloadError, match="unknown form"):
        load_exception(pickle.dumps(record))


# what the other side has -----------------------------------------------------------------------------------------------------


def test_what_the_original_raised_is_the_very_object_again_wherever_it_is() -> None:
    theirs = [raised(KeyError("first")), raised(OSError("second"))]
    mine = [KeyError("first"), OSError("second")]
    error = raised(ValueError(mine[0]), mine[1])
    arrived = load_for_application(bytes(dump_exception(error, SAME, None, mine)[0]), Table(), theirs)
    assert arrived.args[0] is theirs[0]
    assert arrived.__cause__ is theirs[1]
    again = load_for_application(bytes(dump_exception(mine[0], SAME, None, mine)[0]), Table(), theirs)
    assert again is theirs[0]


# looking ---------------------------------------------------------------------------------------------------------------------

TOUCHED: List[str] = []


class Watched:
    """Notes each use of it."""


def _noting(name: str) -> Callable[..., Any]:
    def note(*args: Any) -> Any:
        TOUCHED.append(name)
        raise RuntimeError(f"{name} was called")

    return note


_NAMES = [
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__repr__",
    "__str__",
    "__eq__",
    "__hash__",
    "__bool__",
    "__len__",
    "__iter__",
    "__format__",
]
for _name in _NAMES:
    setattr(Watched, _name, _noting(_name))
WatchedError: Any = type(
    "WatchedError", (ValueError,), {**{name: _noting(name) for name in _NAMES}, "__module__": __name__, "args": property(_noting("args"))}
)


def test_nothing_of_an_exception_runs_when_it_is_looked_at_and_its_values_are_references() -> None:
    watched, error = Watched(), WatchedError("text", 5)
    fields.set_args(error, (watched, "text"))
    error.__dict__.update({"plain": [1, {"a": None}], "watched": watched, "watched_list": [watched]})
    outer = raised(KeyError(watched), error)
    table = Table()
    arrived = out_of(outer, table=table)
    inner = arrived.__cause__
    assert TOUCHED == []
    assert type(inner) is WatchedError
    assert inner.plain == [1, {"a": None}]
    for reference in (arrived.args[0], fields.get_args(inner)[0], inner.watched):
        assert type(reference) is Reference
        assert table.get(reference._xpc_of[1]) is watched
    assert table.get(inner.watched_list._xpc_of[1]) is error.__dict__["watched_list"]
    # Nor has anything of the application been asked for when the traceback was made.
    assert TOUCHED == []
    assert f"KeyError: <{__name__}.Watched>" in str(inner.__cause__)


def test_what_is_plain_is_by_value_in_an_exception_that_is_looked_at_whatever_its_size() -> None:
    plain = [
        Decimal("1.10"),
        datetime(2026, 1, 2, tzinfo=timezone.utc),
        [[{"a": (1, {2})}] * 20],
        b"x" * 20_000,
        Path("a/b"),
        list(range(900)),
    ]
    error = ValueError(*plain)
    error.__dict__["when"] = plain[1]
    arrived = out_of(error, table=Table())
    assert fields.get_args(arrived) == tuple(plain)
    assert arrived.when == plain[1]  # type: ignore[attr-defined]
    assert type(fields.get_args(out_of(ValueError(list(range(2000)), b"x" * 500_000), table=Table()))[0]) is Reference


def test_a_script_that_lacks_the_class_gets_a_remote_error_that_its_known_bases_catch() -> None:
    error = elsewhere(elsewhere(TimeoutError, "Between"))("slow", 5)
    error.code = 7
    arrived = out_of(raised(error))
    assert isinstance(arrived, RemoteError)
    assert isinstance(arrived, TimeoutError)
    assert str(arrived).startswith("nowhere.errors.Missing: ")
    assert arrived.code == 7
    assert "nowhere.errors.Missing: " in str(arrived.__cause__)
    main = type("Own", (Exception,), {"__module__": Foreign.__module__})
    assert type(out_of(main("x"))) is RemoteError


class Finalized(ValueError):
    """Has a finalizer."""

    def __del__(self) -> None:
        TOUCHED.append("__del__")


def test_there_is_no_copy_that_would_be_finalized() -> None:
    error = Finalized("text")
    arrived = out_of(error)
    assert isinstance(arrived, RemoteError)
    assert isinstance(arrived, ValueError)
    assert "finalizer" in str(arrived)
    del arrived
    assert TOUCHED == []
    fields.set_args(error, ())
    del error
    TOUCHED.clear()


def test_a_long_text_crosses_to_a_hook_that_looks() -> None:
    assert out_of(ValueError("x" * 20_000)).args == ("x" * 20_000,)
    assert type(out_of(ValueError("x" * 2_000_000)).args[0]) is Reference


# any of them -----------------------------------------------------------------------------------------------------------------

_plain = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=20) | st.lists(st.integers(), max_size=3)
_CLASSES: Dict[Tuple[bool, bool, int], Any] = {}


def _class(slotted: bool, strict: bool, base: int) -> Any:
    """A class with or without a slot, whose `__init__` may want keywords and build its own text."""
    key = slotted, strict, base
    if key not in _CLASSES:
        name = f"Made_{slotted}_{strict}_{base}"

        def init(self: Any, *, number: int, text: str) -> None:
            super(_CLASSES[key], self).__init__(f"{number}: {text}")

        namespace: Dict[str, Any] = {"__module__": __name__, "__qualname__": name}
        if slotted:
            namespace["__slots__"] = ("slot",)
        if strict:
            namespace["__init__"] = init
        _CLASSES[key] = type(name, ([Exception, ValueError, OSError, KeyError, SyntaxError, BaseException][base],), namespace)
        globals()[name] = _CLASSES[key]
    return _CLASSES[key]


@st.composite
def exceptions(draw: Any) -> BaseException:
    """An exception in a chain with others, in circles too, with values of all kinds."""
    made: List[BaseException] = []
    for _ in range(draw(st.integers(1, 6))):
        if made and fields.GROUP is not None and draw(st.booleans()):
            made.append(BaseExceptionGroup(draw(st.text(max_size=5)), draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))))
            continue
        slotted, strict = draw(st.booleans()), draw(st.booleans())
        cls = _class(slotted, strict, draw(st.integers(0, 5)))
        few = 1 if issubclass(cls, SyntaxError) else 3
        args = [] if strict else draw(st.lists(_plain, max_size=few))
        error = cls(*args, **({"number": draw(st.integers()), "text": draw(st.text(max_size=5))} if strict else {}))
        if slotted and draw(st.booleans()):
            error.slot = draw(_plain)
        error.__dict__.update(draw(st.dictionaries(st.sampled_from("abc"), _plain, max_size=2)))
        made.append(error)
    for error in made:
        if draw(st.booleans()):
            error.__cause__ = draw(st.sampled_from(made))
        if draw(st.booleans()):
            error.__context__ = draw(st.sampled_from(made))
        error.__suppress_context__ = draw(st.booleans())
        if draw(st.booleans()):
            error.__dict__["other"] = draw(st.sampled_from(made))
    return made[-1]


@settings(max_examples=150, deadline=None)
@given(exceptions())
def test_any_exception_arrives_as_it_was(error: BaseException) -> None:
    before = described(error)
    assert described(into(error)) == before
    assert described(load_for_application(bytes(dump_looked_at(error, SAME)[0]), Table())) == before
    assert described(error) == before

"""Values to bytes and back: which way they take, how much of them, and references to what stays where it is."""

from __future__ import annotations

import array
import copy
import dataclasses
import io
import itertools
import pickle
import pickletools
import sys
import threading
import types
from typing import Any, Callable, Dict, List, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.model.errors import PayloadError, ReferenceExpiredError, RemoteError, RemoteTraceback
from xpc_instrument.core.values.exceptions import dump_exception, load_exception
from xpc_instrument.core.values.names import safe_repr, type_name
from xpc_instrument.core.values.pickling import RECORD_SLACK, dump, load
from xpc_instrument.core.values.plain import are_small, dump_small
from xpc_instrument.core.values.references import (
    MAX_ITEMS,
    Reference,
    Table,
    dump_or_refer,
    dump_result,
    dump_with_asker,
    is_plain,
    is_unchanged,
    load_with_asker,
    load_with_table,
    perform,
)
from xpc_instrument.core.values.traits import PeerProfile

SAME = PeerProfile("3.11", "3.11", 1_000_000)
OTHER = PeerProfile("3.11", "3.12", 1_000_000)


@dataclasses.dataclass
class Point:
    """Has an importable name."""

    x: int
    y: int


class Foreign:
    """Pretends to live in `__main__`, where pickle finds it."""


Foreign.__module__ = "__main__"


@pytest.fixture(autouse=True)
def main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Foreign", Foreign, raising=False)


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(Point, st.integers(), st.integers()),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
        | st.sets(st.integers(), max_size=5)
    ),
    max_leaves=20,
)


class Elsewhere(pickle.Unpickler):
    """Another process, which lacks some modules."""

    def __init__(self, body: Any, buffers: Sequence[Any], lacks: Sequence[str]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self.lacks = lacks

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in self.lacks:
            raise ModuleNotFoundError(module)
        return super().find_class(module, name)


def load_elsewhere(value: Any, traits: PeerProfile, *lacks: str) -> Any:
    body, buffers = dump(value, traits)
    return Elsewhere(body, buffers, lacks).load()


# by which way ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(plain_values)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert load(*dump(value, SAME)) == value


@given(plain_values)
def test_plain_values_cross_between_minor_versions_whatever_they_say(value: Any) -> None:
    assert load(*dump([value, "__main__", b"__main__.x"], OTHER)) == [value, "__main__", b"__main__.x"]


def test_what_has_an_importable_name_crosses_by_name() -> None:
    assert load(*dump((Point, len), SAME)) == (Point, len)
    with pytest.raises(ModuleNotFoundError, match=r"tests\.unit"):
        load_elsewhere(Point(1, 2), SAME, "tests")


def local_class() -> type:
    class Local:
        number = 5

    return Local


@pytest.mark.parametrize(
    "value",
    [lambda: 5, local_class(), local_class()(), Foreign, Foreign(), [1, {"key": Foreign()}]],
    ids=["lambda", "local class", "instance of it", "class of main", "instance of main", "deep inside"],
)
def test_code_that_only_this_program_has_crosses_by_value_between_equal_minor_versions_only(value: Any) -> None:
    load_elsewhere(value, SAME, "__main__", "tests")
    with pytest.raises(PayloadError, match=r"code does not cross between Python 3\.\d+ and 3\.11: put it into a module"):
        dump(value, OTHER)


def test_a_local_function_still_works_on_the_other_side() -> None:
    offset = 3
    assert load(*dump(lambda x: x + offset, SAME))(4) == 7


def test_all_of_a_package_that_the_other_side_lacks_crosses_by_value() -> None:
    traits = PeerProfile("3.11", "3.11", 1_000_000)
    traits.add_foreign("tests.integration.no_such_module")
    arrived = load_elsewhere([Point(1, 2), Point], traits, "tests")
    assert (arrived[0].x, arrived[1].__name__) == (1, "Point")
    with pytest.raises(PayloadError, match="does not cross"):
        dump(Point(1, 2), PeerProfile("3.11", "3.12", 1_000_000, frozenset({"tests"})))


class Pieces:
    """A file that notes how much is written at once."""

    def __init__(self) -> None:
        self.sizes: List[int] = []

    def write(self, data: Any) -> int:
        self.sizes.append(len(data))
        return len(data)


def test_a_class_is_noticed_in_every_frame_of_a_long_pickle() -> None:
    # The first string leaves the class just enough room in a frame of 64 KiB, and the second makes the frame as long as it can be.
    longest = 0
    for filling in range(65_480, 65_536):
        value = ["a" * filling, Foreign, "b" * 65_535, "c" * 300_000]
        load_elsewhere(value, SAME, "__main__")
        pieces = Pieces()
        pickle.Pickler(pieces, 5).dump(value)
        longest = max(longest, *(size for size in pieces.sizes if size < 300_000))
    assert longest > 2 * 64 * 1024


def test_a_class_that_was_named_before_is_still_noticed() -> None:
    assert load_elsewhere(["__main__", "Foreign", Point(1, 2), Foreign(), Foreign], SAME, "__main__")[0] == "__main__"


@pytest.mark.parametrize("value", [threading.Lock(), sys, memoryview(b"abc"), (i for i in "abc")], ids=type_name)
def test_what_cannot_be_copied_says_so(value: Any) -> None:
    with pytest.raises(PayloadError, match=r"cannot be pickled: TypeError: cannot pickle"):
        dump(value, SAME)


def test_what_cannot_be_loaded_says_so() -> None:
    for body in (b"", b"rubbish", pickle.dumps(Point(1, 2))[:-1], b"cno_such_module\nname\n."):
        with pytest.raises(PayloadError, match="cannot be loaded here"):
            load(body, ())


# how much -------------------------------------------------------------------------------------------------------------------


class Endless:
    """Pickles as a list without end, and counts."""

    given = 0

    def __reduce__(self) -> Any:
        def items() -> Any:
            for self.given in itertools.count():
                yield f"{self.given:01000}"

        return list, (), None, items()


def test_pickling_stops_soon_after_the_limit() -> None:
    value = Endless()
    with pytest.raises(PayloadError, match="is larger than max-payload, 1000000 bytes"):
        dump(value, SAME)
    assert value.given < 3000


@given(st.integers(0, 70_000))
def test_the_limit_is_exact(size: int) -> None:
    value = b"x" * size
    length = len(dump(value, SAME)[0])
    assert load(*dump(value, PeerProfile("3.11", "3.11", length))) == value
    with pytest.raises(PayloadError, match="larger than"):
        dump(value, PeerProfile("3.11", "3.11", length - 1))


@pytest.mark.parametrize(
    "make", [lambda n: pickle.PickleBuffer(bytearray(n)), lambda n: [bytearray(n)], lambda n: Foreign if n < 9 else [Foreign, b"x" * n]]
)
def test_buffers_and_code_by_value_count_too(make: Callable[[int], Any]) -> None:
    dump(make(400_000), SAME)
    with pytest.raises(PayloadError, match="larger than"):
        dump(make(1_100_000), SAME)


@pytest.mark.parametrize(
    ("value", "beside"),
    [
        (bytearray(b"ab" * 50_000), 0),
        (array.array("i", range(50_000)), 0),
        (pickle.PickleBuffer(b"ab" * 50_000), 1),
        (pickle.PickleBuffer(bytearray(b"ab" * 50_000)), 1),
        (pickle.PickleBuffer(memoryview(bytearray(b"ab" * 50_000))[10:]), 1),
        (pickle.PickleBuffer(b"small"), 0),
        ([pickle.PickleBuffer(bytes([n % 256]) * 65_536) for n in range(300)], 254),
    ],
)
def test_large_buffers_travel_beside_the_pickle(value: Any, beside: int) -> None:
    body, buffers = dump(value, PeerProfile("3.11", "3.11", 30_000_000))
    assert len(buffers) == beside
    arrived = load(body, buffers)
    several = isinstance(value, list)
    for sent, got in zip(value if several else [value], arrived if several else [arrived]):
        assert bytes(got) == bytes(sent)


def test_a_buffer_with_gaps_is_refused_and_not_garbled() -> None:
    with pytest.raises(PayloadError, match="cannot be pickled"):
        dump(pickle.PickleBuffer(memoryview(bytearray(100_000))[::2]), SAME)


# references -----------------------------------------------------------------------------------------------------------------


class Caller:
    """The side that has the objects, and the asker of the side that has the references: one call, without a lane between."""

    def __init__(self) -> None:
        self.table = Table()
        self.ended = False

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        if self.ended:
            raise ReferenceExpiredError("the call has ended")
        arguments: Tuple[Any, Dict[str, Any]] = ((), {})
        if payload is not None:
            arguments = load_with_table(self.table, *dump_with_asker(self, payload, SAME))
        try:
            value = perform(self.table, op, number, name, arguments)
        except Exception as error:
            raise load_exception(dump_exception(error, SAME)[0], asker=self) from None
        return load_with_asker(self, *dump_result(value, self.table, SAME))

    def send(self, value: Any) -> Any:
        """A value that stays here, as the other side gets it."""
        return load_with_asker(self, *dump(self.table.handle(value), SAME))

    def take_back(self, value: Any) -> Any:
        """What comes of a value that the other side sends back."""
        return load_with_table(self.table, *dump_with_asker(self, value, SAME))


class Shelf:
    """Something that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.books = ["a", "b"]

    def add(self, *books: Any, end: bool = True) -> int:
        self.books += books
        return len(self.books)

    def holds(self, other: Any) -> bool:
        return other is self

    def fail(self) -> None:
        raise KeyError("no book")

    def __getitem__(self, key: Any) -> Any:
        return self.books[key]

    def __len__(self) -> int:
        return len(self.books)

    def __contains__(self, book: Any) -> bool:
        return book in self.books


def test_a_reference_reads_calls_and_looks_into_its_object() -> None:
    shelf = Shelf()
    reference = Caller().send(shelf)
    assert isinstance(reference, Reference)
    assert reference.books == ["a", "b"]
    assert reference.add("c", end=False) == 3
    assert shelf.books == ["a", "b", "c"]
    assert (reference[0], reference[-1], reference[1:], len(reference)) == ("a", "c", ["b", "c"], 3)
    assert "c" in reference
    assert "x" not in reference
    assert list(reference) == ["a", "b", "c"]
    assert reference.lock.locked() is False
    assert repr(reference).startswith("<reference to tests.unit.core.values.test_pickling.Shelf at 0x")


def test_truth_is_the_truth_of_the_object() -> None:
    caller = Caller()
    shelf = Shelf()
    assert caller.send(shelf)
    shelf.books.clear()
    assert not caller.send(shelf)
    assert caller.send(object())


def test_a_reference_raises_what_its_object_raises() -> None:
    reference = Caller().send(Shelf())
    with pytest.raises(KeyError, match="no book"):
        reference.fail()
    with pytest.raises(AttributeError, match="color"):
        reference.color  # noqa: B018
    with pytest.raises(AttributeError, match="reads attributes and calls methods"):
        reference.books = []
    with pytest.raises(IndexError):
        reference[10]
    with pytest.raises(TypeError, match="not callable"):
        reference()


def test_an_iteration_without_end_stops_at_the_limit() -> None:
    assert len(list(Caller().send(itertools.count()))) == MAX_ITEMS


def test_a_reference_goes_back_as_the_object_itself_wherever_it_stands() -> None:
    caller = Caller()
    shelf = Shelf()
    reference = caller.send(shelf)
    assert caller.take_back(reference) is shelf
    assert caller.take_back({"in": [reference]})["in"][0] is shelf
    assert reference.holds(reference)
    assert caller.take_back(reference.add).__self__ is shelf
    error = load_exception(dump_exception(ValueError(reference), SAME, caller)[0], table=caller.table)
    assert error.args[0] is shelf


def test_the_same_object_is_the_same_reference() -> None:
    caller = Caller()
    shelf = Shelf()
    first, second, other = caller.send(shelf), caller.send(shelf), caller.send(Shelf())
    assert first == second
    assert hash(first) == hash(second)
    assert first not in [other, shelf]
    assert Caller().send(shelf) != first


def test_a_reference_of_one_call_never_becomes_an_object_of_another() -> None:
    one, two = Caller(), Caller()
    reference = one.send(Shelf())
    two.send("another object of the same number")
    with pytest.raises(PayloadError, match="within its call"):
        two.take_back(reference)
    with pytest.raises(PayloadError, match="within its call"):
        two.send(print)(reference)


@pytest.mark.parametrize("trick", [copy.copy, copy.deepcopy, pickle.dumps, lambda reference: dump(reference, SAME)])
def test_copies_of_a_reference_are_refused(trick: Callable[[Any], Any]) -> None:
    caller = Caller()
    reference = caller.send(Shelf())
    with pytest.raises((ReferenceExpiredError, PayloadError), match="within its call"):
        trick(reference)
    body = dump_with_asker(caller, reference, SAME)[0]
    with pytest.raises(PayloadError, match="within its call"):
        load(body, ())


def test_a_handle_means_nothing_outside_of_its_call() -> None:
    with pytest.raises(PayloadError, match="only within the call that it came with"):
        load(*dump(Table().handle(object()), SAME))


def test_protocols_are_not_looked_up_in_the_object() -> None:
    reference = Caller().send(Shelf())
    for name in ("__array__", "__await__", "__fspath__", "__wrapped__", "__iter_me__"):
        assert not hasattr(reference, name)


def test_numbers_that_the_call_has_not_given_out_are_expired() -> None:
    table = Table()
    table.add("something")
    for number in (-1, 1, 10**9):
        with pytest.raises(ReferenceExpiredError, match="does not belong to this call"):
            perform(table, "len", number, "", ((), {}))
    with pytest.raises(PayloadError, match=r"unknown operation 'eval' .*call, contains"):
        perform(table, "eval", 0, "", ((), {}))


def test_an_ended_call_ends_its_references() -> None:
    caller = Caller()
    reference = caller.send(Shelf())
    caller.ended = True
    for use in (len, list, bool, lambda r: r.books, lambda r: r(), lambda r: "a" in r, lambda r: r[0]):
        with pytest.raises(ReferenceExpiredError):
            use(reference)
    assert "Shelf" in repr(reference)


def test_only_what_cannot_cross_becomes_a_reference() -> None:
    caller = Caller()
    lock, large = threading.Lock(), b"x" * 2_000_000
    sent = dump_or_refer([1, lock, large, Point(1, 2)], caller.table, SAME)
    arrived: List[Any] = load_with_asker(caller, *dump(sent, SAME))
    assert (arrived[0], arrived[3]) == (1, Point(1, 2))
    assert caller.take_back(arrived[1]) is lock
    assert len(arrived[2]) == 2_000_000


@pytest.mark.parametrize("result", [print, Shelf, [threading.Lock()], "x" * 2_000_000])
def test_a_result_that_is_callable_or_cannot_cross_becomes_a_reference(result: Any) -> None:
    caller = Caller()
    arrived = load_with_asker(caller, *dump_result(result, caller.table, SAME))
    assert isinstance(arrived, Reference)
    assert caller.take_back(arrived) is result


def test_a_reference_crosses_even_below_the_smallest_limit() -> None:
    caller = Caller()
    assert len(load_with_asker(caller, *dump_result([1, 2, 3], caller.table, PeerProfile("3.11", "3.11", 1)))) == 3
    assert RECORD_SLACK < 1024 * 1024


def test_a_value_is_known_to_be_unchanged_also_where_its_class_crosses_by_value() -> None:
    caller = Caller()
    for value in ([1, {2}], local_class()(), [Shelf()]):
        payload = dump_result(value, caller.table, SAME)
        arrived = load_with_asker(caller, *payload)
        assert is_unchanged(caller, arrived, *payload, SAME)
    value = {"a": [1]}
    payload = dump(value, SAME)
    arrived = load(*payload)
    arrived["a"].append(2)
    assert not is_unchanged(caller, arrived, *payload, SAME)


# exceptions -----------------------------------------------------------------------------------------------------------------


class Polite(Exception):
    """Cannot be unpickled: its `args` do not fit its `__init__`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Refuses every assignment."""

    code: int

    def __reduce__(self) -> Any:
        return Frozen, (self.code,)


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


def raised(error: BaseException, cause: Any = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def across(error: BaseException, traits: PeerProfile = SAME) -> BaseException:
    return load_exception(dump_exception(error, traits)[0])


@pytest.mark.parametrize(
    "error", [ValueError("no", 5), KeyError("k"), OSError(2, "gone", "file"), UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), SystemExit(3)]
)
def test_an_exception_arrives_with_its_type_its_arguments_and_its_traceback(error: BaseException) -> None:
    arrived = across(raised(error, ZeroDivisionError("the first cause")))
    assert type(arrived) is type(error)
    assert (arrived.args, str(arrived)) == (error.args, str(error))
    assert isinstance(arrived.__cause__, RemoteTraceback)
    text = str(arrived.__cause__)
    assert "in raised" in text
    assert "ZeroDivisionError: the first cause" in text
    assert "direct cause" in text


def test_an_exception_of_a_local_class_arrives_as_itself() -> None:
    class Own(Exception):
        pass

    assert type(across(raised(Own("mine")))).__name__ == "Own"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Polite(404, "not here"), "Polite: 404 not here (it arrives as a RemoteError, because"),
        (ValueError(threading.Lock()), "ValueError: <unlocked"),
        (ValueError("x" * 2_000_000), "ValueError: xxx"),
    ],
)
def test_an_exception_that_cannot_cross_arrives_as_a_remote_error_with_text_and_traceback(error: Exception, text: str) -> None:
    arrived = across(raised(error))
    assert type(arrived) is RemoteError
    assert str(arrived).startswith(text)
    assert "in raised" in str(arrived.__cause__)


def test_an_exception_that_refuses_assignments_gets_its_traceback_all_the_same() -> None:
    arrived = across(raised(Frozen(5)))
    assert isinstance(arrived, Frozen)
    assert arrived.code == 5
    assert "in raised" in str(arrived.__cause__)


def test_exceptions_without_a_usable_text_cross() -> None:
    assert type(across(raised(Mute("x")))) is Mute
    assert type(across(raised(Loud("x")))) is Loud
    unpicklable = across(raised(Loud(threading.Lock())))
    assert (type(unpicklable), str(unpicklable)) == (RemoteError, "Loud: loud text")


def test_an_exception_stays_within_half_the_limit_and_the_room_of_a_lane() -> None:
    class Deep(Exception):
        pass

    error: BaseException = ValueError("\U0001f600" * 100_000)
    for _ in range(200):
        error = raised(Deep("\U0001f600" * 1000), error)
    for limit in (1, 1000, 1_000_000):
        assert len(dump_exception(error, PeerProfile("3.11", "3.11", limit))[0]) <= limit // 2 + RECORD_SLACK


def test_an_exception_in_an_unknown_form_is_refused() -> None:
    with pytest.raises(PayloadError, match="unknown form"):
        load_exception(pickle.dumps(("text", "trace")))
    assert type(load_exception(pickle.dumps(("text", "trace", pickle.dumps("no exception"))))) is RemoteError


# texts that run no code -----------------------------------------------------------------------------------------------------


class Trap:
    """Everything that is done to it fails."""

    def _sprung(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("code of the value ran")

    __repr__ = __str__ = __len__ = __iter__ = __getattribute__ = __eq__ = __hash__ = __format__ = __bool__ = _sprung  # type: ignore[assignment]
    __class__ = property(_sprung)  # type: ignore[assignment]


class MetaTrap(type):
    """Its classes fail too, whatever is asked of them."""

    def _sprung(cls, *args: Any) -> Any:
        raise AssertionError("code of the metaclass ran")

    __eq__ = __hash__ = __repr__ = __getattribute__ = _sprung  # type: ignore[assignment]
    __module__ = __name__ = property(_sprung)  # type: ignore[assignment]


SubStr = type("SubStr", (str,), dict.fromkeys(("__repr__", "__len__", "__getitem__", "__format__"), Trap.__dict__["_sprung"]))
SubInt = type("SubInt", (int,), dict.fromkeys(("__repr__", "__lt__", "__gt__", "bit_length"), Trap.__dict__["_sprung"]))
SubList = type("SubList", (list,), dict.fromkeys(("__repr__", "__len__", "__iter__"), Trap.__dict__["_sprung"]))
SubDict = type("SubDict", (dict,), dict.fromkeys(("__repr__", "__len__", "items"), Trap.__dict__["_sprung"]))
Trapped = MetaTrap("Trapped", (), {})
OddModule = type("OddModule", (), {"__module__": Trap()})
NASTY = [Trap(), type.__call__(Trapped), object.__new__(OddModule), SubStr("x"), SubInt(5), SubList([1]), SubDict(a=1)]


# Hypothesis looks at what it generates, so it generates places for them.
@dataclasses.dataclass
class Place:
    """Where a nasty value is to be."""

    number: int


places = st.builds(Place, st.integers(0, len(NASTY) - 1))


def with_nasty_values(value: Any) -> Any:
    if isinstance(value, Place):
        return NASTY[value.number]
    if isinstance(value, (list, tuple)):
        return type(value)(map(with_nasty_values, value))
    if isinstance(value, dict):
        return {key: with_nasty_values(item) for key, item in value.items()}
    return value


@settings(max_examples=150)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary() | places,
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
        max_leaves=30,
    )
)
def test_a_safe_text_runs_no_code_and_is_short(value: Any) -> None:
    value = with_nasty_values(value)
    text = safe_repr(value)
    assert type(text) is str
    assert len(text) < 5000
    type_name(value)


def test_the_classes_of_nasty_values_are_named() -> None:
    assert safe_repr(Trap()).startswith("tests.unit.core.values.test_pickling.Trap at 0x")
    assert safe_repr(type.__call__(Trapped)).startswith("tests.unit.core.values.test_pickling.Trapped at 0x")
    assert type_name(object.__new__(OddModule)) == "?.OddModule"
    assert safe_repr([SubStr("x")]).startswith("list(tests.unit.core.values.test_pickling.SubStr at 0x")


def test_huge_and_recursive_values_have_short_texts() -> None:
    recursive: List[Any] = [1]
    recursive.append(recursive)
    mapping: Dict[str, Any] = {}
    mapping["self"] = mapping
    assert safe_repr(recursive).startswith("list(1, list(1, builtins.list at 0x")
    assert safe_repr(mapping).startswith("{'self': {'self': builtins.dict at 0x")
    assert safe_repr(1 << 10_000_000) == "<int of 10000001 bits>"
    assert safe_repr("x" * 10**7) == repr("x" * 40) + "..."
    assert safe_repr(list(range(10**6))) == "list(0, 1, 2, 3, ...)"
    assert safe_repr({1: 2}) == "{1: 2}"
    assert safe_repr(types.SimpleNamespace()).startswith("types.SimpleNamespace at")


# the short way of small values ---------------------------------------------------------------------------------------------

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
NESTED = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner))


@given(NESTED)
def test_what_counts_as_small_names_nothing_and_comes_back_equal(value: Any) -> None:
    if not are_small((value,)):
        return
    body = dump_small(value)
    assert pickle.loads(body) == value
    assert not any(opcode.name in ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD") for opcode, _, _ in pickletools.genops(body))


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2),
        Foreign(),
        [Foreign()],
        {"key": Foreign()},
        {Foreign: 1},
        [[[[1]]]],
        "x" * 5000,
        b"x" * 5000,
        list(range(100)),
        dict.fromkeys(range(100)),
        type("Integer", (int,), {})(3),
        type("Text", (str,), {})("x"),
        {1, 2},
        pickle.loads,
    ],
    ids=lambda value: type_name(value),
)
def test_what_is_large_deep_or_no_plain_value_does_not_count_as_small(value: Any) -> None:
    assert not are_small((value,))


def test_the_limit_holds_for_small_values_too() -> None:
    with pytest.raises(PayloadError, match="max-payload"):
        dump("x" * 500, PeerProfile("3.11", "3.11", 100))


def test_a_list_that_contains_itself_is_not_small() -> None:
    items: List[Any] = []
    items.append(items)
    assert not are_small((items,))


def test_a_pickle_that_names_something_is_not_taken_for_plain() -> None:
    assert is_plain(dump_small((1, "two")))
    assert not is_plain(pickle.dumps(Point(1, 2), 5))
    assert not is_plain(pickle.dumps(Table().handle(object()), 5))


class Named:
    """Something whose pickle has the names of this module and of this class."""


def _nested(depth: int) -> Any:
    value: Any = Named
    for _ in range(depth):
        value = [value, value, 0x93, "\x93", b"\x94\x93"[:1], {"x": (value,)}]
    return value


@pytest.mark.parametrize("filler", [0, 1, 300, 70_000])
@pytest.mark.parametrize("value", [Named, Named(), _nested(3), [Named(), Named()], (ValueError("x"), KeyError), {1: OSError}], ids=repr)
def test_a_pickle_that_names_something_is_not_plain(value: Any, filler: int) -> None:
    # Names that have been pickled before are taken out of the memo: by one byte, or by four after so many others.
    before = [str(number) for number in range(filler)]
    body = pickle.dumps((before, Named, value), 5)
    assert not is_plain(body)
    assert not is_plain(pickle.dumps(value, 5))


@given(st.recursive(st.none() | st.integers() | st.text() | st.binary() | st.floats(), lambda inner: st.lists(inner) | st.tuples(inner)))
def test_a_plain_value_is_plain_unless_it_has_what_looks_like_a_name(value: Any) -> None:
    body = pickle.dumps(value, 5)
    if is_plain(body):
        assert all(opcode.name != "STACK_GLOBAL" for opcode, _, _ in pickletools.genops(body))
    assert is_plain(pickle.dumps((0x7F93_1122_3344, 0x9393), 5))

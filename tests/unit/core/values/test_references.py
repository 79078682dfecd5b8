"""References to what stays where it is."""

from __future__ import annotations

import copy
import itertools
import pickle
import pickletools
import threading
from typing import Any, Callable, Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.values.elsewhere import SAME, Point, local_class
from xpc_instrument.core.model.errors import PayloadError, ReferenceExpiredError
from xpc_instrument.core.values.exceptions import dump_exception, load_exception
from xpc_instrument.core.values.pickling import RECORD_SLACK, dump, load
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
        return load_with_asker(self, *dump(self.table.reference_to(value), SAME))

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
    assert repr(reference).startswith("<reference to tests.unit.core.values.test_references.Shelf at 0x")


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


def test_a_reference_that_is_sent_means_nothing_outside_of_its_call() -> None:
    with pytest.raises(PayloadError, match="only within the call that it came with"):
        load(*dump(Table().reference_to(object()), SAME))


def test_protocols_are_not_looked_up_in_the_object() -> None:
    reference = Caller().send(Shelf())
    for name in ("__array__", "__await__", "__fspath__", "__wrapped__", "__iter_me__"):
        assert not hasattr(reference, name)


def test_numbers_that_the_call_has_not_given_out_are_expired() -> None:
    table = Table()
    known = table.add("something")
    for number in (-1, 0, known + 1):
        with pytest.raises(ReferenceExpiredError, match="does not belong to this call"):
            perform(table, "len", number, "", ((), {}))
    with pytest.raises(PayloadError, match=r"unknown operation 'eval' .*call, contains"):
        perform(table, "eval", known, "", ((), {}))


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


def test_a_pickle_that_names_something_is_not_taken_for_plain() -> None:
    assert is_plain(pickle.dumps((1, "two"), 5))
    assert not is_plain(pickle.dumps(Point(1, 2), 5))
    assert not is_plain(pickle.dumps(Table().reference_to(object()), 5))


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

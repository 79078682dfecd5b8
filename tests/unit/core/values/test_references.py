"""References to what stays where it is."""

from __future__ import annotations

import collections
import collections.abc
import copy
import itertools
import pickle
import pickletools
import threading
import types
from typing import Any, Callable, Dict, Iterator, List, Tuple
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.values.elsewhere import SAME, Point, local_class
from xpc_instrument.core.model.errors import PayloadError, ReferenceExpiredError
from xpc_instrument.core.values.ancestry import Ancestry
from xpc_instrument.core.values.exceptions import dump_exception, load_exception
from xpc_instrument.core.values.operations import Taken, perform, refusal
from xpc_instrument.core.values.pickling import RECORD_SLACK, dump, load
from xpc_instrument.core.values.records import dump_value
from xpc_instrument.core.values.references import (
    Reference,
    Table,
    attribute_of,
    copy_of,
    dump_or_refer,
    dump_result,
    dump_with_asker,
    is_plain,
    is_unchanged,
    load_with_asker,
    load_with_table,
)
from xpc_instrument.core.values.traits import PeerProfile


class Caller:
    """The side that has the objects, and the asker of the side that has the references: one call, without a lane between."""

    def __init__(self) -> None:
        self.table = Table()
        self.ended = False
        self.asked: List[str] = []
        self.ancestries: Dict[str, Ancestry] = {}

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        if self.ended:
            raise ReferenceExpiredError("the call has ended")
        self.asked.append(op)
        arguments: Tuple[Any, Dict[str, Any]] = ((), {})
        if payload is not None:
            arguments = load_with_table(self.table, *dump_with_asker(self, payload, SAME))
        try:
            value = perform(self.table, op, number, name, arguments)
        except Exception as error:
            raise load_exception(dump_exception(error, SAME)[0], asker=self) from None
        if isinstance(value, Taken):
            return [self._arrived(item) for item in value.items], {}, (value.ended,), self._arrived(value.value)
        return self._arrived(value, op == "copy")

    def _arrived(self, value: Any, whole: bool = False) -> Any:
        payload = dump(value, SAME) if whole else dump_value(value, SAME)
        return self.send(value) if payload is None else load_with_asker(self, *payload)

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
    with pytest.raises(IndexError):
        reference[10]
    with pytest.raises(TypeError, match="not callable"):
        reference()


def counting(seen: List[int]) -> Iterator[int]:
    for number in range(3):
        seen.append(number)
        yield number
    return "done"  # type: ignore[return-value]


def test_an_iteration_takes_no_item_that_nobody_wants() -> None:
    caller = Caller()
    seen: List[int] = []
    generator = counting(seen)
    reference = caller.send(generator)
    for number in reference:
        assert (number, seen) == (0, [0])
        break
    assert next(reference) == 1
    assert list(reference) == [2]
    with pytest.raises(StopIteration):
        next(reference)
    again = caller.send(counting(seen))
    assert [next(again), next(again), next(again)] == [0, 1, 2]
    with pytest.raises(StopIteration) as stop:
        next(again)
    assert stop.value.value == "done"
    endless = caller.send(itertools.count())
    assert list(itertools.islice(endless, 20_000))[-1] == 19_999


class Steps(List[int]):
    """Iterates in a way of its own."""

    taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            Steps.taken += 1
            yield item


class Kept(List[int]):
    """Gives an iterator that it keeps."""

    def __iter__(self) -> Iterator[int]:
        self.iterator = getattr(self, "iterator", None) or super().__iter__()
        return self.iterator


def test_only_containers_that_run_nobodys_code_are_read_ahead() -> None:
    caller = Caller()
    many = list(range(1000))
    for made in (many, tuple(many), dict.fromkeys(many), set(many), collections.deque(many), range(1000), collections.Counter(many)):
        caller.asked.clear()
        assert sorted(caller.send(made)) == many
        assert caller.asked.count("next") < 12
    assert list(caller.send({1: 2}.items())) == [(1, 2)]
    assert list(reversed(caller.send(many))) == many[::-1]
    steps = Steps(many)
    next(iter(caller.send(steps)))
    assert Steps.taken == 1
    kept = Kept(many)
    assert next(iter(caller.send(kept))) == 0
    assert next(kept.iterator) == 1
    own = iter(many)
    assert next(iter(caller.send(own))) == 0
    assert next(own) == 1
    with pytest.raises(TypeError, match="not iterable"):
        iter(caller.send(5))
    with pytest.raises(TypeError, match="not an iterator"):
        next(caller.send(many))


class Money:
    """Compares, counts and shows itself; the two sides of this test are one process, so it is found by its name."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: Any) -> Any:
        return other == self.cents if isinstance(other, int) else NotImplemented

    def __lt__(self, other: Any) -> Any:
        return self.cents < (other.cents if isinstance(other, Money) else other)

    def __hash__(self) -> int:
        return hash(self.cents)

    def __str__(self) -> str:
        return f"{self.cents} ct"

    def __format__(self, spec: str) -> str:
        return f"{self.cents:{spec}}"

    def __int__(self) -> int:
        return self.cents

    __index__ = __int__

    def __float__(self) -> float:
        return self.cents / 100

    def __add__(self, other: Any) -> Any:
        return self.cents + int(other)

    __radd__ = __add__

    def __rsub__(self, other: Any) -> Any:
        return other - self.cents

    def __abs__(self) -> Money:
        return Money(abs(self.cents))

    def __neg__(self) -> Money:
        return Money(-self.cents)

    def __round__(self, digits: int = 0) -> int:
        return round(self.cents, digits)

    def __repr__(self) -> str:
        raise AssertionError("it ran")


def test_comparisons_arithmetic_and_texts_are_those_of_the_object() -> None:
    caller = Caller()
    five, six = caller.send(Money(5)), caller.send(Money(6))
    assert (five == 5, five != 5, five == 6, five < six, five < 3, six > five) == (
        True,
        False,
        False,
        True,
        False,
        True,
    )
    assert five in [5]
    assert hash(five) == hash(5)
    assert {5: "here"}[five] == "here"
    assert (str(five), f"{five}", f"{five:03}") == ("5 ct", "5", "005")
    assert (int(five), float(five), [*range(10)][five], complex(five)) == (5, 0.05, 5, 0.05)
    assert (five + 1, 1 + five, five + six, 7 - five, abs(five).cents, (-five).cents, round(five, -1)) == (6, 6, 11, 2, 5, -5, 0)
    with pytest.raises(TypeError):
        five * 2
    with pytest.raises(TypeError):
        five < object()  # noqa: B015
    assert "Money at 0x" in repr(five)


def test_what_only_the_other_side_has_is_not_sent_to_be_compared() -> None:
    caller = Caller()
    reference = caller.send(Shelf())
    caller.asked.clear()
    assert reference == mock.ANY
    assert reference != Shelf()
    assert reference != Caller().send(Shelf())
    assert reference == reference
    assert (reference != reference) is False
    assert caller.asked == []
    assert [reference] != [[1, {"a": reference}]]
    assert caller.asked == ["eq"]


class Base:
    pass


class Mixin:
    pass


def test_isinstance_goes_by_the_names_of_the_classes() -> None:
    caller = Caller()
    shelf = caller.send(Shelf())
    assert isinstance(shelf, Shelf)
    assert isinstance(shelf, Reference)
    assert not isinstance(shelf, (Money, dict))
    assert type(shelf) is Reference
    assert isinstance(caller.send({}), dict)
    assert isinstance(caller.send(print), types.BuiltinFunctionType)
    assert isinstance(caller.send(counting([])), types.GeneratorType)
    assert isinstance(caller.send({}), collections.abc.Mapping)
    assert not isinstance(caller.send([]), collections.abc.Mapping)
    # All that are here were found without asking.
    assert caller.asked == []


def test_of_a_class_that_is_not_here_its_ancestors_are_asked_for_once() -> None:
    caller = Caller()
    unknown = type("Unknown", (Base, Mixin), {"__module__": "somewhere.there"})
    one, two = caller.send(unknown()), caller.send(unknown())
    assert isinstance(one, Base)
    assert isinstance(two, Base)
    assert isinstance(two, Mixin)
    assert not isinstance(two, Shelf)
    assert caller.asked == ["classes"]
    assert one.__class__.__name__ == "Unknown"
    only = caller.send(type("Only", (Base,), {"__module__": "__main__"})())
    assert only.__class__ is Base
    assert isinstance(caller.send(type("Table", (dict, Mixin), {"__module__": "x"})()), dict)
    caller.ended = True
    assert isinstance(one, Base)
    assert not isinstance(Caller.send(caller, type("Other", (Base,), {"__module__": "x"})()), Base)


def test_attributes_and_items_are_assigned_and_deleted() -> None:
    caller = Caller()
    shelf, items = Shelf(), {"a": 1}
    reference, keys = caller.send(shelf), caller.send(items)
    reference.books = ["z"]
    reference.owner = reference
    assert shelf.books == ["z"]
    assert shelf.owner is shelf  # type: ignore[attr-defined]
    del reference.owner
    assert not hasattr(shelf, "owner")
    keys["b"] = 2
    del keys["a"]
    assert items == {"b": 2}
    with pytest.raises(AttributeError):
        caller.send(object()).color = "red"


@pytest.mark.parametrize("op", ["setattr", "delattr", "setitem", "delitem"])
def test_a_hook_that_observes_assigns_nothing(op: str) -> None:
    refused = refusal(Table(), op, 1, True, observing=True, may_refer=True)
    assert refused is not None
    assert "register it with around()" in refused
    assert refusal(Table(), op, 1, True, observing=False, may_refer=True) is None


def test_where_the_config_allows_only_observers_nothing_of_the_applications_is_moved() -> None:
    table = Table()
    refused = "references can be read, and no more"
    own = iter([1])
    perform(table, "iter", table.add(own), "", ((), {}))
    for op, number, sends in [("next", id(own), False), ("call", 1, False), ("get", 1, True), ("eq", 1, False), ("setattr", 1, False)]:
        assert refused in (refusal(table, op, number, sends, observing=True, may_refer=False) or "")
    made = perform(table, "iter", table.add([1]), "", ((), {}))
    for op, number in [("next", id(made)), ("get", 1), ("len", 1), ("str", 1), ("iter", 1), ("classes", 1), ("hash", 1)]:
        assert refusal(table, op, number, False, observing=True, may_refer=False) is None


class Cart(Dict[str, int]):
    def copy(self) -> Any:
        return "its own"


def test_what_a_reference_hides_is_had_by_name() -> None:
    caller = Caller()
    cart = caller.send(Cart(a=1))
    assert (type(cart.copy()), cart.copy()) == (Cart, {"a": 1})
    assert attribute_of(cart, "copy")() == "its own"
    assert attribute_of(caller.send(Money(5)), "__dict__") == {"cents": 5}
    assert attribute_of("text", "upper")() == "TEXT"
    assert (copy_of(cart), copy_of(5)) == ({"a": 1}, 5)
    with pytest.raises(AttributeError, match=r"attribute_of\(reference, '__name__'\)"):
        cart.__name__  # noqa: B018


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
    with pytest.raises(PayloadError, match="unknown operation 'eval' on a reference"):
        perform(table, "eval", known, "", ((), {}))


def test_an_ended_call_ends_its_references() -> None:
    caller = Caller()
    reference = caller.send(Shelf())
    caller.ended = True
    for use in (len, list, bool, hash, lambda r: r.books, lambda r: r(), lambda r: "a" in r, lambda r: r[0], lambda r: r == 1, next):
        with pytest.raises(ReferenceExpiredError):
            use(reference)
    assert "Shelf" in repr(reference)
    assert str(reference) == f"{reference}" == repr(reference)


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

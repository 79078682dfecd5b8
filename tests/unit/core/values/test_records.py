"""What a hook that looks gets of a call: plain values by value, all else as references, and nothing of the application runs."""

from __future__ import annotations

import collections
import enum
import pickle
import sys
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Dict, List, Tuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpc_instrument.core.model.errors import RemoteProtocolError
from xpc_instrument.core.values.pickling import load
from xpc_instrument.core.values.plain import DEEPEST, MOST_ITEMS, NOT_PLAIN, alike, snapshot
from xpc_instrument.core.values.records import dump_record, dump_reference, dump_value, dumper_of_looked_at_calls, fill, load_reference
from xpc_instrument.core.values.references import Reference, Table
from xpc_instrument.core.values.traits import PeerProfile

SAME = PeerProfile("3.11", "3.11", 1_000_000)
META = (1, 2, 3)


class Nobody:
    """Asks for nothing."""

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        raise AssertionError(op)


class Loud(type):
    """A metaclass of which nothing may run."""

    def __getattribute__(cls, name: str) -> Any:
        raise AssertionError(name)

    __eq__ = __hash__ = __repr__ = __call__ = None  # type: ignore[assignment]


def _refuse(self: Any, *args: Any) -> Any:
    raise AssertionError("it ran")


# Made by `type` itself, so that no code of the metaclass runs for that.
Untouchable = type.__new__(
    Loud,
    "Untouchable",
    (),
    {
        "__module__": __name__,
        **dict.fromkeys(("__getattribute__", "__reduce__", "__reduce_ex__", "__repr__", "__eq__", "__hash__", "__bool__"), _refuse),
        **dict.fromkeys(("__len__", "__iter__", "__getstate__", "__sizeof__", "__format__", "__class_getitem__"), _refuse),
    },
)


def untouchable() -> Any:
    return object.__new__(Untouchable)


class Text(str):
    """No plain string."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("pickled")


class Zone(tzinfo):
    """A time zone of somebody's own."""


class Color(enum.Enum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")

PLAIN = [
    *(None, True, 5, 1 << 500, 1.5, float("nan"), -0.0, 2j, "text", "\ud800", b"x" * 100_000, bytearray(b"ab")),
    *([], [1, [2]], (1, "a"), {1, 2}, frozenset("ab"), {"a": {"b": [1]}}, {(1, 2): None}),
    *(date(2026, 1, 2), time(1, 2), datetime(2026, 1, 2, tzinfo=timezone.utc), timedelta(1), timezone(timedelta(hours=1)), Decimal("1.10")),
    *(UUID(int=5), Path("a/b"), PurePosixPath("/"), PureWindowsPath("c:/x")),
]
OTHER = [
    *(
        object(),
        print,
        PLAIN.append,
        Color.RED,
        Pair(1, 2),
        collections.OrderedDict(a=1),
        Text("x"),
        [Text("x")],
        {Text("x"): 1},
        int,
        range(3),
    ),
    *(list(range(MOST_ITEMS + 1)), datetime(2026, 1, 2, tzinfo=Zone()), type("Amount", (Decimal,), {})("1"), type("D", (dict,), {})()),
]


def arrived(args: Tuple[Any, ...], kwargs: Dict[str, Any], outcome: Any = None) -> Tuple[Any, ...]:
    """The record as it arrives: the same in one step, if that is possible, and in any case."""
    small = dumper_of_looked_at_calls(SAME.limit)(args, kwargs, META, outcome)
    whole = fill(load(*dump_record(args, kwargs, META, outcome, False, SAME)), Nobody())
    if small is not None:
        assert repr(fill(pickle.loads(small), Nobody())) == repr(whole)
    return whole


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_arrive_as_equal_values_of_the_same_type(value: Any) -> None:
    (one,), named, meta, outcome = arrived((value,), {"name": value}, value)
    assert meta == META
    for copy in (one, named["name"], outcome, snapshot(value, SAME.limit)):
        assert alike(copy, value)
    body, buffers = dump_value(value, SAME) or (b"", ())
    assert alike(load(body, buffers), value)


@pytest.mark.parametrize("value", OTHER, ids=lambda value: type(value).__name__)
def test_all_else_arrives_as_a_reference(value: Any) -> None:
    (one,), named, _, outcome = arrived((value,), {"name": value}, value)
    for reference in (one, named["name"], outcome):
        assert type(reference) is Reference
        assert repr(reference).endswith(f"at {id(value):#x}>")
    assert snapshot(value, SAME.limit) is NOT_PLAIN
    assert dump_value(value, SAME) is None


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one], lambda one: (1, {"a": one}), lambda one: [[[one]]]])
def test_nothing_of_what_is_not_plain_runs(wrap: Any) -> None:
    value = untouchable()
    before = sys.getrefcount(value)
    args, named, _, outcome = arrived((1, wrap(value), "x"), {"name": wrap(value)}, wrap(value))
    assert (args[0], args[2]) == (1, "x")
    assert {type(one) for one in (args[1], named["name"], outcome)} == {Reference}
    assert sys.getrefcount(value) == before
    table = Table()
    assert "Untouchable at 0x" in repr(load_reference(dump_reference(value, table), Nobody()))
    assert table.get(id(value)) is value


def test_each_argument_is_decided_on_its_own() -> None:
    lock = object()
    args, kwargs, _, outcome = arrived((1, lock, [1]), {"a": lock, "b": "x"}, {"c": 2})
    assert (args[0], args[2], kwargs["b"], outcome) == (1, [1], "x", {"c": 2})
    assert list(kwargs) == ["a", "b"]
    assert "builtins.object at" in repr(args[1]) == repr(kwargs["a"])


def test_a_name_of_a_class_of_its_own_crosses_as_a_plain_one() -> None:
    _, kwargs, _, _ = arrived((), {Text("name"): 1})
    assert [type(name) for name in kwargs] == [str]


def test_what_refers_to_itself_or_is_deep_is_a_reference() -> None:
    items: List[Any] = []
    items.append(items)
    deep: Any = 1
    for _ in range(DEEPEST + 1):
        deep = (deep,)
    for value in (items, deep):
        assert snapshot(value, SAME.limit) is NOT_PLAIN


def test_what_does_not_fit_is_referred_to() -> None:
    each, too_large = b"x" * 600_000, "y" * 2_000_000
    assert snapshot(too_large, SAME.limit) is NOT_PLAIN
    args = fill(load(*dump_record((each, 1, each, too_large), {}, META, None, False, SAME)), Nobody())[0]
    assert [type(one) for one in args] == [bytes, int, Reference, Reference]


def test_a_copy_shares_nothing_that_can_be_changed() -> None:
    value = [[1], {"a": [2]}, ({3},)]
    copy = snapshot(value, SAME.limit)
    value[0].append(4)  # type: ignore[attr-defined]
    value[1]["a"].append(5)  # type: ignore[index, call-overload]
    assert copy == [[1], {"a": [2]}, ({3},)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner, inner)
    )
)
def test_what_is_alike_is_equal_in_type_too(value: Any) -> None:
    assert alike(value, pickle.loads(pickle.dumps(value)))
    assert not alike([value], (value,))
    assert not alike([1, value], [True, value])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0.0, -0.0),
        ({1}, {1.0}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Decimal("1.0"), Decimal("1.00")),
        (object(), object()),
        ([1], [1, 2]),
    ],
)
def test_what_differs_in_type_sign_or_order_is_not_alike(one: Any, other: Any) -> None:
    assert not alike(one, other)


@pytest.mark.parametrize("record", [((), {}, META, None, 0, 1, "x"), ((1,), {}, META, None, "a", 1, "x"), (1, {}, META, None, 0, 1, "x")])
def test_references_that_make_no_sense_break_the_rules(record: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="make no sense"):
        fill(record, Nobody())


def test_a_type_that_the_application_has_replaced_in_its_module_is_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    value = Decimal("1.10")
    assert alike(arrived((value,), {})[0][0], value)
    monkeypatch.setattr("decimal.Decimal", type("Other", (), {}))
    assert type(arrived((value,), {})[0][0]) is Reference


class Colliding:
    """Of one hash, compared by nobody once they are in a dict."""

    quiet = False

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        if Colliding.quiet:
            raise AssertionError("compared")
        return self is other


def test_a_dict_is_copied_without_comparing_its_keys() -> None:
    # With holes in it, a copy of it is made key by key.
    sparse: Dict[Any, Any] = dict.fromkeys(range(40), 1)
    sparse.update({Colliding(): 1, Colliding(): 2})
    for number in range(40):
        del sparse[number]
    Colliding.quiet = True
    try:
        args, _, _, _ = arrived((sparse, {"a": sparse}), {"b": sparse})
    finally:
        Colliding.quiet = False
    assert [type(one) for one in args] == [Reference, Reference]


@pytest.mark.parametrize("rest", [(), (5,)])
def test_a_class_of_the_same_id_as_one_that_is_gone_has_its_own_name(rest: Tuple[Any, ...]) -> None:
    names = set()
    for number in range(50):
        name = f"Made{number}"
        made = type(name, (), {"__module__": "somewhere"})
        for _ in range(2):
            args, *_ = arrived((made(), *rest), {})
            names.add(repr(args[0]).partition(" at ")[0].rpartition(".")[2] == name)
        del made, args
    assert names == {True}


@pytest.mark.parametrize(
    "large", [bytearray(2_000_000), b"x" * 2_000_000, "x" * 2_000_000, [0] * 2000, (0,) * 2000, set(range(2000))], ids=type
)
def test_what_is_too_large_is_referred_to_at_a_glance_and_what_is_not_is_by_value(large: Any) -> None:
    kind = type(large)
    looked = dumper_of_looked_at_calls(SAME.limit)((large,), {"a": large}, META, large)
    assert looked is not None
    args, kwargs, _, outcome = fill(pickle.loads(looked), Nobody())
    assert [type(one) for one in (args[0], kwargs["a"], outcome)] == 3 * [Reference]
    # Of the same class, after one that was not.
    for small in (kind(large[:500]) if kind is not set else set(range(100)), kind()):
        args, kwargs, _, outcome = arrived((small,), {"a": small}, small)
        assert args[0] == kwargs["a"] == outcome == small


@pytest.mark.parametrize("made", [list, tuple, lambda items: dict(enumerate(items)), lambda items: {"a": items[0]}])
def test_a_container_of_objects_is_referred_to_at_a_glance(made: Any) -> None:
    looked = dumper_of_looked_at_calls(SAME.limit)((made([object(), 1]), made([1, 2])), {}, META, None)
    if looked is not None:
        args, *_ = fill(pickle.loads(looked), Nobody())
        assert type(args[0]) is Reference
        assert args[1] == made([1, 2])
    args, *_ = arrived((made([object(), 1]), made([1, 2]), made([Decimal(1), {2}])), {})
    assert type(args[0]) is Reference
    assert args[1:] == (made([1, 2]), made([Decimal(1), {2}]))

"""What is captured of a value, how much of it, and that no code of the application runs for it."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import marshal
import pathlib
import pickle
import threading
import time
import types
import uuid
from typing import Any, Dict, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.values.captured import Captured, render, revive, to_json
from xpc_instrument.core.values.captures import CaptureLimits, Capturer
from xpc_instrument.core.values.redaction import Redaction

from ..model.expression.hostile import RAN, Computed, Fallback, Lazy, OfMeta, objects

ALL = Capturer(CaptureLimits(depth=5))


class Customer:
    """Plain data."""

    def __init__(self, name: str = "Ada") -> None:
        self.id = 1
        self.name = name


@dataclasses.dataclass
class Order:
    """A dataclass with what is not to be shown."""

    id: int
    customer: Customer
    items: List[Dict[str, Any]]
    card: str = "4111"


class Color(enum.Enum):
    """An enum."""

    RED = 1


class Slotted:
    """Slots, one of which is unset."""

    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a = 1


Point = collections.namedtuple("Point", "x y")
UTC = datetime.timezone.utc


def captured(value: Any, capturer: Capturer = ALL) -> Any:
    """As the script has it, over the wire."""
    return revive(marshal.loads(marshal.dumps(capturer.capture(value))))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Order(7, Customer(), [{"sku": "a"}]), "Order(id=7, customer=Customer(id=1, name='Ada'), items=[{'sku': 'a'}], card=<redacted>)"),
        (Color.RED, "Color('RED')"),
        (Point(1, "b"), "Point(x=1, y='b')"),
        (Slotted(), "Slotted(a=1)"),
        (types.SimpleNamespace(a=1), "SimpleNamespace(a=1)"),
        (decimal.Decimal("12.50"), "Decimal('12.50')"),
        (datetime.datetime(2026, 11, 28, 12, tzinfo=UTC), "datetime('2026-11-28T12:00:00+00:00')"),
        (datetime.date(2026, 11, 28), "date('2026-11-28')"),
        (datetime.timedelta(seconds=1.5), "timedelta('0:00:01.500000')"),
        (uuid.UUID(int=1), "UUID('00000000-0000-0000-0000-000000000001')"),
        (pathlib.PurePosixPath("/tmp/x/y"), "PurePosixPath('/tmp/x/y')"),
        (pathlib.PurePosixPath("a/b"), "PurePosixPath('a/b')"),
        (fractions.Fraction(1, 3), "Fraction('1/3')"),
        (range(3), "range(0, 3, 1)"),
        (slice(1, None), "slice(start=1, stop=None, step=None)"),
        (json.dumps, "<function json:dumps>"),
        (Customer, f"<class {__name__}:Customer>"),
        (json, "<module json>"),
        (1 << 80, str(1 << 80)),
        (1 << 9000, "<int of 9001 bits>"),
        ({1}, "{1}"),
        (set(), "set()"),
        (frozenset((1,)), "frozenset([1])"),
        ((1,), "(1,)"),
        (collections.deque([1]), "deque([1])"),
        (collections.OrderedDict(a=1), "OrderedDict({'a': 1})"),
        ({1: {"a": b"x"}}, "{1: {'a': b'x'}}"),
        (ValueError("no", 3), "ValueError('no', 3)"),
        (..., "..."),
    ],
    ids=lambda one: one[:30] if isinstance(one, str) else "",
)
def test_it_is_shown_as_a_repr_would(value: Any, text: str) -> None:
    assert repr(captured(value)) == text
    json.dumps(to_json(ALL.capture(value)), allow_nan=False)


@pytest.mark.parametrize("value", [None, True, 1, -(1 << 62), 1.5, "text", b"bytes", 1 << 100, "x" * 255])
def test_atoms_stay_what_they_are(value: Any) -> None:
    assert captured(value) == value and type(captured(value)) is type(value)


def test_a_capture_is_read_as_the_value_was() -> None:
    order = captured(Order(7, Customer(), [{"sku": "a"}, {"sku": "b"}]))
    assert order.customer.name == "Ada" and order["customer"]["name"] == "Ada"
    assert order.type == f"{__name__}:Order" and order.cut is None
    assert list(order) == ["id", "customer", "items", "card"]
    assert len(order["items"]) == 2 and [one["sku"] for one in order["items"]] == ["a", "b"]
    assert order["items"][-1] == {"sku": "b"} and order["items"][:1] == [{"sku": "a"}]
    assert order.customer == {"id": 1, "name": "Ada"} and order.customer == captured(Customer())
    assert order.customer != {"id": 1, "name": "Eve"} and order.customer != captured(Customer("Eve"))
    assert order.card.cut == "redacted" and order.card != "4111" and order != {}
    with pytest.raises(AttributeError, match="nope"):
        _ = order.nope
    with pytest.raises(AttributeError):
        order.id = 3
    assert pickle.loads(pickle.dumps(order)) == order
    assert {"customer", "type", "cut"} <= set(dir(order))


@pytest.mark.parametrize(
    ("value", "equal", "other"),
    [
        ([1, (2,)], [1, (2,)], [1, [2]]),
        ({"a": [True]}, {"a": [True]}, {"a": [1]}),
        ({1, 2}, {2, 1}, {1, 3}),
        ({1: 2}, {1: 2}, {1: 2, 3: 4}),
        (decimal.Decimal("1.50"), decimal.Decimal("1.50"), 1.5),
        (Color.RED, Color.RED, "RED"),
        ([], [], ()),
    ],
)
def test_it_is_equal_to_plain_data_of_the_same_shape(value: Any, equal: Any, other: Any) -> None:
    assert captured(value) == equal
    assert captured(value) != other


@pytest.mark.parametrize(
    ("value", "cut", "size"),
    [("x" * 300, "length", 300), (b"x" * 300, "length", 300), (list(range(200)), "items", 200), ({n: n for n in range(101)}, "items", 101),
     (types.SimpleNamespace(**{f"a{n}": n for n in range(60)}), "fields", 60), ([[[1]]], None, 1)],
)  # fmt: skip
def test_what_is_cut_says_why_and_how_much_there_was(value: Any, cut: Any, size: int) -> None:
    seen = captured(value, Capturer())
    assert (seen.cut, len(seen)) == (cut, size)
    assert cut is None or (seen != value and to_json(Capturer().capture(value))["cut"] == cut)


def test_depth_is_counted_from_the_value() -> None:
    value = [[[[[[[1]]]]]]]
    assert repr(captured(value, Capturer())) == "[[<list of 1 ...>]]"
    assert repr(captured(value, Capturer(CaptureLimits(depth=0)))) == "<list of 1 ...>"
    assert repr(captured(value, Capturer(CaptureLimits(depth=99)))) == "[[[[[<list of 1 ...>]]]]]"
    assert captured(value, Capturer())[0][0].cut == "depth"


def test_what_holds_itself_is_seen_once() -> None:
    loop: List[Any] = [1]
    loop.append(loop)
    assert repr(captured(loop)) == "[1, <list seen above>]"


def test_no_value_takes_long_or_much() -> None:
    wide = [[f"{n}" * 100 for n in range(100)] for _ in range(100)]
    huge = [{str(key): float(key) for key in range(20)} for _ in range(100_000)]
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    many = types.SimpleNamespace(**{f"a{n}": Customer("x" * 1000) for n in range(10_000)})
    for value in (wide, huge, deep, many, "x" * 100_000_000, b"x" * 100_000_000, range(1 << 62), set(range(1_000_000))):
        took = []
        # Of what this thread does, however crowded the machine is; the garbage collector may go through all of that once meanwhile.
        for _ in range(3):
            start = time.thread_time()
            tree = ALL.capture(value)
            took.append(time.thread_time() - start)
        assert min(took) < 0.1
        assert len(marshal.dumps(tree)) < 100_000
    while deep:
        deep = deep["a"]


# redaction -----------------------------------------------------------------------------------------------------------------


def test_secrets_are_never_captured() -> None:
    class Vault:
        """A type that the config names."""

        def __init__(self) -> None:
            self.inside = "HIDDEN"

    class Header(str, enum.Enum):
        """A text, and not exactly one."""

        AUTH = "authorization"

    class Derived(Vault):
        """One that derives from it."""

    values = {
        "password": "HIDDEN",
        "API-Key": "HIDDEN",
        "x_api_key": {"a": "HIDDEN"},
        "own-Name": "HIDDEN",
        "vaults": [Vault(), Derived()],
        "headers": [("Authorization", "HIDDEN"), (b"set-cookie", b"HIDDEN"), ("accept", "shown")],
        "bytes": {b"password": "HIDDEN"},
        "lists": [["Authorization", "HIDDEN"], [Header.AUTH, "HIDDEN"]],
        "members": {Header.AUTH: "HIDDEN"},
        "data": types.SimpleNamespace(access_token="HIDDEN", token_count=3),
    }
    capturer = Capturer(CaptureLimits(depth=5), Redaction(["ownname"], [f"{__name__}:{Vault.__qualname__}"]))
    tree = capturer.capture(values)
    assert b"HIDDEN" not in marshal.dumps(tree)
    assert render(tree).count("<redacted>") == 13
    assert "(b'set-cookie', <redacted>)" in render(tree)
    assert "shown" in render(tree) and "token_count=3" in render(tree)
    assert revive(capturer.named("Pass_Word", "HIDDEN")).cut == "redacted"
    assert capturer.named("amount", 3) == 3


# nothing runs ----------------------------------------------------------------------------------------------------------------


def test_no_code_of_an_application_runs() -> None:
    these = objects()
    capturer = Capturer(CaptureLimits(depth=5), Redaction())
    for value in (*these, these, dict(enumerate(these)), tuple(these), collections.deque(these), [these] * 3):
        tree = capturer.capture(value)
        assert RAN == [], type(value)
        marshal.dumps(tree)
        render(tree, 80)
        json.dumps(to_json(tree))
    assert RAN == []


def test_fields_are_read_raw() -> None:
    assert captured(Computed()) == {}
    assert captured(Fallback()) == {"own": 1}
    assert captured(Lazy()) == {"_result_cache": None}
    assert captured(OfMeta()) == {"own": 1}
    assert RAN == []


def test_what_another_thread_changes_meanwhile_is_captured_or_told() -> None:
    shared: Dict[Any, Any] = {n: n for n in range(500)}
    done = threading.Event()

    def change() -> None:
        n = 500
        while not done.is_set():
            shared[n] = n
            shared.pop(n - 400, None)
            n += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(500):
            assert captured(shared).cut in ("items", "changed")
            captured({"a": shared, "b": [shared]})
    finally:
        done.set()
        thread.join()


def test_an_exception_has_its_frames_and_its_cause() -> None:
    def fail() -> None:
        try:
            {}["a"]
        except KeyError as error:
            raise ValueError("no money") from error

    with pytest.raises(ValueError) as caught:
        fail()
    tree = ALL.capture(caught.value)
    shown = to_json(tree)
    assert (shown["type"], shown["message"], shown["cause"]["type"]) == ("ValueError", "no money", "KeyError")
    assert shown["stack"][-1]["function"] == "fail" and shown["stack"][-1]["file"] == __file__
    assert captured(caught.value).args == ("no money",)


def test_numpy_is_told_by_shape_and_type() -> None:
    numpy = pytest.importorskip("numpy")
    assert repr(captured(numpy.zeros((3, 4)))) == "<ndarray <f8 3x4>"
    assert repr(captured(numpy.float64(1.5))) == "float64('1.5')"
    assert to_json(ALL.capture(numpy.zeros(2)))["shape"] == [2]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(PLAIN)
@settings(max_examples=200, deadline=None)
def test_plain_data_comes_back_equal(value: Any) -> None:
    whole = Capturer(CaptureLimits(depth=5))
    seen = captured(value, whole)
    if "cut" not in json.dumps(to_json(whole.capture(value))) and "<redacted>" not in repr(seen):
        assert seen == value
    assert isinstance(seen, Captured) or seen == value

"""Nothing of an application runs when an expression is evaluated, and nothing takes long."""

from __future__ import annotations

import decimal
import itertools
import os
import time
from datetime import date, datetime, timedelta, tzinfo
from typing import Any, List

import pytest

from xpc_instrument.core.model.errors import ExpressionError
from xpc_instrument.core.model.expression import TooMuch, WouldRunCode, parse

from .hostile import RAN, objects

TEXTS = """x.p|x.d|x.e|x.m|x.q|x.own|x.missing|x > 1|1 < x|x == 1|x == y|x != 'a'|x != y|x < y <= x|x in (1, 2)|x in [1, y]|1 in x|'a' in x
x in y|x not in y|x|not x|x and y|x or y|len(x) > 1|x[0]|x['a']|x[0:1]|x[y]|x + 1|1 + x|x * 2|x - y|x / 2|x // 2|x % y|-x|x + y|abs(x)
x.startswith('a')|x.endswith(y)|x.lower()|isinstance(x, 'Evil')|type(x) == 'Evil'|x if x else y|y.p == x|x is y|min(x, y)|max(x)|x == [y]
x == {x}|matches(x, 'a')|(x, y) == (y, x)|x.own.p|[x][0].own|x.name|x.value|x.args""".replace("\n", "|").split("|")  # fmt: skip


def _expressions() -> List[Any]:
    made = []
    for text in TEXTS:
        try:
            made.append((text, parse(text).function(["x", "y"]), parse(text).condition(["x", "y"])))
        except ExpressionError:
            assert text == "x == {x}"
    return made


def test_no_code_of_an_application_runs() -> None:
    these = objects()
    cases = list(itertools.product(_expressions(), these, [*these, 1, "a", [1], {"a": 1}]))
    assert len(cases) * 4 > 100_000
    for (text, value_of, is_true), x, y in cases:
        for evaluate in (value_of, is_true):
            for _ in range(2):
                try:
                    evaluate(x, y)
                except (WouldRunCode, TooMuch, TypeError, AttributeError, LookupError):
                    pass
                assert RAN == [], (text, type(x), type(y))


def evaluated(text: str, **values: Any) -> Any:
    return parse(text).function(list(values))(*values.values())


class Order:
    """Plain data, and what is not."""

    limit = 100

    def __init__(self) -> None:
        self.amount = 150
        self.items = [{"name": "foo", "price": 1.5}]
        self.note = None


class Slotted:
    """Slots."""

    __slots__ = ("number", "unset")

    def __init__(self) -> None:
        self.number = 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("order.amount > 100", True),
        ("order.amount > order.limit == 100", True),
        ("1 < order.amount <= 150 < 151", True),
        ("order.items[0]['name'] == 'foo'", True),
        ("order.items[-1]['price'] * 2 + 1", 4.0),
        ("len(order.items) == 1 and order.note is None", True),
        ("order.note or order.amount", 150),
        ("order.note and order.amount", None),
        ("not order.note", True),
        ("'oo' in order.items[0]['name']", True),
        ("'x' not in order.items[0]['name']", True),
        ("order.amount in (150, 'a', None)", True),
        ("order.amount not in [1, 2]", True),
        ("1 if order.note else -1", -1),
        ("slotted.number // 2", 1),
        ("type(order)", "Order"),
        ("isinstance(order, ('Other', 'Order'))", True),
        (f"isinstance(order, '{__name__}:Order')", True),
        ("min(order.amount, 3) + max([1, 7])", 10),
        (r"matches('order-17', '^order-\d+$')", True),
        (r"matches('order-x', r'^order-\d+$')", False),
        ("'Ab'.lower().startswith(('x', 'a'))", True),
        ("order.items[0:1] == [order.items[0]]", True),
        ("(order.amount, 1)", (150, 1)),
        ("abs(-order.amount)", 150),
        ("5 and order.amount", 150),
        ("len('abc') and 'x'", "x"),
        ("2 < len(order.items) + 2 < order.amount", True),
        ("day.year == 2026 and day < other and other - day", WouldRunCode),
        ("day.year + day.month", 2037),
        ("price > 12 and price == price", True),
        ("kind.name == 'RED' and kind.value == 1", True),
        ("point.x < point.y", True),
        ("fault.args[0]", "no money"),
        ("module.sep", os.sep),
        ("cls.limit", 100),
    ],
)
def test_it_means_what_python_means(text: str, expected: Any) -> None:
    import collections
    import enum

    kind = enum.Enum("Kind", "RED").RED  # type: ignore[attr-defined]
    point = collections.namedtuple("point", "x y")(1, 2)
    values = {
        "order": Order(), "slotted": Slotted(), "day": date(2026, 11, 28), "other": date(2026, 11, 29), "price": decimal.Decimal("12.5"),
        "kind": kind, "point": point, "fault": ValueError("no money"), "module": os, "cls": Order,
    }  # fmt: skip
    if isinstance(expected, type):
        with pytest.raises(expected):
            evaluated(text, **values)
        return
    assert evaluated(text, **values) == expected
    assert bool(parse(text).condition(list(values))(*values.values())) is bool(expected)


def test_what_python_itself_raises_is_raised() -> None:
    with pytest.raises(KeyError):
        evaluated("x['b']", x={"a": 1})
    with pytest.raises(IndexError):
        evaluated("x[3]", x=[1])
    with pytest.raises(AttributeError):
        evaluated("x.unset", x=Slotted())
    with pytest.raises(ZeroDivisionError):
        evaluated("1 / x", x=0)


def test_a_default_dict_makes_no_item() -> None:
    import collections

    made = collections.defaultdict(list, {"a": 1})
    assert evaluated("x['a']", x=made) == 1
    with pytest.raises(KeyError):
        evaluated("x['b']", x=made)
    assert dict(made) == {"a": 1}


def test_a_property_that_is_added_later_is_seen_once_verdicts_are_forgotten() -> None:
    class Late:
        def __init__(self) -> None:
            self.vip = True

    late, expression = Late(), parse("x.vip")
    function = expression.function(["x"])
    assert function(late) is True
    del late.vip
    Late.vip = property(lambda self: RAN.append("late"))  # type: ignore[assignment]
    expression.forget_verdicts()
    with pytest.raises(WouldRunCode):
        function(late)
    assert RAN == []


def test_the_time_zone_of_an_application_is_not_asked() -> None:
    class Zone(tzinfo):
        def utcoffset(self, _: Any) -> timedelta:
            RAN.append("utcoffset")
            return timedelta(0)

    here = datetime(2026, 11, 28, tzinfo=Zone())
    with pytest.raises(WouldRunCode):
        evaluated("x < y", x=here, y=datetime(2026, 11, 28, tzinfo=Zone()))
    assert RAN == []


def test_a_comparison_leaves_the_decimal_context_alone() -> None:
    with decimal.localcontext() as context:
        context.clear_flags()
        for value in (0.5, 1):
            try:
                evaluated("x > y", x=decimal.Decimal("sNaN"), y=value)
            except WouldRunCode:
                pass
        with pytest.raises(WouldRunCode):
            evaluated("x > y", x=decimal.Decimal(1), y=0.5)
        assert not any(context.flags.values())


LONG = "a" * 9_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("matches(x, 'a*a*b')", LONG),
        ("matches(x, 'a*b')", LONG),
        ("x in y", LONG),
        ("x + x == x", LONG),
        ("x == x", [[1] * 300]),
        ("x * x", 1 << 4_000_000),
        ("x[0:1000000]", list(range(1_000_000))),
        ("5 in x", list(range(1_000_000))),
        ("min(x)", list(range(1_000_000))),
        ("y[x]", 1 << 40_000_000),
        ("x.lower()", LONG * 1000),
    ],
    ids=lambda one: one if isinstance(one, str) and len(one) < 40 else "",
)
def test_what_would_take_long_is_refused(text: str, value: Any) -> None:
    function = parse(text).function(["x", "y"])
    y: Any = {1: 2} if "y[" in text else "a" * 20_000_000
    took = []
    # The machine may have others to serve: the time of this thread counts, and once is enough.
    for _ in range(5):
        start = time.thread_time()
        with pytest.raises(TooMuch):
            function(value, y)
        took.append(time.thread_time() - start)
    assert min(took) < 0.01


def test_a_list_that_holds_itself_is_too_much() -> None:
    endless: List[Any] = []
    endless.append(endless)
    with pytest.raises(TooMuch):
        evaluated("x == x", x=endless)

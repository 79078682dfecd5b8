"""The lines of calls that came as rows are those of the events that they stand for."""

from __future__ import annotations

import json
from typing import Any, List, Tuple

import pytest

from xpc_instrument.core.calls.rows import Layout
from xpc_instrument.script.watching import CallEvent, CallRows
from xpc_instrument.verbs.events import call_json, call_text
from xpc_instrument.verbs.rows import json_of, text_of

VALUES: List[Any] = [1, None, True, 1.5, "a%sb", "ü\n", "x" * 300, {"a": 1, "b": "100%"}, [1, "two"], (1,), (), {}, "\x1b[31m"]


def rows_of(names: Tuple[str, ...], *, seen: Tuple[bool, ...] = (), evaluated: bool = False, result: bool = True) -> CallRows:
    layout = Layout(names, seen or (True,) * len(names), evaluated, result, "/shop/check%out.py", 24)
    return CallRows(4711, "shop.checkout:Cart.charge", layout, lambda event: event)


def row_of(*values: Any) -> Tuple[Any, ...]:
    return (1, 15, 99, 1764331445.112, 3.82e-05, None, *values)


def is_as_told(rows: CallRows, row: Tuple[Any, ...], began: bool) -> bool:
    event = rows.event(row)
    told = call_json(event, "shop", began)
    whole = {"type": told["type"], "time": told["time"], "app": "shop", "host": "here", **told}
    line = json_of(rows, "shop", "here", began)(row)
    same = json.loads(line) == json.loads(json.dumps(whole)) and list(json.loads(line)) == list(whole)
    return same and [text_of(rows, began)(row)] == call_text(event, began)


@pytest.mark.parametrize("value", VALUES)
def test_a_line_is_that_of_the_event(value: Any) -> None:
    assert is_as_told(rows_of(("amount", "%s")), row_of(value, 2, value), False)
    assert is_as_told(rows_of(()), row_of(value), False)
    assert is_as_told(rows_of(("amount", "password"), seen=(True, False)), row_of(value, value), False)
    assert is_as_told(rows_of(("amount",), result=False), row_of(value), True)
    assert is_as_told(rows_of(("order.id % 2", "order.token"), seen=(True, False), evaluated=True, result=False), row_of(value), False)


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError):
        json_of(rows_of(()), "shop", "here", False)(row_of(float("inf")))


def test_the_event_of_a_row_has_all_of_it() -> None:
    event: CallEvent = rows_of(("amount", "password"), seen=(True, False)).event(row_of({"a": 1}, [1, 2]))
    assert (event.id, event.pid, event.thread, event.target) == ("4711-15", 4711, 99, "shop.checkout:Cart.charge")
    assert (event.file, event.line, event.duration, event.exception) == ("/shop/check%out.py", 24, 3.82e-05, None)
    assert event.arguments["amount"] == {"a": 1}
    assert event.arguments["amount"]["a"] == 1
    assert event.arguments["password"].cut == "redacted"
    assert event.result == [1, 2]
    assert (event.stack, event.shown, event.rejected, event.frames) == ((), {}, False, ())

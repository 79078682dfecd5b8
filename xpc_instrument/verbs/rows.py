"""The lines of calls that came as rows: those that `call_text` and `call_json` give for such an event, in one step.

Of the calls that are shown without a rate many come in a second, and the lines are most of what showing them takes.
"""

from __future__ import annotations

from typing import Any, Callable, Dict

from ..core.calls.rows import DURATION, NUMBER, TIME, VALUES, Row
from ..core.model.times import shown_seconds
from ..core.values.captured import Captured, to_json
from ..core.values.captures import REDACTED
from ..script.watching import CallRows
from .events import LONGEST_VALUE, clock, json_line, utc, value_text


def text_of(rows: CallRows, began: bool) -> Callable[[Row], str]:
    """What gives the line for people."""
    layout, hidden, longest = rows.layout, value_text(Captured(REDACTED)), LONGEST_VALUE
    parts = [f"{_kept(name)}={'%s' if seen else hidden}" for name, seen in zip(layout.names, layout.seen)]
    name = _kept(rows.target.rpartition(":")[2])
    line = f"%s {rows.pid} {name} {' '.join(parts)}" if layout.evaluated else f"%s {rows.pid} {name}({', '.join(parts)})"
    if not began:
        line = f"{line} -> %s  %s" if layout.result else f"{line}  %s"

    def text(row: Row) -> str:
        values = [one if len(one := repr(value)) <= longest else f"{one[: longest - 1]}…" for value in row[VALUES:]]
        if began:
            return line % (clock(row[TIME]), *values)
        return line % (clock(row[TIME]), *values, shown_seconds(row[DURATION]))

    return text


def _kept(text: str) -> str:
    """As it has to stand in what `%` formats."""
    return text.replace("%", "%%")


def json_of(rows: CallRows, app: str, host: str, began: bool) -> Callable[[Row], str]:
    """What gives the line of JSON, with the host behind the application. Raises `ValueError` for a number that JSON has not."""
    layout, hidden = rows.layout, _kept(json_line(to_json(REDACTED)))
    pairs = [f"{_kept(json_line(name))}: {'%s' if seen else hidden}" for name, seen in zip(layout.names, layout.seen)]
    values = "{" + ", ".join(pairs) + "}"
    whose, where = {"app": app, "host": host, "pid": rows.pid}, {"target": rows.target, "file": layout.file, "line": layout.line}
    parts = ['"type": "call"', '"time": "%s"', _inside(whose), f'"id": "{rows.pid}-%d"', _inside(where)]
    parts.append('"arguments": ' + ("{}" if layout.evaluated else values))
    # Of what was evaluated there is no result, and the values come last.
    ends = ['"result": ' + ("%s" if layout.result else "null"), '"exception": null', '"duration": %r']
    parts += [] if began else ends
    parts += ['"shown": ' + values] if layout.evaluated else []
    line, evaluated = "{" + ", ".join(parts) + "}", layout.evaluated

    def text(row: Row) -> str:
        found = [_json(value) for value in row[VALUES:]]
        if began:
            return line % (utc(row[TIME]), row[NUMBER], *found)
        duration = round(row[DURATION], 9)
        if evaluated:
            return line % (utc(row[TIME]), row[NUMBER], duration, *found)
        return line % (utc(row[TIME]), row[NUMBER], *found, duration)

    return text


def _inside(told: Dict[str, Any]) -> str:
    """The text of an object without its brackets."""
    return _kept(json_line(told)[1:-1])


def _json(value: Any) -> str:
    kind = type(value)
    # Those that are most frequent, without an encoder that is made for each.
    return repr(value) if kind is int else "null" if value is None else json_line(value)

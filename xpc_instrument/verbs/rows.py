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
    layout, pid, hidden = rows.layout, rows.pid, to_json(REDACTED)
    same = {"target": rows.target, "file": layout.file, "line": layout.line}
    start, head = '{"type": "call", "time": "', f'", {json_line({"app": app, "host": host, "pid": pid})[1:-1]}, "id": "{pid}-'
    behind = f'", {json_line(same)[1:-1]}, '
    names, whole, last = layout.names, all(layout.seen), -1 if layout.result else None

    def text(row: Row) -> str:
        if whole:
            values: Dict[str, Any] = dict(zip(names, row[VALUES:last]))
        else:
            each = iter(row[VALUES:])
            values = {name: next(each) if seen else hidden for name, seen in zip(names, layout.seen)}
        told: Dict[str, Any] = {"arguments": {} if layout.evaluated else values}
        if not began:
            told.update(result=row[-1] if layout.result else None, exception=None, duration=round(row[DURATION], 9))
        if layout.evaluated:
            told["shown"] = values
        return f"{start}{utc(row[TIME])}{head}{row[NUMBER]}{behind}{json_line(told)[1:]}"

    return text

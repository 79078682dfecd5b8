"""What is shown of a call, of a stack and of tables: lines for people, objects for JSON lines.

Values are shown as they were captured, and nothing here asks the application.
"""

from __future__ import annotations

import json
import math
import time
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Dict, List, Mapping, Sequence

from ..core.model.target import is_line
from ..core.model.times import shown_seconds
from ..core.values.captured import Captured, exception_to_json, to_json
from ..script.counted import MonitorRow, StackRow, StatRow
from ..script.stacks import Stack
from ..script.watching import CallEvent, LineEvent

LONGEST_VALUE = 120
"""Characters of one value in a line for people."""

json_line = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": "), allow_nan=False).encode
"""What makes a line of JSON. Raises `ValueError` for a number that JSON has not."""


def clock(seconds: float) -> str:
    """The time of day, with milliseconds: `12:04:05.112`."""
    return f"{_time_of_day(int(seconds // 1))}.{int(seconds * 1000) % 1000:03}"


# Of the last seconds: many events are of the same one.
@lru_cache(maxsize=8)
def _time_of_day(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def utc(seconds: float) -> str:
    """A time as JSON says it: `2026-11-28T12:04:05.112Z`."""
    second = int(seconds // 1)
    return f"{_date_and_time(second)}.{min(round((seconds - second) * 1e6), 999_999) // 1000:03}Z"


@lru_cache(maxsize=8)
def _date_and_time(second: int) -> str:
    return datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def value_text(value: Any) -> str:
    """A value for people, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def call_text(event: CallEvent, began: bool, traceback: bool = False) -> List[str]:
    """A call in a line, and one for each frame of its caller; of one that `began` no more is known than its arguments.

    With `traceback` that of what it raised follows, the innermost frame last.
    """
    name = event.target.rpartition(":")[2]
    arguments = ", ".join(f"{key}={value_text(value)}" for key, value in event.arguments.items())
    shown = " ".join(f"{text}={value_text(value)}" for text, value in event.shown.items())
    head = f"{clock(event.time)} {event.pid} {name}({arguments})" if not shown else f"{clock(event.time)} {event.pid} {name} {shown}"
    trace: List[str] = []
    if event.exception is not None:
        stack = exception_to_json(event.exception._tree)["stack"] if isinstance(event.exception, Captured) else []
        if traceback:
            trace = _traceback_text(event.frames or [(one["file"], one["line"], one["function"], None) for one in stack])
        place = f"  {stack[-1]['file']}:{stack[-1]['line']}" if stack else ""
        head = f"{head} !! {value_text(event.exception)}  {shown_seconds(event.duration)}{place}"
    elif not began:
        outcome = "" if shown else f" -> {value_text(event.result)}"
        head = f"{head}{outcome}  {shown_seconds(event.duration)}"
    if event.rejected:
        head = f"{head}  (does not meet --when)"
    return [head, *trace, *frames_text(event.stack)]


def _traceback_text(frames: Sequence[Any]) -> List[str]:
    lines = []
    for file, line, function, found in frames:
        lines.append(f"    {file}:{line} {function}")
        lines += [f"        {name} = {value_text(value)}" for name, value in (found or {}).items()]
    return lines


def line_text(event: LineEvent) -> List[str]:
    """What `log` tells, in a line, with one for each local variable and one for each frame of the caller."""
    name = event.target if is_line(event.target) else event.target.rpartition(":")[2]
    head = f"{clock(event.time)} {event.pid} {name}{'  ' if event.text else ''}{event.text}"
    return [head, *(f"    {name} = {value_text(value)}" for name, value in event.locals.items()), *frames_text(event.stack)]


def line_json(event: LineEvent, app: str) -> Dict[str, Any]:
    """The same as an object for JSON."""
    told: Dict[str, Any] = {
        "type": "line",
        "time": utc(event.time),
        "app": app,
        "pid": event.pid,
        "id": event.id,
        "target": event.target,
        "file": event.file,
        "line": event.line,
        "text": event.text,
    }
    if event.locals:
        told["locals"] = {name: value_json(value) for name, value in event.locals.items()}
    if event.stack:
        told["stack"] = frames_json(event.stack)
    return told


def value_json(value: Any) -> Any:
    """A value of an event as JSON says it."""
    return to_json(value._tree if isinstance(value, Captured) else value)


def call_json(event: CallEvent, app: str, began: bool) -> Dict[str, Any]:
    """A call as an object for JSON."""
    shown: Dict[str, Any] = {
        "type": "call",
        "time": utc(event.time),
        "app": app,
        "pid": event.pid,
        "id": event.id,
        "target": event.target,
        "file": event.file,
        "line": event.line,
        "arguments": {name: value_json(value) for name, value in event.arguments.items()},
    }
    if not began:
        shown.update(result=value_json(event.result), exception=value_json(event.exception), duration=round(event.duration, 9))
    if event.frames:
        shown["exception"]["stack"] = [
            {
                "file": file,
                "line": line,
                "function": function,
                **({} if found is None else {"locals": {name: value_json(value) for name, value in found.items()}}),
            }
            for file, line, function, found in event.frames
        ]
    if event.shown:
        shown["shown"] = {text: value_json(value) for text, value in event.shown.items()}
    if event.rejected:
        shown["rejected"] = True
    if event.stack:
        shown["stack"] = frames_json(event.stack)
    return shown


# tables ------------------------------------------------------------------------------------------------------------------


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, width: int = 0) -> List[str]:
    """The lines of a table, of which the first `left` columns are aligned to the left and the numbers behind them to the right.

    Where `width` is not 0 and does not hold a line, the first column is cut in front, where names are least told apart.
    """
    table = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    if width and widths[0] + rest > width:
        widths[0] = max(8, width - rest)
    lines = []
    for line in table:
        first = line[0] if len(line[0]) <= widths[0] else f"…{line[0][1 - widths[0] :]}"
        cells = [first, *line[1:]]
        shown = [cell.ljust(size) if place < left else cell.rjust(size) for place, (cell, size) in enumerate(zip(cells, widths))]
        lines.append("  ".join(shown).rstrip())
    return lines


MONITOR_COLUMNS = ("target", "calls", "/s", "errors", "avg", "p50", "p95", "p99", "max")


def monitor_cells(row: MonitorRow) -> List[str]:
    """A line of the table of `monitor`."""
    errors = f"{row.errors} {row.errors / row.calls * 100:.1f}%" if row.errors else "0"
    times = [shown_seconds(one) if row.calls else "-" for one in (row.avg, row.p50, row.p95, row.p99, row.max)]
    return [row.target, str(row.calls), f"{row.rate:.1f}", errors, *times]


def monitor_json(row: MonitorRow) -> Dict[str, Any]:
    """The same for JSON."""
    return {name: getattr(row, name) for name in ("target", "calls", "errors", "rate", "avg", "p50", "p95", "p99", "max")}


STAT_NUMBERS = ("count", "sum", "avg", "p50", "p95", "max")


def number_text(value: float, is_time: bool) -> str:
    """A number that was counted, with four digits at least."""
    if is_time:
        return shown_seconds(value)
    if isinstance(value, int):
        return str(value)
    # As many digits as a float is exact to.
    return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def stat_cells(row: StatRow, is_time: bool) -> List[str]:
    """A line of the table of `stat`."""
    keys = [part if isinstance(part, str) else value_text(part) for part in row.key]
    return [*keys, str(row.count), *(number_text(one, is_time) for one in (row.sum, row.avg, row.p50, row.p95, row.max))]


def stat_json(row: StatRow, by: Sequence[str]) -> Dict[str, Any]:
    """The same for JSON: a key for each expression as it was typed."""
    keys = dict(zip(by, row.key)) if len(row.key) == len(by) else dict.fromkeys(by, "(other)")
    return {**keys, **{name: getattr(row, name) for name in ("count", "sum", "avg", "min", "max", "p50", "p95")}}


def histogram_text(row: StatRow, is_time: bool, width: int = 40) -> List[str]:
    """The powers of two with a bar each."""
    most = max((count for _, _, count in row.octaves), default=1)
    labels = [f"[{number_text(low, is_time)}, {number_text(high, is_time)})" for low, high, _ in row.octaves]
    widest, numbers = max(map(len, labels), default=0), max((len(str(count)) for _, _, count in row.octaves), default=0)
    return [
        f"{label.rjust(widest)}  {str(count).rjust(numbers)} |{('@' * math.ceil(count * width / most)).ljust(width)}|"
        for label, (_, _, count) in zip(labels, row.octaves)
    ]


# stacks ------------------------------------------------------------------------------------------------------------------


def frames_text(frames: Sequence[Any]) -> List[str]:
    """A line for each frame, the innermost first."""
    return [f"    {file}:{line} {function}" for file, line, function in frames]


def frames_json(frames: Sequence[Any]) -> List[Dict[str, Any]]:
    """The same for JSON."""
    return [{"file": file, "line": line, "function": function} for file, line, function in frames]


def stack_json(row: StackRow, target: str) -> Dict[str, Any]:
    """One way in which a target was called."""
    return {"type": "stack", "target": target, "count": row.count, "frames": frames_json(row.frames)}


def running_json(stack: Stack) -> Dict[str, Any]:
    """What a thread or a task does."""
    kind: Mapping[str, Any] = (
        {"task": stack.name, "awaits": list(stack.awaits)} if stack.is_task else {"thread": stack.thread, "name": stack.name}
    )
    return {"type": "stack", "pid": stack.pid, **kind, "count": 1, "frames": frames_json(stack.frames)}

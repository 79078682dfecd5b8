"""Tracebacks across processes: the places that an exception came through, as plain data, as text, and as a traceback again."""

from __future__ import annotations

import linecache
import tokenize
import traceback
import types
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ..model.interrupts import raise_interrupt

Place = Tuple[str, int, str, str, str]
"""A frame of a traceback: file, line, the name of the function, its module, and the text of the line."""

# A path or a line of code that is longer is cut; most are shorter than half of it.
_LONGEST = 250
_OURS = ("xpc_agent", "xpc_instrument")
# Files whose lines are kept.
_FILES = 64
_lines: Dict[str, List[str]] = {}


def places(trace: Optional[types.TracebackType], most: int) -> List[Place]:
    """The frames of a traceback without ours, the outermost first; of more than `most` the first quarter and the last ones."""
    found: List[Tuple[types.FrameType, int]] = []
    while trace is not None:
        if _module(trace.tb_frame).partition(".")[0] not in _OURS:
            found.append((trace.tb_frame, trace.tb_lineno or 0))
        trace = trace.tb_next
    if len(found) > most:
        found = found[: most // 4] + found[len(found) - (most - most // 4) :]
    return [_place(frame, line) for frame, line in found]


def _place(frame: types.FrameType, line: int) -> Place:
    code = frame.f_code
    lines = _lines_of(code.co_filename)
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return code.co_filename[:_LONGEST], line, code.co_name[:_LONGEST], _module(frame)[:_LONGEST], text[:_LONGEST]


def _lines_of(file: str) -> List[str]:
    """The lines of a file as they are now, or were when they were first asked for.

    Not by `linecache`, which contains whatever goes wrong while it reads: what interrupts the thread there, such as a time limit of the
    application's, would be lost. It is looked at for what has no file.
    """
    cached = linecache.cache.get(file)
    if type(cached) is tuple and len(cached) == 4:
        return cached[2]
    found = _lines.get(file)
    if found is None:
        found = []
        if not file.startswith("<"):
            try:
                with tokenize.open(file) as opened:
                    found = opened.readlines()
            except (OSError, SyntaxError, ValueError) as error:
                raise_interrupt(error, of_values=True)
                # It is not there, or no text: then there is no line.
        if len(_lines) >= _FILES:
            _lines.clear()
        _lines[file] = found
    return found


def _module(frame: types.FrameType) -> str:
    name = dict.get(frame.f_globals, "__name__")
    return name if type(name) is str else "?"


def as_text(found: Sequence[Place]) -> str:
    """The lines that Python prints of these places."""
    if not found:
        return ""
    summary = traceback.StackSummary.from_list([(file, line, name, text) for file, line, name, _, text in found])
    return "Traceback (most recent call last):\n" + "".join(summary.format())


def as_traceback(found: Iterable[Place]) -> Optional[types.TracebackType]:
    """A traceback through these places: frames that never ran, without locals, under the names of those that did.

    So an exception that a stand-in raised shows where, as it would if the stand-in were of this process.
    """
    trace: Optional[types.TracebackType] = None
    for file, line, name, module, _ in reversed(list(found)):
        # Without a place in the code, so that the line that is given here counts.
        trace = types.TracebackType(trace, _frame(file, line, name, module), -1, line)
    return trace


def _template() -> Any:
    yield


def _frame(file: str, line: int, name: str, module: str) -> types.FrameType:
    changes: Any = {"co_filename": file, "co_firstlineno": max(line, 1), "co_name": name}
    if hasattr(_template.__code__, "co_qualname"):
        changes["co_qualname"] = name
    code = _template.__code__.replace(**changes)
    frame: types.FrameType = types.FunctionType(code, {"__name__": module, "__file__": file})().gi_frame
    return frame

"""Rows: calls of which all that is shown is plain and small. From the queue to the line that is shown nothing else is made of them.

A row is an event `(hook, number, thread, time, duration, layout, value, ...)`. Its values are atoms, or dicts, lists and tuples of atoms,
no larger than what a capture shows whole. Rows of one hook have their layout in common, as one object, which crosses once in a batch.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from ..values.captures import REDACTED, Tree

Row = Tuple[Any, ...]

NUMBER, THREAD, TIME, DURATION, LAYOUT = range(1, 6)
"""The places of what a row has; `TIME` is in seconds since 1970, `DURATION` in seconds."""

VALUES = 6
"""The place of the first value."""

_SEQUENCES: Dict[type, str] = {list: "list", tuple: "tuple"}


class Layout(NamedTuple):
    """What the values of a row are. It crosses as a tuple."""

    names: Tuple[str, ...]
    """Of arguments, or the texts of expressions."""

    seen: Tuple[bool, ...]
    """Whether a row has a value for the name; else it is redacted."""

    evaluated: bool
    """They are expressions."""

    result: bool
    """Behind them comes the result."""

    file: str
    line: int


def is_row(event: Sequence[Any]) -> bool:
    """Whether an event is a row: in another stand the arguments there."""
    return type(event[TIME]) is float


def named(layout: Layout, row: Row) -> List[Tuple[str, Any]]:
    """The names and what is shown of each: a value of the row, or a tree that says that it is redacted."""
    values = iter(row[VALUES:])
    return [(name, tree_of(next(values)) if seen else REDACTED) for name, seen in zip(layout.names, layout.seen)]


def tree_of(value: Any) -> Tree:
    """What a capture gives for a value of a row."""
    kind = type(value)
    if kind is dict:
        return "d", "dict", [*value.items()], len(value)
    sequence = _SEQUENCES.get(kind)
    return value if sequence is None else ("q", sequence, [*value], len(value))

"""Trees as they come: what one invocation has called, to any depth, and how long each part took."""

from __future__ import annotations

import marshal
from typing import Any, List, Sequence, Tuple

from ..core.model.record import Record
from .call import Call
from .watching import Stream


class TreeNode(Record):
    """The calls of one function from one line of the same parent. Times are in seconds."""

    target: str
    """The function, as it would be named to watch it."""

    count: int
    duration: float
    """Of all of them together: of ``async def`` functions with what they waited, of generators as long as they ran."""

    own: float
    """What of that is in none of the children."""

    min: float
    max: float
    errors: int
    """How many of them raised."""

    error: str
    """The type of the last exception; up to Python 3.11 just ``"exception"``."""

    file: str
    """Where it is called, with ``line``; of the whole tree, where the target is defined."""

    line: int
    children: Tuple[TreeNode, ...]
    """In the order in which they were first called."""


class Tree(TreeNode):
    """One invocation of a target."""

    time: float
    """When it ended, in seconds since 1970."""

    pid: int
    thread: int
    thread_name: str
    id: str
    """A text that no other call of the application has."""

    cut: str
    """Why some of it is missing: ``"nodes"`` with more than 10,000 of them, ``"depth"`` with more than 200 levels, ``"calls"`` with more
    than a million of them, or ``""``."""

    calls: int
    """How many calls were seen below the target."""

    overhead: float
    """What it cost the application, in seconds: what each call cost is contained in the other times, and how it began and ended is not."""


class Trace(Stream[Tree]):
    """A stream of ``Tree``, as ``trace`` gives it."""

    def __init__(self) -> None:
        super().__init__(tree_event)


def tree_event(call: Call) -> Tree:
    """What the hook in the application has told. Raises `ValueError`, `TypeError` or `EOFError` for what it cannot have told."""
    time, thread_name, cut, calls, overhead, names, rows = marshal.loads(call.args[0])  # noqa: S302 - it comes from whom we take pickles
    # From the last row on: the children of a node are known when it is come to.
    waiting: List[List[TreeNode]] = [[]]
    parents: List[int] = []
    levels: List[int] = []
    for row in rows:
        del levels[row[0] :]
        parents.append(levels[-1] if levels else row[1])
        levels.append(row[1])
    for row, parent in zip(reversed(rows), reversed(parents)):
        depth = row[0]
        while len(waiting) <= depth + 1:
            waiting.append([])
        children = tuple(reversed(waiting[depth + 1]))
        waiting[depth + 1] = []
        if depth:
            waiting[depth].append(TreeNode(**_values(names, row, parent, children)))
    return Tree(
        **_values(names, rows[0], parents[0], children),
        time=time,
        pid=call.pid,
        thread=call.thread,
        thread_name=thread_name,
        id=call.id,
        cut=cut,
        calls=calls,
        overhead=overhead,
    )


def _values(names: Sequence[Tuple[str, str]], row: Sequence[Any], parent: int, children: Tuple[TreeNode, ...]) -> Any:
    _, number, count, duration, own, least, most, errors, error, line = row
    return {
        "target": names[number][0],
        "count": count,
        "duration": duration,
        "own": own,
        "min": least,
        "max": most,
        "errors": errors,
        "error": error,
        "file": names[parent][1],
        "line": line,
        "children": children,
    }

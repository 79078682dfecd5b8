"""What the threads and tasks of an application do, as its processes tell it."""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence, Set

from ..core.model.record import Record


class Stack(Record):
    """What a thread or a task of the application is doing."""

    pid: int
    thread: int
    """0 of a task that waits."""

    name: str
    """Of the thread or the task."""

    is_task: bool
    frames: Sequence[Any]
    """File, line and function of each frame, the innermost first; of a task, what it awaits in front of what awaits it."""

    awaits: Sequence[str] = ()
    """The names of the tasks that a task waits for."""


def read_stacks(reports: Sequence[Mapping[str, Any]]) -> List[Stack]:
    """The stacks of all processes."""
    return [
        Stack(
            data["pid"],
            one["thread"],
            one["task"] or one["name"],
            bool(one["task"]),
            tuple(map(tuple, one["frames"])),
            tuple(one["awaits"]),
        )
        for data in reports
        for one in data["stacks"]
    ]


def unseen(reports: Sequence[Mapping[str, Any]]) -> List[str]:
    """The libraries whose tasks are not told."""
    names: Set[str] = set()
    for data in reports:
        names.update(data["unseen"])
    return sorted(names)

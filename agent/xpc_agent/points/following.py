"""The main program of an application that a script has waited for, followed from its first instruction: nothing that it defines is called
before it is hooked."""

from __future__ import annotations

from typing import Set

from xpc_instrument.core.model.target import is_line, split_target

from ..targets.definitions import ANY, follow
from ..targets.module import main_names
from .table import ProbeTable


def follow_program(table: ProbeTable) -> None:
    """Called in the main thread before the program begins."""
    if table.watch.runs:
        follow(lambda: _wanted(table), table.watch.look_between)


def _wanted(table: ProbeTable) -> Set[str]:
    """What of the main program has hooks and is not there yet: names in its module."""
    mains = ("__main__", *main_names())
    if any(map(table.awaiting.covers_module, mains)):
        return {ANY}
    pending = [point for point in list(table.points.values()) if point.state == "pending" and point.hooks and point.module in mains]
    return {ANY if is_line(point.target) else split_target(point.target)[1].partition(".")[0] for point in pending}

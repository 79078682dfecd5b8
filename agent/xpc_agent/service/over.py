"""Hooks whose terms are over, as an invocation has found: taken off by a thread of ours.

Rules:
- The thread that called waits for nothing. To take a hook off the table's lock is needed, and whoever has that may come to code of the
  application: a `__del__` that the garbage collector runs, an audit hook. Where that waits for a lock which the caller has, both would
  wait for ever.
- Until it is taken off it takes no invocation, which costs each of them what it takes to ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict

from ..points.table import ProbeTable
from .selections import Selections

if TYPE_CHECKING:
    from ..hooks.remote import RemoteHook
    from ..points.point import ProbePoint


class Over:
    """Those that are to be taken off. `wake` has the service thread look, and says whether there is one; else the table's does."""

    def __init__(self, table: ProbeTable, selections: Selections, wake: Callable[[], bool]) -> None:
        self._table = table
        self._selections = selections
        self._wake = wake
        self._ends: Dict[Any, Callable[[], None]] = {}

    def ending(self, point: ProbePoint, alone: bool) -> Callable[[RemoteHook], None]:
        """What an invocation calls that finds a hook on the point over, the only one of its registration or one of several."""
        if alone:
            return lambda hook: self._add((hook.session, hook.number), lambda: self._put_off(point, hook))
        return lambda hook: self.ending_all(hook.session, hook.number)()

    def ending_all(self, session: str, number: int) -> Callable[[], None]:
        """What an invocation calls that finds a registration over."""
        return lambda: self._add((session, number), lambda: self.end(session, number))

    def _add(self, key: Any, end: Callable[[], None]) -> None:
        if self._ends.setdefault(key, end) is end and not self._wake():
            self._table.leave(self.take_off)

    @property
    def due(self) -> bool:
        """Whether there are any."""
        return bool(self._ends)

    def take_off(self) -> None:
        """Take them off."""
        for key, end in self._ends.copy().items():
            end()
            self._ends.pop(key, None)

    def end(self, session: str, number: int) -> None:
        """Take off all hooks of a registration."""
        self._selections.drop(session, number)
        for point in list(self._table.points.values()):
            for hook in point.hooks:
                if hook.session == session and hook.number == number:
                    self._put_off(point, hook)

    def _put_off(self, point: ProbePoint, hook: Any) -> None:
        # One that has counted stays until its script has asked what it has.
        if hook.terms.local is None:
            if any(one is hook for one in point.hooks):
                self._table.remove(point, hook)
        else:
            hook.rest()

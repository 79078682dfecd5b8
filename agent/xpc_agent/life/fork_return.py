"""The moment at which `os.fork` has returned to what has called it, where Python counts threads that late.

From 3.12 on a fork warns of a second thread. CPython 3.13.0 to 3.13.9 and 3.14.0 count when they have called what is registered for the
parent (gh-137109), where ours would start again. There they start as the thread that has forked runs on: with the next line, call or
return of the function that forked, of which `sys.monitoring` tells.

Rules:
- A fork that warns anyway, since the application has another thread, waits for nothing; nor does one whose caller cannot be watched.
- What waits is done before the next fork, whatever became of the moment.
- Imports nothing of ours: the stand-in of the agent (`bootstrap/sitecustomize.py`) asks here, too.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import Any, Callable, List, Optional

COUNTS_LATE = (3, 13) <= sys.version_info < (3, 13, 10) or sys.version_info[:3] == (3, 14, 0)
"""Whether this Python counts threads after it has called what is registered for the parent."""

# Absent before Python 3.12. Those without a meaning of their own come first.
_tools: Any = getattr(sys, "monitoring", None)
_IDS = (4, 3, 5)
_THREADS = "/proc/self/task"


class _Return:
    """One such moment: a tool of its own that is told what the code does which has forked."""

    def __init__(self, code: CodeType) -> None:
        self._code = code
        self._tool = -1
        self.go_on: List[Callable[[], object]] = []

    def watch(self) -> bool:
        """Be told; False if all tools are taken."""
        free = [one for one in _IDS if _tools.get_tool(one) is None]
        if not free:
            return False
        self._tool = free[0]
        _tools.use_tool_id(self._tool, "xpc-instrument fork")
        events = _tools.events
        told = events.LINE, events.CALL, events.PY_RETURN, events.PY_YIELD
        for event in told:
            _tools.register_callback(self._tool, event, self._has_returned)
        _tools.set_local_events(self._tool, self._code, sum(told))
        return True

    def _has_returned(self, *_: object) -> None:
        catch_up()

    def end(self) -> None:
        """Be told no more, and have all go on."""
        tool, self._tool = self._tool, -1
        try:
            _tools.set_local_events(tool, self._code, 0)
            events = _tools.events
            for event in (events.LINE, events.CALL, events.PY_RETURN, events.PY_YIELD):
                _tools.register_callback(tool, event, None)
            _tools.free_tool_id(tool)
        finally:
            for go_on in self.go_on:
                go_on()


_waiting: Optional[_Return] = None


def when_returned(caller: Optional[FrameType], go_on: Callable[[], object]) -> None:
    """Call `go_on` once `os.fork` has returned to `caller`, which called it, or now where that makes no difference.

    To be called by what is registered for the parent.
    """
    global _waiting
    if _waiting is None and COUNTS_LATE and caller is not None and _is_alone():
        one = _Return(caller.f_code)
        if one.watch():
            _waiting = one
    if _waiting is not None:
        _waiting.go_on.append(go_on)
    else:
        go_on()


def catch_up() -> None:
    """Do now what waits for a fork to return, if anything does: it has, or the next one begins."""
    global _waiting
    waiting, _waiting = _waiting, None
    if waiting is not None:
        waiting.end()


def _is_alone() -> bool:
    try:
        return len(os.listdir(_THREADS)) == 1
    except OSError:
        return False

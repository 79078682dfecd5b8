"""What an invocation calls, told by `sys.monitoring`: Python 3.12 and later.

Rules:
- Code is told of that is in trees, and only while one grows. All other code runs as ever; threads that run the same code meanwhile pay for
  a callback that sees that it is another's thread, and returns.
- That a function is left by an exception, or gone on with by one, can be had for some code only from Python 3.15 on; before, it is told of
  all code while a tree grows. Nobody pays for it but who raises.
- The callbacks belong to one tree: there is one at a time in a process.
"""

from __future__ import annotations

import sys
from threading import get_ident
from types import CodeType
from typing import Any, Callable, List, Optional

from ..monitoring import monitoring
from ..targets.flags import CO_ASYNC_GENERATOR
from .growth import MOST_CALLS, Growth, error_name, waits

_OWNER = "trees"
_getframe = sys._getframe


class Monitored:
    """Tells `growth` of what the running thread does, in `codes`. `current` gives the running greenlet, where there are any."""

    def __init__(self, growth: Growth, codes: List[CodeType], current: Optional[Callable[[], Any]]) -> None:
        self._growth = growth
        self._codes = codes
        self._current = current
        self._events = self._everywhere = 0

    def begin(self) -> str:
        """Begin; the reason, if that cannot be."""
        events = sys.monitoring.events  # type: ignore[attr-defined, unused-ignore]
        local = events.PY_START | events.PY_RETURN | events.PY_YIELD | events.PY_RESUME
        thrown = events.PY_UNWIND | events.PY_THROW
        self._events, self._everywhere = (local | thrown, 0) if sys.version_info >= (3, 15) else (local, thrown)
        monitoring.acquire(_OWNER)
        for event, callback in self._callbacks(events).items():
            monitoring.listen(event, callback)
        monitoring.add_for_now(self._codes, self._events)
        if self._everywhere:
            monitoring.everywhere(self._everywhere)
        return ""

    def end(self) -> None:
        """End, in any thread."""
        if self._everywhere:
            monitoring.everywhere(0)
        monitoring.drop_for_now(self._codes)
        for event in self._callbacks(sys.monitoring.events):  # type: ignore[attr-defined, unused-ignore]
            monitoring.listen(event, None)
        monitoring.release(_OWNER)

    def _callbacks(self, events: Any) -> Any:
        growth, mine, ident, current, getframe = self._growth, get_ident(), get_ident, self._current, _getframe
        greenlet = None if current is None else current()
        stack, enter, leave, pause, resume = growth.stack, growth.enter, growth.leave, growth.pause, growth.resume
        all_events = (events.PY_START, events.PY_RETURN, events.PY_YIELD, events.PY_RESUME, events.PY_UNWIND, events.PY_THROW)

        def started(code: CodeType, offset: int) -> None:
            if ident() != mine or (current is not None and current() is not greenlet):
                return
            if not stack:
                resume(code, id(getframe(1)), None)
                return
            enter(code, getframe(2))
            if growth.calls > MOST_CALLS:
                growth.cut = "calls"
                for event in all_events:
                    monitoring.listen(event, None)

        def returned(code: CodeType, offset: int, value: Any) -> None:
            if stack and ident() == mine and (current is None or current() is greenlet):
                leave(code)

        def paused(code: CodeType, offset: int, value: Any) -> None:
            if stack and ident() == mine and (current is None or current() is greenlet):
                pause(code, id(getframe(1)), bool(code.co_flags & CO_ASYNC_GENERATOR) and waits(value))

        def resumed(code: CodeType, offset: int, error: Any = None) -> None:
            if ident() == mine and (current is None or current() is greenlet):
                resume(code, id(getframe(1)), getframe(2))

        def unwound(code: CodeType, offset: int, error: BaseException) -> None:
            if stack and ident() == mine and (current is None or current() is greenlet):
                leave(code, error_name(error))

        return dict(zip(all_events, (started, returned, paused, resumed, unwound, resumed)))

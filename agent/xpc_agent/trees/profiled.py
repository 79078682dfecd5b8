"""What an invocation calls, told by `sys.setprofile` in its own thread: up to Python 3.11, where other threads do not pay for that.

Rules:
- A profiler that somebody else has put there stays: then nothing is told of here. One that is put there meanwhile stays too, and is the end
  of ours.
- Another thread cannot take it away: it says that it is over, and the next event takes it away.
- How a function is left is seen by the instruction at which it is: an exception leaves at any other than those that return or give, and of
  which type it is cannot be seen. What is thrown into a generator, and not caught there, leaves where it was given something: that is no
  error here, as most of it is `close`; up to Python 3.10 it looks as if it gave once more.
"""

from __future__ import annotations

import sys
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, Callable, Dict, Optional

from ..targets.flags import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from .codes import Codes
from .growth import MOST_CALLS, Growth, waits

# Of instructions in Python 3.9 to 3.11: each means the same in all of them that have it, and `opcode` is not loaded for that.
_RETURN_VALUE, _YIELD_VALUE, _YIELD_FROM, _RESUME = 83, 86, 72, 151
# Up to Python 3.10 what waits for another is at the instruction before, to come to this one again.
_STAYS_BEFORE = sys.version_info < (3, 11)
_STEPS = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR


def _begins(text: bytes, place: int) -> bool:
    """Whether the frame of a generator or coroutine is at its beginning."""
    return place < 0 or (text[place] == _RESUME and text[place + 1] == 0)


def _gives(text: bytes, place: int) -> bool:
    """Whether it gives something, or waits."""
    return text[place] == _YIELD_VALUE or (_STAYS_BEFORE and text[place + 2] == _YIELD_FROM)


def _waits(text: bytes, place: int, value: Any) -> bool:
    """Whether an asynchronous generator waits. Where the instruction tells it, what is thrown into one and leaves it is no waiting."""
    return text[place] != _YIELD_VALUE if _STAYS_BEFORE else waits(value)


class Profiled:
    """Tells `growth` of what the running thread does, in what `codes` wants. `current` gives the running greenlet, where there are any."""

    def __init__(self, growth: Growth, codes: Codes, current: Optional[Callable[[], Any]]) -> None:
        self._growth = growth
        self._codes = codes
        self._current = current
        self._thread = get_ident()
        self._over = False
        self._profile = self._made()

    def begin(self) -> str:
        """Begin; the reason, if that cannot be."""
        if sys.getprofile() is not None:
            return "profiler"
        sys.setprofile(self._profile)
        return ""

    def end(self) -> None:
        """End, in any thread."""
        self._over = True
        if get_ident() == self._thread and sys.getprofile() is self._profile:
            sys.setprofile(None)

    def _made(self) -> Callable[[FrameType, str, Any], None]:
        growth, wants, current = self._growth, self._codes.wants, self._current
        greenlet = None if current is None else current()
        stack, enter, leave, pause, resume = growth.stack, growth.enter, growth.leave, growth.pause, growth.resume
        # By address, as the code is kept by `codes`: its instructions, or None if it is not in trees.
        root = growth.root.code
        known: Dict[int, Optional[bytes]] = {id(root): root.co_code}
        # The frame of the generator that somebody has thrown something into, as long as it has not given anything since.
        thrown_into = [0]

        def look(code: CodeType, frame: FrameType) -> Optional[bytes]:
            module = frame.f_globals.get("__name__")
            found = code.co_code if wants(code, module if type(module) is str else "?") else None
            known[id(code)] = found
            return found

        def profile(frame: FrameType, event: str, value: Any) -> None:
            if event == "call":
                code = frame.f_code
                try:
                    text = known[id(code)]
                except KeyError:
                    text = look(code, frame)
                if text is None or (current is not None and current() is not greenlet):
                    return
                if self._over:
                    sys.setprofile(None)
                elif code.co_flags & _STEPS and not _begins(text, frame.f_lasti):
                    if not _STAYS_BEFORE and text[frame.f_lasti] == _YIELD_VALUE:
                        thrown_into[0] = id(frame)
                    resume(code, id(frame), frame.f_back)
                elif not stack:
                    resume(code, id(frame), None)
                else:
                    enter(code, frame.f_back)
                    if growth.calls > MOST_CALLS:
                        growth.cut = "calls"
                        sys.setprofile(None)
            elif event == "return" and stack:
                code = frame.f_code
                text = known.get(id(code))
                if text is None or (current is not None and current() is not greenlet):
                    return
                place = frame.f_lasti
                if text[place] == _RETURN_VALUE:
                    leave(code)
                elif not code.co_flags & _STEPS or not _gives(text, place):
                    leave(code, "exception")
                elif value is None and thrown_into[0] == id(frame):
                    leave(code)
                else:
                    pause(code, id(frame), bool(code.co_flags & CO_ASYNC_GENERATOR) and _waits(text, place, value))
                    thrown_into[0] = 0

        return profile

"""Work that is interrupted at every moment, as Ctrl-C or a handler of a signal may do it."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any, Callable, Iterator, Optional


class Interruption(BaseException):
    """As Ctrl-C raises one."""


def interrupted(work: Callable[[], Any]) -> Iterator[BaseException]:
    """`work` again and again, interrupted each time at a later line, call or return of what it runs, until it comes to its end."""
    moment = 0
    while True:
        moment += 1
        left = moment

        def trace(frame: FrameType, event: str, argument: Any) -> Optional[Callable[..., Any]]:
            nonlocal left
            left -= 1
            if not left:
                sys.settrace(None)
                raise Interruption
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        except BaseException as error:
            yield error
        else:
            return
        finally:
            sys.settrace(before)


def within(work: Callable[[], Any]) -> bool:
    """Whether another thread can do that, and does not wait for ever."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()

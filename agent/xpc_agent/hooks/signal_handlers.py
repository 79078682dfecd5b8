"""What a signal handler of the application raises while its thread waits for a hook.

A time limit of a task queue, or a home-made one with `signal.alarm`, is often an ordinary exception, even an OSError. It is no failure of
ours to be hidden: without us it would have been raised in the middle of the original.

Rules:
- A handler is known by what only a handler has: its argument is the frame that it interrupted, which is also its caller.
- A failure of ours that was made of it (`raise ... from`) counts too; what the application was handling before (`__context__`) does not.
- Frames of ours are not looked into: before Python 3.13 a frame keeps what `f_locals` gave, the error included, and would live, with all
  that it holds, until the garbage collector finds the cycle.
"""

from __future__ import annotations

from types import FrameType
from typing import NoReturn, Optional

from ..targets.flags import CO_VARARGS


def raised_by_handler(error: BaseException) -> Optional[BaseException]:
    """What a signal handler raised, if `error` is that or was made of it."""
    seen: Optional[BaseException] = error
    for _ in range(10):
        if seen is None:
            return None
        trace = seen.__traceback__
        while trace is not None:
            if not _is_ours(trace.tb_frame) and _is_handler(trace.tb_frame):
                return seen
            trace = trace.tb_next
        seen = seen.__cause__
    return None


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("xpc_agent", "xpc_instrument")


def _is_handler(frame: FrameType) -> bool:
    interrupted = frame.f_back
    code = frame.f_code
    # Its arguments, the last of which may be a tuple of all the rest.
    names = code.co_varnames[: code.co_argcount + bool(code.co_flags & CO_VARARGS)]
    if interrupted is None or not names:
        return False
    values = frame.f_locals
    for name in names:
        value = values.get(name)
        if value is interrupted or (type(value) is tuple and any(one is interrupted for one in value)):
            return True
    return False


def raise_on(error: BaseException) -> NoReturn:
    """Raise it as it was: not as something that came of a failure of ours."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        # Its traceback holds this frame.
        del error

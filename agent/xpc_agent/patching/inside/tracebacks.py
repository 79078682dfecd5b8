"""What of a traceback is shown where `enter`, `leave` or `failed` raised: see `insertion`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Callable, Collection, Optional

# An exception's class may have a `__traceback__` of its own.
_set_traceback: Callable[[BaseException, Optional[TracebackType]], None] = vars(BaseException)["__traceback__"].__set__


def original_part(error: BaseException, ours: Collection[str] = ("xpc_agent", "xpc_instrument")) -> Optional[TracebackType]:
    """The traceback of an exception without its first entry, the armed function's, and without the entries of the agent that follow.

    For `raised`, which sets it as the exception's traceback: the armed function's entry is added again.
    """
    first = error.__traceback__
    trace = first and first.tb_next
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in ours:
        trace = trace.tb_next
    return trace


def cut(token: Any, error: BaseException) -> None:
    """The least that `raised` has to do."""
    _set_traceback(error, original_part(error))

"""Setting a context variable where a garbage collection may come in between, up to Python 3.11.

There a collection runs within any allocation, also within the one that `ContextVar.set` makes while it reads the map that it replaces, of
which it holds no reference (Python/context.c, contextvar_set). A `__del__`, or what else a collection calls, that comes to a `set` of its
own frees that map, and the process ends with a segmentation fault. Later versions collect between two instructions.

Rules:
- None of ours is set in a collection: another `set` may be waiting for that to end. The collector says when it begins and ends
  (`gc.callbacks`), in the thread that collects; before and after the callbacks that are there.
- No collection comes while one of ours is set.
"""

from __future__ import annotations

import gc
import sys
from contextvars import ContextVar
from typing import Any, Mapping, Set
from weakref import WeakSet

from xpc_instrument.core.unpatched import get_ident

_MATTERS = sys.version_info < (3, 12)

_collecting: Set[int] = set()
_followers: WeakSet[Any] = WeakSet()


def is_collecting() -> bool:
    """Whether the running thread is in a collection, as far as somebody follows them."""
    return bool(_collecting) and get_ident() in _collecting


def set_variable(variable: ContextVar[Any], value: Any) -> None:
    """Set a variable in the running context; not in a collection."""
    if not _MATTERS or not gc.isenabled():
        variable.set(value)
        return
    try:
        gc.disable()
        variable.set(value)
    finally:
        gc.enable()


def follow(who: object) -> None:
    """Know of collections from now on, for somebody; more than once is once."""
    if not _MATTERS:
        return
    _followers.add(who)
    if not any(one is _ended for one in gc.callbacks):
        # Of a collection that was under way when the last one left nobody has told the end.
        _collecting.clear()
        gc.callbacks.append(_ended)
        gc.callbacks.insert(0, _begun)


def unfollow(who: object) -> None:
    """Somebody needs it no longer."""
    _followers.discard(who)
    if not _followers:
        for index in reversed(range(len(gc.callbacks))):
            if gc.callbacks[index] is _begun or gc.callbacks[index] is _ended:
                del gc.callbacks[index]


def _begun(phase: str, info: Mapping[str, int]) -> None:
    if phase == "start":
        _collecting.add(get_ident())


def _ended(phase: str, info: Mapping[str, int]) -> None:
    if phase == "stop":
        _collecting.discard(get_ident())

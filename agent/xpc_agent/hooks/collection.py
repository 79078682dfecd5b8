"""Whether the running thread is in the middle of a garbage collection: what `ContextVar.set` must not be called in, up to Python 3.11.

There a collection runs within any allocation, also within the one that `ContextVar.set` makes while it reads the map that it replaces, of
which it holds no reference (Python/context.c, contextvar_set). A `__del__` or a callback of a weak reference that comes to a `set` of its
own frees that map, and the process ends with a segmentation fault. Later versions collect between two instructions.

Rules:
- The collector says when it begins and ends (`gc.callbacks`), to what is there as long as somebody needs it.
- It tells in the thread that collects; others go on meanwhile, each in a context of its own.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, Mapping, Set
from weakref import WeakSet

from xpc_instrument.core.unpatched import get_ident

_MATTERS = sys.version_info < (3, 12)

_collecting: Set[int] = set()
_followers: WeakSet[Any] = WeakSet()


def is_collecting() -> bool:
    """Whether the running thread is in a collection, as far as somebody follows them."""
    return bool(_collecting) and get_ident() in _collecting


def follow(who: object) -> None:
    """Know of collections from now on, for somebody; more than once is once."""
    if not _MATTERS:
        return
    _followers.add(who)
    if not any(one is _told for one in gc.callbacks):
        # Of a collection that was under way when the last one left nobody has told the end.
        _collecting.clear()
        gc.callbacks.append(_told)


def unfollow(who: object) -> None:
    """Somebody needs it no longer."""
    _followers.discard(who)
    if not _followers:
        for index, one in enumerate(gc.callbacks):
            if one is _told:
                del gc.callbacks[index]
                return


def _told(phase: str, info: Mapping[str, int]) -> None:
    if phase == "start":
        _collecting.add(get_ident())
    else:
        _collecting.discard(get_ident())

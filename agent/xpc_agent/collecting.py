"""Automatic garbage collection, put off while a thread of ours imports: it would run there, and what it runs is the application's.

A collection runs in whatever thread makes the object that is one too many, and with it `__del__`s and `gc.callbacks` of the application.
Where one takes a lock that another thread has, which is in an import, and ours has a lock of the import system, both wait for ever.

Rules:
- It is off between `hold` and `let_go`, for the tens of milliseconds of one import of ours, and only where it was on. Nothing else of it is
  changed: an application that multiplies or keeps a threshold gets its own.
- It is on again whatever happens, and in a forked child at once. What the application decides meanwhile cannot be told from what is done
  here, so at worst it is on where it was to be off.
- `sitecustomize` and `attached` do the same while they load this (`bootstrap/`).
"""

from __future__ import annotations

import gc
from typing import Callable, List, TypeVar

T = TypeVar("T")

# One for each stretch that is under way: appending and popping are one step each.
_stretches: List[None] = []
_is_ours = False


def hold() -> None:
    """No automatic collections until `let_go`, in any thread; in a thread of ours, which runs no signal handlers. It may be nested."""
    global _is_ours
    _stretches.append(None)
    if gc.isenabled():
        _is_ours = True
        gc.disable()


def let_go() -> None:
    """As before."""
    _stretches.pop()
    if not _stretches:
        _go_on()


def held(work: Callable[[], T]) -> T:
    """What `work` returns, done in between."""
    hold()
    try:
        return work()
    finally:
        let_go()


def _go_on() -> None:
    global _is_ours
    if _is_ours:
        _is_ours = False
        gc.enable()


def reset_after_fork() -> None:
    """In a forked child, whose parent's threads are not there."""
    _stretches.clear()
    _go_on()

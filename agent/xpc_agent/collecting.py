"""Automatic garbage collection, put off while a thread of ours works: it would run there, and what it runs is the application's.

A collection runs in whatever thread makes the object that is one too many, and with it `__del__`s and `gc.callbacks` of the application.
Where one takes a lock that another thread has, which is in an import, and ours has a lock of the import system, both wait for ever.

Rules:
- While a thread of ours is between `hold` and `let_go`, the threshold of the youngest generation is out of reach: what it was, and
  2,000,000,000. So whoever looks at it knows what it was: another thread of ours, a forked child, and this one when the application
  has put back what it had read meanwhile. `gc.disable` would not be known from the application's own.
- What the application sets meanwhile stays. Where it has set 0, or more than 147,483,647, it is left alone.
- It is for a moment. Who works for longer calls `breathe` where no lock is held that others may wait for. The threads of the application
  collect then what is due.
- `sitecustomize` and `attached` do the same while they load this (`bootstrap/`), and undo it; what they leave is undone here.
"""

from __future__ import annotations

import gc
from typing import List, Optional

from xpc_instrument.core.unpatched import monotonic, sleep

# Beyond what is counted in a process: each object there takes 16 bytes at least.
OUT_OF_REACH = 2_000_000_000
# A threshold above this does not leave room for that in a C int, and is as good as out of reach itself.
_MOST = 147_483_647
# Seconds after which `breathe` does something, and for how long it does.
_BREATHLESS, _BREATH = 0.05, 0.001
# When it is looked whether the application has put back what it had read meanwhile: after so many seconds, and after twice as many each
# time until there have been so many. A stretch below that many seconds is not worth it.
_FIRST_LOOK, _LAST_LOOK, _SHORT = 1.0, 1024.0, 0.001

# One for each stretch that is under way: appending and popping are one step each.
_stretches: List[float] = []
_look_at: Optional[float] = None
_patience = _FIRST_LOOK


def hold() -> None:
    """No automatic collections until `let_go`, in any thread; in a thread of ours, which runs no signal handlers. It may be nested."""
    _stretches.append(monotonic())
    _put_off()


def _put_off() -> None:
    first, *rest = gc.get_threshold()
    if 0 < first <= _MOST:
        gc.set_threshold(first + OUT_OF_REACH, *rest)


def let_go() -> None:
    """As before."""
    global _look_at, _patience
    now = monotonic()
    since = _stretches.pop()
    restore()
    if now - since > _SHORT:
        _look_at, _patience = now + _FIRST_LOOK, _FIRST_LOOK
    elif _look_at is not None and now >= _look_at:
        _patience *= 2
        _look_at = now + _patience if _patience <= _LAST_LOOK else None


def restore() -> None:
    """Have collections go on, unless a stretch is under way."""
    if not _stretches:
        _go_on()
        if _stretches:
            # One has begun at this moment.
            _put_off()


def _go_on() -> None:
    first, *rest = gc.get_threshold()
    if first > OUT_OF_REACH:
        gc.set_threshold(first - OUT_OF_REACH, *rest)


def breathe() -> None:
    """In a stretch that has lasted for a while: have other threads collect what is due."""
    if _stretches and monotonic() - _stretches[-1] > _BREATHLESS:
        _go_on()
        sleep(_BREATH)
        _stretches[-1] = monotonic()
        _put_off()


def due() -> Optional[float]:
    """When `let_go` is to be called once more, in the seconds of `monotonic`; None if it need not."""
    return _look_at


def reset_after_fork() -> None:
    """In a forked child, whose parent's threads are not there."""
    global _look_at
    _look_at = None
    _stretches.clear()
    _go_on()

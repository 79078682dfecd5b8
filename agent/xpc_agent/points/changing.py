"""The lock of the table, and for how long it is waited for.

Whoever holds it may come to code of the application: `function.__code__ = ...`, `code.replace` and `open` raise audit events, annotations
are evaluated from Python 3.14 on, a module may have a `__getattr__`. That may wait for a lock of the application's own. So nobody who may
have such a lock waits for this one for ever.

Rules:
- A thread of ours outside of imports, which has no other lock, waits for as long as it takes: `with changing():`.
- A thread of the application waits for a second at most, in all, while a module is looked at that it has imported, or for one change. So
  does ours while it imports, since then it has the locks of the import system. What it was to do is done by a thread of ours later.
- After that nobody of them waits for some seconds, as a program that imports a hundred modules would do it a hundred times.
- A signal handler that raises leaves nothing held (`held_for`).
"""

from __future__ import annotations

from typing import Any, Callable, Optional, TypeVar

from xpc_instrument.core.model.errors import XpcError
from xpc_instrument.core.unpatched import Local, RLock, held_for, monotonic

from ..guard import guard

T = TypeVar("T")

# How long a thread of the application waits, and for how long nobody does if that was not enough, in seconds.
_PATIENCE, _TIRED = 1.0, 2.0


class BusyError(XpcError):
    """The probe points are being changed by a thread that has not come to its end in time."""

    def __init__(self) -> None:
        super().__init__("the probe points of this process are being changed by another thread, which waits for something; try again")


class _Here(Local):
    """Until when the running thread waits; None if it is not in `shortly`."""

    until: Optional[float] = None


class Changing:
    """The lock: `with changing():`, or `change(work)` where a thread of the application may come."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._here = _Here()
        self._tired_until = 0.0

    def __call__(self) -> Any:
        return self._lock()

    def change(self, work: Callable[[], T]) -> T:
        """What `work` returns, done with the lock held. Raises `BusyError` where that cannot be in time."""
        until = self._here.until
        lock = self._lock()
        if (until is None and guard.ours) or lock._is_owned():
            with lock:
                return work()
        if until is not None:
            done: T = held_for(lock, max(0.0, until - monotonic()), work, BusyError)
        else:
            done = held_for(lock, self._patience(), work, self._too_long)
        return done

    def shortly(self, work: Callable[[], object]) -> bool:
        """Do work in which `change` waits for a moment in all; False if that was not enough, and some of it is to be done again."""
        here = self._here
        if here.until is not None:
            work()
            return True
        try:
            here.until = monotonic() + self._patience()
            work()
            return True
        except BusyError:
            self._too_long()
            return False
        finally:
            # Twice, as up to Python 3.10 a signal handler may raise at the beginning of the first.
            try:
                here.until = None
            except BaseException:
                here.until = None
                raise

    def _patience(self) -> float:
        return _PATIENCE if monotonic() >= self._tired_until else 0.0

    def _too_long(self) -> BusyError:
        self._tired_until = monotonic() + _TIRED
        return BusyError()

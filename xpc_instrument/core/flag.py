"""Something that happens once, for which a thread waits that Ctrl-C may interrupt at any moment."""

from __future__ import annotations

import threading


class Flag:
    """As `threading.Event`, for one thread at a time that waits, or several that look again after a while.

    `Event` and `Condition` are entered by functions of Python: what a signal handler raises at the end of one leaves the lock held for
    ever, and whoever is to tell that it has happened waits for that, such as the end of a session after Ctrl-C. Here the one lock is held
    until it has happened, and nobody waits for it to tell so.
    """

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """It happens. Harmless if it has happened before."""
        self._is_set = True
        try:
            self._lock.release()
        except RuntimeError:
            pass  # somebody has, before or at the same time

    def wait(self, timeout: float) -> bool:
        """Wait until it has happened, at most so many seconds; whether it has."""
        if not self._is_set and self._lock.acquire(timeout=timeout):
            self.set()
        return self._is_set

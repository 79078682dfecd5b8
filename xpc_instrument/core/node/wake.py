"""A pipe that ends the wait of a thread of ours which polls.

An application may close all descriptors, as daemons do, and what it opens next has their numbers: whether a number is still the pipe's is
asked before anything is written to it or closed.
"""

from __future__ import annotations

import errno
import os
from typing import Tuple

from ..model.interrupts import raise_interrupt
from ..unpatched import close, read, write

# By their own names: `os:write` may be a target.
_read, _write, _close, _stat = read, write, close, os.fstat


class WakePipe:
    """One that is open once `open` was called. `read_end` is what to poll, -1 while it is not open."""

    __slots__ = ("_identity", "_write_end", "read_end")

    def __init__(self) -> None:
        self.read_end = self._write_end = -1
        self._identity = 0, 0

    def open(self) -> None:
        """Open it, unless it is. Raises `OSError` if no descriptor is left."""
        if self.read_end >= 0:
            return
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        self._identity = _identity_of(read_end)
        self.read_end, self._write_end = read_end, write_end

    def wake(self) -> None:
        """Have whoever polls see it; nothing happens where it is not open."""
        try:
            # Both ends have the inode of their pipe.
            if _identity_of(self._write_end) == self._identity:
                _write(self._write_end, b"w")
        except BlockingIOError:
            pass  # the earlier ones have not been read yet, so it will look
        except OSError as error:
            raise_interrupt(error, of_values=True)
            if error.errno != errno.EBADF:
                raise

    def drain(self) -> None:
        """Read what has come, for whoever polls."""
        try:
            while len(_read(self.read_end, 512)) == 512:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close both ends, if they are still its own."""
        ends = (self.read_end, self._write_end)
        self.read_end = self._write_end = -1
        for end in ends:
            try:
                if end >= 0 and _identity_of(end) == self._identity:
                    _close(end)
            except OSError as error:
                raise_interrupt(error, of_values=True)
                if error.errno != errno.EBADF:
                    raise


def _identity_of(descriptor: int) -> Tuple[int, int]:
    facts = _stat(descriptor)
    return facts.st_dev, facts.st_ino

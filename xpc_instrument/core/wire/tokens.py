"""Tokens: what several processes have so many of together, each of which one of them takes.

Rules:
- They are the bytes of a pipe that has no writer any more. Who takes one reads a byte, in one step that never waits; where none is left,
  the pipe is at its end. So none is taken twice, and a process that dies takes none with it but those that it had taken.
- A script makes the pipe and keeps a reading end. A process opens another one, by `name`, through `/proc`: it can if it is on the same
  machine, in the same pid namespace, and of the same user. What is found there is compared with the name before it is opened.
- An application may close all descriptors, as daemons do, and have a file of its own at the number then: each time it is looked whether
  that is still the pipe.
- A forked child inherits the descriptor, and takes from the same pipe.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Tuple

from ..model.errors import ChannelError
from ..model.interrupts import raise_interrupt
from ..unpatched import close as close_descriptor
from ..unpatched import open_file, read, write

_BOOT = "/proc/sys/kernel/random/boot_id"
_F_SETPIPE_SZ = 1031
# What a pipe holds that nobody has made larger, in bytes, and what an unprivileged process may have it hold (pipe(7)).
_USUAL, MOST = 64 << 10, 1 << 20

_fstat = os.fstat


class Tokens:
    """So many of them, for the processes that know their `name`. Raises `ChannelError` where there can be none."""

    def __init__(self, count: int) -> None:
        if not sys.platform.startswith("linux"):
            raise ChannelError("this system has no descriptors of other processes in /proc")
        if count > MOST:
            raise ChannelError(f"a pipe holds at most {MOST} tokens")
        self._end = -1
        try:
            self._end, writing = os.pipe()
            try:
                if count > _USUAL:
                    import fcntl

                    fcntl.fcntl(writing, _F_SETPIPE_SZ, MOST)
                os.set_blocking(writing, False)
                # Less is taken where the user has too many pipes already.
                if write(writing, bytes(count)) < count:
                    raise ChannelError(f"the pipe does not hold {count} tokens")
            finally:
                close_descriptor(writing)
            self.name = f"{os.getpid()} {self._end} {' '.join(map(str, _identity(_fstat(self._end))))} {_boot()}"
        except (OSError, ChannelError) as error:
            self.close()
            raise ChannelError(f"no tokens can be had: {error}") from error

    @property
    def left(self) -> int:
        """How many nobody has taken; 0 once it is closed."""
        import fcntl
        import termios

        if self._end < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(self._end, termios.FIONREAD, bytes(4)), sys.byteorder)

    def close(self) -> None:
        """Let go of the pipe; the others still have it."""
        end, self._end = self._end, -1
        if end >= 0:
            close_descriptor(end)


class Purse:
    """Where a process takes tokens of that name. Raises `ChannelError` where it cannot have them."""

    __slots__ = ("_end", "_identity")

    def __init__(self, name: str) -> None:
        self._end = -1
        try:
            pid, end, device, number, boot = name.split(" ")
            path = f"/proc/{int(pid)}/fd/{int(end)}"
            self._identity = int(device), int(number)
            # In another pid namespace, or on another machine, another file may be there, and to open it may have effects.
            if boot != _boot() or _identity(os.stat(path)) != self._identity:
                raise ChannelError("they are of another machine, or of another pid namespace")
            opened = open_file(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if _identity(_fstat(opened)) != self._identity:
                close_descriptor(opened)
                raise ChannelError("their pipe is gone")
            self._end = opened
        except (OSError, ValueError, ChannelError) as error:
            raise_interrupt(error, of_values=True)
            raise ChannelError(f"the tokens {name!r:.200} cannot be had: {error}") from error

    def take(self) -> bool:
        """Whether there was one left."""
        return self._is_here() and bool(read(self._end, 1))

    def close(self) -> None:
        """Take no more."""
        end, is_here = self._end, self._is_here()
        self._end = -1
        if is_here:
            close_descriptor(end)

    def _is_here(self) -> bool:
        try:
            return self._end >= 0 and _identity(_fstat(self._end)) == self._identity
        except OSError as error:
            raise_interrupt(error, of_values=True)
            return False


def _identity(facts: Any) -> Tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _boot() -> str:
    """What tells one run of one machine from all others."""
    end = open_file(_BOOT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return str(read(end, 100), "ascii").strip()
    finally:
        close_descriptor(end)

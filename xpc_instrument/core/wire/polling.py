"""When a side of a hot lane polls the memory, apart from the protocol (`hot`): on plain data.

Rules:
- The side that answers begins when `_STREAK` waits in a row were short, the side that calls when the other one polls.
- Polling in vain is followed by a pause, in which the side waits on its socket: for twice as many waits as in the pause before, or four
  times as many where polling has cost the side its processor, unless the lane has been hot for longer than that since.
  A pause is counted in waits, so that it is short where calls follow each other closely, and what was lost is a small part of what the
  calls of the pause take, however long the machine stays crowded.
- The dialling side leaves the processor of the listening one. The application is never moved.
"""

from __future__ import annotations

import os

from ..model.record import Record

# Short waits in a row, before the side that answers polls.
_STREAK = 3


class Bounds(Record):
    """The waits of a pause, at least and at most, and how many times longer it is than the one before."""

    least: int
    most: int
    times: int


IN_VAIN = Bounds(2, 256, 2)
# Beside other programs that want the processors, to poll and to yield costs a slice of time or two, some 10 ms; a call over the socket
# takes 100 µs there, so the longest of these pauses takes 1.6 s. On an idle machine it happens by chance in one of some 5,000 calls; the
# shortest takes 2 ms there.
LOST_PROCESSOR = Bounds(64, 16 * 1024, 4)
# A look that ends so many seconds late has given its processor to another program for a slice of time: there are more of them than
# processors.
LATE = 0.0005


class Pauses:
    """When one side is to poll. `frames` is how many have gone through the memory, in either direction."""

    __slots__ = ("_began", "_left", "_length", "_short", "_streak")

    def __init__(self, short: float) -> None:
        # What counts as a short wait, in seconds.
        self._short = short
        self._streak = 0
        # Waits of the last pause, those of it that are left, and `frames` when it began.
        self._length = self._left = self._began = 0

    def has_waited(self, seconds: float) -> bool:
        """The side that answers has waited for a call, on its socket: whether it is to poll for the next one."""
        if self._left:
            self._left -= 1
            return False
        self._streak = self._streak + 1 if seconds < self._short else 0
        return self._streak >= _STREAK

    def is_over(self) -> bool:
        """Whether the side that calls may poll for the answer; else that is one of the waits of the pause."""
        if self._left:
            self._left -= 1
            return False
        return True

    def begin(self, bounds: Bounds, frames: int) -> None:
        """The side has polled in vain."""
        # Two frames are a wait of each side.
        before = 0 if frames - self._began > 2 * self._length else self._length
        if before > bounds.most:
            # It had lost its processor before, and has not now: so step by step it is tried more often.
            self._length = before - before // 4
        else:
            self._length = min(max(bounds.times * before, bounds.least), bounds.most)
        self._left = self._length
        self._began = frames
        self._streak = 0


# An answer that is there as soon as the processor was yielded was put by one that had to wait for it. After so many of these in a row it is
# asked on which processors the two run: that reads two files, which costs some 100 µs. Each time in vain, it is asked half as often.
_ASKED_AFTER, _ASKED_LATEST = 24, 1 << 12


class Neighbour:
    """Whether the other side waits for the processor of this one. The kernel keeps two that take turns together on one, as those do that
    wait for each other on a socket; two that poll need one each."""

    __slots__ = ("_after", "_left", "suspected")

    def __init__(self) -> None:
        self._left = self._after = _ASKED_AFTER
        # To be looked at before the next wait, when the other side has what it waited for, and goes on as soon as this thread is off its
        # processor. Before, it would poll in vain meanwhile; and the kernel wakes whom a socket wakes on the processor of who wakes him.
        self.suspected = False

    def answered(self, soon: bool) -> None:
        """A frame came after the processor was yielded, at once or some time later."""
        if soon:
            self._left -= 1
            self.suspected = not self._left
        else:
            self._left = self._after

    def leave(self, pid: int, thread: int) -> None:
        """Leave the processor of that thread, if it is this one."""
        self.suspected = False
        moved = False
        try:
            here = _processor("/proc/thread-self/stat")
            if here == _processor(f"/proc/{pid}/task/{thread}/stat"):
                allowed = os.sched_getaffinity(0)
                if len(allowed) > 1:
                    try:
                        os.sched_setaffinity(0, allowed - {here})
                    finally:
                        os.sched_setaffinity(0, allowed)
                    moved = True
        except (OSError, ValueError, IndexError):
            # Not to be known here, in a container of its own say: the kernel spreads them in time.
            self._after = _ASKED_LATEST
        if not moved:
            self._after = min(2 * self._after, _ASKED_LATEST)
        self._left = self._after


def _processor(path: str) -> int:
    """The processor that a thread runs on, or ran last; proc(5), field 39. The second field is a name in parentheses."""
    with open(path, "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[36])

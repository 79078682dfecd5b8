"""What observing costs, measured where it happens, and its end where that is too much.

Rules:
- A hook that only looks may take 2 % of the time of the processor that the process uses. What is less than a thousandth of one processor's
  time is never too much: a process that hardly does anything can be looked at.
- What every invocation does is timed for one in `SAMPLED`, which stands for all; what is long, as a capture, for one in `LONG`.
- All of it is timed by the clock of the thread: where threads crowd, most of what others say is the wait for the interpreter. To look at
  that clock takes up to a microsecond.
- It is judged twice before it ends: of one stretch a few calls that were interrupted may make too much.
- Above that the hook is at rest from then on in this process, says so in the log once, and tells its script.
- Whoever calls `spent` has the guard up. Threads that call it at once may lose one of their costs, which makes it no more than less exact.
"""

from __future__ import annotations

import itertools
import time
from typing import Protocol

from xpc_instrument.core.unpatched import monotonic

from .failures import log

BUDGET = 0.02
"""The part of the time of the processor, as the process uses it, that observing for one hook may take."""

SAMPLED = 64
"""One invocation in so many is timed: where `tick() % SAMPLED` is 0."""

LONG = 8
"""One long piece of work in so many is timed: see `Budget.begin`."""

# By their own names: those of `time` may be targets.
used_here = time.thread_time
"""Seconds of the processor that the running thread has had."""

_used, _now = time.process_time, monotonic

# What an invocation costs beside what is timed, in seconds: the way in and out.
_BESIDE = 0.3e-6
# And one that was left out when it began.
_LEFT_OUT = 0.2e-6
# Judged after so many seconds of the processor's, so that a burst is not.
_JUDGED = 0.5
# So much of one processor's time is never too much.
_TRIFLE = 0.001
# Seconds of cost between two looks at the clock of the processor, which takes a system call.
_STEP = 0.001


class Observing(Protocol):
    """A hook, as its budget sees it."""

    target: str
    over_budget: bool

    def rest(self) -> None: ...

    def _notify(self, kind: str, **data: object) -> None: ...


class Budget:
    """Of one hook in one process. `tick` gives the number of an invocation."""

    __slots__ = ("_began", "_cost", "_hook", "_is_over", "_long", "_look_at", "_since", "tick")

    def __init__(self, hook: Observing) -> None:
        self._hook = hook
        # What the last stretch came to.
        self._is_over = False
        self.tick = itertools.count(1).__next__
        self._long = itertools.count(LONG).__next__
        self.reset()

    def reset(self) -> None:
        """Begin to measure; in a forked child, too."""
        self._cost = 0.0
        self._look_at = BUDGET * _JUDGED
        self._since, self._began = _used(), _now()

    def begin(self) -> float:
        """The clock of the thread where a long piece of work begins; below 0 where this one is not timed."""
        return -1.0 if self._long() % LONG else used_here()

    def end(self, began: float) -> None:
        """A long piece of work has ended, which may be timed."""
        if began >= 0.0:
            self.spent(used_here() - began, LONG)

    def left_out(self, calls: int) -> None:
        """So many invocations were left out when they began, as over the rate; judged with what is spent next."""
        self._cost += _LEFT_OUT * calls

    def spent(self, seconds: float, calls: int = SAMPLED, beside: float = _BESIDE) -> None:
        """So many invocations have cost so much each, and so much `beside`."""
        self._cost += (seconds + beside) * calls
        if self._cost < self._look_at:
            return
        used = _used() - self._since
        if used < _JUDGED:
            self._look_at = self._cost + _STEP
            return
        was_over = self._is_over
        self._is_over = self._cost > BUDGET * used and self._cost > _TRIFLE * (_now() - self._began)
        if self._is_over and was_over:
            hook, percent = self._hook, f"{self._cost / used * 100:.1f} %"
            hook.over_budget = True
            hook.rest()
            most = BUDGET * 100
            log.warning("observing %s took %s of the processor's time: it has ended (at most %.0f %%)", hook.target, percent, most)
            hook._notify("over-budget", used=percent)
        self.reset()

"""What is counted of the hooks on a probe point.

Rules:
- Calls and skipped invocations are counted by `Count`, which is exact and takes no lock. Failures and suspensions take a lock: they are
  rare, and dear anyway.
- Bytes and waits are counted on the lane, which one thread at a time uses, and charged to the hook when the lane is used for another one
  or dropped. Whoever asks meanwhile adds what the lanes still hold.
- A hook that has gone keeps its counters for a while, since invocations that were under way still count to it.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, Mapping, Optional, Tuple

from xpc_instrument.core.model.stats import Figures
from xpc_instrument.core.unpatched import RLock

from .sampling import Sampler

SKIPPED = ("sample", "rate", "suspended", "when")

# Of so many hooks that have gone a probe point keeps the counters apart; an invocation that outlives its hook by more is not counted.
_KEPT = 32
# So much of what lanes have counted is kept apart until it is summed up.
_PARTS = 256


class Count:
    """A number that any thread may raise at any time: `up()` is one step of C code, so that none is lost. `back()` takes one back."""

    __slots__ = ("_back", "_base", "_numbers", "back", "besides", "up")

    def __init__(self) -> None:
        # From 1 on: what `up` gives is true, which admission makes use of.
        self._base = 0
        self._numbers, self._back = itertools.count(1), itertools.count(1)
        self.up, self.back = self._numbers.__next__, self._back.__next__
        # What is counted elsewhere.
        self.besides: Optional[Callable[[], int]] = None

    @property
    def value(self) -> int:
        """How often `up` was called, less how often `back`, and what is counted besides."""
        return _next(self._numbers) - _next(self._back) - self._base + (self.besides() if self.besides is not None else 0)

    def reset(self) -> None:
        """Begin at zero; `up` stays the same function."""
        self._base += self.value


def _next(numbers: Iterator[int]) -> int:
    """The only way to look at it without taking a number."""
    return int(repr(numbers)[len("count(") : -1])


class HookCounters:
    """Of one hook in this process. `batched` are the calls of one that nobody waits for, `dropped` those that came to nothing; both are
    raised by the thread that sends the batches."""

    __slots__ = (
        "_lock",
        "_longest",
        "_parent",
        "_parts",
        "_received",
        "_sampler",
        "_sent",
        "_waited",
        "batched",
        "calls",
        "dropped",
        "failures",
        "skipped",
        "suspensions",
    )

    def __init__(self) -> None:
        self.calls = Count()
        self.skipped = {why: Count() for why in SKIPPED}
        self._sampler: Optional[Sampler] = None
        self.failures: Dict[str, int] = {}
        self.suspensions = 0
        self.batched = self.dropped = 0
        self._sent = self._received = 0
        self._waited = self._longest = 0.0
        self._parts: Deque[Tuple[int, int, float, float]] = deque()
        self._parent: Optional[Counters] = None
        # A signal handler or a `__del__` may come here in the thread that is here already.
        self._lock = RLock()

    def sampler(self, sample: float, chance: Callable[[], float]) -> Sampler:
        """What takes a part `sample` of the invocations, and counts here."""
        if self._sampler is None:
            made = self._sampler = Sampler(sample, chance, self.calls.up)
            self.skipped["sample"].besides = lambda: made.passed
        return self._sampler

    def fail(self, cause: str) -> None:
        """Count a failure."""
        with self._lock():
            if self._parent is None:
                self.failures[cause] = self.failures.get(cause, 0) + 1
                return
        self._parent.add(Figures(failures={cause: 1}))

    def suspend(self) -> None:
        """Count a suspension."""
        with self._lock():
            self.suspensions += 1

    def settle(self, sent: int, received: int, waited: float, longest: float) -> None:
        """Take over what a lane has counted: bytes, and seconds waited, in all and at most at once."""
        if self._parent is not None:
            self._parent.add(_of_lane(sent, received, waited, longest))
            return
        # Each call comes here where several hooks of a script take turns on a lane: one atomic step, and the sums later.
        self._parts.append((sent, received, waited, longest))
        if len(self._parts) > _PARTS:
            self._sum_up()

    def waited(self, seconds: float) -> None:
        """Count what a thread has waited that got no lane."""
        self.settle(0, 0, seconds, seconds)

    def _sum_up(self) -> None:
        with self._lock():
            while self._parts:
                sent, received, waited, longest = self._parts.popleft()
                self._sent += sent
                self._received += received
                self._waited += waited
                self._longest = max(self._longest, longest)

    def flush_to(self, parent: Counters) -> Figures:
        """All that was counted. What comes later is counted by `parent`, the counters of the probe point."""
        with self._lock():
            self._parent = parent
            return self.figures()

    def figures(self) -> Figures:
        """What was counted so far, but for what is still on the lanes."""
        self._sum_up()
        with self._lock():
            lanes = _of_lane(self._sent, self._received, self._waited, self._longest)
            failures = dict(self.failures)
        return lanes.plus(
            Figures(
                calls=self.calls.value + self.batched,
                skipped={why: count.value for why, count in self.skipped.items() if count.value},
                failures=failures,
                suspensions=self.suspensions,
                dropped=self.dropped,
            )
        )


class Counters:
    """Of one probe point in this process: what is left of the hooks that it had."""

    __slots__ = ("_gone", "_lock", "_past")

    def __init__(self) -> None:
        self._past = Figures()
        self._gone: Deque[HookCounters] = deque()
        self._lock = RLock()

    def retire(self, counters: HookCounters) -> None:
        """A hook has gone."""
        with self._lock():
            if counters in self._gone:
                return
            self._gone.append(counters)
            while len(self._gone) > _KEPT:
                self._past = self._past.plus(self._gone.popleft().flush_to(self))

    def add(self, figures: Figures) -> None:
        """Take over what was counted of a hook that has gone long ago."""
        with self._lock():
            self._past = self._past.plus(figures)

    def figures(self, hooks: Iterable[HookCounters], lanes: Mapping[HookCounters, Figures]) -> Figures:
        """Of all hooks that the probe point had and has; `lanes` as `on_lanes` gives them."""
        with self._lock():
            total = self._past
            # In one step with the past, lest one that is just retired is missed or counted twice.
            for counters in {*self._gone, *hooks}:
                total = total.plus(counters.figures()).plus(lanes.get(counters, Figures()))
        return total


def on_lanes(pools: Iterable[Any]) -> Dict[HookCounters, Figures]:
    """What the lanes of the pools have counted and not yet charged, by whom it is for."""
    found: Dict[HookCounters, Figures] = {}
    for pool in {id(pool): pool for pool in pools}.values():
        for wire in pool.wires():
            account = wire.account
            if account is not None:
                held = _of_lane(wire.sent, wire.received, wire.waited, wire.longest)
                found[account] = found.get(account, Figures()).plus(held)
    return found


def _of_lane(sent: int, received: int, waited: float, longest: float) -> Figures:
    return Figures(bytes_sent=sent, bytes_received=received, waited_us=round(waited * 1e6), longest_wait_us=round(longest * 1e6))

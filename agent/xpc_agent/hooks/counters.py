"""What is counted of the hooks on a probe point.

Rules:
- Calls and skipped invocations are counted by `Count`, which is exact and takes no lock. All else that a thread of the application has to
  tell is appended to a queue, one atomic step, and summed up by whoever looks: no thread waits for another one here.
- Bytes and waits are counted on the lane, which one thread at a time uses, and charged to the hook when the lane is used for another one
  or dropped. Whoever asks meanwhile adds what the lanes still hold.
- A hook that has gone keeps its counters for a while, since invocations that were under way still count to it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, Mapping, Optional, Tuple, Union

from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.stats import Figures
from xpc_instrument.core.unpatched import Brief

from .count import Count
from .sampling import Sampler

SKIPPED = ("sample", "rate", "suspended", "when")

# Of so many hooks that have gone a probe point keeps the counters apart; an invocation that outlives its hook by more is not counted.
_KEPT = 32
# So much of what lanes have counted is kept apart until it is summed up.
_PARTS = 256

# What a lane has counted (bytes sent and received, and seconds waited, in all and at most at once), or the cause of a failure, or None for
# a suspension.
_Part = Union[Tuple[int, int, float, float], str, None]


class HookCounters:
    """Of one hook in this process. `batched` are the calls of one that nobody waits for, `dropped` those that came to nothing; both are
    raised by the thread that sends the batches."""

    __slots__ = (
        "_failures",
        "_lock",
        "_longest",
        "_parent",
        "_parts",
        "_received",
        "_sampler",
        "_sent",
        "_suspensions",
        "_waited",
        "batched",
        "calls",
        "dropped",
        "skipped",
    )

    def __init__(self) -> None:
        self.calls = Count()
        self.skipped = {why: Count() for why in SKIPPED}
        self._sampler: Optional[Sampler] = None
        self.batched = self.dropped = 0
        self._failures: Dict[str, int] = {}
        self._suspensions = 0
        self._sent = self._received = 0
        self._waited = self._longest = 0.0
        self._parts: Deque[_Part] = deque()
        self._parent: Optional[Counters] = None
        self._lock = Brief()

    def sampler(self, sample: float, chance: Callable[[], float]) -> Sampler:
        """What takes a part `sample` of the invocations, and counts here."""
        if self._sampler is None:
            made = self._sampler = Sampler(sample, chance, self.calls.up)
            self.skipped["sample"].besides = lambda: made.passed
        return self._sampler

    def fail(self, cause: str) -> None:
        """Count a failure."""
        self._note(cause)

    def suspend(self) -> None:
        """Count a suspension."""
        self._note(None)

    def settle(self, sent: int, received: int, waited: float, longest: float) -> None:
        """Take over what a lane has counted: bytes, and seconds waited, in all and at most at once."""
        # Each call comes here where several hooks of a script take turns on a lane: one atomic step, and the sums later.
        self._parts.append((sent, received, waited, longest))
        if self._parent is not None or len(self._parts) > _PARTS:
            self._sum_up()

    def waited(self, seconds: float) -> None:
        """Count what a thread has waited that got no lane."""
        self.settle(0, 0, seconds, seconds)

    def _note(self, part: _Part) -> None:
        self._parts.append(part)
        if self._parent is not None:
            self._sum_up()

    def _sum_up(self) -> None:
        # Looked for after the part was appended, and set before `flush_to` takes what is there: one of the two has it.
        parent = self._parent
        if parent is not None:
            parent.add(self._parts)
            return
        with self._lock() as held:
            # Else another thread does it.
            if held:
                self._drain()

    def _drain(self) -> None:
        """The lock is held."""
        for part in _taken(self._parts):
            if type(part) is tuple:
                sent, received, waited, longest = part
                self._sent += sent
                self._received += received
                self._waited += waited
                self._longest = max(self._longest, longest)
            elif type(part) is str:
                self._failures[part] = self._failures.get(part, 0) + 1
            else:
                self._suspensions += 1

    def flush_to(self, parent: Counters) -> Figures:
        """All that was counted. What comes later is counted by `parent`, the counters of the probe point."""
        with self._lock() as held:
            self._parent = parent
            if held:
                self._drain()
            else:
                parent.add(self._parts)
            return self._figures()

    @property
    def failures(self) -> Dict[str, int]:
        """How many there were, by cause."""
        return dict(self.figures().failures)

    @property
    def suspensions(self) -> int:
        """How many there were."""
        return self.figures().suspensions

    def figures(self) -> Figures:
        """What was counted so far, but for what is still on the lanes."""
        with self._lock() as held:
            # Else what another thread is about to add is missing.
            if held:
                self._drain()
            return self._figures()

    def _figures(self) -> Figures:
        return _of_lane(self._sent, self._received, self._waited, self._longest).plus(
            Figures(
                calls=self.calls.value + self.batched,
                skipped={why: count.value for why, count in self.skipped.items() if count.value},
                failures=self._failures.copy(),
                suspensions=self._suspensions,
                dropped=self.dropped,
            )
        )


def _taken(parts: Deque[_Part]) -> Iterator[_Part]:
    """All of them, each to whom it is given alone."""
    while True:
        try:
            part = parts.popleft()
        except IndexError as error:
            raise_interrupt(error, of_values=True)
            return
        yield part


class Counters:
    """Of one probe point in this process: what is left of the hooks that it had."""

    __slots__ = ("_gone", "_late", "_lock", "_past")

    def __init__(self) -> None:
        self._past = Figures()
        self._gone: Deque[HookCounters] = deque()
        # Of hooks that have gone long ago.
        self._late: Deque[Figures] = deque()
        self._lock = Brief()

    def retire(self, counters: HookCounters) -> None:
        """A hook has gone."""
        with self._lock() as held:
            if counters in list(self._gone):
                return
            self._gone.append(counters)
            # Else the next one does it.
            while held and len(self._gone) > _KEPT:
                self._past = self._past.plus(self._gone.popleft().flush_to(self))

    def add(self, parts: Deque[_Part]) -> None:
        """Take over what was counted of a hook that has gone long ago."""
        for part in _taken(parts):
            if type(part) is tuple:
                self._late.append(_of_lane(*part))
            elif type(part) is str:
                self._late.append(Figures(failures={part: 1}))
            else:
                self._late.append(Figures(suspensions=1))

    def figures(self, hooks: Iterable[HookCounters], lanes: Mapping[HookCounters, Figures]) -> Figures:
        """Of all hooks that the probe point had and has; `lanes` as `on_lanes` gives them."""
        with self._lock() as held:
            while held and self._late:
                self._past = self._past.plus(self._late.popleft())
            total = self._past
            # In one step with the past, lest one that is just retired is missed or counted twice.
            for counters in {*self._gone.copy(), *hooks}:
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

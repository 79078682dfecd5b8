"""Timing several ways in turn, so that noise hits all of them.

`pyperf.Runner` measures one benchmark after another, each in worker processes of its own. On a machine that is busy with other things
the ratio of two such figures moves with the load. So the loop here is our own: a round times one block of calls of each way, one right
after the other, and a ratio is taken within a round. What was measured is kept in pyperf's classes (see `suite`), whose file format and
tools are those that people know.

Rules:
- A run is a fresh set-up (new functions, processes and connections); its first blocks calibrate and are thrown away.
- Rounds go forwards and backwards in turn, so that a drift within a round favours nobody.
"""

from __future__ import annotations

import time
import timeit
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

# Seconds that so many calls took.
TimeFunction = Callable[[int], float]
Progress = Callable[[str], None]

# How often a statement is written out in the body of a loop, which then adds less than a nanosecond to each.
_WRITTEN_OUT = 50


@dataclass(frozen=True)
class Effort:
    """How much is measured: `runs` set-ups, `rounds` in each, `block` seconds for each way in each round."""

    runs: int
    rounds: int
    block: float


FAST = Effort(runs=3, rounds=10, block=0.02)
FULL = Effort(runs=8, rounds=20, block=0.05)


@dataclass(frozen=True)
class Comparison:
    """One row of the table: the time of `way` over that of `baseline`, which should be `below` or `above` a number.

    With `beyond`, what the two take beyond that way is compared: what they add to a bare call, say.
    """

    name: str
    way: str
    baseline: str
    below: Optional[float] = None
    above: Optional[float] = None
    beyond: Optional[str] = None


@dataclass(frozen=True)
class Group:
    """Ways that are measured together. `set_up` gives their time functions by name, for as long as its context lasts.

    `share` is the part of a block that they need: calls of nanoseconds are many in less.
    """

    name: str
    set_up: Callable[[], AbstractContextManager[Mapping[str, TimeFunction]]]
    comparisons: Tuple[Comparison, ...]
    share: float = 1.0


@dataclass
class Samples:
    """Seconds per call of one way: a list for each run, with one value for each round; `loops` of each run."""

    runs: List[List[float]] = field(default_factory=list)
    loops: List[int] = field(default_factory=list)

    @property
    def values(self) -> List[float]:
        """The values of all runs, in order."""
        return [value for run in self.runs for value in run]


def measure(group: Group, effort: Effort, progress: Progress) -> Dict[str, Samples]:
    """Time all ways of a group; samples by the name of the way. The values at one position belong to one round."""
    samples: Dict[str, Samples] = {}
    for number in range(effort.runs):
        progress(f"{group.name}: run {number + 1} of {effort.runs}")
        with group.set_up() as ways:
            loops = {name: calibrate(way, effort.block * group.share) for name, way in ways.items()}
            values: Dict[str, List[float]] = {name: [] for name in ways}
            for round_ in range(effort.rounds):
                for name in in_turn(list(ways), round_):
                    values[name].append(ways[name](loops[name]) / loops[name])
        for name, run in values.items():
            sample = samples.setdefault(name, Samples())
            sample.runs.append(run)
            sample.loops.append(loops[name])
    return samples


def in_turn(names: Sequence[str], round_: int) -> Sequence[str]:
    """The order of one round."""
    return names[::-1] if round_ % 2 else names


def calibrate(way: TimeFunction, block: float) -> int:
    """How many calls take `block` seconds; at least one. Warms the way up meanwhile."""
    loops = 1
    while True:
        seconds = way(loops)
        if seconds >= block / 2:
            return max(1, round(loops * block / seconds))
        loops *= 2 if seconds <= 0 else max(2, min(10, int(block / seconds)))


def timer(statement: str, **names: Any) -> TimeFunction:
    """For ways that take nanoseconds: `timeit`, with the statement written out many times, so that the loop adds next to nothing."""
    timed = timeit.Timer("\n".join([statement] * _WRITTEN_OUT), globals=names)

    def seconds(loops: int) -> float:
        # The body runs a whole number of times; a few calls more or less are set right in proportion.
        bodies = max(1, loops // _WRITTEN_OUT)
        return timed.timeit(bodies) * loops / (bodies * _WRITTEN_OUT)

    return seconds


def seconds_of(call: Callable[..., Any], loops: int) -> float:
    """Seconds that `loops` calls with small arguments take: the loop for ways that take microseconds."""
    started = time.perf_counter()
    for _ in range(loops):
        call(12, currency="USD")
    return time.perf_counter() - started

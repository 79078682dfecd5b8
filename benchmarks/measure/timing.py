"""Timing several ways in turn, so that noise hits all of them.

`pyperf.Runner` measures one benchmark after another, each in worker processes of its own. On a machine that is busy with other things
the ratio of two such figures moves with the load. So the loop here is our own: a round times one block of calls of each way, one right
after the other, and a ratio is taken within a round. What was measured is kept in pyperf's classes (see `suite`), whose file format and
tools are those that people know.

Rules:
- A run is a fresh set-up (new functions, processes and connections); its first blocks calibrate and are thrown away.
- Rounds go forwards and backwards in turn, so that a drift within a round favours nobody.
- Where every call is timed by itself, a block's value is the median of its calls, and a run's 99th percentile and mean are those of its
  calls in all blocks: in one block alone they would be a matter of two or three calls.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
import timeit
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Dict, Iterator, List, Literal, Mapping, Optional, Sequence, Tuple, Union

# What so many calls took, in seconds: all together, or each by itself, or several figures of the block by their names.
Measured = Union[float, List[float], Dict[str, float]]
TimeFunction = Callable[[int], Measured]
Progress = Callable[[str], None]

# How often a statement is written out in the body of a loop, which then adds less than a nanosecond to each.
_WRITTEN_OUT = 50
# Seconds between two calls of a steady load: ten thousand a second, less what a sleep takes longer than it was asked to.
_PACE = 0.0001
# Added to the name of a way whose calls are timed one by one.
TAIL = ", 99th percentile"
MEAN = ", mean"


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

    With `beyond`, what the two take beyond that way is compared: what they add to a bare call, say. With `rate`, calls per second are
    compared, not seconds per call. With `more`, so many seconds more than the baseline are expected at most. `needs` names what is
    missing here, so that the row cannot be measured. `unit` is that of the samples.
    """

    name: str
    way: str
    baseline: str
    below: Optional[float] = None
    above: Optional[float] = None
    beyond: Optional[str] = None
    rate: bool = False
    more: Optional[float] = None
    needs: str = ""
    unit: Literal["second", "byte"] = "second"


@dataclass(frozen=True)
class Line:
    """One line of a plot, or one bar if it has one point: for each x the name of a way. `ours` is drawn to stand out.

    `over` is the way to which the ratio is taken, where it is another one than that of the plot.
    """

    label: str
    points: Tuple[Tuple[float, str], ...]
    ours: bool = False
    over: Optional[str] = None


@dataclass(frozen=True)
class Plot:
    """A picture of ways of one group, with the quartiles as error bars; what could not be measured is left out and named.

    `name` is that of its file, without an ending. `x` names the axis, and is "" for bars. With `rate`, y is calls per second.
    With `over`, y is the ratio to that way within each round.
    """

    name: str
    title: str
    lines: Tuple[Line, ...]
    x: str = ""
    y: str = "time for one call"
    log_x: bool = False
    log_y: bool = False
    rate: bool = False
    over: Optional[str] = None
    unit: Literal["second", "byte"] = "second"


@dataclass(frozen=True)
class Group:
    """Ways that are measured together. `set_up` gives their time functions by name, for as long as its context lasts.

    `share` is the part of a block that they need: calls of nanoseconds are many in less. `loops` is for what cannot be calibrated, and
    says how many calls a block has. `rounds` is for what takes long, and says how many are enough, and `runs` likewise. `part` is for what
    takes long to set up too: it is set up once, for that part of the rounds that all runs would have. `title` is its heading on the page,
    `about` says there in Markdown what is measured and how, and `why` where ours is not the best of a table, and why.
    """

    name: str
    set_up: Callable[[], AbstractContextManager[Mapping[str, TimeFunction]]]
    comparisons: Tuple[Comparison, ...]
    share: float = 1.0
    loops: Optional[int] = None
    rounds: Optional[int] = None
    runs: Optional[int] = None
    part: Optional[float] = None
    title: str = ""
    about: str = ""
    why: str = ""
    plots: Tuple[Plot, ...] = ()


class Unavailable(Exception):
    """A group needs something that is not here; the message says what."""


@dataclass
class Samples:
    """Seconds per call of one way: a list for each run, with one value for each round (one only of a 99th percentile or a mean), and the
    `loops` of each run."""

    runs: List[List[float]] = field(default_factory=list)
    loops: List[int] = field(default_factory=list)

    @property
    def values(self) -> List[float]:
        """The values of all runs, in order."""
        return [value for run in self.runs for value in run]


def measure(group: Group, effort: Effort, progress: Progress) -> Dict[str, Samples]:
    """Time all ways of a group; samples by the name of the way. The values at one position belong to one round."""
    samples: Dict[str, Samples] = {}
    runs, rounds = _runs_and_rounds(group, effort)
    for number in range(runs):
        progress(f"{group.name}: run {number + 1} of {runs}")
        with group.set_up() as ways:
            loops = {name: _loops(group, way, effort) for name, way in ways.items()}
            values: Dict[str, List[float]] = {}
            calls: Dict[str, List[float]] = {}
            for round_ in range(rounds):
                for name in in_turn(list(ways), round_):
                    measured = ways[name](loops[name])
                    if isinstance(measured, list):
                        calls.setdefault(name, []).extend(measured)
                        measured = statistics.median(measured) * loops[name]
                    if isinstance(measured, dict):
                        for figure, value in measured.items():
                            values.setdefault(f"{name}, {figure}", []).append(value)
                            loops.setdefault(f"{name}, {figure}", loops[name])
                    else:
                        values.setdefault(name, []).append(measured / loops[name])
        for name, each in calls.items():
            for part, value in ((TAIL, percentile(each, 99)), (MEAN, statistics.fmean(each))):
                values[name + part] = [value]
                loops[name + part] = len(each)
        for name, run in values.items():
            sample = samples.setdefault(name, Samples())
            sample.runs.append(run)
            sample.loops.append(loops[name])
    return samples


def _runs_and_rounds(group: Group, effort: Effort) -> Tuple[int, int]:
    if group.part is not None:
        return 1, max(1, round(effort.runs * effort.rounds * group.part))
    rounds = effort.rounds if group.rounds is None else min(group.rounds, effort.rounds)
    return effort.runs if group.runs is None else min(group.runs, effort.runs), rounds


def _loops(group: Group, way: TimeFunction, effort: Effort) -> int:
    if group.loops is None:
        return calibrate(way, effort.block * group.share)
    way(group.loops)
    return group.loops


def percentile(values: Sequence[float], part: int) -> float:
    """The least of the values that `part` percent of them are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)]


def in_turn(names: Sequence[str], round_: int) -> Sequence[str]:
    """The order of one round."""
    return names[::-1] if round_ % 2 else names


def calibrate(way: TimeFunction, block: float) -> int:
    """How many calls take `block` seconds; at least one. Warms the way up meanwhile."""
    loops = 1
    while True:
        measured = way(loops)
        assert not isinstance(measured, dict), "figures of a block are not its time: the group says how many loops it has"
        seconds = sum(measured) if isinstance(measured, list) else measured
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


def seconds_of_each(call: Callable[..., Any], loops: int) -> List[float]:
    """Seconds that each of `loops` calls with small arguments takes. Looking at the clock adds some 50 ns to each."""
    clock = time.perf_counter
    times = [0.0] * loops
    for number in range(loops):
        started = clock()
        call(12, currency="USD")
        times[number] = clock() - started
    return times


async def seconds_of_each_awaited(call: Callable[..., Awaitable[Any]], loops: int) -> List[float]:
    """The same on an event loop, one after the other."""
    clock = time.perf_counter
    times = [0.0] * loops
    for number in range(loops):
        started = clock()
        await call(12, currency="USD")
        times[number] = clock() - started
    return times


def seconds_of_sized(call: Callable[..., Any], arguments: Sequence[bytes], loops: int) -> float:
    """Seconds that `loops` calls take with these arguments: none, or one of some size."""
    started = time.perf_counter()
    for _ in range(loops):
        call(*arguments)
    return time.perf_counter() - started


def seconds_at_a_pace(call: Callable[..., Any], loops: int) -> float:
    """Seconds that `loops` calls take, without the sleeps before each. What slept finds less of its own in the processor's caches."""
    seconds = 0.0
    for _ in range(loops):
        time.sleep(_PACE)
        seconds += seconds_of(call, 1)
    return seconds


def seconds_of_threads(calls: Sequence[Callable[..., Any]], loops: int) -> float:
    """Seconds that `loops` calls take that threads share, one for each of `calls`: from when all are ready till the last is done."""
    each = -(-loops // len(calls))
    barrier = threading.Barrier(len(calls) + 1)
    failures: List[BaseException] = []

    def work(call: Callable[..., Any]) -> None:
        barrier.wait()
        try:
            seconds_of(call, each)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if failures:
        raise failures[0]
    # A few calls more than were asked for are set right in proportion.
    return seconds * loops / (each * len(calls))


# one processor -------------------------------------------------------------------------------------------------------------------


def can_pin() -> bool:
    """Whether a process can be held on one processor here, and there is another one that it is kept from."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1


@contextmanager
def pinned(pin: bool = True, *, apart: bool = False) -> Iterator[None]:
    """Hold this thread, and the threads and processes that it starts meanwhile, on one processor: the last of those that it may use.

    With `apart` it is the first.
    """
    if not pin:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before) if apart else max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

"""Sentences and tables about a run that are made of its figures: what to expect, and where it is not as one would wish.

No sentence here has a number of its own: what was not measured in the run is not said.
"""

from __future__ import annotations

import statistics
from typing import Callable, List, Optional, Sequence, Tuple

from .plots import beaten, figure, written
from .results import Part, Run
from .rows import Row, digits, in_units, markdown

# How often a function may be called, in calls per second.
_RATES = (1, 10, 100, 1_000, 10_000, 100_000)
# A hook is hardly noticed in a function that runs so many times as long as the hook takes.
_HARDLY = 10
# Which rows about whole programs are told in a sentence; the tables have the rest.
_SOME_POINTS, _REQUESTS, _AGAIN = " 100 probe points: ", ": requests per second, ", "plain again"

# What a crossing is called, its group and its way. The first that was measured of a name counts.
CROSSINGS: Tuple[Tuple[str, str, str], ...] = (
    ("`instead`, hot lane", "hot", "hot"),
    ("`instead`, plain lane on a unix socket", "hot", "plain"),
    ("`instead`, a call now and then, hot lane", "hot", "hot, apart, median"),
    ("`instead`, a call now and then, plain lane", "hot", "plain, apart, median"),
    ("`instead`, unix socket", "roundtrip", "instead"),
    ("`before`, unix socket", "roundtrip", "before"),
    ("`around` that proceeds, unix socket", "roundtrip", "around"),
    ("`instead`, TCP loopback", "tcp", "instead"),
    ("`before`, `wait=False`, in bursts", "unwaited", "burst"),
    ("`before`, `wait=False`, at a steady pace", "unwaited", "steady"),
)


def median(run: Run, group: str, way: str) -> Optional[float]:
    """The median of a way; None if it was not measured."""
    part = run.part(group)
    return statistics.median(part.samples[way].values) if part is not None and way in part.samples else None


def crossings(run: Run) -> List[Tuple[str, float]]:
    """What was measured of crossings: their names and median seconds."""
    found = ((name, median(run, group, way)) for name, group, way in CROSSINGS)
    return [(name, seconds) for name, seconds in found if seconds is not None]


# what to expect --------------------------------------------------------------------------------------------------------------------


def expectations(run: Run) -> List[str]:
    """What to expect, a sentence each."""
    return [sentence for make in (_disarmed, _gated, _armed, _programs) for sentence in make(run)]


def _rows(run: Run, group: str, wanted: Callable[[Row], bool]) -> List[Row]:
    part = run.part(group)
    return [] if part is None else [row for row in part.rows if row.ratio == row.ratio and wanted(row)]


def _between(rows: Sequence[Row]) -> str:
    least, most = min(row.ratio for row in rows), max(row.ratio for row in rows)
    return digits_of(least) if digits_of(least) == digits_of(most) else f"{digits_of(least)} to {digits_of(most)}"


def digits_of(ratio: float) -> str:
    """A ratio as the tables write it."""
    return f"{ratio:.2f}"


def _disarmed(run: Run) -> List[str]:
    swapped = _rows(run, "disarmed", lambda row: "disarmed, code swap" in row.name)
    noise = _rows(run, "disarmed", lambda row: "noise floor" in row.name)
    in_c = _rows(run, "disarmed", lambda row: row.name == "C function: disarmed, wrapt")
    said = []
    if swapped and noise:
        said.append(
            f"**Nothing armed:** a hookable Python function takes {_between(swapped)} times as long as the same function without the "
            f"agent, by its kind. The noise: two equal functions without the agent take {_between(noise)} times as long as each other."
        )
    said += [
        f"**Nothing armed, in C:** a hookable C function that takes {in_units(row.baseline_seconds)} takes {in_units(row.seconds)}."
        for row in in_c
    ]
    return said


def _gated(run: Run) -> List[str]:
    skipped = _rows(run, "gates", lambda row: "lets nothing through" in row.name)
    if not skipped:
        return []
    least, most = min(skipped, key=lambda row: row.seconds), max(skipped, key=lambda row: row.seconds)
    return [
        f"**Armed, but not for this call:** a call that `sample=` or `rate=` excludes takes {in_units(least.seconds)} to "
        f"{in_units(most.seconds)} more than one of a function that is not armed. A `limit=` that is used up disarms."
    ]


def _armed(run: Run) -> List[str]:
    said = []
    for name, seconds in crossings(run):
        if "wait=False" in name:
            said.append(f"**{name}:** a call takes {in_units(seconds)}; the hook runs later.")
        else:
            said.append(f"**{name}:** a call takes {in_units(seconds)}, hook included.")
    return said


def _programs(run: Run) -> List[str]:
    """What whole programs pay for being hookable, and for a hook."""
    said = [
        f"**Start-up, {row.name}** is {in_units(row.seconds, row.unit)} instead of {in_units(row.baseline_seconds, row.unit)}, "
        f"{digits_of(row.ratio)} times as much."
        for row in _rows(run, "startup", lambda row: _SOME_POINTS in row.name)
    ]
    for row in _rows(run, "applications", lambda row: _REQUESTS in row.name and _AGAIN not in row.name):
        server, _, hook = row.name.partition(_REQUESTS)
        said.append(
            f"**{server}, {hook}:** {1 / row.seconds:,.0f} requests a second instead of {1 / row.baseline_seconds:,.0f}, "
            f"{digits_of(row.ratio)} times as many, with all processors busy."
        )
    return said


# when not to -----------------------------------------------------------------------------------------------------------------------


def too_short(run: Run) -> str:
    """A table: below which length of a function a hook that is waited for is most of what it takes; "" if no crossing was measured."""
    waited = [(name, seconds) for name, seconds in crossings(run) if "wait=False" not in name]
    if not waited:
        return ""
    lines = [[name, in_units(seconds), in_units(seconds * _HARDLY)] for name, seconds in waited]
    return markdown([["hook", "doubles the time of a function of", f"adds a {_ordinal(_HARDLY)} to one of"], *lines])


def _ordinal(number: int) -> str:
    return "tenth" if number == 10 else f"{number}th part"


def shares(run: Run) -> str:
    """A table: for calls per second, which share of one core's time a thread spends in a crossing; "" if no crossing was measured."""
    found = crossings(run)
    if not found:
        return ""
    head = ["calls per second", *(name for name, _ in found)]
    lines = [[f"{rate:,}", *(_share(rate * seconds) for _, seconds in found)] for rate in _RATES]
    return markdown([head, ["added to each call", *(in_units(seconds) for _, seconds in found)], *lines])


def _share(part: float) -> str:
    if part > 1:
        return "more than one thread can"
    return "below 0.01 %" if part < 0.0001 else f"{digits(part * 100) if part >= 0.01 else f'{part * 100:.2f}'} %"


# where it is not as one would wish -------------------------------------------------------------------------------------------------


def shortcomings(part: Part) -> List[str]:
    """Where ours is not the best of a picture, and which rows are not as expected."""
    found = [f"{row.name}, over {row.baseline}: {digits_of(row.ratio)}, expected {row.expected}" for row in part.rows if row.missed]
    for plot in part.plots if part.samples else ():
        shown = figure(part, plot)
        for best, its, mine, my in beaten(shown):
            where = "" if shown.bars else f" at {best.x:,g} {plot.x}"
            found.append(
                f"{plot.title}{where}: {its.label} has {written(plot, best.y)}; the best of ours, {my.label}, {written(plot, mine.y)}"
            )
    return found

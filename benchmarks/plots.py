"""What a plot shows, as plain data: which points, how high, and between which quartiles. Needs nothing that draws."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import List, Optional, Tuple

from .measure import Line, Plot
from .report import quartiles, ratios
from .results import Part


@dataclass(frozen=True)
class Point:
    """A median, and the quartiles of the same values."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One line or bar, as far as it was measured."""

    label: str
    ours: bool
    points: Tuple[Point, ...]


@dataclass(frozen=True)
class Figure:
    """A plot with its values; `missing` says what is not in it and why."""

    plot: Plot
    series: Tuple[Series, ...]
    missing: Tuple[str, ...]

    @property
    def bars(self) -> bool:
        """Whether there is no horizontal axis."""
        return not self.plot.x


def figure(part: Part, plot: Plot) -> Figure:
    """The values of a plot."""
    series, missing = [], []
    for line in plot.lines:
        found = [point for x, way in line.points for point in [_point(part, plot, line, x, way)] if point is not None]
        if found:
            series.append(Series(line.label, line.ours, tuple(found)))
        if len(found) < len(line.points):
            needs = next((part.needs(way) for _, way in line.points if part.needs(way)), "")
            reason = f"needs {needs}" if needs else "was not measured"
            missing.append(f"{line.label} {reason}" + (" at some points" if found else ""))
    return Figure(plot, tuple(series), tuple(missing))


def _point(part: Part, plot: Plot, line: Line, x: float, way: str) -> Optional[Point]:
    over = line.over or plot.over
    if way not in part.samples or (over is not None and over not in part.samples):
        return None
    values = part.samples[way].values
    if over is not None:
        base = part.samples[over].values
        if len(base) != len(values):
            # Of two that were not measured in the same rounds there is no ratio within one.
            base = [statistics.median(base)] * len(values)
        values = ratios(base, values) if plot.rate else ratios(values, base)
    elif plot.rate:
        values = [1 / value for value in values]
    return Point(x, statistics.median(values), *quartiles(values))


def beaten(shown: Figure) -> List[Tuple[Point, Series, Point, Series]]:
    """Where another one's line or bar is better than the best of ours by more than the quartiles of both: theirs, then ours.

    Bars are all held against each other, lines at each x. A plot without a line of ours, or without one of others, tells nothing.
    """
    at = {point.x for one in shown.series for point in one.points}
    found = []
    for places in [at] if shown.bars else [{x} for x in sorted(at)]:
        points = [(point, one) for one in shown.series for point in one.points if point.x in places]
        ours = [pair for pair in points if pair[1].ours]
        others = [pair for pair in points if not pair[1].ours]
        if not ours or not others:
            continue
        if shown.plot.rate:
            (best, its), (mine, my) = max(others, key=lambda pair: pair[0].y), max(ours, key=lambda pair: pair[0].y)
            if best.low > mine.high:
                found.append((best, its, mine, my))
        else:
            (best, its), (mine, my) = min(others, key=lambda pair: pair[0].y), min(ours, key=lambda pair: pair[0].y)
            if best.high < mine.low:
                found.append((best, its, mine, my))
    return found

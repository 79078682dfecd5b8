"""What a plot shows, as plain data: which points, how high, and between which quartiles. Needs nothing that draws."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from ..measure.timing import Line, Plot
from .results import Part
from .rows import in_units, quartiles, ratios


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
    missing: Tuple[Tuple[str, str], ...]

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
            missing.append((line.label + (" at some points" if found else ""), reason))
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


def is_over(plot: Plot) -> bool:
    """Whether a plot shows ratios."""
    return plot.over is not None or any(line.over is not None for line in plot.lines)


def written(plot: Plot, value: float) -> str:
    """A value of the vertical axis in words."""
    if is_over(plot):
        return f"{value:.3g}"
    if plot.rate:
        return short(value)
    return in_units(value, plot.unit) if value else "0"


def short(value: float) -> str:
    """1500 as 1.5k."""
    for scale, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def not_here(missing: Sequence[Tuple[str, str]]) -> str:
    """What is missing, by reason."""
    by_reason: Dict[str, List[str]] = {}
    for label, reason in missing:
        by_reason.setdefault(reason, []).append(label)
    return "; ".join(f"{', '.join(labels)} ({reason})" for reason, labels in by_reason.items())

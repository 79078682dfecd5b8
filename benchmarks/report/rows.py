"""From samples to Markdown tables; functions on plain data."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from math import isnan, nan
from typing import Dict, List, Sequence, Tuple

from ..measure.timing import MEAN, TAIL, Comparison, Samples

_UNITS = {
    "second": ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")),
    "byte": ((1.0, "B"), (1e3, "KB"), (1e6, "MB"), (1e9, "GB")),
}

_MISSED = ": missed"


@dataclass(frozen=True)
class Row:
    """One comparison with its figures: median seconds per call (or bytes), median ratio, and the quartiles of the ratios; and the means
    over all calls, which no percentile has."""

    name: str
    baseline: str
    seconds: float
    baseline_seconds: float
    ratio: float
    spread: Tuple[float, float]
    expected: str
    unit: str = "second"
    means: Tuple[float, float] = (nan, nan)

    @property
    def missed(self) -> bool:
        """Whether the ratio is not as expected."""
        return self.expected.endswith(_MISSED)


def ratios(values: Sequence[float], baseline: Sequence[float]) -> List[float]:
    """The ratio within each round. Raises `ValueError` if the two do not have the same rounds."""
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} rounds over {len(baseline)}: the two were not measured together")
    return [value / base for value, base in zip(values, baseline)]


def differences(values: Sequence[float], common: Sequence[float]) -> List[float]:
    """What is left of each round's value without the common part, at least a picosecond. Raises `ValueError` as `ratios` does."""
    if len(values) != len(common):
        raise ValueError(f"{len(values)} rounds less {len(common)}: the two were not measured together")
    return [max(1e-12, value - base) for value, base in zip(values, common)]


def quartiles(values: Sequence[float]) -> Tuple[float, float]:
    """The values below which one and three quarters of them are."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def expectation(comparison: Comparison, ratio: float, more: float = 0.0) -> str:
    """What the ratio should be (or how many seconds `more` there may be), and whether it is."""
    if comparison.more is not None:
        text, held = f"at most {in_units(comparison.more, comparison.unit)} more", more <= comparison.more
    elif comparison.below is not None:
        text, held = f"below {comparison.below:g}", ratio < comparison.below
    elif comparison.above is not None:
        text, held = f"above {comparison.above:g}", ratio > comparison.above
    else:
        return ""
    return text if held else text + _MISSED


def row(comparison: Comparison, samples: Dict[str, Samples]) -> Row:
    """The figures of one comparison; none where it needs what is not here."""
    over = comparison.baseline if comparison.beyond is None else f"{comparison.baseline}, beyond {comparison.beyond}"
    lacks = [way for way in ways_of(comparison) if way not in samples]
    if comparison.needs or lacks:
        why = f"needs {comparison.needs}" if comparison.needs else f"there is no {lacks[0]}"
        return Row(comparison.name, over, nan, nan, nan, (nan, nan), f"not run: {why}", comparison.unit)
    values, baseline = compared(comparison, [samples[way].values for way in ways_of(comparison)])
    each = ratios(baseline, values) if comparison.rate else ratios(values, baseline)
    ratio = statistics.median(each)
    return Row(
        comparison.name,
        over,
        statistics.median(values),
        statistics.median(baseline),
        ratio,
        quartiles(each),
        expectation(comparison, ratio, statistics.median(value - base for value, base in zip(values, baseline))),
        comparison.unit,
        _means(comparison, samples),
    )


def _means(comparison: Comparison, samples: Dict[str, Samples]) -> Tuple[float, float]:
    if comparison.beyond is not None or comparison.way.endswith(TAIL):
        return nan, nan
    of_way, of_baseline = (statistics.fmean(samples.get(way + MEAN, samples[way]).values) for way in ways_of(comparison))
    return of_way, of_baseline


def ways_of(comparison: Comparison) -> List[str]:
    """The ways that a comparison is about: its own, its baseline, and what both go beyond."""
    return [comparison.way, comparison.baseline, *([] if comparison.beyond is None else [comparison.beyond])]


def compared(comparison: Comparison, values: Sequence[Sequence[float]]) -> Tuple[Sequence[float], Sequence[float]]:
    """What is held against what, given the values of `ways_of` it."""
    if comparison.beyond is None:
        return values[0], values[1]
    return differences(values[0], values[2]), differences(values[1], values[2])


def digits(number: float) -> str:
    """Three digits of a number from 1 to 999, as many as there are of a greater one."""
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"


def in_units(seconds: float, unit: str = "second") -> str:
    """Three digits and a unit: 27.4 µs; of a byte, 27.4 KB."""
    if isnan(seconds):
        return "-"
    units = _UNITS[unit]
    # What would be written as 1000 of a unit is 1.00 of the next.
    scale, name = next((pair for pair in reversed(units) if abs(seconds) >= 0.9995 * pair[0]), units[0])
    number = seconds / scale
    return f"{'-' if number < 0 else ''}{digits(abs(number))} {name}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, lined up for reading."""
    lines = [["what", "over", "median", "baseline", "ratio", "quartiles", "means", "expected"]]
    for one in rows:
        figures = ["-", "-"] if isnan(one.ratio) else [f"{one.ratio:.2f}", f"{one.spread[0]:.2f} to {one.spread[1]:.2f}"]
        figures.append("-" if isnan(one.means[0]) else f"{in_units(one.means[0], one.unit)}, {in_units(one.means[1], one.unit)}")
        lines.append(
            [one.name, one.baseline, in_units(one.seconds, one.unit), in_units(one.baseline_seconds, one.unit), *figures, one.expected]
        )
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head, lined up for reading."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    whole = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in whole)

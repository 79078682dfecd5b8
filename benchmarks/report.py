"""From samples to a Markdown table; functions on plain data."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from math import isnan, nan
from typing import Dict, List, Sequence, Tuple

from .measure import Comparison, Samples

_UNITS = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))


@dataclass(frozen=True)
class Row:
    """One comparison with its figures: median seconds per call, median ratio, and the quartiles of the ratios."""

    name: str
    baseline: str
    seconds: float
    baseline_seconds: float
    ratio: float
    spread: Tuple[float, float]
    expected: str


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
        text, held = f"at most {in_units(comparison.more)} more", more <= comparison.more
    elif comparison.below is not None:
        text, held = f"below {comparison.below:g}", ratio < comparison.below
    elif comparison.above is not None:
        text, held = f"above {comparison.above:g}", ratio > comparison.above
    else:
        return ""
    return text if held else f"{text}: missed"


def row(comparison: Comparison, samples: Dict[str, Samples]) -> Row:
    """The figures of one comparison; none where it needs what is not here."""
    if comparison.needs:
        return Row(comparison.name, comparison.baseline, nan, nan, nan, (nan, nan), f"not run: needs {comparison.needs}")
    values, baseline = samples[comparison.way].values, samples[comparison.baseline].values
    if comparison.beyond is not None:
        common = samples[comparison.beyond].values
        values, baseline = differences(values, common), differences(baseline, common)
    each = ratios(baseline, values) if comparison.rate else ratios(values, baseline)
    ratio = statistics.median(each)
    return Row(
        comparison.name,
        comparison.baseline if comparison.beyond is None else f"{comparison.baseline}, beyond {comparison.beyond}",
        statistics.median(values),
        statistics.median(baseline),
        ratio,
        quartiles(each),
        expectation(comparison, ratio, statistics.median(value - base for value, base in zip(values, baseline))),
    )


def in_units(seconds: float) -> str:
    """Three digits and a unit: 27.4 µs."""
    if isnan(seconds):
        return "-"
    scale, unit = next((pair for pair in reversed(_UNITS) if seconds >= pair[0]), _UNITS[0])
    number = seconds / scale
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, lined up for reading."""
    lines = [["what", "over", "median", "baseline", "ratio", "quartiles", "expected"]]
    for one in rows:
        figures = ["-", "-"] if isnan(one.ratio) else [f"{one.ratio:.2f}", f"{one.spread[0]:.2f} to {one.spread[1]:.2f}"]
        lines.append([one.name, one.baseline, in_units(one.seconds), in_units(one.baseline_seconds), *figures, one.expected])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head, lined up for reading."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    whole = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in whole)

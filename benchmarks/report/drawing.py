"""Draws plots with matplotlib: SVG and PNG, 800 pixels wide, readable on paper without colours. The only importer of matplotlib."""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path
from typing import Any, Callable, List, Sequence

import matplotlib

from ..measure.timing import Plot
from .plots import Figure, Series, figure, is_over, not_here, short, written
from .results import Run

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

# The same data gives the same file: names inside it are hashes with this salt, and no date is in it.
_STYLE: Any = {
    "svg.hashsalt": "xpc-instrument",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}
_WIDTH, _DPI = 8.0, 100
_OURS = "#0b3d91"
# Each differs from the others by marker and dashes too, and by how dark it is.
_OTHERS = ("#555555", "#8c510a", "#888888", "#35978f", "#aa6f9e", "#b8a02a", "#444444", "#999999")
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "--", "-.")
# As many values on the horizontal axis as have a tick of their own.
_TICKS = 8


def draw_all(run: Run, folder: Path, png: bool = True) -> List[Path]:
    """Draw what was measured; returns the SVG files."""
    drawn = []
    for part in run.parts:
        for plot in part.plots if part.samples else ():
            shown = figure(part, plot)
            if shown.series:
                drawn.append(draw(shown, folder, png))
    return drawn


def draw(shown: Figure, folder: Path, png: bool = True) -> Path:
    """One plot, as SVG, and as PNG too if that is wanted; returns the SVG file."""
    with matplotlib.rc_context(_STYLE):
        picture, axes = pyplot.subplots(figsize=(_WIDTH, _height(shown)), dpi=_DPI)
        try:
            (_bars if shown.bars else _lines)(axes, shown)
            axes.set_title(_plain(shown.plot.title), loc="left", fontsize=12)
            if shown.missing:
                note = textwrap.fill("Not here: " + not_here(shown.missing), 120)
                picture.text(0.01, 0.01, note, fontsize=8, color="#444444", ha="left", va="bottom")
            room = 0.16 * (note.count("\n") + 1) / _height(shown) if shown.missing else 0.0
            picture.tight_layout(rect=(0, room, 1, 1))
            file = folder / f"{shown.plot.name}.svg"
            picture.savefig(file, metadata={"Date": None, "Creator": None})
            if png:
                picture.savefig(file.with_suffix(".png"), metadata={"Software": None})
        finally:
            pyplot.close(picture)
    return file


def _height(shown: Figure) -> float:
    return 1.5 + 0.27 * len(shown.series) if shown.bars else 4.6


def _bars(axes: Any, shown: Figure) -> None:
    """Lying bars, the first on top, with the label at the left and the value at the end."""
    formatted = functools.partial(written, shown.plot)
    log = shown.plot.log_y
    tops = [one.points[0].high for one in shown.series]
    bottom = min(one.points[0].low for one in shown.series) / 2 if log else 0
    for row, one in enumerate(shown.series):
        point = one.points[0]
        axes.barh(
            row,
            point.y - bottom,
            left=bottom,
            color=_OURS if one.ours else "#dddddd",
            edgecolor="black",
            linewidth=0.6,
            hatch="" if one.ours else "////",
            height=0.7,
        )
        error = [[max(0.0, point.y - point.low)], [max(0.0, point.high - point.y)]]
        axes.errorbar(point.y, row, xerr=error, color="black", capsize=3, linewidth=1, linestyle="none")
        axes.annotate(formatted(point.y), (point.high, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(shown.series)))
    axes.set_yticklabels([_plain(one.label) for one in shown.series])
    for tick, one in zip(axes.get_yticklabels(), shown.series):
        tick.set_fontweight("bold" if one.ours else "normal")
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
    axes.set_xlim(bottom, max(tops) * (2.2 if log else 1.15))
    _scale(axes.xaxis, formatted, log, bottom, max(tops) * (2.2 if log else 1.15))
    if is_over(shown.plot):
        axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel(_y_label(shown))
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _lines(axes: Any, shown: Figure) -> None:
    formatted = functools.partial(written, shown.plot)
    others = 0
    for one in sorted(shown.series, key=lambda series: series.ours):
        xs, ys = [point.x for point in one.points], [point.y for point in one.points]
        errors = [[max(0.0, p.y - p.low) for p in one.points], [max(0.0, p.high - p.y) for p in one.points]]
        style = _style(one, shown.series, others)
        others += not one.ours
        axes.errorbar(xs, ys, yerr=errors, label=_plain(one.label), capsize=3, **style)
    if shown.plot.log_x:
        # So that nothing, as a size, has a place on it as well.
        axes.set_xscale("symlog", linthresh=_least(shown) or 1) if _least(shown, zero=True) == 0 else axes.set_xscale("log")
    places = sorted({point.x for one in shown.series for point in one.points})
    if len(places) <= _TICKS:
        axes.xaxis.set_major_locator(FixedLocator(places))
        if len(places) > _TICKS // 2:
            # So that none covers its neighbour.
            axes.tick_params(axis="x", labelrotation=35)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if shown.plot.log_y:
        axes.set_yscale("log")
    low, high = axes.get_ylim()
    if not shown.plot.log_y:
        axes.set_ylim(bottom=0)
    _scale(axes.yaxis, formatted, shown.plot.log_y, low, high)
    if is_over(shown.plot):
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel(_plain(shown.plot.x))
    axes.set_ylabel(_y_label(shown))
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _scale(axis: Any, formatted: Callable[[float], str], log: bool, low: float, high: float) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value)))
    if log:
        # Within two decades a tick for each power of ten is too few.
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if low > 0 and high / low < 300 else (1.0,)))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _least(shown: Figure, zero: bool = False) -> float:
    return min((p.x for one in shown.series for p in one.points if zero or p.x > 0), default=0.0)


def _style(one: Series, among: Sequence[Series], number: int) -> Any:
    if one.ours:
        mine = [series for series in among if series.ours].index(one)
        return {
            "color": _OURS,
            "linewidth": 2.6,
            "marker": "o*hp"[mine % 4],
            "markersize": 8,
            "linestyle": ("-", "--", "-.", ":")[mine % 4],
        }
    place = number % len(_OTHERS)
    return {"color": _OTHERS[place], "linewidth": 1.2, "marker": _MARKERS[place], "markersize": 5, "linestyle": _DASHES[place]}


def _y_label(shown: Figure) -> str:
    plot = shown.plot
    if plot.rate and plot.y == Plot.y:
        return "calls per second" + (", over the baseline" if is_over(shown.plot) else "")
    return _plain(plot.y)


def _plain(text: str) -> str:
    """Without the marks of Markdown, and of matplotlib's formulas."""
    return text.replace("`", "").replace("$", r"\$")

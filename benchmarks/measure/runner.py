"""Measures the groups that were asked for, one after another, and says meanwhile how far it is."""

from __future__ import annotations

import importlib.util
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, List, Mapping, Tuple, Union

from ..groups.syscalls import Tally
from ..report.results import Part, Run, part_of
from . import timing
from .timing import Effort, Group, Unavailable

# Seconds that are assumed for what tells nothing of itself: a group that counts, or one whose blocks have their own length.
_UNTOLD = 6.0
# Seconds for one set-up.
_SET_UP = 0.7
# How much longer a way takes than its blocks: calibrating, and what overshoots.
_MORE = 1.3


def run(
    groups: Mapping[str, Union[Group, Tally]], effort: Effort, asked: bool, keep: Callable[[List[Part]], None] = lambda parts: None
) -> Tuple[List[Part], bool]:
    """What came of each, and whether one could not run. `asked`: they were asked for by name, so that one that needs what is not here
    has failed; what a machine lacks is none of the whole. `keep` gets all there is until then, after each group."""
    parts: List[Part] = []
    failed = False
    clock = Clock({name: rough(group, effort) for name, group in groups.items()})
    for name, group in groups.items():
        clock.begins(name)
        began = time.monotonic()
        try:
            if isinstance(group, Tally):
                part = Part(name, getattr(group, "title", ""), getattr(group, "about", ""), getattr(group, "why", ""))
                part.text = group.table(clock.says)
            else:
                part = part_of(group, samples=timing.measure(group, effort, clock.says))
        except Unavailable as reason:
            part = _nothing(name, group, str(reason))
            failed = failed or asked
        except Exception as error:
            # The next groups are measured all the same; this one is named at the end, and in the tables.
            part = _nothing(name, group, f"it failed: {type(error).__name__}: {error}")
            failed = True
            show("")
            traceback.print_exc()
        part.took = time.monotonic() - began
        clock.ended(name, part.took)
        parts.append(part)
        keep(parts)
    show("")
    return parts, failed


def _nothing(name: str, group: Union[Group, Tally], why: str) -> Part:
    return part_of(group, missing=why) if isinstance(group, Group) else Part(name, missing=why)


def rough(group: Union[Group, Tally], effort: Effort) -> float:
    """Seconds that a group will take, as far as what it says of itself tells."""
    if isinstance(group, Tally):
        return _UNTOLD
    runs = effort.runs if group.runs is None else min(group.runs, effort.runs)
    rounds = effort.rounds if group.rounds is None else min(group.rounds, effort.rounds)
    if group.loops is not None:
        return _UNTOLD * runs / 3
    ways = {way for one in group.comparisons if not one.needs for way in (one.way, one.baseline)}
    return runs * (_SET_UP + len(ways) * rounds * effort.block * group.share * _MORE)


class Clock:
    """Says on a terminal which group is measured and how long the rest may take; learns from the groups that are over."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = dict(expected)
        self._left = sum(expected.values())
        self._count = len(expected)
        self._number = 0
        self._guessed = self._took = 0.0

    def begins(self, name: str) -> None:
        """The next group."""
        self._number += 1

    def ended(self, name: str, took: float) -> None:
        """The group is over."""
        self._left -= self._expected[name]
        self._guessed += self._expected[name]
        self._took += took
        if sys.stderr.isatty():
            show("")
            print(f"{name} took {took:.0f} s", file=sys.stderr)

    def left(self) -> float:
        """Seconds, roughly: what is expected of this group and those to come, times what the guesses were wrong by until now."""
        return self._left * (self._took / self._guessed if self._guessed else 1.0)

    def says(self, text: str) -> None:
        """The progress of the group that runs."""
        show(f"{text} (group {self._number} of {self._count}; some {spoken(self.left())} left)")


def spoken(seconds: float) -> str:
    """20 s, 3 min."""
    return f"{max(10, round(seconds, -1)):.0f} s" if seconds < 95 else f"{seconds / 60:.0f} min"


def show(text: str) -> None:
    """Say on a terminal, in one line that the next replaces, what is being measured."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def can_draw() -> bool:
    """Whether matplotlib is here."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(run: Run, folder: Path, png: bool = True) -> str:
    """Draw the plots into a folder. Returns how many there are, or why there are none."""
    if not any(part.plots and part.samples for part in run.parts):
        return "There is nothing to draw."
    if not can_draw():
        return "There are no plots: matplotlib is missing; pip install -e '.[benchmarks]' brings it."
    from ..report.drawing import draw_all

    show("drawing")
    drawn = draw_all(run, folder, png)
    show("")
    return f"{len(drawn)} plots were drawn."

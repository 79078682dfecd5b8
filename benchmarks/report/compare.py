"""`python -m benchmarks compare A B`: what became slower or faster between two runs, and what is only in one.

Where a benchmark has a baseline, the ratios to it are compared, since the times of two runs on a machine that does other things too differ
by more than what is looked for; what has no baseline is compared by its times. `significance.py` says by which test and why.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from ..measure.machine import DECISIVE
from ..measure.timing import Comparison
from .results import Part, ResultsError, Run, read
from .rows import compared, in_units, markdown, ratios, ways_of
from .significance import LEVEL, p_value, significant

Key = Tuple[str, str, str]


@dataclass(frozen=True)
class Figures:
    """One benchmark of one run: a median of each set-up, of what should be small. `shown` is the median of those in words.

    Where there was one set-up only, `runs` are its rounds, which agree with each other better than set-ups do: so `single`.
    """

    runs: Tuple[float, ...]
    shown: str
    single: bool = False


@dataclass(frozen=True)
class Change:
    """One benchmark in both: how many times as slow (or large) the second is, and how probable that is by chance."""

    group: str
    name: str
    before: str
    after: str
    times: float
    probability: Optional[float]
    significant: bool
    single: bool = False

    @property
    def percent(self) -> float:
        """By how much it became slower; less than 0 for faster."""
        return (self.times - 1) * 100

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.probability is None:
            return "one value: cannot be judged"
        word = "slower" if self.times > 1 else "faster"
        if self.significant:
            return f"perhaps {word}: one set-up" if self.single else word
        return f"perhaps {word}" if self.probability < LEVEL else ""


def figures(run: Run) -> Dict[Key, Figures]:
    """All benchmarks of a run, by group, name, and what each is over."""
    found: Dict[Key, Figures] = {}
    for part in run.parts:
        used = set()
        for comparison in part.comparisons:
            used.update(ways_of(comparison))
            if all(way in part.samples for way in ways_of(comparison)) and not comparison.needs:
                found[part.name, comparison.name, comparison.baseline] = _ratios(part, comparison)
        for way in part.samples:
            if way not in used:
                values = part.samples[way]
                single = len(values.runs) == 1
                each = tuple(values.runs[0]) if single else tuple(statistics.median(one) for one in values.runs)
                found[part.name, way, ""] = Figures(each, in_units(statistics.median(each), part.units().get(way, "second")), single)
    return found


def _ratios(part: Part, comparison: Comparison) -> Figures:
    by_run = [list(ratios(*compared(comparison, runs))) for runs in zip(*(part.samples[way].runs for way in ways_of(comparison)))]
    single = len(by_run) == 1
    each = by_run[0] if single else [statistics.median(one) for one in by_run]
    median = statistics.median(each)
    # Calls per second are shown the other way round, as in the tables; what is compared is the time.
    return Figures(tuple(each), f"{1 / median if comparison.rate else median:.2f}", single)


def changes(before: Run, after: Run) -> List[Change]:
    """All benchmarks that both have, the worst first."""
    first, second = figures(before), figures(after)
    found = []
    # Group by group: one that has many rows would else hide what a few rows of another show.
    for group in dict.fromkeys(key[0] for key in first if key in second):
        keys = [key for key in first if key[0] == group and key in second]
        probabilities = [p_value(first[key].runs, second[key].runs) for key in keys]
        found += [
            Change(
                key[0],
                key[1] + (f", over {key[2]}" if key[2] else ""),
                first[key].shown,
                second[key].shown,
                statistics.median(second[key].runs) / statistics.median(first[key].runs),
                probability,
                counts,
                first[key].single or second[key].single,
            )
            for key, probability, counts in zip(keys, probabilities, significant(probabilities))
        ]
    return sorted(found, key=lambda change: (change.verdict not in ("slower", "faster"), not change.verdict, -change.times))


def report(before: Run, after: Run) -> str:
    """The comparison in Markdown."""
    found = changes(before, after)
    slower = [change for change in found if change.verdict == "slower"]
    faster = [change for change in found if change.verdict == "faster"]
    whole = [f"A: {_called(before)}\nB: {_called(after)}"]
    counts = f"{len(slower)} slower (or larger), {len(faster)} faster, of {len(found)} in both"
    whole.append(f"{counts}; at most {LEVEL:.0%} of those of a group that are called so are expected to be so by chance.")
    perhaps = sum("perhaps" in change.verdict for change in found)
    unjudged = sum(change.probability is None for change in found)
    whole.append(
        f"{perhaps} more are perhaps slower or faster: measure those groups again, and fully, to know. {unjudged} could not be judged. "
        "An empty verdict says that no difference was shown, not that there is none."
    )
    if found:
        head = ["group", "what", "A", "B", "B / A", "p", "verdict"]
        lines = [
            [one.group, one.name, one.before, one.after, f"{one.times:.3f}", _probability(one.probability), one.verdict] for one in found
        ]
        whole.append(markdown([head, *lines]))
    first, second = figures(before), figures(after)
    for letter, keys in (("A", first.keys() - second.keys()), ("B", second.keys() - first.keys())):
        if keys:
            whole.append(
                f"Only in {letter}:\n\n"
                + "\n".join(f"- {group}: {name}" + (f", over {base}" if base else "") for group, name, base in sorted(keys))
            )
    return "\n\n".join(whole)


def _probability(value: Optional[float]) -> str:
    return "" if value is None else "below 0.0001" if value < 0.0001 else f"{value:.4f}"


def _called(run: Run) -> str:
    return f"xpc-instrument {run.version}, {run.date}, `{run.command}`" if run.version else "values without a description"


def warnings(before: Run, after: Run) -> List[str]:
    """Why the two may not be comparable."""
    found = [
        f"the two have different values of {name!r}: {before.machine.get(name)} and {after.machine.get(name)}; what differs may be that"
        for name in DECISIVE
        if before.machine and after.machine and before.machine.get(name) != after.machine.get(name)
    ]
    if before.effort and after.effort and before.effort != after.effort:
        found.append(f"A is a {before.effort} run and B a {after.effort} one")
    for letter, run in (("A", before), ("B", after)):
        if not run.version:
            found.append(
                f"{letter} has no run.json beside it, which names the baselines: times are compared, and those move with the machine's load"
            )
    return found


def _percent(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of per cent, 0 or more")
    return value


def main(words: Sequence[str]) -> int:
    """Returns 0; 1 if something became slower than is allowed; 2 if one cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description="What became slower or faster between two runs.",
        epilog="Exit status: 0; 1 if something became slower than --fail-if-slower allows; 2 if a run cannot be read.",
    )
    parser.add_argument("before", metavar="A", type=Path, help="the folder of a run, or its values.json")
    parser.add_argument("after", metavar="B", type=Path, help="that of a later one")
    parser.add_argument(
        "--fail-if-slower", metavar="PERCENT", type=_percent, help="exit status 1 if something is significantly slower (or larger) by more"
    )
    options = parser.parse_args(words)
    try:
        before, after = read(options.before), read(options.after)
        text, found = report(before, after), changes(before, after)
    except (ResultsError, ValueError, ZeroDivisionError) as error:
        print(f"python -m benchmarks compare: {error}", file=sys.stderr)
        return 2
    for warning in warnings(before, after):
        print(f"python -m benchmarks compare: {warning}", file=sys.stderr)
    print(text)
    if not found:
        print("python -m benchmarks compare: the two have no benchmark in common", file=sys.stderr)
        return 2
    if options.fail_if_slower is None:
        return 0
    gone = figures(before).keys() - figures(after).keys()
    if gone:
        print(f"python -m benchmarks compare: {len(gone)} benchmarks are only in A, and were not judged", file=sys.stderr)
    return int(any(change.verdict == "slower" and change.percent > options.fail_if_slower for change in found))

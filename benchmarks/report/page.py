"""`python -m benchmarks page DIR`: a page of a run for people, with its tables and pictures. Every number in it is the run's.

With `--readme README.md` the table of that file is made of the run too.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import List, Sequence

from ..measure import runner
from ..measure.timing import Plot
from . import summary
from .facts import crossings, expectations, shares, shortcomings, too_short
from .results import Part, ResultsError, Run, read
from .text import machine_of, table_of, times, what_was_not_measured

_DEFAULT = Path("docs/performance.md")

# The words around the figures. They hold no number: what a run determines is put in by `facts`.
_OPENING = """\
This page is generated from a run of the benchmarks by `python3 dev.py bench page`; no number in it was typed by hand.
[benchmarks/README.md]({benchmarks}) says what is compared with what, and how it is timed. `python3 dev.py bench --fast` measures the same
on your machine."""

_READING = """\
`median` and `baseline` are the medians for one call, `ratio` is the median of the ratios within a round, `quartiles` are where the middle
half of those lies, and `means` are the means of both. Other load on the machine changes the times more than the ratios. In the pictures
the error bars are quartiles, and ours are dark."""

_WHEN_NOT = """\
A hook that the application waits for stops the calling thread until another process has answered. In a request handler, a query or a call
over a network that hardly matters; in a loop over numbers nothing else does. So do not put `before`, `after`, `around` or `instead` on a
function that a hot loop calls; hook the function that runs the loop."""

_SHARES = """\
The share of its time that a thread of the application spends in crossings, by how often the function is called. The times are those of
calls that follow each other closely; a single call finds the other process asleep, and waits for it to wake."""

_CHEAPER = """\
- **Do not wait:** an observer with `wait=False` costs the thread an append to a queue; events that find it full are dropped and counted.
- **Ask less often:** `sample=` takes a part of the calls by chance, `rate=` so many a second; a call that they exclude does not cross.
- **Stop:** `limit=` and `expires=` end a registration by themselves, and the function is the original again.
- **Observe fewer functions,** and those that are called seldom: a probe point without a hook costs nothing, an armed one costs each call.
- **`instead` crosses once, `around` that proceeds twice.** If the original need not run, use `instead`.
- **Stay on the unix socket,** the default: hot lanes, which go through shared memory, exist only there.
- **Keep what crosses small and plain:** numbers, strings and small containers of them are pickled by one call of C. A large argument is
  copied; an object that cannot be pickled crosses as a reference, and each access to it is a crossing of its own."""


def page_of(run: Run, pictures: str, benchmarks: str, drawn: Sequence[str]) -> str:
    """The page in Markdown. `pictures` is where the plots are, seen from the page, and `drawn` the names of those there are."""
    whole: List[str] = ["# What it costs", _OPENING.format(benchmarks=benchmarks), _measured_on(run)]
    said = expectations(run)
    if said:
        whole += ["## What to expect", "\n".join(f"- {sentence}" for sentence in said)]
    whole += ["## When not to use a hook", _WHEN_NOT]
    if crossings(run):
        whole += [too_short(run), _SHARES, shares(run)]
    whole += ["## How to keep the cost down", _CHEAPER, "## What was measured", _READING]
    for part in run.parts:
        if part.samples or part.text:
            whole += _section(part, pictures, drawn)
    missing = what_was_not_measured(run)
    if missing:
        whole += ["## Not measured", missing]
    whole += ["## What the measuring took", times(run)]
    return "\n\n".join(piece for piece in whole if piece) + "\n"


def _measured_on(run: Run) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in run.packages.items())
    lines = [
        f"- **What:** xpc-instrument {run.version}, {run.date}, `{run.command}` (a {run.effort} run)",
        f"- **Where:** {machine_of(run)}, {run.machine.get('compiler', '')}".rstrip(", "),
        f"- **Beside:** {packages}" if packages else "",
    ]
    return "\n".join(line for line in lines if line)


def _section(part: Part, pictures: str, drawn: Sequence[str]) -> List[str]:
    """One group: what it is, its table and pictures, and where it is not as one would wish, and why."""
    short = shortcomings(part)
    return [
        f"### {part.heading}",
        part.about.strip(),
        *(_picture(plot, pictures) for plot in part.plots if plot.name in drawn),
        table_of(part),
        "Not the best, or not as expected, in this run:\n\n" + "\n".join(f"- {one}" for one in short) if short else "",
        f"**Why:** {part.why.strip()}" if part.why else "",
    ]


def _picture(plot: Plot, pictures: str) -> str:
    return f"![{plot.title.replace('`', '')}]({pictures}/{plot.name}.svg)"


def write(run: Run, source: Path, to: Path) -> List[Path]:
    """Write the page, and its pictures into a folder beside it; returns them. Raises `OSError`."""
    pictures = to.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    names = [plot.name for part in run.parts for plot in part.plots]
    # Drawn anew, as this version draws; without matplotlib those of the run are taken.
    if not runner.can_draw():
        for name in names:
            if (source / f"{name}.svg").exists():
                shutil.copyfile(source / f"{name}.svg", pictures / f"{name}.svg")
    else:
        runner.draw(run, pictures, png=False)
    drawn = [name for name in names if (pictures / f"{name}.svg").exists()]
    if to.exists():
        # Those of the page before, and nobody else's.
        for old in re.findall(rf"\]\({re.escape(pictures.name)}/([\w-]+)\.svg\)", to.read_text(encoding="utf-8", errors="replace")):
            if old not in drawn:
                (pictures / f"{old}.svg").unlink(missing_ok=True)
    to.write_text(page_of(run, pictures.name, "../benchmarks/README.md", drawn), encoding="utf-8")
    return [pictures / f"{name}.svg" for name in drawn]


def main(words: Sequence[str]) -> int:
    """Returns 0, or 2 if the run cannot be read or the page not be written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks page", description="Make a page of a run, with its tables and pictures.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of a run")
    parser.add_argument(
        "--to", metavar="FILE", type=Path, default=_DEFAULT, help=f"the page; {_DEFAULT} otherwise; its pictures go beside it"
    )
    parser.add_argument("--readme", metavar="FILE", type=Path, help="put a table of some rows into this file too, between its marks")
    options = parser.parse_args(words)
    try:
        run = read(options.folder)
        if not run.version:
            raise ResultsError(f"{options.folder} has no run.json beside it, which says what the values mean")
        if options.readme is not None:
            summary.write(run, options.readme)
        drawn = write(run, options.folder if options.folder.is_dir() else options.folder.parent, options.to)
    except (ResultsError, ValueError) as error:
        print(f"python -m benchmarks page: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"python -m benchmarks page: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{options.to} was written, with {len(drawn)} pictures in {options.to.with_suffix('')}")
    return 0

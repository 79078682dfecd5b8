"""`python -m benchmarks page DIR --readme README.md`: some rows of a run as a table in the README, between two marks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Tuple

from .results import ResultsError, Run
from .rows import Row, in_units, markdown
from .text import machine_of

# Everything between these lines is replaced.
_BEGIN = "<!-- figures: begin; made by `python3 dev.py bench page DIR --readme README.md` -->"
_END = "<!-- figures: end -->"

# The groups and names of the rows that the README has.
ROWS: Tuple[Tuple[str, str], ...] = (
    ("disarmed", "function: disarmed, code swap"),
    ("disarmed", "function: disarmed, wrapt (the old way)"),
    ("disarmed", "method: disarmed, code swap"),
    ("disarmed", "method: disarmed, wrapt (the old way)"),
    ("forwarding", "function: armed, only forwarding, code swap"),
    ("forwarding", "method: armed, only forwarding, code swap"),
    ("roundtrip", "`instead`, unix socket"),
    ("roundtrip", "`before`, unix socket"),
    ("roundtrip", "`around` that proceeds, unix socket"),
    ("tcp", "`instead`, TCP loopback"),
    ("unwaited", "`before` that nobody waits for, a burst of 500"),
    ("large", "1 MB as `bytes`, `before`, unix socket"),
    ("large", "80 MB as a numpy array, `before`, unix socket"),
    ("peers", "a connection for each call (the seed's way)"),
)


def summary(run: Run) -> str:
    """The table, and what it was measured with. Raises `ResultsError` if the run lacks one of the rows."""
    lines = [["what", "over", "median", "baseline", "ratio"]]
    for group, name in ROWS:
        one = _row(run, group, name)
        lines.append([one.name, one.baseline, in_units(one.seconds), in_units(one.baseline_seconds), f"{one.ratio:.2f}"])
    return f"{markdown(lines)}\n\nMedians of `{run.command}`, {run.date[:10]}: {machine_of(run)}."


def _row(run: Run, group: str, name: str) -> Row:
    part = run.part(group)
    found = [row for row in (part.rows if part is not None else []) if row.name == name and row.ratio == row.ratio]
    if not found:
        raise ResultsError(f"the run has no row {name!r} of the group {group!r}, which the README shows; expected a run of all groups")
    return found[0]


def write(run: Run, readme: Path) -> None:
    """Put the table into the README. Raises `ResultsError`, `OSError`."""
    text = readme.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1 or text.index(_BEGIN) > text.index(_END):
        raise ResultsError(f"{readme} has no place for the figures; expected the lines {_BEGIN} and {_END}")
    figures = f"{_BEGIN}\n{summary(run)}\n{_END}"
    readme.write_text(re.sub(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", lambda _: figures, text, flags=re.DOTALL), encoding="utf-8")

"""A run as Markdown: a table for each group, and what was not measured and why."""

from __future__ import annotations

from typing import List

from .plots import not_here
from .results import Part, Run
from .rows import markdown, table


def table_of(part: Part) -> str:
    """The table of one group; "" if it was not measured."""
    return part.text or (table(part.rows) if part.samples else "")


def markdown_of(run: Run) -> str:
    """All tables, under headings."""
    whole: List[str] = [f"# xpc-instrument {run.version}: `{run.command}`", f"{run.date}, {machine_of(run)}."]
    for part in run.parts:
        text = table_of(part)
        if text:
            whole += [f"## {part.heading}", text]
    missing = what_was_not_measured(run)
    if missing:
        whole += ["## Not measured", missing]
    whole += ["## What it took", times(run)]
    return "\n\n".join(whole) + "\n"


def machine_of(run: Run) -> str:
    """The machine in a line."""
    one = run.machine
    parts = [
        one.get("processor", "an unknown processor"),
        f"{one['processors']} processors" if "processors" in one else "",
        one.get("memory", ""),
        one.get("system", ""),
        one.get("python", ""),
    ]
    return ", ".join(part for part in parts if part)


def what_was_not_measured(run: Run) -> str:
    """Groups and rows that are not there, and why; "" if all are."""
    lines = [f"{part.name} was not measured: {part.missing}." for part in run.parts if part.missing]
    for part in run.parts:
        absent = [(one.name, one.expected[len("not run: ") :]) for one in part.rows if one.expected.startswith("not run: ")]
        if absent:
            lines.append(f"{part.name}: {not_here(absent)}.")
    return "\n".join(f"- {line}" for line in lines)


def times(run: Run) -> str:
    """How long each group took."""
    lines = [["group", "took"], *([part.name, f"{part.took:.0f} s"] for part in run.parts)]
    return markdown([*lines, ["all", f"{run.took:.0f} s"]])

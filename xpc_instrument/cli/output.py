"""Tables on a terminal (with rich, if it is installed), plain columns in a pipe."""

from __future__ import annotations

import sys
from typing import Any, List, Mapping, Sequence

# The columns that a narrow terminal breaks into several lines; the others have short words and numbers.
_LONG = frozenset({"TARGET", "HOOKS", "FAILURES", "SKIPPED", "REASON", "COMMAND"})
# As far as it breaks them, in letters: narrower columns would be read from top to bottom.
_NARROW = 8
_COLOURS = {"armed": "bold green", "suspended": "bold red", "ready": "cyan", "pending": "yellow", "missing": "red", "unpatchable": "red"}


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; on a terminal that is too narrow for it, row after row with the names of the columns."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.padding import Padding
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass  # the extra `cli` is not installed; columns do as well
        else:
            console = Console()
            least = _least(columns, rows)
            texts = [[Text(cell, style=_COLOURS.get(cell, "")) for cell in row] for row in rows]
            if sum(least) + 2 * (len(columns) - 1) > console.width:
                for row_texts in texts:
                    pairs = (
                        Text.assemble((column, "bold"), " ", cell)
                        for column, cell in zip(columns, row_texts)
                        if cell.plain not in ("", "-")
                    )
                    console.print(Padding(Text("  ").join(pairs), (0, 0, 1, 0)))
                return
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column, width in zip(columns, least):
                table.add_column(column, overflow="fold", no_wrap=column not in _LONG, min_width=width)
            for row_texts in texts:
                table.add_row(*row_texts)
            console.print(table)
            return
    lines = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _least(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> List[int]:
    """How wide each column has to be at least."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows)]
    return [min(width, max(_NARROW, len(column))) if column in _LONG else width for column, width in zip(columns, widths)]


def printable(text: str) -> str:
    """Without line breaks and what a terminal would obey: arguments of programs and texts of errors may hold anything."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def show_json(value: Any) -> None:
    """Print JSON, indented for people on a terminal."""
    import json

    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, sort_keys=True))


def amount(size: int) -> str:
    """A number of bytes, in three digits: `980`, `12.3k`, `458M`."""
    return _short(size, ("", "k", "M", "G", "T"))


def duration(microseconds: float) -> str:
    """A time, in three digits where it is not of hours: `35us`, `1.2ms`, `914ms`, `3.4s`."""
    return _short(microseconds, ("us", "ms", "s"))


def _short(number: float, units: Sequence[str]) -> str:
    """Whole in the first of the units, each of which is a thousand of the one before; with one decimal beyond if it is below 100."""
    unit = 0
    while number >= 999.5 and unit + 1 < len(units):
        number, unit = number / 1000, unit + 1
    return f"{number:.{1 if unit and number < 99.95 else 0}f}{units[unit]}"


def counts(values: Mapping[str, int]) -> str:
    """`cause:number` for each that is not zero."""
    return " ".join(f"{cause}:{number}" for cause, number in sorted(values.items()) if number) or "-"

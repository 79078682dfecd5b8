"""Tables on a terminal (with rich, if it is installed), plain columns in a pipe."""

from __future__ import annotations

import sys
from typing import Any, Mapping, Sequence

_COLOURS = {"armed": "bold green", "suspended": "bold red", "ready": "cyan", "pending": "yellow", "missing": "red", "unpatchable": "red"}


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output."""
    rows = [[_printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass  # the extra `cli` is not installed; columns do as well
        else:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
            Console().print(table)
            return
    lines = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _printable(text: str) -> str:
    """Without line breaks and what a terminal would obey: arguments of programs and texts of errors may hold anything."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def show_json(value: Any) -> None:
    """Print JSON, indented for people on a terminal."""
    import json

    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, sort_keys=True))


def amount(size: int) -> str:
    """A number of bytes, in three digits or four: `980 B`, `12.3 kB`, `4.0 MB`."""
    if size < 1000:
        return f"{size} B"
    number = float(size)
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.95:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:.1f} TB"


def duration(microseconds: float) -> str:
    """A time: `35 us`, `1.2 ms`, `3.4 s`."""
    if microseconds < 999.5:
        return f"{microseconds:.0f} us"
    return f"{microseconds / 1e3:.1f} ms" if microseconds < 999_950 else f"{microseconds / 1e6:.1f} s"


def counts(values: Mapping[str, int]) -> str:
    """`cause:number` for each that is not zero."""
    return " ".join(f"{cause}:{number}" for cause, number in sorted(values.items()) if number) or "-"

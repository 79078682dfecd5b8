"""`xpc stat`: one table of counts, sums and quantiles by key, counted in the application."""

from __future__ import annotations

import argparse
from typing import Any, List

from ..core.model.local import DURATION
from ..verbs.events import STAT_NUMBERS, aligned, histogram_text, stat_cells, stat_json
from .flags import add_verb, seconds
from .observing import running
from .tables import follow

# The numbers on a terminal that is too narrow for all of them.
_SHORT = ("count", "p50", "max")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "stat",
        "count the calls of functions by key, with a number",
        limit=0,
        examples="  xpc stat shop shop.checkout:charge --by currency --of amount\n"
        "  xpc stat shop shop.checkout:charge --hist\n"
        "  xpc stat shop 'shop.**' --by target --by exception --every 10s\n",
    )
    parser.add_argument("--by", metavar="EXPR", action="append", default=[], help="count apart by its value; may be repeated")
    parser.add_argument("--of", metavar="EXPR", default=DURATION, help="the number; default: duration")
    parser.add_argument("--when", metavar="EXPR", default="", help="only these calls")
    parser.add_argument("--hist", action="store_true", help="draw how the numbers are spread, in powers of two")
    parser.add_argument("--top", metavar="N", type=int, default=20, help="the N most frequent keys; default 20")
    parser.add_argument("--every", metavar="TIME", type=seconds, help="print the table again and again, and not only at the end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table at the end; 1 if there was no call until `--for`."""
    with running(options) as one:
        is_time = options.of == DURATION
        table = one.session.stat(
            one.targets,
            by=options.by,
            of=options.of,
            when=options.when,
            limit=one.limit,
            expires=options.expires,
            sample=options.sample,
            rate=one.rate,
        )

        def show() -> None:
            rows = table.rows()
            top = rows[: options.top]
            keys = len(options.by)
            cells = [stat_cells(row, is_time) for row in top]
            # What has no key of its own stands in the first column.
            cells = [[cell[0], *[""] * (keys + len(STAT_NUMBERS) - len(cell)), *cell[1:]] for cell in cells]
            text = _table([*options.by, *STAT_NUMBERS], cells, keys, one.output.width) if rows else []
            if len(rows) > len(top):
                text.append(f"and {len(rows) - len(top)} more keys (--top)")
            if options.hist:
                for row in top:
                    text += ["", *([" ".join(stat_cells(row, is_time)[:keys])] if keys else []), *histogram_text(row, is_time)]
            one.output.event({"type": "table", "rows": [stat_json(row, options.by) for row in rows]}, text)

        one.armed(table.handle, "call")
        return follow(one, table, options.every or options.expires + 1, show, last=True)


def _table(columns: List[str], rows: List[List[str]], keys: int, width: int) -> List[str]:
    """The lines of the table; on a terminal that is too narrow for all columns, with the most telling numbers, so that none is broken."""
    lines = aligned(columns, rows, keys, width)
    if not width or max(map(len, lines)) <= width:
        return lines
    kept = [place for place, name in enumerate(columns) if place < keys or name in _SHORT]
    return aligned([columns[place] for place in kept], [[row[place] for place in kept] for row in rows], keys, width)

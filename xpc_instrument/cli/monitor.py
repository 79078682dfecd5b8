"""`xpc monitor`: calls, errors and times of functions in intervals, counted in the application."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..core.model.times import shown_seconds
from ..verbs.events import MONITOR_COLUMNS, aligned, monitor_cells, monitor_json
from .flags import add_verb, seconds
from .observing import running
from .tables import follow

# Columns of a terminal that is too narrow for all of them.
_NARROW = 80
# Of an interval: what is shorter is what was counted since the last one, at the end.
_WHOLE = 0.9
_SHORT = ("target", "calls", "errors", "p50", "p99")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "monitor",
        "count the calls, errors and times of functions",
        limit=0,
        examples="  xpc monitor shop 'shop.checkout:*' --every 5s\n  xpc monitor shop shop.checkout:charge --when 'amount > 1000'\n",
    )
    parser.add_argument("--every", metavar="TIME", type=seconds, default=5.0, help="the interval; default 5s")
    parser.add_argument("--when", metavar="EXPR", default="", help="only these calls")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table for each interval until the end; 1 if there was no call until `--for`."""
    with running(options) as one:
        table = one.session.monitor(
            one.targets,
            when=options.when,
            limit=one.limit,
            expires=options.expires,
            sample=options.sample,
            rate=one.rate,
            every=options.every,
        )

        since = time.monotonic()

        def show() -> None:
            nonlocal since
            rows = table.rows()
            before, since = since, time.monotonic()
            # On a narrow terminal the most telling ones, so that no line is broken.
            kept = [place for place, name in enumerate(MONITOR_COLUMNS) if not 0 < one.output.width < _NARROW or name in _SHORT]
            cells = [[monitor_cells(row)[place] for place in kept] for row in rows]
            lines = aligned([MONITOR_COLUMNS[place] for place in kept], cells, 1, max(0, one.output.width - 10))
            now = time.strftime("%H:%M:%S")
            text = [f"{now if not number else ' ' * 8}  {line}" for number, line in enumerate(lines)]
            if since - before < options.every * _WHOLE:
                text.append(f"{' ' * 8}  in the last {shown_seconds(since - before)}")
            one.output.event({"type": "table", "seconds": round(since - before, 3), "rows": [monitor_json(row) for row in rows]}, text)

        one.armed(table.handle, "call")
        return follow(one, table, options.every, show, last=False)

"""`xpc inject`: faults that happen to calls of the application, as plain data that lives there."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, List

from ..core.model.fault import FORM, FaultError, parse_terms
from ..core.model.times import shown_seconds
from ..core.model.words import counted
from ..script.counted import FaultRow
from .observing import Run, add_verb, running

# How long to wait until it is looked whether the verb is over, in seconds.
_LOOK_AGAIN = 0.2
# Seconds after which it ends if nothing else is said: shorter than what only looks on.
_LONGEST = 300.0


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "inject",
        "have faults happen to the calls of functions: CHANGES WHAT THE APPLICATION DOES",
        limit=0,
        targets="TARGET... TERMS",
        examples="  xpc inject shop shop.gateway:Gateway.post 'raise(TimeoutError, \"slow bank\")'\n"
        "  xpc inject shop shop.gateway:Gateway.post '10%raise(TimeoutError) -> sleep(100ms..300ms)' --for 1m\n"
        f"TERMS: {FORM}; the first that applies is done.\n",
    )
    parser.add_argument("--when", metavar="EXPR", help="only these calls")
    parser.set_defaults(run=run, expires=_LONGEST)


def run(options: argparse.Namespace) -> int:
    """Have them happen until the end; 1 if none did until `--for`."""
    if len(options.words) < (2 if options.started is not None else 3):
        print(f"xpc: expected a target and the terms of the fault: {FORM}; see `xpc inject --help`", file=sys.stderr)
        return 2
    terms = options.words.pop()
    try:
        parse_terms(terms)
    except FaultError as error:
        print(f"xpc: {error}", file=sys.stderr)
        return 2
    with running(options) as one:
        faults = one.session.inject(
            one.targets, terms, when=options.when, limit=one.limit, expires=options.expires, sample=options.sample, rate=one.rate
        )
        one.armed(faults.handle, "call", "CHANGES BEHAVIOUR: ")
        gone, over = False, ""
        try:
            while not (gone or over):
                time.sleep(_LOOK_AGAIN)
                gone = one.has_ended
                if not gone:
                    # Of a process that is killed, the last moment at most is missing.
                    faults.pull()
                    over = faults.over
        except KeyboardInterrupt:
            over = "interrupted"
        faults.remove()
        rows = faults.rows()
        _tell(one, rows, faults.calls, gone)
    return 1 if over == "expires" and not any(row.count for row in rows) else 0


def _tell(one: Run, rows: List[FaultRow], calls: int, gone: bool) -> None:
    """The last line: `14 of 131 calls: raise(TimeoutError); 117: sleep(100ms..300ms) (mean 203ms)`."""
    done = sum(row.count for row in rows)
    told = "; ".join(f"{row.count} {row.term}" + (f" (mean {shown_seconds(row.mean)})" if row.mean else "") for row in rows)
    where = "the application has ended" if gone else f"disarmed in {counted(len(one.session.pids), 'process', 'processes')}"
    one.output.say(f"faults happened to {done} of {counted(calls, 'call')}: {told}; {where}")
    now = time.time()
    one.output.event({"type": "fault", "time": now, "rows": [{"term": row.term, "count": row.count, "mean": row.mean} for row in rows]})
    one.output.event({"type": "summary", "events": done, "calls": calls, "rejected": 0, "rate": 0, "dropped": 0, "errors": 0})

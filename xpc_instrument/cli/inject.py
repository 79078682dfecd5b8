"""`xpc inject`: faults that happen to calls of the application, as plain data that lives there."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from ..core.model.fault import FORM, FaultError, parse_terms
from ..core.model.times import shown_seconds
from ..core.model.words import counted
from ..script.counted import Injected
from .flags import add_verb
from .observing import Run, running

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
        one.armed(faults.handle, "fault", "CHANGES BEHAVIOUR: ")
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
            over = one.interrupted()
        faults.remove()
        applied = faults.applied
        _tell(one, faults, applied, gone)
        return one.status(faults.handle, over, applied)


def _tell(one: Run, faults: Injected, applied: int, gone: bool) -> None:
    """The last line: `faults happened to 14 of 131 calls: 14 raise(TimeoutError); 31 did not meet --when; disarmed in 1 process`."""
    rows, skipped = faults.rows(), dict(faults.skipped)
    rejected = skipped.pop("when", 0)
    told = [f"{row.count} {row.term}" + (f" (mean {shown_seconds(row.mean)})" if row.mean else "") for row in rows]
    told += [f"{rejected} did not meet --when"] if rejected else []
    told += [f"{faults.unusable} could not be raised: the log of the application says why"] if faults.unusable else []
    told += [f"{count} left out by --{why}" for why, count in sorted(skipped.items()) if count]
    where = one.end(faults.handle, gone)
    failures = one.failures(faults.handle, faults.failed) + one.unreached(applied)
    one.output.say(f"faults happened to {applied} of {counted(faults.seen, 'call')}: {'; '.join(told)}; {where}{failures}")
    one.output.event({"type": "fault", "rows": [{"term": row.term, "count": row.count, "mean": row.mean} for row in rows]})
    counts = {"calls": faults.seen, "rejected": rejected, "rate": skipped.get("rate", 0), "dropped": 0, "errors": faults.errors}
    one.output.event({"type": "summary", "events": applied, **counts, **one.ended(applied, gone)})

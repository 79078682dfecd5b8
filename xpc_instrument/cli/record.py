"""`xpc record`: calls with all that is needed to run them again, into a file."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..core.replay.calls import RecordedCall, call_to_json
from ..verbs.recordings import recorded_text
from .flags import add_verb
from .observing import GRACE, running
from .streams import follow_stream


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "record",
        "record calls of functions, so that they can be run again",
        limit=100,
        rate=50.0,
        examples="  xpc record shop shop.checkout:charge -o charge.jsonl\n"
        "  xpc record shop shop.checkout:charge --with 'shop.gateway:**' -n 50 -o charge.jsonl\n"
        "  xpc replay charge.jsonl\n",
    )
    parser.add_argument(
        "--with", dest="inside", metavar="TARGET", action="append", default=[], help="also what is called of these inside of such a call"
    )
    parser.add_argument("--when", metavar="EXPR", default="", help="only the calls for which the expression is true")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Record calls until the end; 1 if there was none until `--for`."""
    if options.output is None:
        print("xpc: expected -o FILE, into which the calls are written; see `xpc record --help`", file=sys.stderr)
        return 2
    with running(options) as one:
        output = one.output
        recorder = one.session.record(
            one.targets,
            inside=options.inside,
            limit=one.limit,
            expires=options.expires + GRACE,
            sample=options.sample,
            rate=one.rate,
            when=options.when,
        )
        output.event(recorder.head())

        def show(call: RecordedCall) -> None:
            output.event(lambda: call_to_json(call), lambda: [recorded_text(call)], "31" if call.raised else "")

        return follow_stream(one, recorder, "call", show)

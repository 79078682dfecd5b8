"""`xpc watch`: the calls of targets as they come, with arguments, results, exceptions and times."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.model.target import is_line
from ..verbs.events import call_json, call_text
from .flags import add_captured, add_verb
from .log import follow_line
from .observing import GRACE, running
from .streams import follow_stream


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "watch",
        "show the calls of functions as they come",
        limit=100,
        rate=50.0,
        examples="  xpc watch shop shop.checkout:charge\n"
        "  xpc watch shop 'shop.**:*charge*' -n 0 --rate 0 --json | jq .duration\n"
        "  xpc watch shop shop/checkout.py:24\n"
        "  xpc watch 'shop.checkout:*' -- python -m shop\n",
    )
    parser.add_argument("-b", dest="began", action="store_true", help="when they begin, and not when they end")
    parser.add_argument("-e", dest="errors", action="store_true", help="only calls that raise")
    parser.add_argument("-f", dest="traceback", action="store_true", help="show the traceback of exceptions")
    parser.add_argument("--locals", action="store_true", help="with the local variables of the application's own frames")
    parser.add_argument("--when", metavar="EXPR", default="", help="only the calls for which the expression is true")
    parser.add_argument("--show", metavar="EXPR", action="append", default=[], help="its value, not arguments and result; may be repeated")
    parser.add_argument("-v", dest="rejected", action="store_true", help="also show calls for which --when is not true")
    add_captured(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show calls until the end; 1 if there was none until `--for`."""
    with running(options) as one:
        if is_line(one.targets[0]):
            template = " ".join(f"{text}={{({text})}}" for text in options.show)
            return follow_line(one, one.targets[0], template, not options.show)
        output, app = one.output, one.session.app
        stream = one.session.watch(
            one.targets,
            limit=one.limit,
            expires=options.expires + GRACE,
            sample=options.sample,
            rate=one.rate,
            entry=options.began,
            when=options.when,
            show=options.show,
            depth=options.depth,
            stack=options.stack,
            errors=options.errors,
            rejected=options.rejected,
            locals=options.locals,
        )

        traceback = options.traceback or options.locals

        def show(event: Any) -> None:
            style = "2" if event.rejected else "31" if event.exception is not None else ""
            output.event(lambda: call_json(event, app, options.began), lambda: call_text(event, options.began, traceback), style)

        return follow_stream(one, stream, "call", show, rows=lambda rows: output.rows(rows, options.began, show))

"""`xpc log`: a text each time that a statement of a line begins, or that a call of a function ends."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.model.target import is_line, line_mistake
from ..script.watching import LineEvent
from ..verbs.events import line_json, line_text
from .flags import add_captured, add_verb, wrong
from .observing import GRACE, Run, running
from .streams import follow_stream


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "log",
        "show a text when a line runs, or a call ends",
        limit=100,
        rate=50.0,
        targets="FILE:LINE [TEMPLATE] | TARGET... TEMPLATE",
        examples="  xpc log shop shop/checkout.py:24 'total={total} of {customer.name!r}'\n"
        "  xpc log shop checkout.py:24 --when 'total > 100' --locals\n"
        "  xpc log shop shop.checkout:charge '{amount:.2f} {currency} took {duration:.3f} s'\n",
    )
    parser.add_argument("--when", metavar="EXPR", default="", help="only when the expression is true")
    parser.add_argument("--locals", action="store_true", help="all local variables of the line")
    add_captured(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show what is told until the end; 1 if there was nothing until `--for`."""
    first = 1 if options.started is None else 0
    place = first + 1 if is_line("".join(options.words[first : first + 1])) else max(first, len(options.words) - 1)
    options.words, rest = options.words[:place], options.words[place:]
    if len(rest) > 1 or not options.words[first:]:
        raise wrong(options, line_mistake(rest[:1]) or "expected FILE:LINE and a template, or targets and a template")
    if options.locals and not any(map(is_line, options.words[first:])):
        raise wrong(options, f"--locals shows the variables at a line, such as shop/checkout.py:24, and {options.words[first]} is none")
    with running(options) as one:
        target = one.targets[0] if len(one.targets) == 1 else one.targets
        return follow_line(one, target, "".join(rest), options.locals)


def follow_line(one: Run, target: Any, template: str, shows_locals: bool) -> int:
    """The same for `watch`, on a line."""
    options, output, app = one.options, one.output, one.session.app
    stream = one.session.log(
        target,
        template,
        limit=one.limit,
        expires=options.expires + GRACE,
        sample=options.sample,
        rate=one.rate,
        when=options.when,
        locals=shows_locals,
        depth=options.depth,
        stack=options.stack,
    )

    def show(event: LineEvent) -> None:
        output.event(lambda: line_json(event, app), lambda: line_text(event))

    return follow_stream(one, stream, "event", show)

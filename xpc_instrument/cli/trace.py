"""`xpc trace`: where the time of a call goes, as a tree of all that it calls."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.model.local import DEEPEST_TREE
from ..core.model.pattern import pattern_mistake
from ..core.model.times import shown_seconds
from ..script.observer import TRACED_RATE
from ..verbs.trees import tree_json, tree_text
from .flags import add_verb, number, seconds
from .observing import GRACE, running
from .streams import follow_stream


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "trace",
        "show where the time of calls goes",
        limit=100,
        rate=TRACED_RATE,
        examples="  xpc trace shop shop.web:pay -n 1\n"
        "  xpc trace shop shop.web:pay --when 'duration > 0.2' --min 1ms\n"
        "  xpc trace shop shop.web:pay --include 'shop.**' --include 'sqlalchemy.**' -n 1\n",
    )
    parser.add_argument("--depth", metavar="N", type=_levels, default=0, help="so many levels below the target, 0: all; default 0")
    parser.add_argument("--min", metavar="TIME", type=seconds, default=0.0, help="only what takes that long in all, such as 1ms")
    parser.add_argument(
        "--include",
        metavar="PATTERN",
        type=_pattern,
        action="append",
        default=[],
        help="the code that is shown, such as 'shop.**', or '**' for all; the application's own; may be repeated",
    )
    parser.add_argument("--when", metavar="EXPR", default="", help="only the calls for which the expression is true")
    parser.set_defaults(run=run)


def _levels(text: str) -> int:
    levels = number(text)
    if levels > DEEPEST_TREE:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at most {DEEPEST_TREE} levels")
    return levels


def _pattern(text: str) -> str:
    mistake = pattern_mistake(text)
    if mistake:
        raise argparse.ArgumentTypeError(f"{text!r:.200}: {mistake}")
    return text


def run(options: argparse.Namespace) -> int:
    """Show trees until the end; 1 if there was none until `--for`."""
    with running(options) as one:
        output, app = one.output, one.session.app
        stream = one.session.trace(
            one.targets,
            limit=one.limit,
            depth=options.depth,
            min=options.min,
            include=options.include,
            when=options.when,
            expires=options.expires + GRACE,
            sample=options.sample,
            rate=one.rate,
        )
        cost, whole = 0.0, 0.0

        def show(tree: Any) -> None:
            nonlocal cost, whole
            cost, whole = cost + tree.overhead, whole + tree.duration
            output.event(lambda: tree_json(tree, app), lambda: tree_text(tree, output.width, output.width > 0))

        def note() -> str:
            return f"tracing took {shown_seconds(cost)} of {shown_seconds(whole)} ({cost / whole * 100:.1f} %)" if whole else ""

        return follow_stream(one, stream, "call", show, _WITHOUT, note)


_WITHOUT = {
    "busy": "while another was traced",
    "budget": "beyond 2 % of the time",
    "profiler": "under a profiler of somebody else's",
}

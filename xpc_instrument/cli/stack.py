"""`xpc stack`: who calls a function; without a target, what all threads and tasks do now."""

from __future__ import annotations

import argparse
import time
from typing import Any, Dict, Optional, Tuple

from ..core.model.record import replace
from ..script.stacks import read_stacks, unseen
from ..verbs.events import clock, frames_text, running_json, stack_json
from .flags import add_verb, frames
from .observing import Run, running
from .tables import follow

# How often it is looked for stacks that are new, in seconds.
_EVERY = 0.5
# How many frames of the callers are shown.
_CALLERS = 8


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_verb(
        commands,
        "stack",
        "show who calls functions, or what all threads do",
        limit=100,
        targets="[TARGET...]",
        examples="  xpc stack shop\n  xpc stack shop shop.gateway:Gateway.post --depth 4\n",
    )
    parser.add_argument("--depth", metavar="N", type=frames, help="the N innermost frames; of callers 8 unless it is given")
    parser.add_argument("--when", metavar="EXPR", default="", help="only these calls")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show stacks; 1 if there was none until `--for`."""
    with running(options, 0) as one:
        if not one.targets:
            return _now(one, options.depth)
        table = one.session.callers(
            one.targets,
            depth=options.depth or _CALLERS,
            when=options.when,
            limit=one.limit,
            expires=options.expires,
            sample=options.sample,
            rate=one.rate,
        )
        known: Dict[Tuple[Any, ...], int] = {}

        def show() -> None:
            for row in table.rows():
                if row.frames not in known:
                    known[row.frames] = len(known) + 1
                    text = [f"{clock(time.time())} stack {known[row.frames]} of {table.handle.target}", *frames_text(row.frames)]
                    one.output.event(stack_json(row, table.handle.target), text)

        one.armed(table.handle, "call")
        status = follow(one, table, _EVERY, show, last=True)
        for row in table.rows():
            one.output.event(stack_json(row, table.handle.target), [f"{row.count:>8}  stack {known[row.frames]}"])
        return status


def _now(one: Run, depth: Optional[int]) -> int:
    reports = one.session._reports("stacks")
    for whole in read_stacks(reports):
        stack = replace(whole, frames=whole.frames[:depth])
        head = f"{stack.pid} {'task ' if stack.is_task else ''}{stack.name or f'thread {stack.thread}'}"
        awaits = f"  awaits {', '.join(stack.awaits)}" if stack.awaits else ""
        one.output.event(running_json(stack), [f"{head}{awaits}", *frames_text(stack.frames)])
    for name in unseen(reports):
        one.output.say(f"tasks of {name} are not seen, only those of asyncio; its threads are above")
    return 0

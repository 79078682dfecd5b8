"""In one process: what a call costs that is looked at by an expression, a capture or an aggregate, which stay in the application.

The hooks are those of the agent, for a script that does not exist: what they queue is thrown away between blocks. Their budget is taken
off, as they are called here far more often than 2 % of the processor's time allows.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import sys
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping

from xpc_agent.events.queue import EventQueue
from xpc_agent.hooks.conditional import Conditional
from xpc_agent.hooks.dispatch import Dispatcher, HookChain
from xpc_agent.hooks.local import LocalHook
from xpc_agent.hooks.remote import RemoteHook
from xpc_agent.hooks.watch import WatchHook
from xpc_agent.targets.resolve import resolve
from xpc_instrument.core.model.local import DURATION, STAT, WATCH
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.captures import Capturer
from xpc_instrument.core.values.redaction import Redaction

from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction, timer
from .disarmed import INSIDE, closure_around, load_kinds, patched
from .nobody import hook_of_nobody

_CONDITION = "amount > 100 and customer.vip"
_CALL = "charge(2100, customer, order)"
_RECORDED = "record(values, 1, None, 0.001, ended)"
_FILE = "benchmarks/processes/orders.py"
_STAT = {"kind": STAT, "by": [], "of": DURATION, "when": ""}
_WATCH = {"kind": WATCH, "when": "", "show": [], "depth": 2, "stack": 0, "errors": False, "rejected": False, "locals": False}
_LOCAL: Dict[str, Mapping[str, Any]] = {
    "`stat`, rejected": {**_STAT, "when": _CONDITION},
    "`watch`, rejected": {**_WATCH, "when": _CONDITION},
    "`monitor`": _STAT,
    "`stat --by currency --of amount`": {**_STAT, "by": ["currency"], "of": "amount"},
    "`stat --by currency`": {**_STAT, "by": ["currency"]},
    "`stat --by currency --of 1`": {**_STAT, "by": ["currency"], "of": "1"},
    "`watch --show order.id --show customer.id`": {**_WATCH, "show": ["order.id", "customer.id"]},
    "`watch`": _WATCH,
    "`watch --rate 50`, over it": _WATCH,
}
_BY_KEY = ("`stat --by currency --of amount`", "`stat --by currency`", "`stat --by currency --of 1`")
_REJECTED = "`before(when=)`, rejected"
_PEERS = ("hunter", "viztracer")


class _Queues:
    """In the place of the sender: one queue with room for a block, which is emptied before the next."""

    max_queue, max_bytes, source = 10_000_000, 1 << 50, "none"
    next_batch = itertools.count(1).__next__

    def wake(self) -> None:
        """Nobody sends."""

    def add(self, hook: Any, make: Any = EventQueue) -> EventQueue:
        sender: Any = self
        queue: EventQueue = make("none", sender)
        queue.hooks[hook.key] = hook
        queue.sleeping = False
        return queue


def _made(name: str, target: str) -> Any:
    if name == _REJECTED:
        hook = hook_of_nobody(RemoteHook, Mode.BEFORE, target, Terms(when=_CONDITION))
        return Conditional(hook, _CONDITION, "observe")
    local = _LOCAL[name]
    if local["kind"] == STAT:
        made = hook_of_nobody(LocalHook, Mode.AFTER, target, Terms(local=local))
    else:
        rate = 50.0 if "--rate" in name else None
        terms = Terms(wait=False, rate=rate, local=local)
        made = hook_of_nobody(WatchHook, Mode.AFTER, target, terms, sender=_Queues(), redaction=Redaction())
    made.rest = lambda: None
    return made


def _emptied(items: Any, time_calls: TimeFunction) -> TimeFunction:
    def run(loops: int) -> Any:
        items.clear()
        try:
            return time_calls(loops)
        finally:
            items.clear()

    return run


@contextmanager
def _observing() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}

        def module(way: str) -> Any:
            made = load_kinds(f"benchmarks_observing_{len(ways)}_{way}", _FILE)
            stack.callback(sys.modules.pop, made.__name__)
            return made

        def calls(made: Any) -> TimeFunction:
            order = made.Order()
            return timer(_CALL, charge=made.charge, order=order, customer=order.customer)

        ways["bare"] = calls(module("bare"))
        closure = module("closure")
        closure.charge = closure_around(closure.charge)
        ways["closure"] = calls(closure)
        for name in (_REJECTED, *_LOCAL):
            made, dispatcher = module("hooked"), Dispatcher()
            target = f"{made.__name__}:charge"
            patch = patched(stack, target, "auto", dispatcher)
            hook = _made(name, target)
            resolved = resolve(target)
            hook.placed(resolved, resolved.function.__code__)
            dispatcher.chain = HookChain([hook])
            patch.arm()
            timed = calls(made)
            ways[name] = _emptied(hook.queue.items, timed) if isinstance(hook, WatchHook) else timed
        plain = module("values")
        ways["capture"] = timer("capture(order)", capture=Capturer().capture, order=plain.Order())
        for name in _BY_KEY:
            hook = _made(name, f"{plain.__name__}:charge")
            resolved = resolve(f"{plain.__name__}:charge")
            hook.placed(resolved, resolved.function.__code__)
            values = (2100, None, None, "EUR")
            # `ended` is so late that the budget takes it for nothing.
            ways[f"recording {name}"] = timer(_RECORDED, ended=math.inf, record=hook._record, values=values)
        ways["recording"] = timer(_RECORDED, ended=math.inf, record=_nothing, values=None)
        ways["sys.setprofile"] = _with(lambda: sys.setprofile(_note), lambda: sys.setprofile(None), calls(module("profile")))
        ways.update(_peers(calls, module))
        yield ways


def _nothing(values: Any, result: Any, error: Any, duration: float, ended: float) -> None:
    """What recording is over."""


def _note(frame: Any, event: str, argument: Any) -> None:
    """What anyone would begin with."""


def _with(begin: Callable[[], Any], end: Callable[[], Any], time_calls: TimeFunction) -> TimeFunction:
    def run(loops: int) -> Any:
        begin()
        try:
            return time_calls(loops)
        finally:
            end()

    return run


def _peers(calls: Callable[[Any], TimeFunction], module: Callable[[str], Any]) -> Iterator[Any]:
    if not _missing("hunter"):
        hunter = importlib.import_module("hunter")
        made = module("hunter")
        query = functools.partial(hunter.trace, module=made.__name__, function="charge", action=_note_event)
        yield "hunter", _with(query, hunter.stop, calls(made))
    if not _missing("viztracer"):
        tracer = importlib.import_module("viztracer").VizTracer(verbose=0, tracer_entries=1_000_000)
        # It listens from the moment that it is made, and all that runs is slower for that.
        sys.setprofile(None)

        def end() -> None:
            tracer.stop()
            tracer.clear()

        yield "viztracer", _with(tracer.start, end, calls(module("viztracer")))


def _note_event(event: Any) -> None:
    """An action of hunter's."""


def _missing(name: str) -> str:
    return "" if importlib.util.find_spec(name) else name


def _rows() -> Iterator[Comparison]:
    yield Comparison("closure `*args, **kwargs`", "closure", "bare")
    for name in (_REJECTED, "`stat`, rejected", "`watch`, rejected"):
        yield Comparison(f"{name}: `{_CONDITION}`", name, "closure", beyond="bare", below=None if INSIDE else 2)
    for name in ("`monitor`", *_BY_KEY):
        yield Comparison(name, name, "closure", beyond="bare")
    yield Comparison("of it, what counts a number by key", "recording `stat --by currency --of amount`", "recording", more=0.8e-6)
    yield Comparison("of it, what counts a duration by key", "recording `stat --by currency`", "recording", more=0.8e-6)
    yield Comparison("of it, what only counts by key", "recording `stat --by currency --of 1`", "recording", more=0.4e-6)
    two = "`watch --show order.id --show customer.id`"
    yield Comparison(two, two, "bare", more=1.5e-6)
    yield Comparison("`watch`", "`watch`", "bare")
    over = "`watch --rate 50`, over it"
    yield Comparison(over, over, "closure", beyond="bare")
    yield Comparison("of it, a capture of the order, two levels", "capture", "recording", more=8e-6)
    yield Comparison("`sys.setprofile` with a function that does nothing", "sys.setprofile", "closure", beyond="bare")
    for name in _PEERS:
        yield Comparison(
            f"{name}, that function" if name == "hunter" else f"{name}, all functions", name, "closure", beyond="bare", needs=_missing(name)
        )


OBSERVING = Group(
    "observing",
    _observing,
    tuple(_rows()),
    share=0.3,
    title="Looked at, without leaving the process",
    about="""\
A function that takes an order, with a hook that stays in the application: one whose condition rejects every call, one that counts, one that
captures and queues. What each adds to the bare call is held against what a plain closure adds to it, or in seconds where a bound is
given. The queue has room for all; nobody sends it. "of it" is a part alone, without the way in and out of the function. Beside them stands
what else looks at calls in one process: a function for `sys.setprofile`, hunter with a query for that function, and VizTracer.""",
    why="""\
A capture walks the order, its customer and its items, value by value, in Python, since nothing of the application may run; what is shown by
paths is captured by itself, which is why paths cost a fraction. Counting looks up the thread's own table and the bucket of the number.""",
    plots=(
        Plot(
            "observing",
            "What it costs to look at a call",
            (
                Line("bare", ((0.0, "bare"),)),
                Line("a closure", ((0.0, "closure"),)),
                *(Line(name.replace("`", ""), ((0.0, name),), ours=True) for name in (_REJECTED, *_LOCAL)),
                Line("sys.setprofile", ((0.0, "sys.setprofile"),)),
                *(Line(name, ((0.0, name),)) for name in _PEERS),
            ),
            log_y=True,
        ),
    ),
)

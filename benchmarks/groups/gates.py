"""In one process: what an invocation costs that an armed hook does not get, because its terms let nothing through.

The hooks are those of the agent, registered by a script that does not exist: what their gate lets through would have nobody to go to, so it
would fail, be counted, and fail this group. `limit` is measured before the point is disarmed, which a limit that is used up does at once.
"""

from __future__ import annotations

import functools
import itertools
import sys
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from xpc_agent.hooks.conditional import Conditional
from xpc_agent.hooks.dispatch import Dispatcher, HookChain
from xpc_agent.hooks.remote import RemoteHook
from xpc_instrument.core.model.expression import OBSERVE
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms

from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction
from .disarmed import INSIDE, closure_around, load_kinds, patched, timers
from .nobody import AT_ONCE, hook_of_nobody

# What the terms are, by the name of the row. A bucket is full at first, and a limit has calls left: those are taken when it is made.
_TERMS: Dict[str, Terms] = {
    "`sample`": Terms(sample=1e-12),
    "`rate`": Terms(rate=1e-6),
    "`limit` that is used up": Terms(limit=1),
    "`suspension`": Terms(),
    "`when`": Terms(),
}
# Of the amount that the measured call has, it is not true.
_CONDITION = "amount > 100"
_MODES = (Mode.INSTEAD, Mode.BEFORE, Mode.AROUND, Mode.AFTER)
_BARE, _CLOSURE = "function, bare", "function, closure"


def _way(mode: Mode, name: str) -> str:
    return f"{mode.value} {name.split('`')[1]}"


class GateError(Exception):
    """A gate has let something through that it should not."""


@contextmanager
def _gates() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for way in ("bare", "closure"):
            module = load_kinds(f"benchmarks_{way}")
            stack.callback(sys.modules.pop, module.__name__)
            if way == "closure":
                module.function = closure_around(module.function)
            ways.update(timers(way, module, ("function",)))
        hooks: List[Tuple[str, RemoteHook]] = []
        for number, (mode, (name, terms)) in enumerate(itertools.product(_MODES, _TERMS.items())):
            module = load_kinds(f"benchmarks_gate_{number}")
            stack.callback(sys.modules.pop, module.__name__)
            target, dispatcher = f"{module.__name__}:function", Dispatcher()
            patch = patched(stack, target, "auto", dispatcher)
            # As the agent does when a registration ends.
            ended = functools.partial(_disarm, patch, dispatcher)
            hook = hook_of_nobody(RemoteHook, mode, target, terms, suspension=AT_ONCE, ended=ended)
            dispatcher.chain = HookChain([_conditional(hook, patch) if name == "`when`" else hook])
            patch.arm()
            if name == "`suspension`":
                hook.admission.failed("timeout")
            if name != "`when`":
                hook.admission.take()
            hooks.append((name, hook))
            ways[_way(mode, name)] = timers("", module, ("function",))["function, "]
        before = [hook.counters.calls.value for _, hook in hooks]
        yield ways
        for (name, hook), count in zip(hooks, before):
            if hook.counters.calls.value != count:
                raise GateError(f"{name} has let {hook.counters.calls.value - count} calls through; expected none")


def _conditional(hook: RemoteHook, patch: Any) -> Any:
    condition = Conditional(hook, _CONDITION, OBSERVE)
    condition.placed(patch.resolved, patch.resolved.function.__code__)
    return condition


def _disarm(patch: Any, dispatcher: Dispatcher, hook: RemoteHook) -> None:
    dispatcher.chain = None
    patch.disarm()


def _rows() -> Iterator[Comparison]:
    yield Comparison("closure `*args, **kwargs`", _CLOSURE, _BARE)
    for mode, name in itertools.product(_MODES, _TERMS):
        row = f"`{mode.value}`, {name}"
        if "limit" in name:
            yield Comparison(f"{row}, over the bare call", _way(mode, name), _BARE, below=2)
        else:
            below = 2 if "when" in name and mode in (Mode.BEFORE, Mode.AROUND) and not INSIDE else None
            yield Comparison(f"{row} that lets nothing through", _way(mode, name), _CLOSURE, below=below, beyond=_BARE)


GATES = Group(
    "gates",
    _gates,
    tuple(_rows()),
    share=0.5,
    title="Armed, and the terms let nothing through",
    about="""\
A function with a hook whose `sample`, `rate` or `limit`, its condition, or its suspension keeps every measured call from it: what those
invocations pay that a hook is not told of. What each adds to the bare call is held against what a plain closure adds to it. A `limit` that
is used up disarms the function at once, so it is held against the bare call.""",
    why="""\
An invocation asks the gate, which counts down or looks at a clock, and counts that the call was skipped; with an `instead` it goes
through the trampoline first. A condition stands in the function that the code of the armed one calls first, where the hook is inside
and alone; elsewhere it is a call of its own. An `after` asks for it, and for `rate`, when the call has ended, for which a note is made
at its beginning; whether it is suspended, or left out by chance, is asked before.""",
    plots=(
        Plot(
            "gates",
            "Armed, but the terms let nothing through",
            (
                Line("bare", ((0.0, _BARE),)),
                Line("a closure", ((0.0, _CLOSURE),)),
                *(Line(f"{mode.value}, {name}", ((0.0, _way(mode, name)),), ours=True) for mode, name in itertools.product(_MODES, _TERMS)),
            ),
            log_y=True,
        ),
    ),
)

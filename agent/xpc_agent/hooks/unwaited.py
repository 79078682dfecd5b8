"""Hooks that nobody waits for: the thread of the application takes a snapshot of the values, appends it to a queue and goes on.

Rules:
- Nothing of a hook comes back: it cannot fail here, delay or forbid. What cannot be queued is dropped and counted.
- The usual case, a hook that is alone on a function called with a few small values, is a closure that looks at each value and appends
  (`_PASSING`): every name in it is a local one or its own, since any of what it uses may be a target.
- `before` hooks see the values as they are when the call begins, `after` hooks as they are when it ends, as those that are waited for do.
"""

from __future__ import annotations

import itertools
from builtins import all, id, isinstance, len, map, type  # noqa: UP029 - bound now, for where no guard is up: each may be the very target
from threading import get_ident
from typing import Any, Callable, Dict, Optional, Tuple

from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.record import replace
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.unpatched import perf_counter
from xpc_instrument.core.values.exceptions import dump_looked_at
from xpc_instrument.core.values.plain import BIG, SHORT, is_atom  # noqa: F401 - two are used in `_PASSING`
from xpc_instrument.core.values.snapshots import AS_IS, pack, pack_all

from ..events.queue import EventQueue
from ..events.sender import Sender
from ..generated import compiled
from ..guard import guard, guarded
from .count import Count
from .failures import log
from .gate import ALWAYS, Args, Gate, Kwargs, Way
from .invocation import Invocation, next_number
from .remote import RemoteHook

# With more arguments each is looked at by `pack_all`, which weighs them.
_FEW = 16


# The usual case: the text of four closures. `before` and `after` differ in when the original runs, and in what
# is known then; those for the function's own code, in which the original runs without them, in what they get. To call `is_atom` for each
# value would cost more than all else here.
_PASSING = """
def {name}(queue, one, hook, record, items, limit, termed, append, drop):
    numbered, ident, clock, as_is = next_number, get_ident, perf_counter, AS_IS
    few, short, big = _FEW, SHORT + 1, BIG
    length, kind_of, address = len, type, id

    def passing({parameters}):
        {run}
        if termed or length(args) + length(kwargs) > few or (bound and (not args or args[0] is None)):
            record(args, kwargs, bound{ended})
            return {result}
        values = args[1:] if bound else args
        for value in (*values, *kwargs.values(){also}) if kwargs else {plainly}:
            kind = kind_of(value)
            if kind is int:
                if -big < value < big:
                    continue
            elif kind is str or kind is bytes:
                if length(value) < short:
                    continue
            elif kind is float or kind is bool or value is None:
                continue
            record(args, kwargs, bound{ended})
            return {result}
        if length(items) >= limit:
            drop()
        elif bound:
            instance = args[0]
            append((hook, numbered(), ident(), values, kwargs, kind_of(instance), address(instance){outcome}))
        {append}
        if queue.sleeping:
            queue.wake()
        return {result}

    return passing
"""
_AROUND = "proceed, args, kwargs, bound, number=0"
# As the hook is shown them.
_FORM = """if one.form is not None:
            args, kwargs = one.form(args, kwargs)
        """
_BEFORE = {
    "parameters": _AROUND,
    "run": "given = args, kwargs\n        " + _FORM,
    "ended": "",
    "also": "",
    "plainly": "values",
    "outcome": "",
    "result": "proceed(*given[0], **given[1])",
    "append": """elif kwargs:
            append((hook, numbered(), ident(), args, kwargs))
        else:
            append((hook, numbered(), ident(), args))""",
}
_AFTER = {
    "parameters": _AROUND,
    "run": """started = clock()
        try:
            result = proceed(*args, **kwargs)
        except Exception as error:
            duration = clock() - started
            if one.form is not None:
                args, kwargs = one.form(args, kwargs)
            record(args, kwargs, bound, duration, None, error)
            raise
        duration = clock() - started
        """
    + _FORM,
    "ended": ", duration, result",
    "also": ", result",
    "plainly": "(*values, result)",
    "outcome": ", duration, (as_is, result)",
    "result": "result",
    "append": """else:
            append((hook, numbered(), ident(), args, kwargs, None, 0, duration, (as_is, result)))""",
}
_BEFORE_INSIDE = {
    **_BEFORE,
    "parameters": "gate, args",
    "run": "args, kwargs = gate.split(args)\n        bound = gate.bound",
    "result": "None",
}
_AFTER_INSIDE = {**_AFTER, "parameters": "args, kwargs, bound, duration, result", "run": "pass", "result": "None"}
_WORDS = {"before": _BEFORE, "after": _AFTER, "before_inside": _BEFORE_INSIDE, "after_inside": _AFTER_INSIDE}
_makers: Dict[str, Callable[..., Any]] = {}


def _maker(name: str) -> Callable[..., Any]:
    """What makes such a closure: compiled for the first hook that needs it, since all four take 2 ms."""
    made = _makers.get(name)
    if made is None:
        made = _makers[name] = compiled(f"{__name__} {name}", globals(), _PASSING.format(name=name, **_WORDS[name]))[name]
    return made


class _Body:
    """What an `after` hook that is alone inside a function's code needs to know when the body ends."""

    __slots__ = ("_args", "_bound", "_ends", "_kwargs", "_passing", "_record", "_started")

    def __init__(self, gate: Gate, values: Args, passing: Callable[..., None], record: Callable[..., None]) -> None:
        self._args, self._kwargs = gate.split(values)
        self._bound, self._ends = gate.bound, gate.ends
        self._passing, self._record = passing, record
        self._started = perf_counter()

    def leave(self, value: Any) -> Any:
        if guard.on:
            # An iteration that ends in the middle of our work.
            return value
        self._passing(self._args, self._kwargs, self._bound, perf_counter() - self._started, value)
        return value

    def abandon(self) -> None:
        """Nobody waits."""

    def failed(self, error: BaseException) -> None:
        if isinstance(error, self._ends) and not guard.on:
            seen = error if isinstance(error, Exception) else None
            self._record(self._args, self._kwargs, self._bound, perf_counter() - self._started, None, seen)


class UnwaitedHook(RemoteHook):
    """One registration, with `wait=False`, of one session on one probe point. `sole` is what runs where it is alone."""

    def __init__(self, *args: Any, sender: Sender, capturer: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # A `Capturer`, whose module is loaded where there is a hook.
        self._capturer = capturer
        # What threads have dropped before it was queued.
        self.overflow = Count()
        # Dropped after they were queued; the sender's.
        self.lost = 0
        self._settled = 0
        self._termed: bool = replace(options["terms"], values=None, when=None) != Terms(wait=False)
        self.queue = sender.add(self, EventQueue)
        self.sole = self._passing("before" if self.mode is Mode.BEFORE else "after")
        inside = self._passing("before_inside" if self.mode is Mode.BEFORE else "after_inside")
        # Admission is asked where an invocation is recorded.
        after = self._record_call
        begin = inside if self.mode is Mode.BEFORE else lambda gate, values: (None, _Body(gate, values, inside, after))
        self.alone = Way(ALWAYS, begin)

    # counting, in the sender -------------------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """How many events were dropped in all. For the sender only."""
        return self.overflow.value + self.lost

    def count_calls(self, count: int) -> None:
        """So many events have been taken from the queue."""
        if not self._termed:
            self.counters.batched += count

    def count_bytes(self, sent: int, received: int) -> None:
        """A lane has carried so many for the events."""
        self.counters.settle(sent, received, 0.0, 0.0)

    def lose(self, count: int) -> None:
        """So many events that had been queued are dropped."""
        self.lost += count
        self.counters.dropped += count

    def settle(self) -> None:
        """Add to the counters of the probe point what threads have dropped since the last time."""
        dropped = self.overflow.value
        self.count_calls(dropped - self._settled)
        self.counters.dropped += dropped - self._settled
        self._settled = dropped

    def forget_types(self) -> None:
        """Let go of the application's types, of which what was found out may have changed too."""
        self._capturer.forget()

    def forget_dropped(self) -> None:
        """In a forked child: what was dropped is the parent's."""
        self.overflow.reset()
        self.lost = self._settled = 0

    def signature(self) -> Any:
        """The parameters of the target."""
        return self._signature()

    # appending, in the threads of the application ------------------------------------------------------------------------

    def _passing(self, name: str) -> Callable[..., Any]:
        """What runs where the hook is alone; called as `call_replacing`, or inside a function's code."""
        queue, items = self.queue, self.queue.items
        passing: Callable[..., Any] = _maker(name)(
            queue, self, self.key, self._record_call, items, queue.limit, self._termed, items.append, self.overflow.up
        )
        return passing

    def _record_call(
        self,
        args: Args,
        kwargs: Kwargs,
        bound: bool,
        duration: float = 0.0,
        result: Any = None,
        error: Optional[BaseException] = None,
    ) -> None:
        if bound and args and args[0] is not None:
            self._record(next_number(), args[1:], kwargs, args[0], duration, result, error)
        else:
            self._record(next_number(), args, kwargs, None, duration, result, error)

    def call_observer(self, invocation: Invocation) -> None:
        """Queue an invocation."""
        one = invocation
        args, kwargs = self._form_of(one)
        self._record(one.number, args, kwargs, one.instance, one.duration, one.result, one.exception)

    async def call_observer_async(self, invocation: Invocation) -> None:
        """The same, which nobody has to await."""
        self.call_observer(invocation)

    def _record(
        self, number: int, args: Args, kwargs: Kwargs, instance: Any, duration: float, result: Any, error: Optional[BaseException]
    ) -> None:
        if self._termed and not self.way.take():
            return
        queue = self.queue
        items = queue.items
        if len(items) >= queue.limit:
            self._drop()
            return
        packed: Any = args
        values: Any = kwargs
        outcome: Any = None
        fillers = 0
        try:
            if len(args) > _FEW or not all(map(is_atom, args)) or (kwargs and not all(map(is_atom, kwargs.values()))):
                packed, values, size = self._packed(args, kwargs)
                fillers = size // queue.share
            if self.mode is Mode.AFTER:
                outcome, size = self._outcome(result, error)
                fillers += size // queue.share
        except Exception as fault:
            self._drop()
            raise_interrupt(fault)
            self.counters.fail("internal")
            if not self._logged.get("internal"):
                self._logged["internal"] = True
                log.exception("an event of the %s hook on %s was dropped; further ones are counted, not logged", self.mode, self.target)
            return
        except BaseException:
            # The thread is being left in the middle of a snapshot.
            self._drop()
            raise
        cls = None if instance is None else type(instance)
        event = (self.key, number, get_ident(), packed, values, cls, id(instance), duration, outcome)
        if not fillers:
            items.append(event)
        elif len(items) + fillers < queue.limit:
            items.extend([event, *itertools.repeat(None, fillers)])
        else:
            self._drop()
            return
        if queue.sleeping:
            queue.wake()

    def _drop(self) -> None:
        self.overflow.up()
        if self.queue.sleeping:
            self.queue.wake()

    @guarded
    def _packed(self, args: Args, kwargs: Kwargs) -> Tuple[Any, Any, int]:
        return pack_all(args, kwargs, self._traits, copies=not self._refers, capture=self._capturer.capture)

    def _outcome(self, result: Any, error: Optional[BaseException]) -> Tuple[Any, int]:
        if error is None and is_atom(result):
            return (AS_IS, result), 0
        return self._packed_outcome(result, error)

    @guarded
    def _packed_outcome(self, result: Any, error: Optional[BaseException]) -> Tuple[Any, int]:
        if error is None:
            return pack(result, self._traits, copies=not self._refers, capture=self._capturer.capture)
        body = bytes(dump_looked_at(error, self._traits)[0])
        return body, len(body)

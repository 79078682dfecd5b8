"""Faults: what an invocation gets in the place of the original, or before it, as plain data that lives in the application.

Rules:
- The first term that applies is done; where none does, the original runs. What was done is counted under the number of the term, with the
  seconds that a sleep took, and under `NONE` the calls that none applied to.
- Nothing crosses, nothing is pickled, and of the application only the class of the exception is called.
- A sleep, and what hangs, goes on to the original. In functions both sleep by `time.sleep` as the application has it, so that a greenlet
  lets others run; in `async def` functions they are awaited. What hangs ends when the hook is removed or its time is over, at most
  `_SLICE` seconds later.
- `limit` is of what was done: a call that no term applies to takes none of it, nor does `off`.
- A class that cannot be made with the values of the term is a failure: the original runs, it is counted and logged once. Of a class whose
  making runs no code of the application that is tried, and refused, when the hook is put on its target.
"""

from __future__ import annotations

import builtins
import itertools
import sys
import time
from _random import Random  # the class in C that `random` is made of, which takes longer to import than all else here
from builtins import isinstance as _isinstance  # the builtin may be the very target, and no guard is up here
from math import cos, pi, sqrt
from math import log as logarithm
from types import CodeType
from typing import Any, Callable, Coroutine, Dict, Optional, Tuple, Type

from xpc_instrument.core.calls.outcome import Outcome
from xpc_instrument.core.model.aggregate import BUCKETS, COUNT, LEAST, MOST, Table, new_cell
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.fault import NONE, Term, parse_terms
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.unpatched import perf_counter

from ..guard import guard
from ..relay import RelayedPeer
from ..targets.module import find_module
from ..targets.raw import is_a, of_class, raw_attribute
from ..targets.resolve import Kind, Resolved
from .count import Count
from .entrance import Entrance
from .failures import log
from .gate import PASS, Args, Entered, Gate, Kwargs
from .local import LocalHook

# How long one sleep of what hangs is, in seconds.
_SLICE = 0.05

# As it was before it was wrapped, should it be a target.
_SLEEP = time.sleep

# Their values cannot be changed by who gets them.
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...))


def exception_named(name: str) -> Type[Exception]:
    """The class of an exception that a term names. Raises `TargetError` for one that is not there, or is no exception."""
    module, colon, qualified = name.rpartition(":")
    if not colon:
        found: Any = vars(builtins).get(name)
        where = "a built-in exception"
    else:
        owner = find_module(module)
        if owner is None:
            raise TargetError(f"raise({name}): the module {module} is not imported in this process, and is not imported for that")
        where = f"in the module {module}"
        found = owner
        for part in qualified.split("."):
            raw = None if found is None else raw_attribute(found, part)
            found = None if raw is None else raw[0]
    if not (is_a(found, type) and Exception in of_class(found, "__mro__")):
        seen = "there is none of that name" if found is None else "it is no class derived from Exception"
        raise TargetError(f"raise({name}): expected {where}, such as TimeoutError or package.module:Name; {seen}")
    kind: Type[Exception] = found
    return kind


def _try_to_make(kind: Type[Exception], term: Term) -> None:
    """Raise `TargetError` for values that a class does not take, where asking it runs no code of the application."""
    for name in ("__new__", "__init__"):
        owner = next(one for one in of_class(kind, "__mro__") if name in type.__dict__["__dict__"].__get__(one))
        if of_class(owner, "__module__") != "builtins":
            return
    if type(kind) is not type:
        return
    try:
        kind(*term.values)
    except Exception as error:
        raise_interrupt(error)
        raise TargetError(f"{term.text}: {kind.__name__} cannot be made of {len(term.values)} values: {error}") from None


# At the entrance.
_ALWAYS = """
if guard.on:
    return None
up()
return answer
"""


class _Made:
    """A term, ready to be done."""

    __slots__ = ("done", "index", "kind", "number", "term")

    def __init__(self, index: int, term: Term) -> None:
        self.index = index
        self.term = term
        # Threads that come at once get different ones, in one atomic step.
        self.number = itertools.count().__next__
        self.kind: Optional[Type[Exception]] = exception_named(term.type) if term.action == "raise" else None
        if self.kind is not None:
            _try_to_make(self.kind, term)
        # How often it was done, if it takes no time.
        self.done = Count()


class FaultHook(LocalHook):
    """One registration of faults on one probe point, in the mode `instead`."""

    # Set before there are others: the terms are installed when the hook is made.
    _rests = False

    def __init__(self, *args: Any, **options: Any) -> None:
        # A process behind another's address has no timer: there each invocation looks at the clock.
        self._is_ended_by_timer = not _isinstance(args[2], RelayedPeer)
        self._random = Random()
        self._made: Tuple[_Made, ...] = ()
        self._none = Count()
        # Those that sleep now.
        self._under_way = Count()
        # What the entrance has done.
        self._quick = Count()
        self._resolved: Optional[Resolved] = None
        self._gone = False
        super().__init__(*args, **options)
        self.way.begin = self._begin
        self._parsed = parse_terms(self.local["terms"])

    def placed(self, resolved: Resolved, code: Optional[CodeType]) -> None:
        """Its target is there: so are the classes that the terms name, or it stays at rest."""
        if resolved is self._resolved:
            return
        self._resolved = resolved
        try:
            if resolved.function is _SLEEP and any(term.action in ("sleep", "hang") for term in self._parsed):
                raise TargetError("time.sleep is what it would sleep by; expected raise or return")
            self._made = tuple(_Made(index, term) for index, term in enumerate(self._parsed))
            self._short_cut()
        except TargetError as error:
            self.mistake = str(error)
            log.warning("%s: nothing is injected: %s", self.target, self.mistake)
            self.rest()

    def _short_cut(self) -> None:
        """Where one value is always returned, alone inside of the function's code: at the entrance (see `entrance.py`)."""
        first = self._made[0]
        term = first.term
        if term.action != "return" or term.probability < 1.0 or term.times is not None or type(term.values[0]) not in _ATOMS:
            return
        terms = self.terms
        if (terms.limit, terms.sample, terms.rate) != (None, None, None) or (terms.expires is not None and not self._is_ended_by_timer):
            return
        # Counted once, for the hook and for the term.
        quick = self._quick
        first.done.besides = self.counters.calls.besides = lambda: quick.value
        self.way.entrance = Entrance(term.text, {"up": quick.up, "answer": (term.values, None)}, _ALWAYS)
        self._settle()

    def _install(self, take: Callable[[], Any]) -> None:
        super()._install(take)
        self._settle()

    def _settle(self) -> None:
        """The entrance answers as long as admission has nothing to say but that the time is not over, of which a timer tells."""
        entrance: Optional[Entrance] = self.way.entrance
        if entrance is not None:
            entrance.is_open = not self._rests and not self.admission.suspended

    def rest(self) -> None:
        self._rests = True
        super().rest()
        self._settle()

    def _table(self) -> Table:
        table = super()._table()
        for key, done in ((NONE, self._none), *((made.index, made.done) for made in self._made)):
            if done.value:
                cell = table[(key,)] = new_cell()
                cell[COUNT], cell[LEAST], cell[MOST], cell[BUCKETS] = done.value, 0.0, 0.0, {0: done.value}
        return table

    def _begin_counting(self) -> None:
        """What it costs is of no interest: it is meant to change what the application does."""

    def goes_inside(self, kind: Kind) -> bool:
        # What is awaited, and what is iterated, is given in the place of the whole function.
        return kind is Kind.SYNC

    def reset_after_fork(self, pid: int) -> None:
        # Each process rolls dice of its own.
        self._random = Random()
        # It has no timer before its session has come; and its counters are others.
        if self.way.entrance is not None:
            self.way.entrance.is_open = False
            self.way.entrance = None
        self._none.reset()
        for made in self._made:
            made.done.besides = None
            made.done.reset()
        self._quick.reset()
        self._under_way.reset()
        super().reset_after_fork(pid)

    # what an invocation gets -------------------------------------------------------------------------------------------

    def _begin(self, gate: Gate, values: Args) -> Entered:
        """Inside of the function's code: admission has let it through."""
        step = self._do()
        return None if step is PASS else ((step.get(),), None)

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0, invocation: Any = None) -> Any:
        """The same among others."""
        return self._do()

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """The same around the original."""
        if self.way.take():
            step = self._do()
            if step is not PASS:
                return step.get()
        return proceed(*args, **kwargs)

    def call_replacing_async(
        self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0
    ) -> Coroutine[Any, Any, Any]:
        """The same for what is awaited."""
        return self._do_async(proceed, args, kwargs)

    def _do(self) -> Any:
        """The outcome, or `PASS` where the original is to run."""
        made = self._choose()
        if made is None:
            return PASS
        action = made.term.action
        if action in ("return", "raise"):
            return self._outcome(made)
        began = self._begin_sleep()
        try:
            for seconds in self._naps(made):
                time.sleep(seconds)
        finally:
            self._end_sleep(made, began)
        return PASS

    async def _do_async(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        made = self._choose() if self.way.take() else None
        if made is not None:
            if made.term.action in ("return", "raise"):
                step = self._outcome(made)
                if step is not PASS:
                    return step.get()
            else:
                began = self._begin_sleep()
                try:
                    for seconds in self._naps(made):
                        await _sleep_async(seconds)
                finally:
                    self._end_sleep(made, began)
        return await proceed(*args, **kwargs)

    def _outcome(self, made: _Made) -> Any:
        term = made.term
        if made.kind is None:
            made.done.up()
            return Outcome(_fresh(term.values[0]))
        before = guard.on
        try:
            guard.on = True
            error = made.kind(*_fresh(term.values))
        except Exception as failure:
            raise_interrupt(failure, of_values=True)
            self.aggregate.unusable.up()
            self.counters.fail("fault")
            self._log_once("fault", "%s", f"{term.text} cannot be raised: {type(failure).__name__}; the original runs")
            return PASS
        finally:
            try:
                guard.on = before
            except BaseException:
                # Raised by a handler: the thread would call no hook ever again.
                guard.on = before
                raise
        made.done.up()
        return Outcome(error=error)

    def taken_off(self) -> None:
        """What hangs goes on: its script has removed it, or is gone."""
        self._gone = True

    @property
    def _is_over(self) -> bool:
        # An expired hook is taken off by the next invocation, which may never come.
        return self._gone or self.admission.expired

    def _naps(self, made: _Made) -> Any:
        """For how long to sleep, one after the other."""
        term = made.term
        if term.action == "hang":
            # Counted now: what hangs may be looked at while it does.
            made.done.up()
            while not self._is_over:
                yield _SLICE
        elif term.action == "sleep":
            left = self._seconds(term)
            # A long one ends as what hangs does.
            while left > 0 and not self._is_over:
                yield min(left, _SLICE) if left > 2 * _SLICE else left
                left = left - _SLICE if left > 2 * _SLICE else 0.0

    def _seconds(self, term: Term) -> float:
        if not term.normal:
            return term.low + (term.high - term.low) * self._random.random()
        # By Box and Muller, of two numbers of which the first is not 0.
        first, second = 1.0 - self._random.random(), self._random.random()
        return max(0.0, term.low + term.high * sqrt(-2.0 * logarithm(first)) * cos(2.0 * pi * second))

    def _choose(self) -> Optional[_Made]:
        """The first term that applies."""
        for made in self._made:
            term = made.term
            if term.probability < 1.0 and self._random.random() >= term.probability:
                continue
            if term.times is not None and made.number() >= term.times:
                continue
            if term.action == "off":
                made.done.up()
                return None
            if not self.admission.use():
                break
            return made
        self._none.up()
        return None

    def _begin_sleep(self) -> float:
        self._under_way.up()
        return perf_counter()

    def _end_sleep(self, made: _Made, began: float) -> None:
        if made.term.action == "sleep":
            self.aggregate.update((made.index,), perf_counter() - began, None)
        self._under_way.back()

    def totals(self) -> Dict[str, Any]:
        """As of any, and how many sleep now, which are not in the table yet."""
        return {**super().totals(), "under-way": self._under_way.value}


def _fresh(value: Any) -> Any:
    """A literal of its own for who gets it and may change it."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict:
        return {_fresh(key): _fresh(one) for key, one in value.items()}
    return kind(map(_fresh, value))


async def _sleep_async(seconds: float) -> None:
    """On the loop that runs, asyncio's or trio's; by a timer of the loop, since `asyncio.sleep` may be the target."""
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if loop is not None:
        over = loop.create_future()
        timer = loop.call_later(seconds, _end, over)
        try:
            await over
        finally:
            timer.cancel()
        return
    trio = sys.modules.get("trio")
    if trio is not None:
        await trio.sleep(seconds)
    else:
        time.sleep(seconds)


def _end(over: Any) -> None:
    if not over.done():
        over.set_result(None)

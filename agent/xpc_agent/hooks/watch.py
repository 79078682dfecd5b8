"""Hooks that show invocations to a script as they were: captured here, bounded and redacted, and queued.

Rules:
- They go the way of events that nobody waits for (`unwaited.py`); the one argument of such an event is the record, as bytes of `marshal`.
- The condition is asked before the terms, and as early as it can be (`early.py`), so that it is the calls that are wanted of which `rate`,
  `sample` and `limit` count.
- What does not meet it may be shown too, for who looks for a mistake in it: at the same rate, but beside the terms. It is asked then
  when that is captured.
- What that costs is measured, and bounded: see `budget.py`.
- No code of the application runs: see `core/values/captures.py` and `core/model/expression`.
"""

from __future__ import annotations

import marshal
from typing import Any, Callable, Dict, List, Optional, Tuple

from xpc_instrument.core.model.expression import Hidden
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.words import one_line
from xpc_instrument.core.unpatched import perf_counter, wall_clock
from xpc_instrument.core.values.captures import REDACTED, CaptureLimits, Capturer, Tree
from xpc_instrument.core.values.redaction import Redaction

from ..guard import guard
from .admission import Bucket
from .budget import LONG, SAMPLED, Budget, used_here
from .early import Early
from .gate import ALWAYS, NEVER, Args, Kwargs, Way
from .invocation import Invocation, next_number
from .local import callers
from .locals import Locals
from .quick import MARSHAL, Shown, Value, recording
from .shown import MOST_BYTES, ShownHook
from .timed import Record, lead

MOST_REJECTED = 50.0
"""Calls a second that are shown though they do not meet the condition, if no other rate is given."""


class WatchHook(ShownHook):
    """One registration on one probe point that shows what it sees."""

    def __init__(self, *args: Any, redaction: Redaction, **options: Any) -> None:
        local = options["terms"].local
        self.redaction = redaction
        self.depth: int = local["depth"]
        self.early: Optional[Early] = None
        # What is asked when an invocation has ended.
        self._late: Optional[Callable[..., Any]] = None
        # Only calls that raise are shown.
        self._raising: bool = local.get("errors", False)
        # It costs too much.
        self.over_budget = False
        self._budget = Budget(self)
        self._rated = options["terms"].rate is not None
        self._rejected = Bucket(options["terms"].rate or MOST_REJECTED) if local.get("rejected") else None
        self._show: List[Tuple[str, Callable[..., Any]]] = []
        super().__init__(*args, capturer=Capturer(CaptureLimits(depth=self.depth), redaction), hides=redaction.hides, **options)
        self._passed_over = 0
        self.alone = self._inside = Way(ALWAYS)
        self._unasked = self._passing("before" if self.mode is Mode.BEFORE else "after")
        if self._expressions and local["when"] and self._rejected is None:
            self.early = Early(self._expressions[0], self.key, self.counters.skipped["when"], self.not_met, self._left_out_by_condition)
            self.sole = self._around
        self._begin_recording()
        self._own = self.target.rpartition(".")[2].rpartition(":")[2]

    def _evaluated(self, made: List[Callable[..., Any]]) -> None:
        self._late = self._when
        if self.early is not None:
            self.early.place(self._scope)
            late = self.early.late
            self._late = None if late is None else self._scope.evaluation(late, truth=True)
        self._show = [(one.text, value) for one, value in zip(self._expressions[len(self._expressions) - len(made) :], made)]
        self._begin_recording()

    @property
    def capture(self) -> Callable[[Any], Tree]:
        """Gives the tree of a value."""
        capture: Callable[[Any], Tree] = self._capturer.capture
        return capture

    def _begin_recording(self) -> None:
        """What is done in the function's own code, which has the values of all parameters in their order."""
        # The terms count what is shown: that is known when an invocation begins, where it depends on nothing but them.
        early, self.take_late = ALWAYS, self._take
        has_condition = bool(self.local["when"]) if self.early is None else self.early.late is not None
        if not (has_condition or self._raising):
            early, self.take_late = self.admission.halves(self.counters)
            self._inside.back = self.way.back if self.admission.by_chance else ALWAYS
        is_asked = self.early is not None and bool(self.early.asking)
        if is_asked:
            self._inside.admit, self._inside.back, early = early, ALWAYS, ALWAYS
        self._inside.take = NEVER if self._rests else early
        ends = self.mode is not Mode.BEFORE
        lead(self._inside, self._recording(ends), self.early, ends)
        if self._inside.entrance is not None:
            # At rest not even the condition is asked.
            self._inside.entrance.is_open = not self._rests

    def _recording(self, ends: bool) -> Record:
        local, scope = self.local, self._scope
        if not scope.is_placed or self._rests or local["stack"]:
            return self.tell
        names: Dict[str, Any] = {}
        shown = list(self._expressions)
        when, values = "", []
        late = shown.pop(0) if local["when"] else None
        if self.early is not None:
            late = self.early.late
        if late is not None:
            when, names = scope.inlined(late, "when", truth=True)
        for place, one in enumerate(shown):
            text = ""
            if not scope.hidden(one, self.redaction.hides):
                text, more = scope.inlined(one, f"shown{place}", self.redaction.hides)
                names.update(more)
            values.append(Value(one.text, text, False))
        if not shown:
            hides, first = self.redaction.hides, int(scope.bound)
            if not scope.has_names:
                return self.tell
            arguments = enumerate(scope.names[first:], first)
            values += [Value(name, "" if hides(name) else f"values[{place}]", True) for place, name in arguments]
        rejected = self._rejected is not None
        what = Shown(when, tuple(values), ends and not shown, self._raising, rejected, scope.place_of_code)
        return recording(self, what, names, self._budget)

    def _take(self) -> Any:
        return self.way.take()

    def rest(self) -> None:
        super().rest()
        self._inside.take = NEVER
        if self.early is not None:
            self.early.rest()
        if self._inside.entrance is not None:
            self._inside.entrance.is_open = False

    def reset_after_fork(self, pid: int) -> None:
        super().reset_after_fork(pid)
        self.over_budget = False
        self._budget.reset()
        self._passed_over = 0
        if self._rejected is not None:
            self._rejected.reset()
        if self.early is not None:
            self.early.reset(self.counters.skipped["when"])
        self._begin_recording()

    def _record(
        self, number: int, args: Args, kwargs: Kwargs, instance: Any, duration: float, result: Any, error: Optional[BaseException]
    ) -> None:
        self._tell_call(number, args if instance is None else (instance, *args), kwargs, duration, result, error, self._when)

    def call_observer(self, invocation: Invocation) -> None:
        """Queue an invocation."""
        one, early = invocation, self.early
        if early is None:
            super().call_observer(one)
        elif early.met(one):
            args = one.args if one.instance is None else (one.instance, *one.args)
            self._tell_call(one.number, args, one.kwargs, one.duration, one.result, one.exception, self._late)

    def _around(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """Where the hook is alone around the original, and has a condition."""
        early = self.early
        if early is None or not early.asking:
            return self._unasked(proceed, args, kwargs, bound, number)
        if not early.is_met_by(args, kwargs):
            return proceed(*args, **kwargs)
        if self.mode is Mode.BEFORE:
            self._tell_call(next_number(), args, kwargs, 0.0, None, None, self._late)
            return proceed(*args, **kwargs)
        started = perf_counter()
        try:
            result = proceed(*args, **kwargs)
        except Exception as error:
            self._tell_call(next_number(), args, kwargs, perf_counter() - started, None, error, self._late)
            raise
        self._tell_call(next_number(), args, kwargs, perf_counter() - started, result, None, self._late)
        return result

    def tell(self, values: Optional[Args], result: Any, error: Optional[BaseException], duration: float, ended: float) -> None:
        """Queue an invocation, if it is one that is shown; `values` are those of all parameters."""
        self._tell_call(next_number(), values or (), None, duration, result, error, self._late)

    def tell_met(self, values: Optional[Args], result: Any, duration: float) -> None:
        """The same of one that has returned, of which the condition and the terms have been asked."""
        try:
            self._capture(next_number(), values, result, None, duration, True)
        except Exception as fault:
            self.drop_for(fault)

    def not_met(self, fault: Optional[Exception]) -> None:
        """Count an invocation that does not meet the condition."""
        if fault is not None:
            raise_interrupt(fault)
            self._tell_fault(fault)
        self.counters.skipped["when"].up()

    def drop_one(self) -> None:
        """Count an event that is dropped."""
        self._drop()

    def spent(self, seconds: float, calls: int = SAMPLED) -> None:
        """So many invocations have cost so much each; with it goes what the others have cost that were left out meanwhile."""
        if self._rated:
            left_out = self.counters.skipped["rate"].value
            self._budget.left_out(left_out - self._passed_over)
            self._passed_over = left_out
        self._budget.spent(seconds, calls)

    def end(self, began: float) -> None:
        """As `Budget.end`."""
        if began >= 0.0:
            self.spent(used_here() - began, LONG)

    def _left_out_by_condition(self, seconds: float, calls: int) -> None:
        self._budget.spent(seconds, calls, 0.0)

    def _tell_call(
        self,
        number: int,
        args: Args,
        kwargs: Optional[Kwargs],
        duration: float,
        result: Any,
        error: Optional[BaseException],
        when: Optional[Callable[..., Any]],
    ) -> None:
        """Queue an invocation, if it is one that is shown; without `kwargs`, `args` are the values of all parameters. `when` is what is
        still to be asked."""
        if self._rests or guard.on or (self._raising and error is None):
            return
        try:
            self._see(number, args, kwargs, duration, result, error, when)
        except Exception as fault:
            self.drop_for(fault)
        except BaseException:
            self._drop()
            raise

    def _see(
        self,
        number: int,
        args: Args,
        kwargs: Optional[Kwargs],
        duration: float,
        result: Any,
        error: Optional[BaseException],
        when: Optional[Callable[..., Any]],
    ) -> None:
        """Queue it if it meets the condition and the terms."""
        began = -1.0 if self._budget.tick() % SAMPLED else used_here()
        # By hand, and not twice `guarded`: see `guard.py`.
        try:
            guard.on = True
            values = args if kwargs is None else self._scope.values(args, kwargs)
            met = True
            if when is not None:
                met = self._meets(when, values, result, error, duration)
            elif values is None and self.early is not None:
                # A call that the function does not take, of which nothing could be asked.
                met = False
                self.not_met(None)
        finally:
            try:
                guard.on = False
            except BaseException:
                guard.on = False
                raise
        # Admission lets nothing through where the thread does our work.
        take = self.take_late if kwargs is None else self.way.take
        wanted = take() if met else self._rejected is not None and self._rejected.take()
        try:
            guard.on = True
            if began >= 0.0:
                self.spent(used_here() - began)
        finally:
            try:
                guard.on = False
            except BaseException:
                guard.on = False
                raise
        if wanted:
            self._capture(number, values, result, error, duration, met)

    def _capture(
        self, number: int, values: Optional[Args], result: Any, error: Optional[BaseException], duration: float, met: bool
    ) -> None:
        """Queue it with what is shown of it. No guard is up yet."""
        try:
            guard.on = True
            began = self._budget.begin()
            blob = self.cut(values, result, error, duration)
            self.end(began)
            self.put(number, blob, met)
        finally:
            try:
                guard.on = False
            except BaseException:
                guard.on = False
                raise

    def cut(self, values: Optional[Args], result: Any, error: Optional[BaseException], duration: float) -> bytes:
        """The record of an invocation, captured again with less where it is too large. The guard is up."""
        capturer, now, place = self._capturer, wall_clock(), self._scope.place_of_code
        stack = callers(self.local["stack"], self._own) if self.local["stack"] else ()
        caught = None if error is None else capturer.capture(error)
        locals_of = Locals(error, capturer, self.redaction) if error is not None and self.local.get("locals") else None
        for depth in (None, 0):
            shown = self._shown(values, result, error, duration, depth)
            frames = () if locals_of is None else locals_of.frames(depth)
            arguments = [] if self._show else self._arguments(values, depth)
            given = None if error is not None or self._show else capturer.capture(result, depth)
            blob = marshal.dumps((now, duration, arguments, given, caught, stack, shown, frames, place), MARSHAL)
            if len(blob) <= MOST_BYTES:
                return blob
        left_out = ("!", "items", "", None)
        cut = [(name, left_out) for name, _ in arguments]
        return marshal.dumps((now, duration, cut, left_out, caught, (), shown[:0], (), place), MARSHAL)

    def _arguments(self, values: Optional[Args], depth: Optional[int]) -> List[Any]:
        if values is None:
            return []
        names = self._scope.names if self._scope.has_names else tuple(f"args[{place}]" for place in range(len(values)))
        first = int(self._scope.bound)
        redacts, capture = self._capturer.named, self._capturer.capture
        found: List[Any] = []
        for name, value in zip(names[first:], values[first:]):
            hidden = depth is not None and self.redaction.hides(name)
            found.append((name, redacts(name, value) if depth is None or hidden else capture(value, depth)))
        return found

    def _shown(
        self, values: Optional[Args], result: Any, error: Optional[BaseException], duration: float, depth: Optional[int]
    ) -> List[Any]:
        found: List[Any] = []
        for text, evaluate in self._show:
            try:
                tree = self._capturer.capture(evaluate(values, result, error, duration), depth)
            except Hidden:
                tree = REDACTED
            except Exception as fault:
                raise_interrupt(fault)
                tree = ("t", "error", f"<{type(fault).__name__}: {one_line(str(fault))[:80]}>")
            found.append((text, tree))
        return found

"""Hooks that live in the application as data: what they see stays here, counted, until their script asks for it.

Rules:
- They observe: nothing of theirs reaches the application, no lane is taken, nothing is pickled, and no code of the application runs.
- All else of them is as with any hook: their place on the probe point, terms, targets, the end of their session, forks.
- An invocation is recorded when it ends, by one call of `_record`, which is made of what the hook counts (`timed.Record`). The values are
  those of all parameters in their order; where the function has no code of Python's they are its arguments, and a hook that needs them by
  name cannot be put there.
- What that costs is measured, and bounded: see `budget.py`.
"""

from __future__ import annotations

import functools
import sys
from types import CodeType
from typing import Any, Callable, Coroutine, Dict, List, Mapping, Optional, Tuple

from xpc_instrument.core.model.aggregate import LONGEST_KEY, Key, Table, bucket_of, key_part, to_json
from xpc_instrument.core.model.errors import ExpressionError
from xpc_instrument.core.model.expression import OBSERVE, Expression, parse
from xpc_instrument.core.model.expression.expression import Hides
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.local import DURATION, INJECT, LINE, RECORD, STACK, STAT, TREE, WATCH
from xpc_instrument.core.unpatched import perf_counter
from xpc_instrument.core.values.names import type_name

from ..generated import compiled
from ..guard import guard, guarded
from ..targets.resolve import Kind, Resolved
from .aggregate import Aggregate, counting
from .budget import SAMPLED, Budget, used_here
from .early import Early
from .failures import EXPRESSIONS, NOT_MET
from .gate import ALWAYS, NEVER, Args, Kwargs, Way
from .invocation import Invocation
from .remote import RemoteHook
from .scope import Scope
from .timed import Record, lead

# `values` are None for a call that the function does not take. That no code of the application runs is the expressions' to see to; what is
# not to be seen by hooks, since it may call what they are on, has its guard.
_RECORD = """
def record(values, result, error, duration, ended):
    try:
        {lines}
    except any_error as fault:
        failed(fault)
        return
    {counting}
"""
_MEASURED = """    if not cell[0] % sampled:
        measure()
"""
# An int that is no key by itself is one beyond 64 bits.
_PART = """part{0} = {1}
        kind = kind_of(part{0})
        if kind is text and length(part{0}) <= longest or kind is whole and -big < part{0} < big:
            pass
        else:
            part{0} = part_of(part{0})"""
_REJECTED = """try:
            if not {}:
                if not rejected() % sampled:
                    measure()
                return
        except any_error as fault:
            unmet(fault)
            return"""
_LEFT_OUT = """if not admitted():
            return"""
_UNUSABLE = """if values is None:
            unusable()
            return"""


@guarded
def _part_of(value: Any) -> Any:
    known = key_part(value)
    return ("text", f"<{type_name(value)}>") if known is None else known


_NAMES = {
    "any_error": Exception,
    "big": 1 << 63,
    "length": len,
    "longest": LONGEST_KEY,
    "part_of": _part_of,
    "sampled": SAMPLED,
    "text": str,
}


def _hides_nothing(name: str) -> bool:
    return False


class LocalHook(RemoteHook):
    """One registration on one probe point that counts."""

    # Set before there is one of its own: the terms are installed when the hook is made.
    early: Optional[Early] = None
    _when: Optional[Expression] = None
    _is_at_rest = False

    def __init__(self, *args: Any, level: str = OBSERVE, hides: Hides = _hides_nothing, **options: Any) -> None:
        terms = options["terms"]
        # Of the calls that `limit` lets through each is counted.
        self._is_limited = terms.limit is not None and terms.local["kind"] != INJECT
        super().__init__(*args, **options)
        self._hides = hides
        assert self.terms.local is not None
        self.local: Mapping[str, Any] = self.terms.local
        self.aggregate = Aggregate(single=len(self.local.get("by", ())) == 1)
        # Why it cannot be on its target, once that is known.
        self.mistake = ""
        # It is at rest, since it costs too much.
        self.over_budget = False
        self._scope = Scope(self.target, self.pid)
        self._expressions = [parse(text, level) for text in expressions_of(self.local)]
        self._when = self._expressions[0] if self.local.get("when") else None
        if self._when is not None:
            self.early = Early(self._when, self.key, self.aggregate.rejected, self._unmet, self._passed_over)
        self._begin_counting()
        self.sole = self._around
        # Admission is asked when an invocation begins, which costs nothing where it is not counted.
        self.alone: Optional[Way] = self.way

    # where it is -------------------------------------------------------------------------------------------------------

    def placed(self, resolved: Resolved, code: Optional[CodeType]) -> None:
        if not self._scope.place(resolved, code):
            return
        try:
            if self.early is not None:
                self.early.place(self._scope)
            self._begin_counting()
        except ExpressionError as error:
            # Nothing is counted here; who registers it is told, or if the module came later, the log.
            self.mistake = str(error)
            self.rest()

    def _begin_counting(self) -> None:
        self._budget = Budget(self)
        # Of durations, how many have been added up since it was measured; and for how many one measurement stands.
        self._folded, self._sampled = 0, SAMPLED
        self._install(self._taken)
        self._record: Record = self._recording()
        lead(self.way, self._record, self.early, durations=self._durations())
        measured = self._measuring(self._record)
        # By a trampoline: the target may be a function that recording needs, whose wrapper this module was loaded with.
        self._record_apart: Record = guarded(self._record)
        self._plain, self._measured = (self._record, self._record_apart), (measured, guarded(measured))

    def _durations(self) -> Optional[Dict[str, Any]]:
        """The names of what counts durations alone, without a key, if it is that kind."""
        local = self.local
        if local["kind"] != STAT or local["by"] or local["of"] != DURATION or self._admits_late:
            return None
        if self._when is not None and (self.early is None or not self._scope.is_placed or self.early.late is not None):
            return None
        return {**self.aggregate.names_of_one(), "fold": self._fold, "measuring": False}

    def _install(self, take: Callable[[], Any]) -> None:
        super()._install(take)
        self._taken = take
        self.way.admit = ALWAYS
        # `sample`, `rate` and `limit` are of the calls that meet the condition.
        if self._admits_late:
            self.way.back = self.way.take = ALWAYS
        elif self.early is not None and self.early.asking:
            self.way.admit = take
            self.way.back = self.way.take = ALWAYS
        if self._is_at_rest:
            self.way.take = NEVER

    @property
    def _admits_late(self) -> bool:
        late = self._when if self.early is None else self.early.late
        return self._is_limited or (late is not None and (self.terms.sample, self.terms.rate) != (None, None))

    def _admit(self) -> Any:
        # By a trampoline it is asked in the middle of our work, to which hooks are closed.
        at_work, guard.on = guard.on, False
        try:
            return self._taken()
        finally:
            guard.on = at_work

    def goes_inside(self, kind: Kind) -> bool:
        return True

    def reset_after_fork(self, pid: int) -> None:
        self._is_at_rest = bool(self.mistake)
        super().reset_after_fork(pid)
        self._scope.reset_after_fork(pid)
        self.over_budget = False
        self.aggregate.reset()
        if self.mistake:
            return
        if self.early is not None:
            self.early.reset(self.aggregate.rejected)
        if self.way.entrance is not None:
            self.way.entrance.is_open = True
        self._begin_counting()

    def totals(self) -> Dict[str, Any]:
        """All that was counted here; `table` is as `aggregate.to_json` gives it."""
        counted, failures = self.aggregate, self.counters.failures
        failed = sum(failures.get(cause, 0) for cause in EXPRESSIONS)
        return {
            "target": self.target,
            "table": to_json(self._table()),
            "unusable": counted.unusable.value,
            "rejected": counted.rejected.value,
            "failed": failed,
            # Of what is not counted some has failed.
            "errors": counted.unusable.value + failed - failures.get("expression", 0),
            "skipped": {why: count.value for why, count in self.counters.skipped.items() if count.value},
            "over-budget": self.over_budget,
        }

    def _table(self) -> Table:
        return self.aggregate.total()

    # what an invocation does -------------------------------------------------------------------------------------------

    def _around(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        early, way = self.early, self.way
        if early is not None and not early.is_met_by(args, kwargs):
            return proceed(*args, **kwargs)
        if not (way.take() and way.admit()):
            return proceed(*args, **kwargs)
        started = perf_counter()
        try:
            result = proceed(*args, **kwargs)
        except Exception as error:
            ended = perf_counter()
            self._record_apart(self._by_name(args, kwargs), None, error, ended - started, ended)
            raise
        ended = perf_counter()
        self._record_apart(self._by_name(args, kwargs), result, None, ended - started, ended)
        return result

    def call_observer(self, invocation: Invocation) -> None:
        """Count an invocation that has ended."""
        if self.early is not None and not self.early.met(invocation):
            return
        if self.way.take() and self.way.admit():
            one = invocation
            args = one.args if one.instance is None else (one.instance, *one.args)
            self._record_apart(self._by_name(args, one.kwargs), one.result, one.exception, one.duration, perf_counter())

    async def _call_observer_async(self, invocation: Invocation) -> None:
        self.call_observer(invocation)

    def call_observer_async(self, invocation: Invocation) -> Coroutine[Any, Any, None]:
        """The same, which nobody has to await."""
        return self._call_observer_async(invocation)

    def _by_name(self, args: Args, kwargs: Kwargs) -> Optional[Args]:
        """The values of all parameters, where an expression needs them; None for a call that the function does not take."""
        return self._scope.values(args, kwargs) if self._expressions else args

    # what is recorded --------------------------------------------------------------------------------------------------

    def _recording(self) -> Record:
        """What an invocation does when it has ended, as one function: each call within it would take as long as counting does."""
        local, lines = self.local, []
        namespace: Dict[str, Any] = {
            **_NAMES,
            **self.aggregate.names(),
            "fold": self._fold,
            "measure": self._measure,
            "rejected": self.aggregate.rejected.up,
            "failed": self._uncounted,
            "unmet": self._unmet,
        }
        texts: List[str] = []
        if self._scope.is_placed:
            if self._expressions:
                lines.append(_UNUSABLE)
            late = None if self.early is None else self.early.late
            if late is not None:
                text, more = self._scope.inlined(late, "when", truth=True)
                lines.append(_REJECTED.format(text))
                namespace.update(more)
            for place, expression in enumerate(self._expressions if self._when is None else self._expressions[1:]):
                if self._scope.hidden(expression, self._hides):
                    if expression.text == local.get("of"):
                        raise ExpressionError(f"{expression.text}: what it reads is redacted, and not counted")
                    texts.append("'<redacted>'")
                    continue
                text, more = self._scope.inlined(expression, f"evaluate{place}", self._hides)
                texts.append(text)
                namespace.update(more)
        elif self._expressions:
            lines += ["unusable()", "return"]
        if self._admits_late:
            namespace["admitted"] = self._admit
            if not self._is_limited:
                lines.append(_LEFT_OUT)
        of = "duration"
        if local["kind"] == STACK:
            namespace["key_of"] = guarded(functools.partial(callers, local["depth"], self.target.rpartition(".")[2].rpartition(":")[2]))
            lines.append("key = key_of()")
        else:
            if local["of"] != DURATION and texts:
                of = texts.pop()
                self.aggregate.constant = _constant(self._expressions[-1])
            lines += [_PART.format(place, text) for place, text in enumerate(texts)]
            parts = [f"part{place}" for place in range(len(texts))]
            lines.append(f"key = {parts[0]}" if self.aggregate.single and parts else f"key = ({''.join(f'{one}, ' for one in parts)})")
        lines.append(f"value = {of}")
        self.aggregate.of_durations = of == "duration"
        counted = counting(of == "duration", self.aggregate.constant is not None, self._is_limited)
        text = _RECORD.format(lines="\n        ".join(lines), counting=counted.strip())
        if of != "duration":
            text += _MEASURED
        record: Record = compiled(f"{__name__} {dict(local)!r}", namespace, text, kept=False)["record"]
        return record

    @guarded
    def _fold(self, cell: Any) -> None:
        """So many durations have come that they are added up; now and then that is measured, and what it takes to get there."""
        self._folded += len(cell) - 1
        if self._folded < _FOLDED:
            self.aggregate.fold(cell)
            return
        self._sampled, self._folded = self._folded, 0
        before = used_here()
        began = used_here()
        number = self.aggregate.fold(cell)
        taken = used_here() - began - (began - before)
        self._budget.spent(max(0.0, taken) / number, self._sampled, 0.0)
        self._measure()

    @guarded
    def _unmet(self, fault: Exception) -> None:
        """The condition has failed."""
        raise_interrupt(fault)
        self.aggregate.rejected.up()
        self._tell_expression(fault, NOT_MET, "condition")

    @guarded
    def _uncounted(self, fault: Exception) -> None:
        raise_interrupt(fault)
        self.aggregate.unusable.up()
        self._tell_expression(fault, "such calls are not counted here")

    # the budget --------------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Have the next invocation that ends measured."""
        self._lead_to(self._measured)

    def _lead_to(self, records: Tuple[Record, Record]) -> None:
        self.way.record, self._record_apart = records
        if self.way.entrance is not None:
            self.way.entrance.names["measuring"] = records is self._measured

    def _measuring(self, record: Record) -> Record:
        """The same, and what it takes: of the thread's own time, as it may wait for the interpreter in the middle of it. Where it has
        waited, it is the next that is measured: to wait takes time of its own."""
        tries = 0
        least = 0.0

        def measured(values: Optional[Args], result: Any, error: Optional[BaseException], duration: float, ended: float) -> None:
            nonlocal tries, least
            before, began_at = used_here(), perf_counter()
            began = used_here()
            record(values, result, error, duration, ended)
            over, over_at = used_here(), perf_counter()
            # To look at that clock takes longer than what is measured.
            taken = max(0.0, over - began - (began - before))
            tries, least = tries + 1, taken if not tries else min(taken, least)
            if self.way.record is measured and (tries == _TRIES or over_at - began_at - (over - before) < _NO_WAIT):
                self._lead_to(self._plain)
                tries, taken = 0, least
                self._spent(taken)

        return measured

    def _passed_over(self, seconds: float, calls: int) -> None:
        self._budget.spent(seconds, calls, 0.0)

    @guarded
    def _spent(self, seconds: float) -> None:
        """An invocation has cost so much."""
        for expression in self._expressions:
            # A class may have got a property since.
            expression.forget_verdicts()
        self._budget.spent(seconds, self._sampled)

    def rest(self) -> None:
        """Nothing more is counted; what was counted stays."""
        self._is_at_rest = True
        self.way.take = NEVER
        if self.early is not None:
            self.early.rest()
            if self.way.entrance is not None:
                # Not even the condition is asked.
                self.way.entrance.is_open = False


# So many durations are added up until it is measured what that takes.
_FOLDED = 1024
# Of so many invocations in a row one will not have waited; and what two clocks differ by where none has, in seconds.
_TRIES, _NO_WAIT = 8, 5e-6


def _constant(expression: Expression) -> Optional[float]:
    """The number that it always is, or None."""
    if expression.names or expression.level != OBSERVE:
        return None
    try:
        value = expression.function(())()
        bucket_of(value)
    except (ArithmeticError, TypeError, ValueError, ExpressionError):
        return None
    return value if type(value) in (int, float) else None


def expressions_of(local: Mapping[str, Any]) -> List[str]:
    """The expressions of a hook: the condition, those of the key, and what is counted, if it has them."""
    if local["kind"] == INJECT:
        return []
    when = [local["when"]] if local["when"] else []
    if local["kind"] in (RECORD, STACK, TREE):
        return when
    if local["kind"] in (WATCH, LINE):
        return [*when, *local["show"]]
    return [*when, *local["by"], *([] if local["of"] == DURATION else [local["of"]])]


def check_expressions(target: str, local: Mapping[str, Any], level: str) -> None:
    """Raise `ExpressionError` for what cannot be evaluated here: the script knows no more than whether it is Python."""
    try:
        for text in expressions_of(local):
            parse(text, level)
    except ExpressionError as error:
        raise ExpressionError(f"{target}: {error}") from None


def callers(depth: int, own: str) -> Key:
    """The innermost frames of who has called the function of that name: file, line and function of each, one after the other."""
    frame = sys._getframe(1)
    while frame is not None and _is_own(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is not None and frame.f_code.co_name == own:
        frame = frame.f_back  # type: ignore[assignment]
    parts: List[Any] = []
    while frame is not None and depth:
        code = frame.f_code
        if not _is_own(code.co_filename):
            parts += (code.co_filename, frame.f_lineno or 0, getattr(code, "co_qualname", code.co_name))
            depth -= 1
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(parts)


_FOLDER = __file__.rpartition("hooks")[0]


def _is_own(filename: str) -> bool:
    return filename.startswith((_FOLDER, "<generated by xpc_agent"))

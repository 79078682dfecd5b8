"""What hooks have in common that show something of invocations: their expressions, where they are placed, and how an event is queued.

Rules:
- They go the way of events that nobody waits for (`unwaited.py`); the one argument of such an event is bytes of `marshal`.
- A target that does not have the names in their expressions is a mistake, which who registers the hook is told.
- A condition that fails counts as not met, is counted, and is logged once.
"""

from __future__ import annotations

from types import CodeType
from typing import Any, Callable, List, Optional

from xpc_instrument.core.model.errors import ExpressionError
from xpc_instrument.core.model.expression import OBSERVE, Expression, parse
from xpc_instrument.core.model.expression.expression import Hides
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.unpatched import get_ident

from ..guard import guarded
from ..targets.resolve import Resolved
from .failures import NOT_MET, log
from .gate import NEVER, Args
from .local import expressions_of
from .scope import Scope
from .unwaited import UnwaitedHook

MOST_BYTES = 16 * 1024
"""Of one event; what is larger is captured again with no depth, and then without its values."""


class ShownHook(UnwaitedHook):
    """One registration on one probe point that shows what it sees."""

    def __init__(self, *args: Any, level: str = OBSERVE, hides: Optional[Hides] = None, **options: Any) -> None:
        self._hides = hides
        self.local = options["terms"].local
        self.mistake = ""
        self._expressions: List[Expression] = [parse(text, level) for text in expressions_of(self.local)]
        # Its terms are over, it cannot be on its target, or it costs too much.
        self._rests = False
        self._when: Optional[Callable[..., Any]] = None
        super().__init__(*args, **options)
        self._scope = Scope(self.target, self.pid, self.mode is not Mode.BEFORE)

    def placed(self, resolved: Resolved, code: Optional[CodeType]) -> None:
        if not self._scope.place(resolved, code):
            return
        shown = list(self._expressions)
        try:
            self._when = self._scope.evaluation(shown.pop(0), truth=True) if self.local["when"] else None
            made = [self._scope.evaluation(one, self._hides) for one in shown]
        except ExpressionError as error:
            self.mistake = str(error)
            self.rest()
            return
        self._evaluated(made)

    def _evaluated(self, made: List[Callable[..., Any]]) -> None:
        """The expressions behind the condition, as what evaluates them where the hook has been placed."""

    def rest(self) -> None:
        """Nothing more is shown; what was left out can still be asked for."""
        self._rests = True
        self.way.take = NEVER

    def forget_types(self) -> None:
        super().forget_types()
        for expression in self._expressions:
            expression.forget_verdicts()

    def reset_after_fork(self, pid: int) -> None:
        super().reset_after_fork(pid)
        self._scope.reset_after_fork(pid)
        self._rests = bool(self.mistake)

    def _meets(
        self, when: Callable[..., Any], values: Optional[Args], result: Any, error: Optional[BaseException], duration: float
    ) -> bool:
        """Whether an invocation meets the condition; counted if not."""
        try:
            if values is not None and when(values, result, error, duration):
                return True
        except Exception as fault:
            raise_interrupt(fault)
            self._tell_fault(fault)
        self.counters.skipped["when"].up()
        return False

    def _tell_fault(self, fault: Exception) -> None:
        self._tell_expression(fault, NOT_MET)

    @guarded
    def drop_for(self, fault: Exception) -> None:
        """An event could not be made. Raises on what has interrupted the thread."""
        self._drop()
        raise_interrupt(fault)
        self.counters.fail("internal")
        if not self._logged.get("internal"):
            self._logged["internal"] = True
            log.exception("an event of %s was dropped; further ones are counted, not logged", self.target)

    @guarded
    def _queue(self, number: int, blob: bytes, met: bool = True) -> None:
        """Queue an event, or drop it."""
        self.put(number, blob, met)

    def put(self, number: int, blob: bytes, met: bool) -> None:
        """The same, with the guard up: what it calls may be the very target."""
        queue = self.queue
        fillers = len(blob) // queue.share
        if len(queue.items) + fillers >= queue.limit:
            self._drop()
            return
        # With a second argument it counts for no term in the script either.
        event = (self.key, number, get_ident(), (blob,) if met else (blob, met))
        if fillers:
            queue.items.extend([event, *[None] * fillers])
        else:
            queue.items.append(event)
        if queue.sleeping:
            queue.wake()

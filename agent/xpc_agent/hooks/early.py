"""The condition of a hook that observes, asked when an invocation begins: of one that does not meet it nothing more is done.

Rules:
- What is asked so needs only what is there by then: the parameters and `self`, `args`, `kwargs`, `thread`, `task`, `pid`, `target`. Of
  operands of `and` those at the beginning are; from the first on that names `result`, `exception` or `duration`, all are asked at the end.
- It is asked after suspension and before the terms, wherever the hook is: at the entrance in the function's own code (`asking` is the text
  for it), by `asks` elsewhere, and in a chain of several hooks first of all (an `Early` stands among its `before` hooks).
- It runs no code of the application, and so is asked before the guard: what a thread comes to during work of ours may count as rejected
  too. Trusted expressions, which may run any, have the guard.
- What is rejected is counted by C code, in rows (`sampling.Passed`). Of some rows one is asked again, with a clock: that is what it costs.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

from xpc_instrument.core.model.expression import TRUSTED, Expression
from xpc_instrument.core.unpatched import perf_counter

from ..generated import compiled
from ..guard import guarded
from .budget import used_here
from .count import Count
from .gate import Args, Kwargs
from .invocation import Invocation
from .sampling import Passed
from .scope import Scope

# So many are rejected until a clock is looked at, and about so many seconds types are judged for; as in `conditional.py`. In one of so many
# rows one is asked again.
_ROW, _FORGET, _MEASURED = 256, 1.0, 8
# What it costs to come here, in seconds, beside what is measured.
_BESIDE = 0.05e-6

_ASKING = """\
try:
    {words}if not {test}:
        for _ in passed:
            return {unmet}
        one_more({values})
        return {unmet}
except any_error as fault:
    unmet(fault)
    return {unmet}
"""
_ASKS = """
def asks(values):
    {unpacked}{asking}
    return True
def again({values}):
    {words}return {test}
"""


class Early:
    """Of one hook, by its `key` in this process. `count` is of what is rejected, `unmet(fault)` counts and tells what fails, and
    `spent(seconds, calls)` is told what it costs.

    `late` is what is left to be asked when an invocation has ended; `asks(values)` says whether one may be wanted, and is exchanged.
    """

    def __init__(
        self,
        expression: Expression,
        key: int,
        count: Count,
        unmet: Callable[[Exception], None],
        spent: Callable[[float, int], None],
    ) -> None:
        self._expression = expression
        self._key = key
        self._count = count
        self._unmet = guarded(unmet)
        self._spent = guarded(spent)
        self._scope: Optional[Scope] = None
        self._passed: Optional[Passed] = None
        self._forgot_at = perf_counter()
        self._rows = 0
        self._asks: Callable[[Args], Any] = _anything
        self.asks: Callable[[Args], Any] = _anything
        self.late: Optional[Expression] = expression
        # For an entrance; "" where nothing is asked so.
        self.asking = ""
        self.names: Dict[str, Any] = {}

    def place(self, scope: Scope) -> None:
        """The target is there, or is another one. Raises `ExpressionError` for a name that is not known."""
        self._scope = scope
        first, self.late = self._expression.split(scope.late_names)
        self.asking, self._asks = "", _anything
        if first is not None:
            self._compile(scope, first)
        self.asks = self._asks

    def _compile(self, scope: Scope, expression: Expression) -> None:
        words, test, namespace = scope.asked(expression)
        values = "".join(f"v{place}, " for place in range(len(scope.names)))
        parts = {"test": test, "values": values, "words": "".join(f"{line}\n    " for line in words)}
        self.names = namespace
        namespace.update(any_error=Exception, one_more=self._one_more, unmet=self._unmet)
        asking = _ASKING.format(unmet="False", **parts).strip().replace("\n", "\n    ")
        text = _ASKS.format(unpacked=f"{values}= values\n    " if values else "", asking=asking, **parts)
        made = compiled(f"{__name__} {expression.text!r} {values}", namespace, text, kept=False)
        self.asking = _ASKING.format(unmet="None", **parts)
        self._asks = made["asks"]
        # A trusted one is not asked for nothing.
        self._again: Callable[..., Any] = _anything if expression.level == TRUSTED else made["again"]
        if self._passed is None:
            self._begin_counting()
        else:
            self._passed.lay_for(namespace)

    def _begin_counting(self) -> None:
        self._passed = Passed()
        self._passed.lay_for(self.names)
        self._count.besides = self._passed.count

    def rest(self) -> None:
        """Nothing is asked any more."""
        self.asks = _nothing

    def reset(self, count: Count) -> None:
        """In a forked child."""
        self._count, self.asks = count, self._asks
        if self._passed is not None:
            self._begin_counting()

    def _one_more(self, *values: Any) -> None:
        passed = self._passed
        assert passed is not None
        passed.one_more(self.names, _row)
        now = perf_counter()
        if now - self._forgot_at >= _FORGET:
            # A class may have got a property since.
            self._forgot_at = now
            self._expression.forget_verdicts()
        self._rows += 1
        if self._rows % _MEASURED:
            return
        before = used_here()
        began = used_here()
        try:
            self._again(*values)
        finally:
            # To look at that clock takes longer than what is measured.
            taken = used_here() - began - (began - before)
            self._spent(max(0.0, taken) + _BESIDE, _ROW * _MEASURED)

    # among other hooks -------------------------------------------------------------------------------------------------

    def met(self, invocation: Invocation) -> bool:
        """Whether it was met when the invocation began; asked now if it was not asked then."""
        # By hand: no guard is up, and the builtin may be the very target.
        try:
            return invocation.asked[self._key]
        except (AttributeError, KeyError):
            return self.meets(invocation)

    def meets(self, invocation: Invocation) -> bool:
        """Whether it is."""
        if invocation.values is not None:
            return bool(self.asks(invocation.values))
        one = invocation
        return self.is_met_by(one.args if one.instance is None else (one.instance, *one.args), one.kwargs)

    def is_met_by(self, args: Args, kwargs: Kwargs) -> bool:
        """The same of the arguments, the instance included. A call that the function does not take is the hook's to count."""
        if self._scope is None or not self.asking:
            return True
        values = self._scope.values(args, kwargs)
        return values is None or bool(self.asks(values))

    @guarded
    def call_observer(self, invocation: Invocation) -> None:
        """Ask, as of a `before` hook."""
        if not hasattr(invocation, "asked"):
            invocation.asked = {}
        invocation.asked[self._key] = self.meets(invocation)

    async def call_observer_async(self, invocation: Invocation) -> None:
        """The same."""
        self.call_observer(invocation)


def _row() -> int:
    return _ROW


def _anything(*_: Any) -> bool:
    return True


def _nothing(*_: Any) -> bool:
    return False

"""Hooks with a condition: `when=`, an expression that is asked in the application before anything is sent.

Rules:
- A `Conditional` stands in the chain in the place of its hook, and passes on the invocations that meet the condition; all else of the hook
  (its counters, its lanes, its session) stays the hook's own.
- It is asked after suspension and before `sample`, `rate` and `limit`, which the hook asks itself. What does not meet it is counted as
  skipped by "when".
- `before`, `around` and `instead` are asked when the call begins, `after` when it has ended: only there is a result to ask for.
- No error of a condition leaves here: it counts as not met, and by its cause (`would-run-code`, `too-much`, `condition`), and the first of
  each is logged. After so many in a row the hook rests for a while.
- The parameters are known by the names of the function; what is no Python function has `args` and `kwargs`.
- Alone inside of a function's code, a condition that needs nothing but the parameters is asked in the `enter` that the code calls
  (`entrance.py`), while all is well: where the hook is suspended, or the condition has failed or rests, it is asked as elsewhere. It runs
  no code of the application, and so is asked before the guard; what a thread comes to during work of ours may count as skipped too.
"""

from __future__ import annotations

import sys
from builtins import isinstance as _isinstance  # the builtin may be the very target, and no guard is up here
from types import CodeType, FunctionType
from typing import Any, Callable, Coroutine, Dict, Optional, Sequence, Tuple

from xpc_instrument.core.model.errors import ExpressionError
from xpc_instrument.core.model.expression import AT_END, TRUSTED, WORDS, TooMuch, WouldRunCode, parse
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.words import one_line
from xpc_instrument.core.unpatched import monotonic
from xpc_instrument.core.unpatched import perf_counter as _clock

from ..generated import compiled
from ..guard import guard, guarded
from ..targets.flags import CO_VARKEYWORDS
from ..targets.parameters import binder, count_of, splitter
from ..targets.resolve import Binding, Kind, Resolved
from .alone import after, tell
from .current import task_name, thread_name
from .entrance import Entrance
from .gate import ALWAYS, PASS, Args, Entered, Gate, Kwargs, Way
from .invocation import Invocation, split
from .sampling import Passed

# So many errors in a row, and the condition is not asked for so many seconds.
MOST_ERRORS = 100
REST = 60.0
# Verdicts on types are forgotten about so often, in seconds. The clock is read after a number of conditions that suits how fast they come,
# but not after more than so many: after a burst they may come seldom, and a property that a class gets then is read for so many calls.
_FORGET = 1.0
_MOST_STEPS = 256

# The condition in the functions that the code calls. What it is asked of, and what is done with what meets it, differs with the mode.
_ASKED = """\
try:
    if not {test}:
        for _ in passed:
            return {value}
        one_more()
        return {value}
except any_error as fault:
    unmet(fault)
    return {value}
"""
_MET = """\
if guard.on:
    return None
return met(gate, ({values}))
"""
_BEGUN = "return None, (gate, {values}now())"
_KEPT = "gate, {values}began, "
_RETURNED = "ended(gate, ({values}), now() - began, value, None)"
_RAISED = """\
if not is_a(error, gate.ends):
    return None
"""
_HAS_RAISED = "ended(gate, ({values}), now() - began, None, error)"
# The words of `AT_END`, as they are assigned to.
_AT_LEAVING = {"result": "value", "exception": "None", "duration": "now() - began"}
_AT_FAILING = {"result": "None", "exception": "error if is_a(error, any_error) else None", "duration": "now() - began"}

# The same around the original. What that raises is no consequence of an error here.
_AROUND = """
def around(proceed, args, kwargs, bound, number=0):
    if not is_well:
        return slowly(proceed, args, kwargs, bound, number)
    try:
        if kwargs or length(args) != {count}:
            {values}= values_of(args, kwargs)
        else:
            {values}= args
    except no_such_call as fault:
        mistaken(fault)
        met = False
    else:
        try:
            met = True if {test} else False
        except any_error as fault:
            unmet(fault)
            met = None
    if met:
        return call(proceed, args, kwargs, bound, number)
    if met is not None:
        for _ in passed:
            break
        else:
            one_more()
    return proceed(*args, **kwargs)
"""

# A hook as it is seen here: `remote.RemoteHook`, or what derives from it.
Hook = Any
Ask = Callable[..., Any]


class Conditional:
    """A hook in the chain that is asked for first."""

    def __init__(self, hook: Hook, when: str, level: str) -> None:
        self.hook = hook
        self.mode: Mode = hook.mode
        self._expression = parse(when, level)
        self._resolved: Optional[Resolved] = None
        self._code: Optional[CodeType] = None
        self._ask: Optional[Ask] = None
        self._values_of: Optional[Callable[[Args, Kwargs], Args]] = None
        self._split: Optional[Callable[[Args], Tuple[Args, Kwargs]]] = None
        self._words: Tuple[Callable[..., Any], ...] = ()
        self._bound = False
        # The values inside of the code are those that the call began with; a `**` dict is the body's own.
        self._direct = False
        # Why it cannot be asked on its target, once that is known.
        self.mistake: Optional[ExpressionError] = None
        self._errors = 0
        self._resting_until = 0.0
        self._steps = self._left = 1
        self._looked_at = self._forgot_at = monotonic()
        # As the chain has it.
        self.way = Way(ALWAYS)
        self.call_replacing: Callable[..., Any] = self._replacing
        self.sole: Optional[Callable[..., Any]] = None if self.mode is not Mode.BEFORE else self._alone
        self.goes_without: Callable[[], bool] = hook.goes_without
        self.alone = Way(ALWAYS, after(self) if self.mode is Mode.AFTER else self._begin)
        self._passed: Optional[Passed] = None
        hook.on_admission = self._settle

    # where it is -------------------------------------------------------------------------------------------------------

    def placed(self, resolved: Resolved, code: Optional[CodeType]) -> None:
        """As `RemoteHook.placed`. A name that is not known there is a `mistake`, with which no call meets the condition."""
        if resolved is self._resolved and code is self._code:
            return
        self._resolved, self._code, self._ask = resolved, code, None
        function = resolved.function
        names: Tuple[str, ...] = ()
        self._values_of = self._split = None
        self._direct = False
        self.alone.entrance = None
        self.call_replacing, self.sole = self._replacing, self._alone if self.mode is Mode.BEFORE else None
        if self.mode is not Mode.AFTER:
            self.alone.begin = self._begin
        if code is not None and type(function) is FunctionType:
            self._values_of = binder(function, code)
            if self._values_of is not None:
                self._split, names = splitter(code), code.co_varnames[: count_of(code)]
                self._direct = not code.co_flags & CO_VARKEYWORDS
        self._bound = resolved.binding is not Binding.NONE
        words = [word for word in WORDS if word in self._expression.names and word not in names]
        self.mistake = None
        try:
            if self.mode is not Mode.AFTER:
                self._expression.check_begin(names)
            self._expression.check_names([*names, *(one for one in WORDS if self.mode is Mode.AFTER or one not in AT_END)])
        except ExpressionError as error:
            self.mistake = error
            if code is None:
                self.mistake = ExpressionError(f"{error}\n(its parameters are not known by name, since it is no function of Python)")
            self.hook.note_condition_error("condition", one_line(str(self.mistake)))
            return
        self._words = tuple(_READERS[word] for word in words)
        ask = self._expression.condition([*names, *words])
        self._ask = guarded(ask) if self._expression.level == TRUSTED else ask
        if self._values_of is None or not AT_END.issuperset(words):
            return
        if self.mode is not Mode.AFTER:
            self.alone.begin = self._begin_by_values(self._ask)
        elif not self._direct:
            return
        if self._expression.level != TRUSTED:
            test, namespace = self._expression.test([*names, *words])
            self.alone.entrance = self._entrance(names, words, test, namespace)
            if names and self.mode is not Mode.AFTER and (sys.version_info < (3, 11) or not self.hook.goes_inside(resolved.kind)):
                self._go_around(names, test, namespace, code)
            self._settle()

    def _entrance(self, names: Tuple[str, ...], words: Sequence[str], test: str, namespace: Dict[str, Any]) -> Entrance:
        values = "".join(f"v{place}, " for place in range(len(names)))
        about = f"{self.mode.value} {self._expression.text!r} {values}"
        namespace.update(any_error=Exception, met=self._met, unmet=self._failed, one_more=self._one_more)
        if self.mode is not Mode.AFTER:
            return Entrance(about, namespace, _ASKED.format(test=test, value="None") + _MET.format(values=values))
        namespace.update(ended=self._ended, is_a=_isinstance, now=_clock)
        last, wrong = (
            early
            + "".join(f"v{len(names) + place} = {given[word]}\n" for place, word in enumerate(words))
            + _ASKED.format(test=test, value=value)
            + tell.format(values=values)
            for early, given, value, tell in (("", _AT_LEAVING, "value", _RETURNED), (_RAISED, _AT_FAILING, "None", _HAS_RAISED))
        )
        return Entrance(about, namespace, _BEGUN.format(values=values), _KEPT.format(values=values), last, wrong)

    def _go_around(self, names: Tuple[str, ...], test: str, namespace: Dict[str, Any], code: Optional[CodeType]) -> None:
        """Ask in what stands around the original."""
        assert code is not None
        is_before = self.mode is Mode.BEFORE
        values = "".join(f"v{place}, " for place in range(len(names)))
        namespace.update(
            slowly=self._alone if is_before else self._replacing,
            call=self._tell_before if is_before else self.hook.call_replacing,
            values_of=self._values_of,
            mistaken=_mistaken,
            no_such_call=TypeError,
            length=len,
        )
        # Where the arguments may be given as the parameters stand.
        count = code.co_argcount if code.co_argcount == len(names) else -1
        text = _AROUND.format(count=count, values=values, test=test)
        around = compiled(f"{__name__} around {self._expression.text!r} {values}{count}", namespace, text, kept=False)["around"]
        if is_before:
            self.sole = around
        else:
            self.call_replacing = around

    def _tell_before(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int) -> Any:
        return self.hook.sole(original, args, kwargs, bound)

    def _settle(self) -> None:
        """Whether it is asked at the entrance depends on its state, and on the hook's."""
        entrance: Optional[Entrance] = self.alone.entrance
        if entrance is None:
            return
        rejected = self.hook.counters.skipped["when"]
        if self._passed is None or rejected.besides is None:
            # New counters, as in a forked child.
            self._passed = Passed()
            rejected.besides = self._passed.count
        self._passed.lay_for(entrance.names)
        well = not self._errors and not self._resting_until and not self.hook.admission.suspended
        entrance.is_open = entrance.names["is_well"] = well

    # asking ------------------------------------------------------------------------------------------------------------

    def _meets(self, args: Args, kwargs: Kwargs, invocation: Optional[Invocation] = None) -> bool:
        """Whether a call meets the condition; with an invocation, its instance is not among the arguments."""
        admission = self.hook.admission
        if admission.suspended and admission.resting():
            # Not asked; the hook counts what it skips.
            return True
        try:
            if invocation is not None and invocation.instance is not None:
                args = (invocation.instance, *args)
            values: Args = ()
            if self._direct and invocation is not None and invocation.values is not None:
                values = invocation.values
            elif self._values_of is not None:
                try:
                    values = self._values_of(args, kwargs)
                except TypeError as error:
                    raise_interrupt(error, of_values=True)
                    # A call that the function does not take: it says so itself.
                    return self._rejected()
            if self._words:
                if self._split is not None:
                    args, kwargs = self._split(values)
                instance, args = split(args, self._bound)
                values = (*values, *[read(self.hook, invocation, instance, args, kwargs) for read in self._words])
        except Exception as error:
            return self._failed(error)
        return self._asked(values)

    def _asked(self, values: Args) -> bool:
        self._left -= 1
        if self._left < 0 or self._resting_until:
            self._look_at_clock()
        ask = self._ask
        if ask is None or self._resting_until:
            return self._rejected()
        try:
            met = ask(*values)
        except Exception as error:
            return self._failed(error)
        if self._errors:
            self._recovered()
        return True if met else self._rejected()

    def _recovered(self) -> None:
        self._errors = 0
        self._settle()

    def _rejected(self) -> bool:
        self.hook.counters.skipped["when"].up()
        return False

    def _failed(self, error: Exception) -> bool:
        raise_interrupt(error, of_values=self._expression.level == TRUSTED)
        cause = "would-run-code" if isinstance(error, WouldRunCode) else "too-much" if isinstance(error, TooMuch) else "condition"
        self.hook.note_condition_error(cause, f"{type(error).__name__}: {one_line(str(error))}")
        self._errors += 1
        if self._errors >= MOST_ERRORS and not self._resting_until:
            self._resting_until = monotonic() + REST
            self.hook.note_condition_rest(MOST_ERRORS, REST)
        self._settle()
        return self._rejected()

    def _look_at_clock(self) -> None:
        """About once a second: judge types anew, and end a rest."""
        now = monotonic()
        passed, self._looked_at = now - self._looked_at, now
        if now - self._forgot_at >= _FORGET:
            self._forgot_at = now
            self._expression.forget_verdicts()
        # So that it is looked at several times a second, and seldom by those that come fast.
        self._steps = min(self._steps * 2, _MOST_STEPS) if passed < _FORGET / 4 else max(1, self._steps // 4)
        self._left = self._steps
        if self._resting_until and now >= self._resting_until:
            self._resting_until, self._errors = 0.0, 0
            self._settle()

    def _steps_until_clock(self) -> int:
        self._look_at_clock()
        return self._steps

    # what the chain calls ------------------------------------------------------------------------------------------------

    def call_observer(self, invocation: Invocation) -> None:
        """As `RemoteHook.call_observer`."""
        if self._meets(invocation.args, invocation.kwargs, invocation):
            self.hook.call_observer(invocation)

    def observe(self, invocation: Invocation) -> None:
        """The same."""
        self.call_observer(invocation)

    def still_takes(self) -> bool:
        """Admission is asked where the hook is told."""
        return True

    def let_go(self) -> None:
        """The same."""

    def call_observer_async(self, invocation: Invocation) -> Coroutine[Any, Any, None]:
        """The same, to be awaited."""
        if self._meets(invocation.args, invocation.kwargs, invocation):
            awaited: Coroutine[Any, Any, None] = self.hook.call_observer_async(invocation)
            return awaited
        return _nothing_async()

    def _alone(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        if not self._meets(args, kwargs):
            return original(*args, **kwargs)
        return self.hook.sole(original, args, kwargs, bound)

    def _replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """As `RemoteHook.call_replacing`."""
        if not self._meets(args, kwargs):
            return proceed(*args, **kwargs)
        return self.hook.call_replacing(proceed, args, kwargs, bound, number)

    def call_replacing_async(
        self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0
    ) -> Coroutine[Any, Any, Any]:
        """The same, to be awaited."""
        awaited: Coroutine[Any, Any, Any]
        if not self._meets(args, kwargs):
            awaited = proceed(*args, **kwargs)
        else:
            awaited = self.hook.call_replacing_async(proceed, args, kwargs, bound, number)
        return awaited

    # inside the function's own code ----------------------------------------------------------------------------------------

    def goes_inside(self, kind: Kind) -> bool:
        """As the hook goes."""
        return bool(self.hook.goes_inside(kind))

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """As `RemoteHook.cross`, with admission asked here."""
        if not self._meets(args, kwargs) or not self.hook.way.take():
            return PASS
        return self.hook.cross(args, kwargs, bound, number)

    def _begin(self, gate: Gate, values: Args) -> Entered:
        """Of a hook that is alone and asked when the call begins."""
        if not self._meets(*gate.split(values)):
            return None
        way = self.hook.alone
        return way.begin(gate, values) if way.take() else None

    def _begin_by_values(self, ask: Ask) -> Callable[[Gate, Args], Entered]:
        """The same with the values in their order, which is all that most conditions need: the steps of `_meets` and `_asked` at once."""
        hook, admission = self.hook, self.hook.admission

        def begin(gate: Gate, values: Args) -> Entered:
            if not admission.suspended or not admission.resting():
                self._left -= 1
                if self._left < 0 or self._resting_until:
                    self._look_at_clock()
                try:
                    met = not self._resting_until and ask(*values)
                except Exception as error:
                    self._failed(error)
                    return None
                if self._errors:
                    self._recovered()
                if not met:
                    hook.counters.skipped["when"].up()
                    return None
            way = hook.alone
            return way.begin(gate, values) if way.take() else None

        return begin

    def _met(self, gate: Gate, values: Args) -> Entered:
        """What meets the condition at the entrance."""
        self._left -= 1
        if self._left < 0:
            self._look_at_clock()
        way = self.hook.alone
        return way.begin(gate, values) if way.take() else None

    def _ended(self, gate: Gate, values: Args, duration: float, result: Any, error: Optional[BaseException]) -> None:
        """The same of what has ended."""
        self._left -= 1
        if self._left < 0:
            self._look_at_clock()
        # An iteration may end in the middle of our work.
        if not guard.on:
            args, kwargs = gate.split(values)
            tell(self.hook.call_observer, gate, (args, kwargs, values), duration, result, error)

    def _one_more(self) -> None:
        assert self._passed is not None
        entrance: Optional[Entrance] = self.alone.entrance
        self._passed.one_more({} if entrance is None else entrance.names, self._steps_until_clock)


async def _nothing_async() -> None:
    """What does not meet the condition."""


def _mistaken(error: TypeError) -> None:
    """A call that the function does not take: it says so itself."""
    raise_interrupt(error, of_values=True)


_READERS = {
    "self": lambda hook, seen, instance, args, kwargs: instance,
    "args": lambda hook, seen, instance, args, kwargs: args,
    "kwargs": lambda hook, seen, instance, args, kwargs: kwargs,
    "result": lambda hook, seen, *_: seen.result,
    "exception": lambda hook, seen, *_: seen.exception,
    "duration": lambda hook, seen, *_: seen.duration,
    "thread": thread_name,
    "task": task_name,
    "pid": lambda hook, *_: hook.pid,
    "target": lambda hook, *_: hook.target,
}

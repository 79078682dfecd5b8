"""The hooks of a probe point in their order, and the way of an invocation whose hooks are inside of the function's own code.

Rules:
- The order stands here: `HookChain` has who runs in which turn, and `TELL_BEFORE` and `TELL_AFTER` the text of how observers are told, of
  which the ways around an original are made too (`dispatch.py`).
- Inside, an invocation is a `Passage`: `before` hooks, then those that nest go in, each until it proceeds, when the body begins; they come
  out, and the `after` hooks are told, when it has ended. Between the two the body runs in the function's own frame.
- The body runs in that frame at most once. If a hook proceeds again, the hooks inside of it are called again, and the original as a shadow.
- Who leaves in the middle (`KeyboardInterrupt`, a greenlet that is killed) abandons the hooks that wait. What a signal handler raises as an
  ordinary exception while a hook is waited for is, to the hooks around that one, what the original raised.
"""

from __future__ import annotations

from builtins import isinstance as _isinstance  # the builtin may be the very target, and no guard is up here
from typing import Any, Callable, List, Optional, Protocol, Sequence, Tuple, Union

from xpc_instrument.core.calls.outcome import Arguments, Outcome
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.unpatched import perf_counter

from ..generated import compiled
from ..guard import guard  # noqa: F401 - used in `TELL_AFTER`
from ..targets.resolve import Kind
from .gate import ALWAYS, PASS, Args, Entered, Gate, Kwargs, Proceeding, Way, without_frame
from .invocation import Invocation, next_number
from .timed import entrance_of_all


class DispatchedHook(Protocol):
    """A hook as dispatch sees it. What it raises is what the application is to get; an `after` hook raises nothing.

    `call_replacing` gets what is inside of it, to be called as `proceed(*args, **kwargs)`; with `bound` the first of `args` is the
    instance. Plain values, since making an `Invocation` costs more than all else that dispatch does.
    """

    mode: Mode

    def call_observer(self, invocation: Invocation) -> None: ...

    async def call_observer_async(self, invocation: Invocation) -> None: ...

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any: ...

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any: ...


class HookInside(Protocol):
    """What a hook has besides that can be called inside the code of a function of some kind.

    Alone on its probe point it gives its own way, `alone`, if it has one. A hook that nests is called by `cross`, if `way.take()` is true;
    that returns a `Proceeding`, the outcome (as an `Outcome`, or a plain value) or `PASS`.
    """

    way: Way
    alone: Optional[Way]

    def goes_inside(self, kind: Kind) -> bool: ...

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any: ...


class HookChain:
    """The hooks of a probe point in the order in which they run (`nest` from the inside out); immutable.

    `sole` is the `call_replacing` of a hook that is alone, and so the whole chain, or what such an observer has to the same end;
    `sole_async` the `call_replacing_async`. `observed` says whether there are `before` or `after` hooks: only they need an `Invocation`.
    `way` is where a gate leads that is inside of the function's code.
    """

    __slots__ = ("after", "before", "hooks", "nest", "observed", "sole", "sole_async", "way")

    def __init__(self, hooks: Sequence[DispatchedHook]) -> None:
        self.hooks = tuple(hooks)
        # First of all the conditions are asked that are of how an invocation begins (`early.py`).
        asked: List[Any] = [early for early in (getattr(hook, "early", None) for hook in hooks if hook.mode is not Mode.BEFORE) if early]
        self.before = (*asked, *(hook for hook in hooks if hook.mode is Mode.BEFORE))
        self.nest = tuple(hook for hook in hooks if hook.mode in (Mode.AROUND, Mode.INSTEAD))
        self.after = tuple(hook for hook in reversed(hooks) if hook.mode is Mode.AFTER)
        self.observed = bool(self.before or self.after)
        self.sole = self.sole_async = None
        if len(self.hooks) == 1:
            self.sole_async = self.nest[0].call_replacing_async if self.nest else None
            self.sole = self.nest[0].call_replacing if self.nest else getattr(self.hooks[0], "sole", None)
        self.way = Way(ALWAYS, self._begin)
        if len(self.hooks) == 1:
            self.way = getattr(self.hooks[0], "alone", None) or self.way
        elif len(self.after) == len(self.hooks):
            ways: List[Any] = [getattr(hook, "alone", None) for hook in self.after]
            if all(way is not None and way.record is not None for way in ways):
                self.way.entrance = entrance_of_all(ways)

    @staticmethod
    def _goes_inside(hook: Any, kind: Kind) -> bool:
        goes = getattr(hook, "goes_inside", None)
        return goes is not None and bool(goes(kind))

    def why_not_inside(self, kind: Kind) -> str:
        """Which hook cannot be called from inside the code of a function of that kind, and why; "" if all can."""
        hook = next((one for one in self.hooks if not self._goes_inside(one, kind)), None)
        if hook is None:
            return ""
        mode = getattr(hook, "mode", None)
        name = f"its {mode.value} hook" if mode is not None else "one of its hooks"
        if kind in (Kind.COROUTINE, Kind.ASYNC_GENERATOR):
            return f"{name} is awaited"
        return f"{name} stands in for it, is shown the form of the call, or has its iterator"

    def _begin(self, gate: Gate, values: Args) -> Entered:
        """The body of the function is about to run; answers as `enter` (see `gate.py`)."""
        args, kwargs = gate.split(values)
        passage = Passage(self, gate)
        if self.observed:
            invocation = passage.invocation = Invocation(args, kwargs, gate.bound, canonical=True)
            invocation.values = values
            passage.number = invocation.number
            tell_before(self, invocation)
        return passage.begin(args, kwargs) if self.nest or self.after else None

    def around(self, original: Callable[..., Any], bound: bool, number: int) -> Callable[..., Any]:
        """The original inside of all hooks that nest."""
        run = original
        for hook in self.nest:
            run = _inside(hook.call_replacing, run, bound, number)
        return run

    def around_async(self, original: Callable[..., Any], bound: bool, number: int) -> Callable[..., Any]:
        """The same for an `async def` original."""
        run = original
        for hook in self.nest:
            run = _inside(hook.call_replacing_async, run, bound, number)
        return run


def _inside(replace: Callable[..., Any], inner: Callable[..., Any], bound: bool, number: int) -> Callable[..., Any]:
    def proceed(*args: Any, **kwargs: Any) -> Any:
        return replace(inner, args, kwargs, bound, number)

    return proceed


class Passage:
    """One invocation that has hooks inside of the function's code, and what is still to be done when its body ends: the gate's token.

    `open` are the hooks that have proceeded, the outermost first, each with its place in the nest and the
    arguments that it was called with.
    """

    __slots__ = ("chain", "gate", "invocation", "number", "open", "started")

    def __init__(self, chain: HookChain, gate: Gate) -> None:
        self.chain = chain
        self.gate = gate
        self.number = 0
        self.open: List[Tuple[Proceeding, int, Args, Kwargs]] = []
        # With `after` hooks alone.
        self.invocation: Invocation
        self.started: float

    # what the gate calls -----------------------------------------------------------------------------------------------

    def begin(self, args: Args, kwargs: Kwargs) -> Entered:
        """After the `before` hooks: go in, hook by hook."""
        if self.chain.after:
            self.started = perf_counter()
        try:
            step = self._go_in(args, kwargs)
            if type(step) is Outcome:
                # Nobody has come to the body.
                return self._at_once(step)
        except BaseException:
            self.abandon()
            raise
        # Nothing is called from here on, so that nothing interrupts it before the body has the token.
        if not self.open and not self.chain.after:
            return None
        return step, self  # type: ignore[return-value]

    def _at_once(self, outcome: Outcome) -> Entered:
        self._tell_after(outcome)
        return (outcome.get(),), None

    def leave(self, value: Any) -> Any:
        """The body has returned."""
        if self.open:
            # As `_ended`, one call less.
            try:
                outcome = self._come_out(Outcome(value), 0)
            except BaseException:
                self.abandon()
                raise
            if self.chain.after:
                self._tell_after(outcome)
            return outcome.get()
        if self.chain.after:
            tell_after(self.chain, self.invocation, self.started, value, None)
        return value

    def failed(self, error: BaseException) -> Optional[Outcome]:
        """The body has raised; None if that is none of our business."""
        if not _isinstance(error, self.gate.ends):
            self.abandon()
            return None
        outcome = Outcome(error=error)
        if self.open:
            outcome = self._ended(outcome)
        self._tell_after(outcome)
        return outcome

    def _ended(self, outcome: Outcome) -> Outcome:
        try:
            return self._come_out(outcome, 0)
        except BaseException:
            self.abandon()
            raise

    def _tell_after(self, outcome: Outcome) -> None:
        """Tell the `after` hooks what the application gets."""
        if self.chain.after:
            tell_after(self.chain, self.invocation, self.started, outcome.value, outcome.error)

    def abandon(self) -> None:
        """The thread leaves in the middle of it, as by a `KeyboardInterrupt`."""
        while self.open:
            self.open.pop()[0].abandon()

    # the nest ----------------------------------------------------------------------------------------------------------

    def _go_in(self, args: Args, kwargs: Kwargs, below: Optional[int] = None) -> Union[Outcome, Args, None]:
        """Call the hooks of the nest `below` a place, the outermost first, as long as they proceed.

        Returns the values that the original gets if a hook has changed them, or None; or the outcome if a hook gives one instead.
        """
        nest, gate = self.chain.nest, self.gate
        base = len(self.open)
        values: Optional[Args] = None
        for place in range(len(nest) if below is None else below, 0, -1):
            # No `typing.cast`: that may be the very target, and no guard is up here.
            hook: HookInside = nest[place - 1]  # type: ignore[assignment]
            if not hook.way.take():
                continue
            if not self.number:
                self.number = next_number()
            try:
                step = hook.cross(args, kwargs, gate.bound, self.number)
            except Exception as error:
                # Raised by a signal handler: to the hooks around this one it is what the original raised.
                return self._come_out(Outcome(error=error), base)
            if step is PASS:
                continue
            if not _isinstance(step, Proceeding):
                return self._come_out(step if type(step) is Outcome else Outcome(step), base)
            self.open.append((step, place - 1, args, kwargs))
            if step.changed is not None:
                changed = self._values_of(step.changed, base)
                if _isinstance(changed, Outcome):
                    return changed
                values = changed
                args, kwargs = gate.split(values)
        return values

    def _values_of(self, changed: Arguments, base: int) -> Union[Outcome, Args]:
        """The values that the original gets; or what comes of it, if it cannot be called so."""
        try:
            return self.gate.values_of(*changed)
        except TypeError as error:
            raise_interrupt(error, of_values=True)
            # What the original says when it is called so.
            return self._come_out(Outcome(error=without_frame(error)), base)

    def _come_out(self, outcome: Outcome, base: int) -> Outcome:
        """Tell the hooks that have proceeded, but for the first `base` of them, what came of it, the innermost first."""
        while len(self.open) > base:
            hook, place, args, kwargs = self.open[-1]
            try:
                step = hook.tell(outcome)
                while type(step) is not Outcome:
                    step = step.tell(self._once_more(step, place, args, kwargs))  # type: ignore[union-attr, arg-type]
                outcome = step
            except Exception as error:
                # As above. The hook itself is out.
                outcome = Outcome(error=error)
            self.open.pop()
        return outcome

    def _once_more(self, hook: Proceeding, place: int, args: Args, kwargs: Kwargs) -> Outcome:
        """A hook has proceeded again: the hooks inside of it, and the original in a frame of its own."""
        gate = self.gate
        if hook.changed is not None:
            try:
                args, kwargs = gate.split(gate.values_of(*hook.changed))
            except TypeError as error:
                raise_interrupt(error, of_values=True)
                return Outcome(error=without_frame(error))
        base = len(self.open)
        step = self._go_in(args, kwargs, place)
        if _isinstance(step, Outcome):
            return step
        if step is not None:
            args, kwargs = gate.split(step)
        return self._come_out(gate.run_again(args, kwargs), base)


def ended(invocation: Invocation, started: float, result: Any, error: Optional[BaseException]) -> None:
    """Note how the original ended, for the `after` hooks."""
    invocation.duration = perf_counter() - started
    invocation.result = result
    # An iteration that is closed has ended without an outcome.
    invocation.exception = error if _isinstance(error, Exception) else None


# How observers are told.
TELL_BEFORE = """
    for hook in chain.before:
        {wait}hook.{observer}(invocation)
"""
# An iteration may end in the middle of our work: what is pickled closes it, or a garbage collection does.
AFTER_ITERATION = "() if guard.on else chain.after"
TELL_AFTER = """
    ended(invocation, started, {result}, {error})
    for hook in {hooks}:
        {wait}hook.{observer}(invocation)
"""
# For a body between them that is the function's own.
_MADE = compiled(
    __name__,
    globals(),
    """
def tell_before(chain, invocation):
"""
    + TELL_BEFORE.format(wait="", observer="call_observer")
    + """
def tell_after(chain, invocation, started, result, error):
"""
    + TELL_AFTER.format(wait="", observer="call_observer", result="result", error="error", hooks=AFTER_ITERATION)
    + """
    invocation.exception = None  # its traceback may hold the frame that holds this
""",
)
tell_before: Callable[[HookChain, Invocation], None] = _MADE["tell_before"]
tell_after: Callable[[HookChain, Invocation, float, Any, Optional[BaseException]], None] = _MADE["tell_after"]

"""One hook alone on its probe point, inside of the function's own code: what a `Passage` comes to then, in a third of the time.

Rules:
- `around(hook)` and `after(hook)` make the `begin` of its way (see `gate.py`); a `before` has no need of a token, and its own.
- An `after` hook that is at rest when the invocation begins is not told. Admission is asked when the invocation has ended; or, with
  `asked`, by the gate, and whether that still holds at the end.
- Who leaves in the middle abandons the hook. It is told of an outcome once, whatever that raises.
"""

from __future__ import annotations

from builtins import isinstance as _isinstance  # the builtin may be the very target, and no guard is up here
from typing import Any, Callable, Optional, Protocol, Tuple

from xpc_instrument.core.calls.outcome import Outcome
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.unpatched import perf_counter

from ..guard import guard
from .gate import PASS, Args, Entered, Gate, Kwargs, Proceeding, Way, without_frame
from .invocation import Invocation

Begin = Callable[[Gate, Args], Entered]


class Nests(Protocol):
    """A hook in the mode `around`: `cross` as `chain.HookInside` says."""

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any: ...


class Observes(Protocol):
    """A hook in the mode `after`: `observe` is told what `way.take` has let through, and raises only what interrupts."""

    way: Way

    def goes_without(self) -> bool: ...

    def observe(self, invocation: Invocation) -> None: ...

    def still_takes(self) -> bool: ...

    def let_go(self) -> None: ...


def around(hook: Nests) -> Begin:
    """Where the gate leads to a hook that nests."""
    cross = hook.cross

    def begin(gate: Gate, values: Args) -> Entered:
        args, kwargs = gate.split(values)
        step = None
        try:
            step = cross(args, kwargs, gate.bound)
            if _isinstance(step, Proceeding):
                if step.changed is None:
                    return None, Nested(step, gate, args, kwargs)
                return _changed(Nested(step, gate, args, kwargs), gate, step)
        except BaseException:
            if _isinstance(step, Proceeding):
                step.abandon()
            raise
        if step is PASS:
            return None
        return (step.get() if type(step) is Outcome else step,), None

    return begin


def _changed(token: Nested, gate: Gate, step: Proceeding) -> Entered:
    """It proceeds with other arguments."""
    assert step.changed is not None
    try:
        return gate.values_of(*step.changed), token
    except TypeError as error:
        raise_interrupt(error, of_values=True)
        # What the original says when it is called so.
        return (token.told(Outcome(error=without_frame(error))).get(),), None


class Nested:
    """The token of a hook that has proceeded, with what it was called with."""

    __slots__ = ("_args", "_gate", "_kwargs", "_step")

    def __init__(self, step: Proceeding, gate: Gate, args: Args, kwargs: Kwargs) -> None:
        self._step: Optional[Proceeding] = step
        self._gate = gate
        self._args = args
        self._kwargs = kwargs

    def leave(self, value: Any) -> Any:
        outcome = self.told(Outcome(value))
        return outcome.value if outcome.error is None else outcome.get()

    def failed(self, error: BaseException) -> Optional[Outcome]:
        if not _isinstance(error, self._gate.ends):
            self.abandon()
            return None
        return self.told(Outcome(error=error))

    def told(self, outcome: Outcome) -> Outcome:
        """What the hook makes of an outcome."""
        step: Any = self._step
        try:
            step = step.tell(outcome)
            while type(step) is not Outcome:
                step = step.tell(self._once_more(step))
        except Exception as error:
            # Raised by a signal handler: it is what the original raised.
            step = Outcome(error=error)
        self._step = None
        return step  # type: ignore[no-any-return]

    def _once_more(self, step: Proceeding) -> Outcome:
        """The hook has proceeded again: the original in a frame of its own."""
        gate, args, kwargs = self._gate, self._args, self._kwargs
        if step.changed is not None:
            try:
                args, kwargs = gate.split(gate.values_of(*step.changed))
            except TypeError as error:
                raise_interrupt(error, of_values=True)
                return Outcome(error=without_frame(error))
        return gate.run_again(args, kwargs)

    def abandon(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.abandon()


def after(hook: Observes, asked: bool = False) -> Begin:
    """Where the gate leads to an `after` hook."""
    goes_without = hook.goes_without

    def begin(gate: Gate, values: Args) -> Entered:
        return None if goes_without() else (None, Ended(hook, gate, values, False))

    def begin_asked(gate: Gate, values: Args) -> Entered:
        return None, Ended(hook, gate, values, True)

    return begin_asked if asked else begin


class Ended:
    """The token of a hook that is told when the body has ended."""

    __slots__ = ("_args", "_asked", "_gate", "_hook", "_kwargs", "_started", "_values")

    def __init__(self, hook: Observes, gate: Gate, values: Args, asked: bool) -> None:
        self._hook = hook
        self._gate = gate
        self._values = values
        self._asked = asked
        self._args, self._kwargs = gate.split(values)
        self._started = perf_counter()

    def leave(self, value: Any) -> Any:
        duration = perf_counter() - self._started
        # An iteration may end in the middle of our work.
        if not guard.on and (self._hook.still_takes() if self._asked else self._hook.way.take()):
            tell(self._hook.observe, self._gate, (self._args, self._kwargs, self._values), duration, value, None)
        return value

    def failed(self, error: BaseException) -> Optional[Outcome]:
        duration = perf_counter() - self._started
        if not _isinstance(error, self._gate.ends):
            self.abandon()
        elif not guard.on and (self._hook.still_takes() if self._asked else self._hook.way.take()):
            tell(self._hook.observe, self._gate, (self._args, self._kwargs, self._values), duration, None, error)
        return None

    def abandon(self) -> None:
        if self._asked:
            self._hook.let_go()


def tell(
    observe: Callable[[Invocation], None],
    gate: Gate,
    called: Tuple[Args, Kwargs, Args],
    duration: float,
    result: Any,
    error: Optional[BaseException],
) -> None:
    """Tell an `after` hook how the body has ended. `called` has the two, with the instance, and the values of all parameters."""
    args, kwargs, values = called
    invocation = Invocation(args, kwargs, gate.bound, canonical=True)
    invocation.values = values
    # An iteration that is closed has ended without an outcome.
    invocation.exception = error if _isinstance(error, Exception) else None
    invocation.duration, invocation.result = duration, result
    try:
        observe(invocation)
    finally:
        invocation.exception = None  # its traceback may hold the frame that holds this

"""Hooks that stand in for what a recorded call has called, while that call is made again in the application.

Rules:
- They do so by context (`contextvars`): in the thread of the call, in the tasks and the `asyncio.to_thread` that it starts. Whoever else
  calls the function has the original, and pays for a look at a variable. So has what the call leaves running, once it has ended.
- They belong to the call and not to the session of the script that has asked for it: should that die, they stay until the call has ended,
  which would else go on to the real functions.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Coroutine, Dict, Iterator, Optional

from xpc_instrument.core.calls.outcome import Outcome
from xpc_instrument.core.replay.finding import Found
from xpc_instrument.core.replay.standing import Standing, signature_of

from ..guard import guarded
from ..targets.resolve import Kind
from .collection import set_variable
from .gate import ALWAYS, PASS, Args, Entered, Gate, Kwargs
from .remote import RemoteHook


class _One:
    """What stands in for one target, the parameters of its function and whether the first is an instance, and whether the call is over."""

    __slots__ = ("is_bound", "is_over", "names", "standing")

    def __init__(self, standing: Standing, names: Any, is_bound: bool) -> None:
        self.standing = standing
        self.names = names
        self.is_bound = is_bound
        self.is_over = False


# For each target in the running context. What the call leaves running, such as a task for later calls, keeps its context.
_here: ContextVar[Optional[Dict[str, _One]]] = ContextVar("xpc_replayed", default=None)


@contextmanager
def standing_in(target: str, found: Found, standing: Standing) -> Iterator[None]:
    """Have the hooks on a target answer by `standing` in the running context."""
    before = _here.get()
    one = _One(standing, signature_of(found.function), found.is_bound)
    set_variable(_here, {**(before or {}), target: one})
    try:
        yield
    finally:
        one.is_over = True
        set_variable(_here, before)


class ReplayHook(RemoteHook):
    """One on the target of an inner call, in the mode `instead`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.alone = self.way
        self.way.begin = self._begin

    def _install(self, take: Callable[[], Any]) -> None:
        self.way.back, self.way.take = ALWAYS, _here.get

    def goes_inside(self, kind: Kind) -> bool:
        # What is awaited is given in the place of the whole function.
        return kind is Kind.SYNC

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0, invocation: Any = None) -> Any:
        """Among others, inside of the function's code: the outcome, or `PASS`."""
        one = (_here.get() or {}).get(self.target)
        return PASS if one is None or one.is_over else self._outcome(one, args, kwargs, bound)

    def _begin(self, gate: Gate, values: Args) -> Entered:
        """The same alone."""
        step = self.cross(*gate.split(values), gate.bound)
        return None if step is PASS else ((step.get(),), None)

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """The same around the original."""
        step = self.cross(args, kwargs, bound)
        return proceed(*args, **kwargs) if step is PASS else step.get()

    def call_replacing_async(
        self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0
    ) -> Coroutine[Any, Any, Any]:
        """The same for what is awaited."""
        return self._answered(proceed, args, kwargs, bound)

    async def _answered(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        step = self.cross(args, kwargs, bound)
        return await proceed(*args, **kwargs) if step is PASS else step.get()

    @guarded
    def _outcome(self, one: _One, args: Args, kwargs: Kwargs, bound: bool) -> Outcome:
        # A bound method in a module is called without its instance, and was recorded as it is called.
        names = one.names if one.is_bound == bound else None
        try:
            return Outcome(one.standing.answer(self.target, names, args, kwargs, bound))
        except Exception as error:
            return Outcome(error=error.with_traceback(None))

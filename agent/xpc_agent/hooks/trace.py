"""Hooks that show what an invocation calls: a tree grows while it runs, and is queued when it has ended.

Rules:
- They observe: the code of the application runs as ever, in its own frames; nobody waits for a script, and none of its code runs for them.
- In the chain they stand where those stand that nest, since they have to know when an invocation begins; for all else they are observers.
- A condition of the parameters alone is asked when the invocation begins, and costs no tree where it is not met; any other when it has
  ended.
- An invocation goes without a tree while another has one in this process (`busy`), while what trees have cost is more than 2 % of the time
  since the first (`budget`), and where somebody else's profiler is in the thread (`profiler`): counted by that, and told at the end.
- A tree never outlives the invocation, the hook, or the process: see `trees/forest.py`.
"""

from __future__ import annotations

import marshal
import sys
from builtins import isinstance as _isinstance  # for where no guard is up: the builtin may be the very target
from types import CodeType, FrameType
from typing import Any, Callable, Coroutine, Dict, Generator, List, Optional, Sequence, Tuple

from xpc_instrument.core.calls.outcome import Outcome
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.unpatched import get_ident, perf_counter, wall_clock

from ..guard import guarded
from ..targets.resolve import Kind, Resolved
from ..trees.codes import is_ours
from ..trees.forest import PER_CALL, Growing, forest
from ..trees.growth import error_name, rows_of
from .budget import BUDGET
from .count import Count
from .gate import ALWAYS, PASS, Args, Entered, Gate, Kwargs, Proceeding, Way
from .invocation import next_number
from .shown import ShownHook

# What trees may cost at once, before it is asked how long that took, in seconds of the processor's.
_CREDIT = 0.05

# What is only known of an invocation that has ended.
_AT_END = frozenset(("result", "exception", "duration"))

# In the place of a function without code of Python's.
_NO_CODE = (lambda: None).__code__

# That of a version of `marshal` which all supported Pythons read.
_MARSHAL = 4

# Why an invocation goes without a tree, beside the terms.
_WITHOUT = ("busy", "budget", "profiler")


class _Traced(Proceeding):
    """An invocation that has a tree: what the gate, or the chain, tells of its end."""

    __slots__ = ("_growing", "_hook", "_values")

    def __init__(self, hook: TraceHook, growing: Growing, values: Optional[Args]) -> None:
        self.changed = None
        self._hook = hook
        self._growing = growing
        self._values = values

    def leave(self, value: Any) -> Any:
        self._hook.ended(self._growing, self._values, value, None)
        return value

    def failed(self, error: BaseException) -> None:
        self._hook.ended(self._growing, self._values, None, error)

    def tell(self, outcome: Outcome) -> Outcome:
        self._hook.ended(self._growing, self._values, outcome.value, outcome.error)
        return outcome

    def abandon(self) -> None:
        forest.end(self._growing)


class TraceHook(ShownHook):
    """One registration on one probe point.

    `armed` gives the code of functions that have hooks, of each layer, with the target, and whether it is a trampoline.
    """

    def __init__(self, *args: Any, armed: Callable[[], Sequence[Tuple[CodeType, str, bool]]], **options: Any) -> None:
        self._armed = armed
        self._take: Callable[[], Any] = ALWAYS
        self._tree: Optional[Growing] = None
        super().__init__(*args, **options)
        local = self.local
        self._codes = forest.codes(self.target.partition(":")[0].partition(".")[0], local["include"])
        self._asks_late = bool(local["when"]) and not _AT_END.isdisjoint(self._expressions[0].names)
        self._gone = False
        self._kind = Kind.SYNC
        self._code: Optional[CodeType] = None
        # What the chain goes by; what is counted, and how it is registered, is that of an `after`.
        self.mode = Mode.AROUND
        self.alone: Optional[Way] = self.way
        self.way.begin = self._begin
        self._begin_counting()

    @staticmethod
    def check() -> None:
        """Raise `TargetError` if no tree can grow in this process."""
        forest.check()

    def _begin_counting(self) -> None:
        self._since = 0.0
        self._spent = 0.0
        self.counters.skipped.update({why: Count() for why in _WITHOUT})

    def _install(self, take: Callable[[], Any]) -> None:
        # Asked when it is known that there can be a tree, so that only those count.
        self._take = take
        self.way.take = ALWAYS

    def placed(self, resolved: Resolved, code: Optional[CodeType]) -> None:
        super().placed(resolved, code)
        self._kind, self._code = resolved.kind, code

    def goes_inside(self, kind: Kind) -> bool:
        return True

    def reset_after_fork(self, pid: int) -> None:
        forest.reset_after_fork()
        super().reset_after_fork(pid)
        self._begin_counting()

    def taken_off(self) -> None:
        """It is not on its target any more: what grows for it ends."""
        self._gone = self._rests = True
        tree = self._tree
        if tree is not None:
            forest.end(tree)

    # an invocation -----------------------------------------------------------------------------------------------------

    def _begin(self, gate: Gate, values: Args) -> Entered:
        """Inside of the function's code."""
        growing = self._grow(_outer(sys._getframe(1)), values)
        return None if growing is None else (None, _Traced(self, growing, values))

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0, invocation: Any = None) -> Any:
        """The same among others."""
        values = self._scope.values(args, kwargs)
        growing = self._grow(_outer(sys._getframe(1)), values)
        return PASS if growing is None else _Traced(self, growing, values)

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """The same around the original."""
        if self._kind is Kind.GENERATOR:
            return self._iterate(proceed, args, kwargs)
        values = self._scope.values(args, kwargs)
        growing = self._grow(None, values)
        if growing is None:
            return proceed(*args, **kwargs)
        try:
            result = proceed(*args, **kwargs)
        except BaseException as error:
            self.ended(growing, values, None, error)
            raise
        self.ended(growing, values, result, None)
        return result

    def _iterate(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs) -> Generator[Any, Any, Any]:
        values = self._scope.values(args, kwargs)
        growing = self._grow(None, values)
        if growing is None:
            return (yield from proceed(*args, **kwargs))
        try:
            result: Any = yield from proceed(*args, **kwargs)
        except BaseException as error:
            self.ended(growing, values, None, error)
            raise
        self.ended(growing, values, result, None)
        return result

    def call_replacing_async(
        self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0
    ) -> Coroutine[Any, Any, Any]:
        """The same for what is awaited. Async generators go without among hooks that are waited for."""
        coroutine: Coroutine[Any, Any, Any] = proceed(*args, **kwargs)
        return coroutine if self._kind is Kind.ASYNC_GENERATOR else self._await(coroutine, args, kwargs)

    async def _await(self, coroutine: Coroutine[Any, Any, Any], args: Args, kwargs: Kwargs) -> Any:
        values = self._scope.values(args, kwargs)
        growing = self._grow(None, values)
        if growing is None:
            return await coroutine
        try:
            result = await coroutine
        except BaseException as error:
            self.ended(growing, values, None, error)
            raise
        self.ended(growing, values, result, None)
        return result

    # its tree ----------------------------------------------------------------------------------------------------------

    def _grow(self, frame: Optional[FrameType], values: Optional[Args]) -> Optional[Growing]:
        """Let a tree grow, of what runs in that frame or is about to be called; None if it goes without."""
        # Admission lets nothing through where the thread does our work; a condition that is asked at the end does so then.
        if not self._may_grow(values) or not (self._asks_late or self._take()):
            return None
        return self._plant(frame)

    @guarded
    def _may_grow(self, values: Optional[Args]) -> bool:
        if self._rests:
            return False
        if self._when is not None and not self._asks_late and not self._meets(self._when, values, None, None, 0.0):
            return False
        if forest.busy:
            self.counters.skipped["busy"].up()
            return False
        now = perf_counter()
        self._since = self._since or now
        if self._spent > BUDGET * (now - self._since) + _CREDIT:
            self.counters.skipped["budget"].up()
            return False
        return True

    @guarded
    def _plant(self, frame: Optional[FrameType]) -> Optional[Growing]:
        try:
            code = self._code if frame is None else frame.f_code
            also = [one for one in self._note_armed(code) if one is not code]
            growing = forest.begin(code or _NO_CODE, self._codes, self.local["depth"], frame is None and code is not None, also)
        except Exception as fault:
            self.drop_for(fault)
            return None
        if _isinstance(growing, str):
            self.counters.skipped[growing].up()
            return None
        self._tree = growing
        return growing

    def _note_armed(self, code: Optional[CodeType]) -> List[CodeType]:
        if code is not None:
            self._codes.note(code, self.target)
        found = []
        for one, target, is_trampoline in self._armed():
            module, _, qualified = target.partition(":")
            if is_trampoline:
                self._codes.shun(one)
            elif self._codes.wants(one, module, qualified):
                self._codes.note(one, target)
                found.append(one)
        return found

    def ended(self, growing: Growing, values: Optional[Args], result: Any, error: Optional[BaseException]) -> None:
        """The invocation has ended."""
        if self._cut_down(growing, values, result, error) and (not self._asks_late or self._take()):
            self._show(growing)

    @guarded
    def _cut_down(self, growing: Growing, values: Optional[Args], result: Any, error: Optional[BaseException]) -> bool:
        """Whether the tree is wanted."""
        try:
            growing.growth.close()
            was_whole = forest.end(growing)
            self._tree = None
            if not was_whole or self._gone:
                return False  # the hook was removed meanwhile
            growth = growing.growth
            growth.finish(error_name(error))
            growing.cost += growth.calls * PER_CALL
            self._spent += growing.cost
            seen = error if _isinstance(error, Exception) else None
            return self._when is None or not self._asks_late or self._meets(self._when, values, result, seen, growth.root.total)
        except Exception as fault:
            self.drop_for(fault)
            return False

    @guarded
    def _show(self, growing: Growing) -> None:
        try:
            began = perf_counter()
            growth = growing.growth
            names, rows = rows_of(growth.root, self._codes.name_of, self.local["least"])
            cost = growing.cost + perf_counter() - began
            self._spent += cost - growing.cost
            self._queue(next_number(), marshal.dumps((wall_clock(), _thread_name(), growth.cut, growth.calls, cost, names, rows), _MARSHAL))
        except Exception as fault:
            self.drop_for(fault)


def _outer(frame: Optional[FrameType]) -> FrameType:
    """The innermost frame that is not ours: that of the function."""
    while frame is not None and is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    assert frame is not None
    return frame


def _thread_name() -> str:
    threads: Dict[int, Any] = getattr(sys.modules.get("threading"), "_active", {})
    thread = threads.get(get_ident())
    return "" if thread is None else str(vars(thread).get("_name", ""))

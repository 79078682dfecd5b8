"""Hooks that record invocations in full, so that they can be run again: arguments as they are when the call begins, and what comes of it.

Rules:
- They are registered as `after` hooks, since they change nothing, and stand around the original: at the end the body may have changed the
  arguments.
- Nobody waits for them: what is recorded is captured by the calling thread, by `core/values/typed.py`, and goes the way of events that are
  queued (`unwaited.py`). No code of the application runs.
- What is called inside of an invocation is told by the context (`contextvars`): of the thread, of the task, and of the tasks and the
  `asyncio.to_thread` that it starts. An inner call belongs to all invocations that it is inside of, and what is inside of an inner call to
  none: where the inner call is stood in for, it does not happen.
- A target that is among those inside as well, as by a pattern, is not inside of itself.
- Where one hook of a recording ends since it costs too much, all of them do in this process: an outer call without its inner calls would be
  a false one. Such as are under way are not told.
- Up to Python 3.11 what a `__del__` calls while garbage is collected is not recorded, and counts as dropped (`collection.py`).
- The condition is asked before the terms, and before anything is captured; one that names how the call ends, when it has ended.
"""

from __future__ import annotations

import marshal
from builtins import isinstance as _isinstance  # for where no guard is up: the builtin may be the very target
from contextvars import ContextVar
from types import CodeType
from typing import Any, Callable, Coroutine, Dict, List, Optional, Tuple
from weakref import WeakSet, WeakValueDictionary

from xpc_instrument.core.calls.outcome import Outcome
from xpc_instrument.core.model.expression import AT_END, OBSERVE
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.unpatched import perf_counter, wall_clock
from xpc_instrument.core.values.redaction import Redaction
from xpc_instrument.core.values.typed import Encoder, Room, Tree, cut

from ..guard import guarded
from ..targets.flags import CO_VARARGS, CO_VARKEYWORDS
from ..targets.resolve import Kind, Resolved
from .budget import Budget
from .collection import follow, is_collecting, set_variable, unfollow
from .gate import ALWAYS, NEVER, PASS, Args, Entered, Gate, Kwargs, Proceeding
from .invocation import next_number
from .shown import ShownHook

MOST_INNER = 1000
"""Inner calls of one invocation; how many there were beyond is counted."""

# That of a version of `marshal` which all supported Pythons read.
_MARSHAL = 4

# An inner call: its target, how many arguments are positional, the arguments, whether it raised, and what came of it.
Inner = List[Any]


class _Node:
    """One step of what the context is inside of: an invocation that is recorded, or, without a `room`, an inner call of one."""

    __slots__ = ("above", "full", "inner", "left_out", "over", "recording", "room", "target")

    def __init__(self, recording: str, target: str, above: Optional[_Node], room: Optional[Room]) -> None:
        self.recording = recording
        self.target = target
        self.above = above
        self.room = room
        self.inner: List[Inner] = []
        self.left_out = 0
        # No invocation that it is inside of takes one more.
        self.full = False
        # It has ended: what runs on in a task of its own is no part of it.
        self.over = False


class _Recording:
    """The hooks of one recording in this process."""

    __slots__ = ("__weakref__", "hooks", "over")

    def __init__(self) -> None:
        self.hooks: WeakSet[RecordHook] = WeakSet()
        self.over = False


_recordings: WeakValueDictionary[str, _Recording] = WeakValueDictionary()
_inside: ContextVar[Optional[_Node]] = ContextVar("xpc_recorded", default=None)


class _Taken(Proceeding):
    """An invocation that is being recorded."""

    __slots__ = ("arguments", "before", "hook", "inner", "node", "number", "positional", "started", "values")

    def __init__(self, hook: RecordHook, values: Args, positional: int, arguments: List[Tuple[str, Tree]], node: _Node) -> None:
        self.changed = None
        self.hook = hook
        self.values = values
        self.positional = positional
        self.arguments = arguments
        self.node = node
        self.before = node.above
        # Of an inner call: where what comes of it is put.
        self.inner: Optional[Inner] = None
        self.number = next_number()
        set_variable(_inside, node)
        self.started = perf_counter()

    def tell(self, outcome: Outcome) -> Outcome:
        self.ended(outcome.value, outcome.error)
        return outcome

    def ended(self, result: Any, error: Optional[BaseException]) -> None:
        """What came of it. Raises only what interrupts."""
        duration = perf_counter() - self.started
        self.abandon()
        if self.inner is None:
            self.hook.finish(self, result, error, duration)
        else:
            self.hook.finish_inner(self, result, error)

    def leave(self, value: Any) -> Any:
        """The body has returned, where the hook is alone inside of the function's code."""
        self.ended(value, None)
        return value

    def failed(self, error: BaseException) -> None:
        """The body has raised."""
        if _isinstance(error, Exception):
            self.ended(None, error)
        else:
            self.abandon()

    def abandon(self) -> None:
        # A coroutine that is thrown away ends in the context of whoever does that. A node that is over is as good as none.
        if _inside.get() is self.node and not is_collecting():
            set_variable(_inside, self.before)
        self.node.over = True


class RecordHook(ShownHook):
    """One registration on one probe point: of what is recorded, or, with `inside`, of what is called meanwhile."""

    # Set before there is one of its own: the terms are installed when the hook is made.
    _rests = False
    _admit: Callable[[], Any] = staticmethod(NEVER)

    def __init__(self, *args: Any, redaction: Redaction, level: str = OBSERVE, **options: Any) -> None:
        # It costs too much.
        self.over_budget = False
        self._budget = Budget(self)
        self._encoder = Encoder(redaction)
        self._names: List[str] = []
        # Whether its parameters are, of which there may be none.
        self._is_known = False
        self._positional = 0
        super().__init__(*args, capturer=self._encoder, level=level, **options)
        self._is_inner: bool = self.local["inside"]
        self._recording = _recordings.setdefault(self.local["recording"], _Recording())
        self._recording.hooks.add(self)
        self._name: str = self.local["recording"]
        # Whether the condition asks for how the call ends.
        self._is_late = any(one.names & AT_END for one in self._expressions)
        # See the first rule.
        self.mode = Mode.AROUND
        self.alone = self.way
        self.way.begin = self._begin_alone

    def _install(self, take: Callable[[], Any]) -> None:
        super()._install(take)
        self._admit = take
        # Outside of all that is recorded there is nothing to do for an inner call.
        self.way.take = NEVER if self._rests else _inside.get if self.local["inside"] else ALWAYS
        self.way.back = ALWAYS

    def placed(self, resolved: Resolved, code: Optional[CodeType]) -> None:
        if resolved.kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
            self.mistake = f"it is a {resolved.kind.value}: what it yields is not recorded"
            self.rest()
            return
        super().placed(resolved, code)
        follow(self)
        names = list(self._scope.names)
        self._positional = 0
        if code is not None and names:
            self._positional = code.co_argcount
            if code.co_flags & CO_VARKEYWORDS:
                names[-1] = f"**{names[-1]}"
            if code.co_flags & CO_VARARGS:
                place = code.co_argcount + code.co_kwonlyargcount
                names[place] = f"*{names[place]}"
        self._names = names
        self._is_known = code is not None

    def taken_off(self) -> None:
        super().taken_off()
        unfollow(self)

    def goes_inside(self, kind: Kind) -> bool:
        return kind is Kind.SYNC

    def reset_after_fork(self, pid: int) -> None:
        super().reset_after_fork(pid)
        self.over_budget = self._recording.over = False
        self._budget.reset()

    def _notify(self, kind: str, **data: object) -> None:
        super()._notify(kind, **data)
        if kind == "over-budget" and not self._recording.over:
            self._recording.over = True
            for hook in list(self._recording.hooks):
                if hook is not self:
                    hook.over_budget = True
                    hook.rest()
                    hook._notify(kind, **data)

    # what an invocation does --------------------------------------------------------------------------------------------

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0, invocation: Any = None) -> Any:
        """Inside of the function's code, or among others."""
        taken = self._begin(args, kwargs)
        return PASS if taken is None else taken

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """Around the original."""
        taken = None if self._rests else self._begin(args, kwargs)
        if taken is None:
            return proceed(*args, **kwargs)
        try:
            result = proceed(*args, **kwargs)
        except Exception as error:
            taken.ended(None, error)
            raise
        except BaseException:
            taken.abandon()
            raise
        taken.ended(result, None)
        return result

    def call_replacing_async(
        self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0
    ) -> Coroutine[Any, Any, Any]:
        """The same for what is awaited."""
        return self._around_async(proceed, args, kwargs)

    async def _around_async(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        taken = None if self._rests else self._begin(args, kwargs)
        if taken is None:
            return await proceed(*args, **kwargs)
        try:
            result = await proceed(*args, **kwargs)
        except Exception as error:
            taken.ended(None, error)
            raise
        except BaseException:
            taken.abandon()
            raise
        taken.ended(result, None)
        return result

    # its begin -----------------------------------------------------------------------------------------------------------

    def _begin_alone(self, gate: Gate, values: Args) -> Entered:
        """The one hook, inside of the function's code."""
        inside = _inside.get()
        if inside is not None and inside.full and self._is_inner and inside.recording == self._name:
            inside.left_out += 1
            return None
        taken = self._begin((), {}, values)
        return None if taken is None else (None, taken)

    def _begin(self, args: Args, kwargs: Kwargs, values: Optional[Args] = None) -> Optional[_Taken]:
        """The invocation, if it is recorded; `values` are those of all parameters, where they are known."""
        inside = _inside.get()
        if is_collecting():
            if inside is not None or not self._is_inner:
                self._drop()
            return None
        try:
            if not self._is_inner:
                return self._begin_outer(args, kwargs, values, inside)
            while inside is not None and inside.recording != self._name:
                inside = inside.above
            if inside is None or inside.room is None or inside.over or inside.target == self.target or not self._admit():
                return None
            if not self._has_room(inside):
                inside.full = True
                return None
            return self._begin_inner(args, kwargs, values, inside)
        except Exception as fault:
            self.drop_for(fault)
            return None

    def _begin_outer(self, args: Args, kwargs: Kwargs, values: Optional[Args], inside: Optional[_Node]) -> Optional[_Taken]:
        # Admission lets nothing through where the thread does our work. What most calls come to is asked first.
        is_early = self._when is None or self._is_late
        if is_early and not self._admit():
            return None
        if values is None:
            values = self._scope.values(args, kwargs)
        if values is None or not (is_early or (self._is_met(values) and self._admit())):
            return None
        room = self._encoder.room()
        arguments = self._arguments(values, kwargs, room)
        node = _Node(self._name, self.target, inside, room)
        return _Taken(self, values, self._positional - int(self._scope.bound), arguments, node)

    @guarded
    def _is_met(self, values: Args, result: Any = None, error: Optional[BaseException] = None, duration: float = 0.0) -> bool:
        return self._when is None or self._meets(self._when, values, result, error, duration)

    def _has_room(self, inside: _Node) -> bool:
        """Whether one of the invocations that are recorded has room for an inner call; those that have none only count it."""
        found = False
        node: Optional[_Node] = inside
        while node is not None and (node.recording != inside.recording or node.room is not None):
            if node.recording == inside.recording and node.room is not None:
                has_room = len(node.inner) < MOST_INNER and node.room.left > 0
                node.left_out += not has_room
                found = found or has_room
            node = node.above
        return found

    def _begin_inner(self, args: Args, kwargs: Kwargs, values: Optional[Args], inside: _Node) -> Optional[_Taken]:
        if values is None:
            values = self._scope.values(args, kwargs)
        if values is None or inside.room is None:
            return None
        room = self._encoder.room(max(0, inside.room.left))
        had = room.left
        arguments = self._arguments(values, kwargs, room, with_self=False)
        inner: Inner = [self.target, self._positional - int(self._scope.bound), arguments, False, cut("", "unfinished")]
        node: Optional[_Node] = inside
        while node is not None:
            if node.recording == inside.recording:
                if node.room is None:
                    break
                if not node.left_out:
                    node.inner.append(inner)
                    node.room.left -= had - room.left
            node = node.above
        taken = _Taken(self, values, 0, arguments, _Node(inside.recording, self.target, _inside.get(), None))
        taken.inner = inner
        return taken

    @guarded
    def _arguments(self, values: Args, kwargs: Kwargs, room: Room, with_self: bool = True) -> List[Tuple[str, Tree]]:
        """The trees of all arguments, in the order of the parameters; the instance is "self"."""
        began = self._budget.begin()
        bound = self._scope.bound
        found: List[Tuple[str, Tree]] = []
        if bound and values and with_self:
            found.append(("self", room.value(values[0])))
        own = values[1:] if bound else values
        if not self._is_known:
            # Nothing is known of its parameters.
            found += [("*args", room.value(own)), ("**kwargs", room.value(kwargs))]
        for name, value in zip(self._names[bound:], own):
            found.append((name, room.named(name.lstrip("*"), value)))
        self._budget.end(began)
        return found

    # its end -------------------------------------------------------------------------------------------------------------

    def finish(self, taken: _Taken, result: Any, error: Optional[BaseException], duration: float) -> None:
        """An invocation that is recorded has ended: queue it."""
        try:
            if self._rests or (self._is_late and not self._is_met(taken.values, result, error, duration)):
                return
            blob = self._record_of(taken, result, error, duration)
        except Exception as fault:
            self.drop_for(fault)
            return
        self._queue(taken.number, blob)

    @guarded
    def _record_of(self, taken: _Taken, result: Any, error: Optional[BaseException], duration: float) -> bytes:
        node, began = taken.node, self._budget.begin()
        assert node.room is not None
        outcome = node.room.value(result if error is None else error)
        told: Dict[str, Any] = {
            "time": wall_clock(),
            "duration": duration,
            "positional": taken.positional,
            "arguments": taken.arguments,
            "raised": error is not None,
            "outcome": outcome,
            "inner": node.inner,
            "left-out": node.left_out + self._recording.over,
        }
        blob = marshal.dumps(told, _MARSHAL)
        # A task that was started inside may keep the node for as long as it lives.
        node.inner = []
        self._budget.end(began)
        return blob

    @guarded
    def finish_inner(self, taken: _Taken, result: Any, error: Optional[BaseException]) -> None:
        """An inner call has ended."""
        inner, inside = taken.inner, taken.before
        while inside is not None and (inside.recording != self._name or inside.room is None):
            inside = inside.above
        if inner is None or inside is None or inside.room is None or inside.over:
            return
        try:
            room = self._encoder.room(max(0, inside.room.left))
            had = room.left
            tree = room.value(result if error is None else error)
            inside.room.left -= had - room.left
        except Exception as fault:
            self.drop_for(fault)
            return
        inner[3], inner[4] = error is not None, tree

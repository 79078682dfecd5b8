"""Patching a Python function from within: while it is armed, its code is its own with a prologue, epilogues and a handler around the body.

Rules:
- No frame, local or name is added; what the code calls is a gate (`hooks/gate.py`), one for each armed name.
- Only the original's own code is gone into. A function that is armed under a second name gets a trampoline over what is there, and so does
  one with a hook that cannot be called from inside (`HookChain.inside`); it lies where the code with the hooks inside lay.
- From one to the other, and to other hooks, is one step: each invocation has the old hooks or the new. An invocation that began before has
  the old ones.
- The way of a gate stays open when a trampoline takes over, for who is just coming in, and is closed with the next change.
- Disarmed, the function has the very code object that it had before.
"""

from __future__ import annotations

from types import CodeType, FunctionType, MethodType
from typing import Any, Callable, List, Optional, Tuple

from xpc_instrument.core.values.by_value import application_sends

from ..guard import guarded
from ..hooks.dispatch import Dispatcher
from ..hooks.entrance import Entrance, any_calls
from ..hooks.gate import CLOSED, Gate, Way, set_traceback
from ..targets.parameters import binder, count_of, splitter
from ..targets.resolve import Binding, Kind, Resolved
from .code_swap import ArmedFunction, CodePatch, copied, layer_in, layers, plain_code
from .inside import RefusedError, inserted, original_part
from .interface import PatchError


def raised(token: Any, error: BaseException) -> None:
    """What `enter`, `leave` or `failed` was made to raise goes on from the function, with no frame of ours; no hook waits any longer."""
    if token is not None and type(token) is not tuple:
        token.abandon()
    set_traceback(error, _original_part(error))


# To read the frames of a traceback raises audit events, and an audit hook may be the very target.
_original_part = guarded(original_part)


followers: List[Callable[[CodeType, CodeType], None]] = []
"""Called with a function's own code and what was made of it, before it is armed with that."""

_ITERATIONS = (Kind.GENERATOR, Kind.ASYNC_GENERATOR)


class InsidePatch(CodePatch):
    """Hooks inside the code of one Python function, and over it those that have no place there."""

    def __init__(self, resolved: Resolved, handler: Dispatcher) -> None:
        super().__init__(resolved, handler)
        self._dispatcher = handler
        # What was put in last, over which code, and whether it is in.
        self._inside: Optional[CodeType] = None
        self._below: Optional[CodeType] = None
        self._gate: Optional[Gate] = None
        # What it calls: `enter`, `leave` and `failed`.
        self._calls = any_calls(0)
        self._entrance: Optional[Entrance] = None
        self._is_inside = False
        # Why the code that it was to go into cannot be gone into.
        self._refusal = ""

    @property
    def patcher(self) -> str:  # type: ignore[override]
        """ "code" while it is armed by a trampoline."""
        return "inside" if self._function is None else "code"

    def arm(self) -> None:
        chain = self._dispatcher.chain
        holder, below = self._place()
        if holder is None or below is None:
            # Somebody else has replaced the code since.
            return
        gate = None
        self.why_not_inside = "" if chain is None else chain.why_not_inside(self.resolved.kind)
        if chain is not None and not self.why_not_inside:
            gate = self._gate_for(below) if layer_in(below) is None else None
            self.why_not_inside = self._refusal if layer_in(below) is None else "it has hooks under another name, too"
            if gate is not None and application_sends(self.resolved.function):
                gate = None
                self.why_not_inside = "the application may pickle it by value, for processes without xpc-instrument"
        if chain is not None and gate is not None:
            gate.way = chain.way
            code = self._leading(chain.way, gate)
            if self._is_inside and holder.__code__ is code:
                return
            holder.__code__ = code
            self._is_inside = True
            function, self._function = self._function, None
            if function is not None:
                self._forget_signature(function)
            return
        if self._function is not None:
            self._close()
            return
        function = self.resolved.function
        armed = ArmedFunction(function, self.handler, self.resolved.binding is not Binding.NONE, below)
        self._lay(armed, function, holder)
        self._is_inside = False

    def _leading(self, way: Way, gate: Gate) -> CodeType:
        """The code with the hooks inside that calls what the way has for it: which functions these are changes what it costs, no more."""
        code, below = self._inside, self._below
        assert code is not None and below is not None
        before, now, old = self._calls, None, self._entrance
        self._entrance = way.entrance
        if old is not None and old is not way.entrance:
            old.dismiss()
        if way.entrance is not None:
            now = way.entrance.calls(gate, count_of(below))
        now = now or any_calls(count_of(below))
        if now != before:
            consts = list(code.co_consts)
            for place, const in enumerate(consts):
                if type(const) is MethodType and const.__self__ is gate:
                    consts[place] = MethodType(now[0], gate)
                elif const is before[1] or const is before[2]:
                    consts[place] = now[1] if const is before[1] else now[2]
            code, self._calls = code.replace(co_consts=tuple(consts)), now
            self._inside = code
            for follow in followers:
                follow(below, code)
        return code

    def disarm(self) -> None:
        if self._is_inside:
            holder, below = self._place()
            self._is_inside = False
            if holder is not None and below is not None:
                holder.__code__ = below
        super().disarm()
        self._close()
        self.why_not_inside = ""

    def _close(self) -> None:
        if self._gate is not None:
            self._gate.way = CLOSED
        if self._entrance is not None:
            self._entrance.dismiss()
            self._entrance = None

    def _place(self) -> Tuple[Optional[FunctionType], Optional[CodeType]]:
        """The function or shadow whose code is ours, or is to be, and the code below ours; None if it is there no more."""
        function = self.resolved.function
        mine = self._inside if self._is_inside else None if self._function is None else self._trampoline
        if mine is None:
            return function, function.__code__
        for holder, layer in layers(function):
            if holder.__code__ is mine and layer is not None:
                return holder, layer.shadow.__code__
        return None, None

    def _gate_for(self, below: CodeType) -> Optional[Gate]:
        """The gate that the code with the hooks inside leads to, made once for each code below it; None if that is not gone into."""
        if self._below is not below:
            resolved, function = self.resolved, self.resolved.function
            values_of = binder(function, below)
            bound = resolved.binding is not Binding.NONE
            self._close()
            self._gate, self._below, self._inside = None, below, None
            self._refusal = ""
            if values_of is None:
                self._refusal = "it has parameters whose names nobody can type"
                return None
            gate = Gate(function, copied(function, below), splitter(below), values_of, bound, resolved.kind in _ITERATIONS)
            try:
                enter, leave, failed = self._calls = any_calls(count_of(below))
                self._inside = inserted(below, MethodType(enter, gate), leave, failed, raised)
            except RefusedError as error:
                self._refusal = str(error)
                return None
            self._gate = gate
            for follow in followers:
                follow(below, self._inside)
        if self._gate is not None:
            self._original = below
        return self._gate

    def rebase(self, old: CodeType, new: CodeType) -> None:
        super().rebase(old, new)
        if self._below is not old or self._gate is None:
            return
        # The same gate, so that who is just coming in finds it open.
        function = self.resolved.function
        enter, leave, failed = self._calls
        made = inserted(new, MethodType(enter, self._gate), leave, failed, raised)
        before, self._inside, self._below = self._inside, made, new
        self._gate.shadow.__code__ = new
        if self._is_inside and function.__code__ is before:
            function.__code__ = made

    def derived(self) -> Optional[Tuple[CodeType, CodeType]]:
        return None if self._below is None or self._inside is None else (self._below, self._inside)

    def uninstall(self) -> None:
        self.disarm()
        if self._below is None and self._armed is None:
            return
        function = self.resolved.function
        mine = any(layer is not None and layer in (self._gate, self._armed) for _, layer in layers(function))
        if plain_code(function) is not self._original or mine:
            raise PatchError(f"{self.resolved.target}: somebody else replaced its code since; that stays")

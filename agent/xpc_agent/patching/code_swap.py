"""Patching by code swap: while a function is armed its `__code__` is a trampoline; while it is not, it is untouched.

Rules:
- The trampoline takes `(*args, **kwargs)`: hooks see the arguments in exactly the form in which the caller passed them. So that
  `inspect.signature` keeps its answer, the function has a `__signature__` for as long as it is armed.
- A new code object must have the free variables of the old one, in the same order; the trampoline mentions them in dead code.
- The original runs as a shadow: a second function with the original code, globals and cells. Its defaults follow the function's.
- An exception leaves with a traceback in which the trampoline, under the function's own name and line, calls the original; its frame,
  which lives as long as the traceback, lets go of the arguments.
- A frame that is in the trampoline when it is disarmed, or a copy made while armed, ends up in the entry, which then passes through.
- If the function's code is not our trampoline any more, somebody else patched over it: theirs stays.
- An inherited method is not armed in the class that it comes from: the named class gets a function of its own for that time.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
from typing import Any, Dict, Optional, Tuple

from ..dispatch import Dispatcher, busy
from ..targets import Binding, Kind, Resolved
from .interface import Entry, Patch, PatchError

_PLACE = "<xpc-instrument: the gate>"

# The dead code behind the end keeps the free variables; see the rules.
_BODIES = {
    # The short cut of a hook that is alone spares a frame; `Gate.call` does the same for all.
    Kind.SYNC: """
def trampoline(*{args}, **{kwargs}):
    try:
        {replace} = {gate}.entry.sole
        if {replace} is None or {gate}.busy.on{changed}:
            return {gate}.call({args}, {kwargs})
        return {replace}({gate}.shadow, {args}, {kwargs}, {gate}.bound)
    except BaseException as {error}:
        {args} = {kwargs} = None
        raise {gate}.cleaned({error})
    {names}
""",
    Kind.COROUTINE: """
async def trampoline(*{args}, **{kwargs}):
    try:
        return await {gate}.call_async({args}, {kwargs})
    except BaseException as {error}:
        {args} = {kwargs} = None
        raise {gate}.cleaned({error})
    {names}
""",
    Kind.GENERATOR: """
def trampoline(*{args}, **{kwargs}):
    try:
        return (yield from {gate}.call_generator({args}, {kwargs}))
    except BaseException as {error}:
        {args} = {kwargs} = None
        raise {gate}.cleaned({error})
    {names}
""",
    Kind.ASYNC_GENERATOR: """
async def trampoline(*{args}, **{kwargs}):
    {inner} = {gate}.call_async_generator({args}, {kwargs})
    try:
        {value} = await {inner}.__anext__()
        while True:
            try:
                {sent} = yield {value}
            except GeneratorExit:
                await {inner}.aclose()
                raise
            except BaseException as {error}:
                {value} = await {inner}.athrow({error})
            else:
                {value} = await {inner}.asend({sent})
    except StopAsyncIteration:
        return
    except BaseException as {error}:
        {args} = {kwargs} = None
        raise {gate}.cleaned({error})
    {names}
""",
}
_LOCALS = ("args", "error", "inner", "kwargs", "replace", "sent", "value")

_KEPT_FLAGS = inspect.CO_ITERABLE_COROUTINE


@functools.lru_cache(maxsize=512)
def _template(kind: Kind, free: Tuple[str, ...], positional: bool, keyword_only: bool) -> types.CodeType:
    """A trampoline with a placeholder where the gate goes, for a function with such free variables and parameters."""
    changed = f" or {_PLACE!r}.function.__defaults__ is not {_PLACE!r}.defaults" if positional else ""
    changed += f" or {_PLACE!r}.function.__kwdefaults__ is not {_PLACE!r}.kwdefaults" if keyword_only else ""
    # A free variable may be called `args`, as in many a decorator.
    mine = {name: next(one for one in (name, f"_{name}", f"__xpc_{name}__") if one not in free) for name in _LOCALS}
    body = _BODIES[kind].format(gate=repr(_PLACE), names="; ".join(free), changed=changed, **mine)
    lines = ["def outer():"] + [f"    {name} = None" for name in free] + [f"    {line}" for line in body.splitlines()]
    tree = ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        if "lineno" in node._attributes:
            # All of it is on the function's first line, for tracers and coverage, and has no columns, for tracebacks.
            for attribute, value in (("lineno", 1), ("end_lineno", 1), ("col_offset", -1), ("end_col_offset", -1)):
                setattr(node, attribute, value)
    module = compile(tree, "<xpc-instrument>", "exec", dont_inherit=True)
    outer = next(const for const in module.co_consts if isinstance(const, types.CodeType))
    template = next(const for const in outer.co_consts if isinstance(const, types.CodeType))
    if template.co_freevars != free:
        raise PatchError(f"the free variables {', '.join(free)} cannot be reproduced")
    return template


def _template_for(function: types.FunctionType, kind: Kind) -> types.CodeType:
    code = function.__code__
    return _template(kind, code.co_freevars, code.co_argcount > 0, code.co_kwonlyargcount > 0)


def _trampoline(function: types.FunctionType, kind: Kind, gate: Gate) -> types.CodeType:
    original = function.__code__
    template = _template_for(function, kind)
    changes: Dict[str, Any] = {
        "co_consts": tuple(gate if const == _PLACE else const for const in template.co_consts),
        "co_name": original.co_name,
        "co_filename": original.co_filename,
        "co_firstlineno": original.co_firstlineno,
        "co_flags": template.co_flags | (original.co_flags & _KEPT_FLAGS),
    }
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = original.co_qualname
    return template.replace(**changes)


class Gate:
    """What a trampoline calls: the original, and the entry that it hands over to. One for each armed function."""

    __slots__ = ("bound", "busy", "defaults", "entry", "function", "kwdefaults", "shadow")

    def __init__(self, function: types.FunctionType, entry: Entry, bound: bool) -> None:
        self.function = function
        self.shadow = _copy(function, function.__code__)
        self.entry = entry
        self.bound = bound
        self.busy = busy
        self.defaults = function.__defaults__
        self.kwdefaults = function.__kwdefaults__

    def __reduce__(self) -> Any:
        # Who pickles an armed function by value (cloudpickle, dask) means the original: elsewhere it passes through.
        return _passing_gate, (self.shadow, self.bound)

    def original(self) -> types.FunctionType:
        """The original, with the defaults that the function has now."""
        function, shadow = self.function, self.shadow
        if shadow.__defaults__ is not function.__defaults__:
            shadow.__defaults__ = self.defaults = function.__defaults__
        if shadow.__kwdefaults__ is not function.__kwdefaults__:
            shadow.__kwdefaults__ = self.kwdefaults = function.__kwdefaults__
        return shadow

    def call(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        return self.entry.call(self.original(), args, kwargs, self.bound)

    def call_async(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        return self.entry.call_async(self.original(), args, kwargs, self.bound)

    def call_generator(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        return self.entry.call_generator(self.original(), args, kwargs, self.bound)

    def call_async_generator(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        return self.entry.call_async_generator(self.original(), args, kwargs, self.bound)

    def cleaned(self, error: BaseException) -> BaseException:
        """The exception with a traceback from the original on, or without ours where it never came there; for the trampoline to raise.

        The frames left out are cleared: the original's frame still leads to them, and they would keep the arguments alive.
        """
        # The first is the trampoline's own, which raising adds again.
        first = error.__traceback__ and error.__traceback__.tb_next
        code = self.shadow.__code__
        trace, left_out = first, []
        while trace is not None and trace.tb_frame.f_code is not code:
            left_out.append(trace.tb_frame)
            trace = trace.tb_next
        if trace is None:
            trace, left_out = first, []
            while trace is not None and _is_ours(trace.tb_frame):
                left_out.append(trace.tb_frame)
                trace = trace.tb_next
        for frame in left_out:
            try:
                frame.clear()
            except RuntimeError:
                pass  # it runs still, in a thread that shares the exception
        return error.with_traceback(trace)


def _is_ours(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("xpc_agent", "xpc_instrument")


def _passing_gate(original: types.FunctionType, bound: bool) -> Gate:
    """A gate without hooks."""
    return Gate(original, Dispatcher(), bound)


def _copy(function: types.FunctionType, code: types.CodeType) -> types.FunctionType:
    """A second function that runs `code` in the place of the first."""
    copy = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    copy.__doc__ = function.__doc__
    return copy


def _signature(function: types.FunctionType) -> Optional[inspect.Signature]:
    """What `inspect.signature` says now, or None where it says nothing or finds its answer elsewhere."""
    if "__signature__" in function.__dict__ or "__wrapped__" in function.__dict__:
        return None
    try:
        return inspect.signature(function, follow_wrapped=False)
    except Exception:
        if sys.version_info < (3, 14):
            return None
    try:
        # From 3.14 on annotations are evaluated when asked for, and may name what is not there yet.
        import annotationlib

        return inspect.signature(function, follow_wrapped=False, annotation_format=annotationlib.Format.FORWARDREF)
    except Exception:
        return None


class CodePatch(Patch):
    """Code swap for one Python function."""

    patcher = "code"

    def __init__(self, resolved: Resolved, entry: Entry) -> None:
        super().__init__(resolved, entry)
        self._armed: Optional[types.FunctionType] = None
        self._original: Optional[types.CodeType] = None
        self._trampoline: Optional[types.CodeType] = None
        self._signed: Optional[inspect.Signature] = None
        self._own: Any = None
        # Built now, so that what cannot be reproduced is known before anybody wants to arm it.
        _template_for(resolved.function, resolved.kind)

    def arm(self) -> None:
        if self._armed is not None:
            return
        resolved = self.resolved
        function = resolved.function
        if resolved.inherited:
            function = _copy(function, function.__code__)
            function.__dict__.update(resolved.function.__dict__)
            function.__annotations__ = resolved.function.__annotations__
        original = function.__code__
        gate = Gate(function, self.entry, resolved.binding is not Binding.NONE)
        trampoline = _trampoline(function, resolved.kind, gate)
        signature = _signature(function)
        self._armed, self._original, self._trampoline = function, original, trampoline
        if signature is not None:
            function.__dict__["__signature__"] = signature
        self._signed = signature
        function.__code__ = trampoline
        if resolved.inherited:
            self._own = self._rebuilt(function)
            setattr(resolved.owner, resolved.attribute, self._own)

    def _rebuilt(self, function: types.FunctionType) -> Any:
        """The descriptor that the class gets for an inherited target."""
        raw = self.resolved.raw
        if isinstance(raw, property):
            parts = {name: getattr(raw, name) for name in ("fget", "fset", "fdel")}
            parts[self.resolved.accessor] = function
            return type(raw)(doc=raw.__doc__, **parts)
        return type(raw)(function) if isinstance(raw, (staticmethod, classmethod)) else function

    def disarm(self) -> None:
        function, self._armed = self._armed, None
        if function is None:
            return
        resolved = self.resolved
        if resolved.inherited:
            if resolved.owner.__dict__.get(resolved.attribute) is self._own:
                delattr(resolved.owner, resolved.attribute)
            self._own = None
        if self._signed is not None and function.__dict__.get("__signature__") is self._signed:
            del function.__dict__["__signature__"]
        self._signed = None
        if function.__code__ is self._trampoline:
            assert self._original is not None
            function.__code__ = self._original

    def uninstall(self) -> None:
        self.disarm()
        function = self.resolved.function
        if self._original is not None and not self.resolved.inherited and function.__code__ is not self._original:
            raise PatchError(f"{self.resolved.target}: somebody else replaced its code since; that stays")

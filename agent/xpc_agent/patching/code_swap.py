"""Patching by code swap: while a function is armed its `__code__` is a trampoline; while it is not, it is untouched.

Rules:
- The trampoline takes `(*args, **kwargs)`: hooks see the arguments in exactly the form in which the caller passed them. So that
  `inspect.signature` keeps its answer, the function has a `__signature__` for as long as it is armed, in a `__dict__` that does not show
  it: `functools.wraps` would copy it into wrappers that stay (`attributes.py`).
- It runs with the globals of the function, which may have no builtins, and so uses none.
- To read a function's `__defaults__` raises an audit event. A function that the application has given to `sys.addaudithook` is called
  for that one too: it passes through (`reading`).
- A new code object must have the free variables of the old one, in the same order; the trampoline mentions them in dead code.
- The original runs as a shadow: a second function with the original code, globals and cells. Its defaults follow the function's.
- An exception leaves with a traceback without the trampoline on 3.11 and later; before, one in which the trampoline, under the function's
  own name and line, calls the original. The trampoline's frame, which lives as long as the traceback, lets go of the arguments.
- A frame that is in the trampoline when it is disarmed, or a copy made while armed, ends up in the handler, which then passes through.
- If the function's code is not our trampoline any more, somebody else patched over it: theirs stays.
- A function that is armed under two names has two trampolines, one over the other; either may go first.
- An inherited method is not armed in the class that it comes from: the named class gets a function of its own for that time, which
  calls what its caller would have found behind that class.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
import types
from typing import Any, Dict, Iterator, Optional, Tuple, Union

from ..guard import guard, guarded
from ..hooks.dispatch import YIELD_FROM, first_step
from ..hooks.gate import Gate
from ..targets.flags import CO_NESTED
from ..targets.parameters import form_of
from ..targets.raw import delete_raw, namespace_of, set_raw
from ..targets.resolve import Binding, Kind, Resolved, next_after
from .attributes import hide, reveal
from .interface import InvocationHandler, Patch, PatchError

annotationlib: Any = importlib.import_module("annotationlib") if sys.version_info >= (3, 14) else None

_PLACE = "<xpc-instrument: the armed function>"

# The dead code behind the end keeps the free variables; see the rules.
_BODIES = {
    # The short cut of a hook that is alone spares a frame; `ArmedFunction.call` does the same for all.
    Kind.SYNC: """
def trampoline(*{args}, **{kwargs}):
    try:
        {replace} = {armed}.handler.sole
        if {replace} is None or {armed}.guard.on{reads}:
            return {armed}.call({args}, {kwargs})
{read}
        return {replace}({armed}.shadow, {args}, {kwargs}, {armed}.bound)
    except {armed}.any_error as {error}:
        {args} = {kwargs} = None
        {leave}
    {names}
""",
    Kind.COROUTINE: """
async def trampoline(*{args}, **{kwargs}):
    try:
        return await {armed}.call_async({args}, {kwargs})
    except {armed}.any_error as {error}:
        {args} = {kwargs} = None
        {leave}
    {names}
""",
    Kind.GENERATOR: """
def trampoline(*{args}, **{kwargs}):
    try:
        return (yield from {armed}.call_generator({args}, {kwargs}))
    except {armed}.any_error as {error}:
        {args} = {kwargs} = None
        {leave}
    {names}
""",
    Kind.ASYNC_GENERATOR: """
async def trampoline(*{args}, **{kwargs}):
    try:
"""
    + YIELD_FROM.replace("{iterator}", "{armed}.call_async_generator({args}, {kwargs})")
    .replace("{first_step}", "{armed}.first_step")
    .replace("BaseException", "{armed}.any_error")
    .replace("StopAsyncIteration", "{armed}.iterated")
    + """
    except {armed}.any_error as {error}:
        {args} = {kwargs} = {thrown} = None
        {leave}
    {names}
""",
}
# While it is set, others of the function's threads look whether it is for this that they are called.
_READS = """ or {armed}.reading:
            return {armed}.call({{args}}, {{kwargs}})
        {armed}.reading = True
        if {changed}"""
# On 3.11 and later `raise` alone adds no entry to the traceback that the exception has; before, it puts back that of the `try`.
_LEAVE = "{armed}.cleaned({error}); raise" if sys.version_info >= (3, 11) else "raise {armed}.cleaned({error})"
_LOCALS = ("args", "error", "inner", "kwargs", "replace", "sent", "thrown", "value")

_CO_HAS_DOCSTRING = 0x4000000


@functools.lru_cache(maxsize=512)
def _template(kind: Kind, free: Tuple[str, ...], positional: bool, keyword_only: bool) -> types.CodeType:
    """A trampoline with a placeholder where the armed function goes, for a function with such free variables and parameters."""
    read = ["defaults"] * positional + ["kwdefaults"] * keyword_only
    changed = " or ".join(f"{_PLACE!r}.function.__{name}__ is not {_PLACE!r}.{name}" for name in read)
    reads = _READS.format(armed=repr(_PLACE), changed=changed) if read else ""
    # A free variable may be called `args`, as in many a decorator.
    mine = {name: next(one for one in (name, f"_{name}", f"__xpc_{name}__") if one not in free) for name in _LOCALS}
    reads = reads.format(**mine)
    leave = _LEAVE.format(armed=repr(_PLACE), **mine)
    body = _BODIES[kind].format(
        leave=leave,
        armed=repr(_PLACE),
        names="; ".join(free),
        reads=reads,
        read=f"        {_PLACE!r}.reading = False" if read else "",
        **mine,
    )
    lines = ["def outer():"] + [f"    {name} = None" for name in free] + [f"    {line}" for line in body.splitlines()]
    tree: Any = compile("\n".join(lines), "<xpc-instrument>", "exec", flags=ast.PyCF_ONLY_AST, dont_inherit=True)
    for node in _nodes(tree):
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


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a syntax tree."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for field in node._fields:
            value = getattr(node, field, None)
            todo += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, ast.AST)]


def _template_for(function: types.FunctionType, kind: Kind, inherited: bool) -> types.CodeType:
    code = plain_code(function)
    return _template(kind, code.co_freevars, inherited or code.co_argcount > 0, code.co_kwonlyargcount > 0)


def _trampoline(function: types.FunctionType, kind: Kind, armed: ArmedFunction) -> types.CodeType:
    original = plain_code(function)
    template = _template_for(function, kind, isinstance(armed, _ArmedInherited))
    changes: Dict[str, Any] = {
        "co_consts": tuple(armed if const == _PLACE else const for const in template.co_consts),
        "co_name": original.co_name,
        "co_filename": original.co_filename,
        "co_firstlineno": original.co_firstlineno,
        "co_flags": (template.co_flags & ~CO_NESTED) | (original.co_flags & ~_CO_HAS_DOCSTRING),
    }
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = original.co_qualname
    return template.replace(**changes)


# What a trampoline calls where it was pickled to: nothing but builtins, since the agent need not be installed there.
_CALLS = ", ".join(
    f"'{name}': lambda self, args, kwargs: original(*args, **kwargs)"
    for name in ("call", "call_async", "call_generator", "call_async_generator")
)
_PASSING = f"""type("Passing", (), {{
    "handler": type("Handler", (), {{"sole": None}}), "any_error": BaseException, "iterated": StopAsyncIteration, {_CALLS},
    "first_step": lambda self, inner: inner.__anext__(), "cleaned": lambda self, error: error,
}})()"""


class ArmedFunction:
    """What a trampoline calls: the original, and the handler that it hands over to. One for each armed function."""

    __slots__ = ("bound", "defaults", "function", "guard", "handler", "kwdefaults", "reading", "shadow", "signature")

    first_step = staticmethod(first_step)
    any_error, iterated = BaseException, StopAsyncIteration

    def __init__(
        self, function: types.FunctionType, handler: InvocationHandler, bound: bool, below: Optional[types.CodeType] = None
    ) -> None:
        self.function = function
        self.shadow = copied(function, below or function.__code__)
        # The `__signature__` that the function has for as long as it is armed.
        self.signature: Optional[inspect.Signature] = None
        self.handler = handler
        self.bound = bound
        self.guard = guard
        self.reading = False
        self.defaults = function.__defaults__
        self.kwdefaults = function.__kwdefaults__

    def __reduce__(self) -> Any:
        # Who pickles an armed function by value (cloudpickle, dask) means the original: elsewhere it passes through.
        return eval, (_PASSING, {"original": self.shadow})

    def original(self, args: Tuple[Any, ...]) -> types.FunctionType:
        """The original of a call with these arguments, with the defaults that the function has now."""
        function, shadow = self.function, self.shadow
        self.reading = True
        if shadow.__defaults__ is not function.__defaults__:
            shadow.__defaults__ = self.defaults = function.__defaults__
        if shadow.__kwdefaults__ is not function.__kwdefaults__:
            shadow.__kwdefaults__ = self.kwdefaults = function.__kwdefaults__
        self.reading = False
        return shadow

    def call(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        # As an audit hook it is called with the event and its arguments, the first of which is what was read or written.
        if (
            self.reading
            and len(args) >= 2
            and type(args[-1]) is tuple
            and args[-1]
            and any(args[-1][0] is one for one in (self.function, self.shadow))
        ):
            return self.shadow(*args, **kwargs)
        return self.handler.call(self.original(args), args, kwargs, self.bound)

    def call_async(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        return self.handler.call_async(self.original(args), args, kwargs, self.bound)

    def call_generator(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        return self.handler.call_generator(self.original(args), args, kwargs, self.bound)

    def call_async_generator(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        return self.handler.call_async_generator(self.original(args), args, kwargs, self.bound)

    @guarded
    def cleaned(self, error: BaseException) -> BaseException:
        """The exception with a traceback from the original on, or without ours where it never came there; for the trampoline to raise.

        The frames left out are cleared: the original's frame still leads to them, and they would keep the arguments alive.
        """
        # The first is the trampoline's own.
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
        # The class may have a method of its own that does something else.
        return BaseException.with_traceback(error, trace)


class _ArmedInherited(ArmedFunction):
    """The same for an inherited method, whose function stays where it is. What is called is what `super()` in the named class gives."""

    __slots__ = ("resolved",)

    def __init__(self, resolved: Resolved, handler: InvocationHandler) -> None:
        super().__init__(resolved.function, handler, resolved.binding is not Binding.NONE)
        self.shadow = resolved.function
        self.resolved = resolved
        # No function has these defaults, so that the trampoline always comes to `original`.
        self.defaults = ("none",)

    def original(self, args: Tuple[Any, ...]) -> types.FunctionType:
        resolved = self.resolved
        first = args[0] if args and self.bound else resolved.owner
        cls = first if resolved.binding is not Binding.INSTANCE else type(first)
        if cls is not resolved.owner and isinstance(cls, type):
            found = next_after(cls, resolved)
            if isinstance(found, types.FunctionType):
                return found
        return self.shadow


def _armed_in(code: types.CodeType) -> Optional[ArmedFunction]:
    """What a trampoline calls; None of any other code."""
    return next((const for const in code.co_consts if isinstance(const, ArmedFunction)), None)


def layer_in(code: types.CodeType) -> Union[ArmedFunction, Gate, None]:
    """What a trampoline calls, or the gate of code with hooks inside; None of any other code."""
    for const in code.co_consts:
        if isinstance(const, ArmedFunction):
            return const
        if type(const) is types.MethodType and type(const.__self__) is Gate and hasattr(const.__self__, "shadow"):
            return const.__self__  # and not one that has come out of a pickle
    return None


def layers(function: types.FunctionType) -> Iterator[Tuple[types.FunctionType, Union[ArmedFunction, Gate, None]]]:
    """The function and the shadows below it, each with its layer; the last has none."""
    layer = layer_in(function.__code__)
    yield function, layer
    while layer is not None:
        function = layer.shadow
        layer = layer_in(function.__code__)
        yield function, layer


def plain_code(function: types.FunctionType) -> types.CodeType:
    """The code of a function below all layers."""
    return [holder.__code__ for holder, _ in layers(function)][-1]


def _is_ours(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("xpc_agent", "xpc_instrument")


def copied(function: types.FunctionType, code: types.CodeType) -> types.FunctionType:
    """A second function that runs `code` in the place of the first."""
    copy = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    copy.__doc__ = function.__doc__
    return copy


def _double(function: types.FunctionType) -> types.FunctionType:
    """A second function that shows itself as the first does, for a class that inherits it."""
    double = copied(function, plain_code(function))
    double.__dict__.update(function.__dict__)
    # From Python 3.14 on annotations are evaluated when asked for, and may name what is not there yet.
    annotate = getattr(function, "__annotate__", None)
    if annotate is None:
        double.__annotations__ = function.__annotations__
    else:
        double.__annotate__ = annotate  # type: ignore[attr-defined,unused-ignore]
    if sys.version_info >= (3, 12):
        double.__type_params__ = function.__type_params__
    return double


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
        return inspect.signature(function, follow_wrapped=False, annotation_format=annotationlib.Format.FORWARDREF)
    except Exception:
        return None


class CodePatch(Patch):
    """Code swap for one Python function."""

    patcher = "code"

    def __init__(self, resolved: Resolved, handler: InvocationHandler) -> None:
        super().__init__(resolved, handler)
        self._function: Optional[types.FunctionType] = None
        self._original: Optional[types.CodeType] = None
        self._trampoline: Optional[types.CodeType] = None
        self._armed: Optional[ArmedFunction] = None
        self._own: Any = None
        self.form = form_of(resolved.function, plain_code(resolved.function))
        # Built now, so that what cannot be reproduced is known before anybody wants to arm it.
        _template_for(resolved.function, resolved.kind, resolved.inherited)
        if resolved.inherited:
            try:
                self._rebuilt(resolved.function)
            except Exception as error:
                raise PatchError(f"{resolved.target}: a {type(resolved.raw).__name__} of its own cannot be made: {error}") from error

    def is_on(self, now: Resolved) -> bool:
        # An inherited method is a function of the class's own while it is armed.
        return now.function is self.resolved.function or now.function is self._function

    def arm(self) -> None:
        if self._function is not None:
            return
        resolved = self.resolved
        armed: ArmedFunction
        if resolved.inherited:
            function = _double(resolved.function)
            armed = _ArmedInherited(resolved, self.handler)
        else:
            function = resolved.function
            armed = ArmedFunction(function, self.handler, resolved.binding is not Binding.NONE)
        self._lay(armed, function, function)
        if resolved.inherited:
            own = self._rebuilt(function)
            try:
                set_raw(resolved.owner, resolved.attribute, own)
            except Exception as error:
                self._function = None
                raise PatchError(f"{resolved.target}: its attribute cannot be set: {error}") from error
            self._own = own

    def _lay(self, armed: ArmedFunction, function: types.FunctionType, holder: types.FunctionType) -> None:
        """Put a trampoline in the place of the code of `holder`: the function, or the shadow of what lies over it."""
        original = plain_code(function)
        trampoline = _trampoline(function, self.resolved.kind, armed)
        above = _armed_in(function.__code__)
        armed.signature = _signature(function) if above is None else above.signature
        if armed.signature is not None:
            hide(function, armed.signature)
        self._function, self._original, self._trampoline, self._armed = function, original, trampoline, armed
        holder.__code__ = trampoline

    def _rebuilt(self, function: types.FunctionType) -> Any:
        """The descriptor that the class gets for an inherited target."""
        raw = self.resolved.raw
        if isinstance(raw, property):
            parts = {name: getattr(raw, name) for name in ("fget", "fset", "fdel")}
            parts[self.resolved.accessor] = function
            return type(raw)(doc=raw.__doc__, **parts)
        return type(raw)(function) if isinstance(raw, (staticmethod, classmethod)) else function

    def disarm(self) -> None:
        function, self._function = self._function, None
        if function is None:
            return
        resolved, armed = self.resolved, self._armed
        assert armed is not None
        assert self._original is not None
        if resolved.inherited:
            if namespace_of(resolved.owner).get(resolved.attribute) is self._own:
                delete_raw(resolved.owner, resolved.attribute)
            self._own = None
        for holder, _ in layers(function):
            if holder.__code__ is self._trampoline:
                # Not always the original: it may be that of another name of the function.
                holder.__code__ = self._original if resolved.inherited else armed.shadow.__code__
                break
        self._forget_signature(function)

    @staticmethod
    def _forget_signature(function: types.FunctionType) -> None:
        if _armed_in(function.__code__) is None:
            reveal(function)

    def rebase(self, old: types.CodeType, new: types.CodeType) -> None:
        if self._original is old:
            self._original = new
        shadow = None if self._armed is None else self._armed.shadow
        if shadow is not None and shadow.__code__ is old:
            shadow.__code__ = new

    def uninstall(self) -> None:
        self.disarm()
        if self._armed is None or self.resolved.inherited:
            return
        function = self.resolved.function
        if plain_code(function) is not self._original or any(armed is self._armed for _, armed in layers(function)):
            raise PatchError(f"{self.resolved.target}: somebody else replaced its code since; that stays")

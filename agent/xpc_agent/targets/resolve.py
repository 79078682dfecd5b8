"""From the name of a target to the thing that it names.

Rules:
- `package.module:Qualified.name`; a property is named by itself (its getter) or with `.fget`, `.fset`, `.fdel`.
- No code of the application runs (see `raw.py`).
- Nothing is imported here: a module that is not in `sys.modules`, or is there but lazy and not run, is not there yet.
"""

from __future__ import annotations

import types
from enum import Enum
from typing import Any, Optional, Sequence

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.record import Record
from xpc_instrument.core.model.target import split_target
from xpc_instrument.core.model.words import nearest_few

from .flags import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from .module import find_module
from .raw import C_DESCRIPTORS, class_name, described, function_in, is_a, mangled, namespace_of, of_class, on_type, raw_attribute


class Kind(Enum):
    """What calling it gives."""

    SYNC = "function"
    COROUTINE = "coroutine function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"


class Binding(Enum):
    """What is bound as the first argument."""

    NONE = "nothing"
    INSTANCE = "instance"
    CLASS = "class"


class UnpatchableError(TargetError):
    """The target exists but cannot be made hookable; the message says why."""


class Resolved(Record):
    """A target found: `owner.__dict__[attribute]` is `raw` (or an ancestor's, if `inherited`); `function` is what runs in the end."""

    target: str
    owner: Any
    attribute: str
    raw: Any
    function: Any
    kind: Kind
    binding: Binding
    inherited: bool
    accessor: str = ""


_CONSTRUCTORS = ("__init__", "__new__")
_ACCESSORS = ("fget", "fset", "fdel")


def kind_of(function: Any) -> Kind:
    """What calling the function gives, from the flags of its code."""
    if type(function) is types.MethodType:
        function = function.__func__
    # A compiled function (Cython) has a code object too; an object of the application's may have anything, or make it up when asked.
    getter = on_type(function, "__code__")
    code: Any = getter.__get__(function) if type(getter) in C_DESCRIPTORS else None
    flags = code.co_flags if type(code) is types.CodeType else 0
    if flags & CO_ASYNC_GENERATOR:
        return Kind.ASYNC_GENERATOR
    if flags & CO_COROUTINE:
        return Kind.COROUTINE
    if flags & CO_GENERATOR:
        return Kind.GENERATOR
    return Kind.SYNC


def resolve(target: str, hint: bool = True) -> Resolved:
    """Find a target in the modules that are imported. Raises `TargetError`, `UnpatchableError`."""
    module_name, name = split_target(target)
    module = find_module(module_name)
    if module is None:
        raise TargetError(f"{target}: the module {module_name} is not imported")
    owner: Any = module
    parts = name.split(".")
    accessor = ""
    if len(parts) > 1 and parts[-1] in _ACCESSORS and _is_property(module, parts[:-1]):
        accessor = parts.pop()
    for depth, part in enumerate(parts[:-1]):
        found = raw_attribute(owner, mangled(owner, part))
        if found is None:
            raise TargetError(_missing(target, owner, module_name, ".".join(parts[:depth]), part, hint))
        owner = found[0]
        if not is_a(owner, type, types.ModuleType):
            raise UnpatchableError(f"{target}: {'.'.join(parts[: depth + 1])} is {described(owner)}, expected a class")
    attribute = mangled(owner, parts[-1])
    found = raw_attribute(owner, attribute)
    if found is None:
        raise TargetError(_missing(target, owner, module_name, ".".join(parts[:-1]), parts[-1], hint))
    raw, inherited = found
    return _describe(target, owner, attribute, raw, inherited, accessor)


def next_after(cls: Any, resolved: Resolved) -> Optional[Any]:
    """The function that a class finds for an inherited target behind the class that the target names, as `super()` does; or None."""
    mro = of_class(cls, "__mro__")
    if resolved.owner not in mro:
        return None
    for one in mro[mro.index(resolved.owner) + 1 :]:
        raw = namespace_of(one).get(resolved.attribute)
        if raw is None:
            continue
        if is_a(raw, property):
            return getattr(property, resolved.accessor).__get__(raw) if resolved.accessor else None
        return function_in(raw) if is_a(raw, staticmethod, classmethod) else raw
    return None


def _describe(target: str, owner: Any, attribute: str, raw: Any, inherited: bool, accessor: str) -> Resolved:
    in_class = is_a(owner, type)
    if in_class and not of_class(owner, "__flags__") & (1 << 9):  # Py_TPFLAGS_HEAPTYPE: the others are immutable
        raise UnpatchableError(f"{target}: {class_name(owner)} is a built-in or extension type, whose attributes cannot be set")
    if in_class and of_class(owner, "__flags__") & (1 << 8):  # Py_TPFLAGS_IMMUTABLETYPE
        raise UnpatchableError(f"{target}: {class_name(owner)} is an immutable type, whose attributes cannot be set")
    if is_a(raw, type):
        names = " or ".join(f"{target}.{name}" for name in _CONSTRUCTORS if _is_of_python(raw, name))
        raise UnpatchableError(f"{target} is a class: name {f'its constructor, {names}' if names else 'one of its methods'}")
    if inherited and attribute in _CONSTRUCTORS and not is_a(raw, types.FunctionType, staticmethod):
        other = next((name for name in _CONSTRUCTORS if name != attribute and _is_of_python(owner, name)), None)
        remedy = f"hook {other}" if other else "hook one of its methods"
        raise UnpatchableError(
            f"{target}: {class_name(owner)} has no {attribute} of its own, and setting one changes how objects are made; {remedy}"
        )
    if in_class and is_a(raw, property):
        accessor = accessor or "fget"
        function = getattr(property, accessor).__get__(raw)
        if function is None:
            raise UnpatchableError(f"{target}: the property {attribute} has no {accessor}")
        binding = Binding.INSTANCE
    elif is_a(raw, staticmethod):
        # `__new__` is a static method that is called with the class.
        function, binding = function_in(raw), Binding.CLASS if attribute == "__new__" else Binding.NONE
    elif in_class and is_a(raw, classmethod):
        function, binding = function_in(raw), Binding.CLASS
    elif is_a(raw, types.FunctionType):
        function, binding = raw, Binding.INSTANCE if in_class else Binding.NONE
    elif callable(raw):
        # A bound method has a `__get__`, which leaves it as it is.
        binds = in_class and on_type(raw, "__get__") is not None and not is_a(raw, types.MethodType)
        function, binding = raw, Binding.INSTANCE if binds else Binding.NONE
    else:
        raise UnpatchableError(f"{target} is {described(raw)}, which cannot be called")
    return Resolved(target, owner, attribute, raw, function, kind_of(function), binding, inherited, accessor)


def _is_of_python(cls: Any, constructor: str) -> bool:
    found = raw_attribute(cls, constructor)
    return found is not None and is_a(found[0], types.FunctionType, staticmethod)


def _is_property(module: Any, parts: Sequence[str]) -> bool:
    owner = module
    for depth, part in enumerate(parts):
        found = raw_attribute(owner, mangled(owner, part)) if depth == 0 or is_a(owner, type, types.ModuleType) else None
        if found is None:
            return False
        owner = found[0]
    return is_a(owner, property)


def _missing(target: str, owner: Any, module: str, path: str, part: str, hint: bool) -> str:
    where = f"{module}:{path}" if path else f"the module {module}"
    if not hint:
        return f"{target}: {where} has no {part!r}"
    owners = of_class(owner, "__mro__") if is_a(owner, type) else (owner,)
    names = {name: None for one in owners for name in list(namespace_of(one)) if type(name) is str}
    near = nearest_few(part, names)
    prefix = f"{module}:{path}." if path else f"{module}:"
    nearest = f"; the nearest names are {', '.join(prefix + name for name in near)}" if near else ""
    return f"{target}: {where} has no {part!r}{nearest}"

"""From the name of a target to the thing that it names, and globs over modules.

Rules:
- `package.module:Qualified.name`; a property is named by itself (its getter) or with `.fget`, `.fset`, `.fdel`.
- Raw descriptors from `__dict__`, found along the MRO; never `getattr`, which binds and may run code of the application.
- Nothing is imported here: a module that is not in `sys.modules` is not there yet.
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import os
import sys
import types
from dataclasses import dataclass
from enum import Enum
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from xpc_instrument.errors import TargetError


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


@dataclass(frozen=True)
class Resolved:
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


_ACCESSORS = ("fget", "fset", "fdel")


def is_glob(target: str) -> bool:
    """Whether a target of the config stands for several."""
    return any(sign in target for sign in "*?[")


def split(target: str) -> Tuple[str, str]:
    """(module, qualified name). Raises `TargetError`."""
    module, colon, name = target.partition(":")
    if not colon or not module or not name or ":" in name:
        raise TargetError(f"target {target!r}: expected package.module:Qualified.name")
    return module, name


def find_module(name: str) -> Optional[Any]:
    """The imported module of that name; the main module too, if it was started under that name (`python -m NAME`, `python NAME.py`)."""
    module = sys.modules.get(name)
    if module is not None:
        return module
    return sys.modules.get("__main__") if name in main_names() else None


def main_names() -> Tuple[str, ...]:
    """Under which names, besides `__main__`, the main module goes."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name = str(spec.name)
        return (name, name[: -len(".__main__")]) if name.endswith(".__main__") else (name,)
    file = getattr(main, "__file__", None)
    if isinstance(file, str) and file.endswith(".py"):
        return (os.path.basename(file)[:-3],)
    return ()


def kind_of(function: Any) -> Kind:
    """What calling the function gives, from the flags of its code."""
    code = getattr(function, "__code__", None)
    flags = getattr(code, "co_flags", 0)
    if flags & inspect.CO_ASYNC_GENERATOR:
        return Kind.ASYNC_GENERATOR
    if flags & inspect.CO_COROUTINE:
        return Kind.COROUTINE
    if flags & inspect.CO_GENERATOR:
        return Kind.GENERATOR
    return Kind.SYNC


def resolve(target: str) -> Resolved:
    """Find a target in the modules that are imported. Raises `TargetError`, `UnpatchableError`."""
    module_name, name = split(target)
    module = find_module(module_name)
    if module is None:
        raise TargetError(f"{target}: the module {module_name} is not imported")
    owner: Any = module
    parts = name.split(".")
    accessor = ""
    if len(parts) > 1 and parts[-1] in _ACCESSORS and _is_property(module, parts[:-1]):
        accessor = parts.pop()
    for depth, part in enumerate(parts[:-1]):
        found = _raw(owner, part)
        if found is None:
            raise TargetError(_missing(target, owner, module_name, ".".join(parts[:depth]), part))
        owner = found[0]
        if not isinstance(owner, (type, types.ModuleType)):
            raise UnpatchableError(f"{target}: {'.'.join(parts[: depth + 1])} is {_a(owner)}, expected a class")
    attribute = _mangled(owner, parts[-1])
    found = _raw(owner, attribute)
    if found is None:
        raise TargetError(_missing(target, owner, module_name, ".".join(parts[:-1]), parts[-1]))
    raw, inherited = found
    return _describe(target, owner, attribute, raw, inherited, accessor)


def _describe(target: str, owner: Any, attribute: str, raw: Any, inherited: bool, accessor: str) -> Resolved:
    if isinstance(owner, type) and not owner.__flags__ & (1 << 9):  # Py_TPFLAGS_HEAPTYPE: the others are immutable
        raise UnpatchableError(f"{target}: {owner.__qualname__} is a built-in or extension type, whose attributes cannot be set")
    if isinstance(owner, type) and owner.__flags__ & (1 << 8):  # Py_TPFLAGS_IMMUTABLETYPE
        raise UnpatchableError(f"{target}: {owner.__qualname__} is an immutable type, whose attributes cannot be set")
    if isinstance(raw, type):
        raise UnpatchableError(f"{target} is a class: name its constructor, {target}.__init__ or {target}.__new__")
    if inherited and attribute in ("__new__", "__init__") and not isinstance(raw, (types.FunctionType, staticmethod)):
        other = "__init__" if attribute == "__new__" else "__new__"
        raise UnpatchableError(
            f"{target}: {owner.__qualname__} has no {attribute} of its own, and setting one changes how objects are made; hook {other}"
        )
    in_class = isinstance(owner, type)
    if isinstance(raw, property):
        accessor = accessor or "fget"
        function = getattr(raw, accessor)
        if function is None:
            raise UnpatchableError(f"{target}: the property {attribute} has no {accessor}")
        binding = Binding.INSTANCE
    elif isinstance(raw, staticmethod):
        # `__new__` is a static method that is called with the class.
        function, binding = raw.__func__, Binding.CLASS if attribute == "__new__" else Binding.NONE
    elif isinstance(raw, classmethod):
        function, binding = raw.__func__, Binding.CLASS
    elif isinstance(raw, types.FunctionType):
        function, binding = raw, Binding.INSTANCE if in_class else Binding.NONE
    elif callable(raw):
        function, binding = raw, Binding.INSTANCE if in_class and hasattr(type(raw), "__get__") else Binding.NONE
    else:
        raise UnpatchableError(f"{target} is {_a(raw)}, which cannot be called")
    return Resolved(target, owner, attribute, raw, function, kind_of(function), binding, inherited, accessor)


def _raw(owner: Any, name: str) -> Optional[Tuple[Any, bool]]:
    """(the raw attribute, whether it is inherited), or None."""
    if isinstance(owner, type):
        for cls in owner.__mro__:
            if name in cls.__dict__:
                return cls.__dict__[name], cls is not owner
        return None
    namespace = vars(owner)
    return (namespace[name], False) if name in namespace else None


def _is_property(module: Any, parts: Sequence[str]) -> bool:
    owner = module
    for part in parts:
        found = _raw(owner, _mangled(owner, part)) if isinstance(owner, (type, types.ModuleType)) else None
        if found is None:
            return False
        owner = found[0]
    return isinstance(owner, property)


def _mangled(owner: Any, name: str) -> str:
    """The name under which a class keeps a private `__name`."""
    if isinstance(owner, type) and name.startswith("__") and not name.endswith("__"):
        return f"_{owner.__name__.lstrip('_')}{name}"
    return name


def _a(value: Any) -> str:
    return f"an object of type {type(value).__name__}"


def _missing(target: str, owner: Any, module: str, path: str, part: str) -> str:
    where = f"{module}:{path}" if path else f"the module {module}"
    names = [name for name in vars(owner) if isinstance(name, str)]
    near = difflib.get_close_matches(part, names, 3)
    prefix = f"{module}:{path}." if path else f"{module}:"
    hint = f"; the nearest names are {', '.join(prefix + name for name in near)}" if near else ""
    return f"{target}: {where} has no {part!r}{hint}"


# globs -------------------------------------------------------------------------------------------------------------------


def module_matches(pattern: str, module: str) -> bool:
    """Whether the module part of a target, maybe a glob, stands for that module."""
    return fnmatch.fnmatchcase(module, split(pattern)[0])


def matches(pattern: str, exclude: Iterable[str], target: str) -> bool:
    """Whether a target of the config, maybe a glob, stands for this one."""
    if not fnmatch.fnmatchcase(target, pattern):
        return False
    name = split(target)[1]
    last = name.rpartition(".")[2]
    if is_glob(pattern) and last.startswith("__") and last.endswith("__"):
        wanted = split(pattern)[1].rpartition(".")[2]
        if not wanted.startswith("__"):
            return False
    return not any(fnmatch.fnmatchcase(target, one) or fnmatch.fnmatchcase(name, one) for one in exclude)


def expand(pattern: str, exclude: Sequence[str], module: Any, module_name: str) -> List[str]:
    """The targets in one imported module that a pattern stands for."""
    if not is_glob(split(pattern)[1]):
        target = f"{module_name}:{split(pattern)[1]}"
        return [] if any(fnmatch.fnmatchcase(target, one) for one in exclude) else [target]
    prefix = module_name + ":"
    return [prefix + name for name in _functions(module) if matches(pattern, exclude, prefix + name)]


def _functions(module: Any) -> Iterator[str]:
    """The qualified names of the functions and methods that a module defines itself."""
    name = module.__name__
    stack: List[Tuple[str, Dict[str, Any]]] = [("", dict(vars(module)))]
    seen = set()
    while stack:
        prefix, namespace = stack.pop()
        for attribute, value in list(namespace.items()):
            if not isinstance(attribute, str):
                continue
            if isinstance(value, type):
                if value.__module__ == name and id(value) not in seen and value.__qualname__ == prefix + value.__name__:
                    seen.add(id(value))
                    stack.append((f"{prefix}{attribute}.", dict(vars(value))))
            elif isinstance(value, property):
                yield prefix + attribute
            elif isinstance(value, (types.FunctionType, staticmethod, classmethod)):
                function = getattr(value, "__func__", value)
                if getattr(function, "__module__", None) == name:
                    yield prefix + attribute


# signatures --------------------------------------------------------------------------------------------------------------


def signature_spec(resolved: Resolved) -> Optional[List[Tuple[str, int, bool]]]:
    """(name, kind, has default) of each parameter, without the bound one; None if the target does not tell. Runs no annotation."""
    function: Any = resolved.function
    seen = 0
    while isinstance(function, types.FunctionType) and "__wrapped__" in function.__dict__ and seen < 100:
        function = function.__dict__["__wrapped__"]
        seen += 1
    code = getattr(function, "__code__", None)
    if not isinstance(function, types.FunctionType) or code is None:
        return None
    names = code.co_varnames
    count, only = code.co_argcount, code.co_kwonlyargcount
    defaults = len(function.__defaults__ or ())
    spec: List[Tuple[str, int, bool]] = []
    for index in range(count):
        kind = 0 if index < code.co_posonlyargcount else 1
        spec.append((names[index], kind, index >= count - defaults))
    position = count + only
    if code.co_flags & inspect.CO_VARARGS:
        spec.append((names[position], 2, False))
        position += 1
    for name in names[count : count + only]:
        spec.append((name, 3, name in (function.__kwdefaults__ or {})))
    if code.co_flags & inspect.CO_VARKEYWORDS:
        spec.append((names[position], 4, False))
    if resolved.binding is not Binding.NONE and spec and spec[0][1] in (0, 1):
        spec = spec[1:]
    return spec

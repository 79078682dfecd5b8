"""From the name of a target to the thing that it names, and globs over modules.

Rules:
- `package.module:Qualified.name`; a property is named by itself (its getter) or with `.fget`, `.fset`, `.fdel`.
- Raw descriptors from `__dict__`, found along the MRO; never `getattr`, which binds and may run code of the application. Nor `isinstance`
  on what may be an object of the application's: it asks for `__class__`, which a proxy or a lazy object answers by making the real one.
- Nothing is imported here: a module that is not in `sys.modules`, or is there but lazy and not run, is not there yet.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
from dataclasses import dataclass
from enum import Enum
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import is_excluded, is_glob, matches, split_target


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


def find_module(name: str) -> Optional[Any]:
    """The imported module of that name; the main module too, if it was started under that name (`python -m NAME`, `python NAME.py`)."""
    module = sys.modules.get(name)
    if module is not None:
        return None if is_lazy(module) else module
    return sys.modules.get("__main__") if name in main_names() else None


def is_lazy(module: Any) -> bool:
    """Whether the module is one of `importlib.util.LazyLoader` that has not run: any look at its attributes would run it."""
    util = sys.modules.get("importlib.util")
    if util is None or type(module) is not getattr(util, "_LazyModule", None):
        return False
    # Later releases of Python keep the lazy class until the module has run.
    state = getattr(_namespace(module).get("__spec__"), "loader_state", None)
    return not (type(state) is dict and state.get("is_loading"))


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
    if type(function) is types.MethodType:
        function = function.__func__
    # A compiled function (Cython) has a code object too; an object of the application's may have anything, or make it up when asked.
    getter = _on_type(function, "__code__")
    code: Any = getter.__get__(function) if type(getter) in _C_DESCRIPTORS else None
    flags = code.co_flags if type(code) is types.CodeType else 0
    if flags & inspect.CO_ASYNC_GENERATOR:
        return Kind.ASYNC_GENERATOR
    if flags & inspect.CO_COROUTINE:
        return Kind.COROUTINE
    if flags & inspect.CO_GENERATOR:
        return Kind.GENERATOR
    return Kind.SYNC


def resolve(target: str) -> Resolved:
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
        found = _raw(owner, _mangled(owner, part))
        if found is None:
            raise TargetError(_missing(target, owner, module_name, ".".join(parts[:depth]), part))
        owner = found[0]
        if not _is_a(owner, type, types.ModuleType):
            raise UnpatchableError(f"{target}: {'.'.join(parts[: depth + 1])} is {_a(owner)}, expected a class")
    attribute = _mangled(owner, parts[-1])
    found = _raw(owner, attribute)
    if found is None:
        raise TargetError(_missing(target, owner, module_name, ".".join(parts[:-1]), parts[-1]))
    raw, inherited = found
    return _describe(target, owner, attribute, raw, inherited, accessor)


def next_after(cls: Any, resolved: Resolved) -> Optional[Any]:
    """The function that a class finds for an inherited target behind the class that the target names, as `super()` does; or None."""
    mro = _of_class(cls, "__mro__")
    if resolved.owner not in mro:
        return None
    for one in mro[mro.index(resolved.owner) + 1 :]:
        raw = _namespace(one).get(resolved.attribute)
        if raw is None:
            continue
        if _is_a(raw, property):
            return getattr(property, resolved.accessor).__get__(raw) if resolved.accessor else None
        return _function_in(raw) if _is_a(raw, staticmethod, classmethod) else raw
    return None


def _describe(target: str, owner: Any, attribute: str, raw: Any, inherited: bool, accessor: str) -> Resolved:
    in_class = _is_a(owner, type)
    if in_class and not _of_class(owner, "__flags__") & (1 << 9):  # Py_TPFLAGS_HEAPTYPE: the others are immutable
        raise UnpatchableError(f"{target}: {_name(owner)} is a built-in or extension type, whose attributes cannot be set")
    if in_class and _of_class(owner, "__flags__") & (1 << 8):  # Py_TPFLAGS_IMMUTABLETYPE
        raise UnpatchableError(f"{target}: {_name(owner)} is an immutable type, whose attributes cannot be set")
    if _is_a(raw, type):
        names = " or ".join(f"{target}.{name}" for name in _CONSTRUCTORS if _is_of_python(raw, name))
        raise UnpatchableError(f"{target} is a class: name {f'its constructor, {names}' if names else 'one of its methods'}")
    if inherited and attribute in _CONSTRUCTORS and not _is_a(raw, types.FunctionType, staticmethod):
        other = next((name for name in _CONSTRUCTORS if name != attribute and _is_of_python(owner, name)), None)
        remedy = f"hook {other}" if other else "hook one of its methods"
        raise UnpatchableError(
            f"{target}: {_name(owner)} has no {attribute} of its own, and setting one changes how objects are made; {remedy}"
        )
    if in_class and _is_a(raw, property):
        accessor = accessor or "fget"
        function = getattr(property, accessor).__get__(raw)
        if function is None:
            raise UnpatchableError(f"{target}: the property {attribute} has no {accessor}")
        binding = Binding.INSTANCE
    elif _is_a(raw, staticmethod):
        # `__new__` is a static method that is called with the class.
        function, binding = _function_in(raw), Binding.CLASS if attribute == "__new__" else Binding.NONE
    elif in_class and _is_a(raw, classmethod):
        function, binding = _function_in(raw), Binding.CLASS
    elif _is_a(raw, types.FunctionType):
        function, binding = raw, Binding.INSTANCE if in_class else Binding.NONE
    elif callable(raw):
        # A bound method has a `__get__`, which leaves it as it is.
        binds = in_class and _on_type(raw, "__get__") is not None and not _is_a(raw, types.MethodType)
        function, binding = raw, Binding.INSTANCE if binds else Binding.NONE
    else:
        raise UnpatchableError(f"{target} is {_a(raw)}, which cannot be called")
    return Resolved(target, owner, attribute, raw, function, kind_of(function), binding, inherited, accessor)


def _is_of_python(cls: Any, constructor: str) -> bool:
    found = _raw(cls, constructor)
    return found is not None and _is_a(found[0], types.FunctionType, staticmethod)


# looking without touching -------------------------------------------------------------------------------------------------

_CONSTRUCTORS = ("__init__", "__new__")
_C_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_MODULE_NAMESPACE: Any = vars(types.ModuleType)["__dict__"]


def _is_a(value: Any, *kinds: Any) -> bool:
    return issubclass(type(value), kinds)


def _of_class(cls: Any, name: str) -> Any:
    """What `type` itself says of a class; a metaclass may say anything."""
    return type.__dict__[name].__get__(cls)


def _name(cls: Any) -> str:
    return str(_of_class(cls, "__qualname__"))


def _on_type(value: Any, name: str) -> Any:
    """The raw attribute of the type of a value, or None."""
    found = _raw(type(value), name)
    return None if found is None else found[0]


def _function_in(raw: Any) -> Any:
    """What a static or class method holds."""
    kind: Any = staticmethod if _is_a(raw, staticmethod) else classmethod
    return kind.__dict__["__func__"].__get__(raw)


def _namespace(owner: Any) -> Mapping[Any, Any]:
    """The `__dict__` of a class or module; of what an application has put in a module's place, its instance's."""
    found: Any = None
    if _is_a(owner, type):
        found = _of_class(owner, "__dict__")
    elif _is_a(owner, types.ModuleType):
        # A module of a class of its own may answer `__dict__` as it likes.
        found = _MODULE_NAMESPACE.__get__(owner)
    else:
        try:
            found = object.__getattribute__(owner, "__dict__")
        except AttributeError:
            pass  # it has slots
    return found if _is_a(found, dict, types.MappingProxyType) else {}


def _raw(owner: Any, name: str) -> Optional[Tuple[Any, bool]]:
    """(the raw attribute, whether it is inherited), or None."""
    for cls in _of_class(owner, "__mro__") if _is_a(owner, type) else (owner,):
        namespace = _namespace(cls)
        if name in namespace:
            return namespace[name], cls is not owner
    return None


def _is_property(module: Any, parts: Sequence[str]) -> bool:
    owner = module
    for depth, part in enumerate(parts):
        found = _raw(owner, _mangled(owner, part)) if depth == 0 or _is_a(owner, type, types.ModuleType) else None
        if found is None:
            return False
        owner = found[0]
    return _is_a(owner, property)


def _mangled(owner: Any, name: str) -> str:
    """The name under which a class keeps a private `__name`."""
    if _is_a(owner, type) and name.startswith("__") and not name.endswith("__"):
        stripped = _of_class(owner, "__name__").lstrip("_")
        return f"_{stripped}{name}" if stripped else name  # as the compiler does it: `class __` keeps its names
    return name


def _a(value: Any) -> str:
    return f"an object of type {_of_class(type(value), '__name__')}"


def _missing(target: str, owner: Any, module: str, path: str, part: str) -> str:
    where = f"{module}:{path}" if path else f"the module {module}"
    owners = _of_class(owner, "__mro__") if _is_a(owner, type) else (owner,)
    names = {name: None for one in owners for name in list(_namespace(one)) if type(name) is str}
    import difflib

    near = difflib.get_close_matches(part, list(names), 3)
    prefix = f"{module}:{path}." if path else f"{module}:"
    hint = f"; the nearest names are {', '.join(prefix + name for name in near)}" if near else ""
    return f"{target}: {where} has no {part!r}{hint}"


# globs -------------------------------------------------------------------------------------------------------------------


def expand(pattern: str, exclude: Sequence[str], module: Any, module_name: str) -> List[str]:
    """The targets in one imported module that a pattern stands for.

    A target without a glob stands for itself, so that it can be said to be missing. One that is named in many modules (`shop.*:main`)
    stands for those that define it themselves.
    """
    name = split_target(pattern)[1]
    if not is_glob(name):
        target = f"{module_name}:{name}"
        if is_excluded(target, exclude) or (is_glob(pattern) and not _defines(module, target)):
            return []
        return [target]
    prefix = module_name + ":"
    return [prefix + name for name in _functions(module) if matches(pattern, exclude, prefix + name)]


def _defines(module: Any, target: str) -> bool:
    try:
        function = resolve(target).function
    except TargetError:
        return False
    return bool(_module_of(function) == _namespace(module).get("__name__"))


def _module_of(function: Any) -> Any:
    """Where a function says that it was defined."""
    if _is_a(function, types.FunctionType):
        return function.__module__
    return inspect.getattr_static(function, "__module__", None)


def _functions(module: Any) -> Iterator[str]:
    """The qualified names of the functions and methods that a module defines itself."""
    module_namespace = _namespace(module)
    name = module_namespace.get("__name__")
    stack: List[Tuple[str, Dict[Any, Any]]] = [("", dict(module_namespace))]
    seen = set()
    while stack:
        prefix, namespace = stack.pop()
        for attribute, value in namespace.items():
            if type(attribute) is not str:
                continue
            if _is_a(value, type):
                own = dict(_namespace(value))
                if own.get("__module__") == name and id(value) not in seen and _name(value) == prefix + _of_class(value, "__name__"):
                    seen.add(id(value))
                    stack.append((f"{prefix}{attribute}.", own))
            elif _is_a(value, property):
                if prefix:
                    yield prefix + attribute
            elif _is_a(value, types.FunctionType):
                if value.__module__ == name:
                    yield prefix + attribute
            elif _is_a(value, staticmethod, classmethod):
                if _module_of(_function_in(value)) == name:
                    yield prefix + attribute


# signatures --------------------------------------------------------------------------------------------------------------


def signature_spec(resolved: Resolved) -> Optional[List[Tuple[str, int, bool]]]:
    """(name, kind, has default) of each parameter, without the bound one; None if the target does not tell. Runs no annotation."""
    function: Any = resolved.function
    seen = 0
    while _is_a(function, types.FunctionType) and "__wrapped__" in function.__dict__ and seen < 100:
        function = function.__dict__["__wrapped__"]
        seen += 1
    if not _is_a(function, types.FunctionType):
        return None
    code = function.__code__
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

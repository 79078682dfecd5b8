"""The targets in a module that a pattern of the config stands for; how patterns match is in `core/model/target.py`."""

from __future__ import annotations

import types
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import is_excluded, is_glob, matches, split_target

from .raw import class_name, function_in, is_a, namespace_of, of_class
from .resolve import resolve


def expand(pattern: str, exclude: Sequence[str], module: Any, module_name: str) -> List[str]:
    """All that `matching` gives."""
    return list(matching(pattern, exclude, module, module_name))


def matching(pattern: str, exclude: Sequence[str], module: Any, module_name: str) -> Iterator[str]:
    """The targets in one imported module that a pattern stands for, one after the other.

    A target without a glob stands for itself, so that it can be said to be missing. One that is named in many modules (`shop.*:main`)
    stands for those that define it themselves.
    """
    name = split_target(pattern)[1]
    if not is_glob(name):
        target = f"{module_name}:{name}"
        if not is_excluded(target, exclude) and (not is_glob(pattern) or _defines(module, target)):
            yield target
        return
    prefix = module_name + ":"
    for one in functions_of(module):
        if matches(pattern, exclude, prefix + one):
            yield prefix + one


def _defines(module: Any, target: str) -> bool:
    try:
        function = resolve(target).function
    except TargetError:
        return False
    return bool(_module_of(function) == namespace_of(module).get("__name__"))


def _module_of(function: Any) -> Any:
    """Where a function says that it was defined."""
    if is_a(function, types.FunctionType):
        return function.__module__
    # Here, since few modules have one and importing it costs an application's start-up some milliseconds.
    import inspect

    return inspect.getattr_static(function, "__module__", None)


def functions_of(module: Any) -> Iterator[str]:
    """The qualified names of the functions and methods that a module defines itself."""
    module_namespace = namespace_of(module)
    name = module_namespace.get("__name__")
    stack: List[Tuple[str, Dict[Any, Any]]] = [("", dict(module_namespace))]
    seen = set()
    while stack:
        prefix, namespace = stack.pop()
        for attribute, value in namespace.items():
            if type(attribute) is not str:
                continue
            if is_a(value, type):
                own = dict(namespace_of(value))
                if own.get("__module__") == name and id(value) not in seen and class_name(value) == prefix + of_class(value, "__name__"):
                    seen.add(id(value))
                    stack.append((f"{prefix}{attribute}.", own))
            elif is_a(value, property):
                if prefix:
                    yield prefix + attribute
            elif is_a(value, types.FunctionType):
                if value.__module__ == name:
                    yield prefix + attribute
            elif is_a(value, staticmethod, classmethod):
                if _module_of(function_in(value)) == name:
                    yield prefix + attribute

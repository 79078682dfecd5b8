"""What a recording names: the functions of its targets, of packages that may be called for a file."""

from __future__ import annotations

import inspect
import os
import sys
import types
from importlib.util import find_spec
from typing import Any, Callable, NamedTuple, Sequence

from ..model.errors import TargetError
from ..model.target import split_target


class Found(NamedTuple):
    """What a target names: `owner.name` is `raw`, and `function` is what runs."""

    owner: Any
    name: str
    raw: Any
    function: Any
    is_bound: bool
    """Whether the first that `function` gets is an instance or a class."""


class GoneError(TargetError):
    """A target that is not there any more."""


def is_standard(package: str) -> bool:
    """Whether a top-level package is of the standard library."""
    if package in sys.builtin_module_names:
        return True
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return package in names
    spec = find_spec(package)
    origin = "" if spec is None else spec.origin or ""
    return origin == "frozen" or (origin.startswith(os.path.dirname(os.__file__) + os.sep) and "-packages" not in origin)


def find_target(target: str, module_named: Callable[[str], Any], allow: Sequence[str] = (), is_inner: bool = False) -> Found:
    """The function of a target, in the module that `module_named` gives. Raises `GoneError` where there is none any more, and `TargetError`
    for one that is not to be called for a file; what only stands in, `is_inner`, may be of the standard library."""
    module, qualified = split_target(target)
    package = module.partition(".")[0]
    if not is_inner and package not in allow and is_standard(package):
        raise TargetError(
            f"{target}: it is of the standard library, and is not called for a file: a recording could name any function there"
        )
    try:
        owner: Any = module_named(module)
    except Exception as error:
        raise GoneError(f"{target}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    parts = qualified.split(".")
    accessor = parts.pop() if parts[-1] in ("fget", "fset", "fdel") else "fget"
    for part in parts[:-1]:
        owner = inspect.getattr_static(owner, part, None)
        if isinstance(owner, types.ModuleType):
            # What a module has imported is as good as named by the recording: `shop:os.system`.
            raise TargetError(f"{target}: {part} is a module, and no part of {module}; expected a function or a class of it")
    raw = None if owner is None else inspect.getattr_static(owner, parts[-1], None)
    function = getattr(raw, accessor) if isinstance(raw, property) else getattr(raw, "__func__", raw)
    if not callable(function):
        raise GoneError(f"{target}: there is no such function")
    for one in () if is_inner else (owner, function):
        home = getattr(one, "__module__", None)
        home = home.partition(".")[0] if isinstance(home, str) else ""
        if home and home != package and home not in allow and is_standard(home):
            raise TargetError(f"{target}: it is {home}'s, of the standard library, and is not called for a file unless {home} is allowed")
    is_bound = isinstance(raw, types.MethodType) or (isinstance(owner, type) and not isinstance(raw, staticmethod))
    return Found(owner, parts[-1], raw, function, is_bound)

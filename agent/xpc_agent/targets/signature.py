"""The parameters of a target, without evaluating an annotation."""

from __future__ import annotations

import types
from typing import Any, List, Optional, Tuple

from .flags import CO_VARARGS, CO_VARKEYWORDS
from .raw import is_a
from .resolve import Binding, Resolved


def signature_spec(resolved: Resolved) -> Optional[List[Tuple[str, int, bool]]]:
    """(name, kind, has default) of each parameter, without the bound one; None if the target does not tell. Runs no annotation."""
    function: Any = resolved.function
    seen = 0
    while is_a(function, types.FunctionType) and "__wrapped__" in function.__dict__ and seen < 100:
        function = function.__dict__["__wrapped__"]
        seen += 1
    if not is_a(function, types.FunctionType):
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
    if code.co_flags & CO_VARARGS:
        spec.append((names[position], 2, False))
        position += 1
    for name in names[count : count + only]:
        spec.append((name, 3, name in (function.__kwdefaults__ or {})))
    if code.co_flags & CO_VARKEYWORDS:
        spec.append((names[position], 4, False))
    if resolved.binding is not Binding.NONE and spec and spec[0][1] in (0, 1):
        spec = spec[1:]
    return spec

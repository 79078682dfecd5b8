"""How the fields of the instances of a class are had: by the descriptors that the interpreter made, and no code of the class."""

from __future__ import annotations

from builtins import slice, tuple, type  # bound now: each may be the target of a hook
from typing import Any, Callable, Optional, Tuple

from ..model.raw import GETSET, MEMBER, derives, find, is_heap, mro_of, namespace_of

# What gives the `__dict__` of an instance, or None; and the names and readers of its slots.
Fields = Tuple[Optional[Callable[[Any], Any]], Tuple[Tuple[str, Callable[[Any], Any]], ...]]

_error: Any = BaseException.__dict__
_attributes_of = _error["__dict__"].__get__


def readers_of(cls: type) -> Fields:
    """How the fields of the instances of a class are had."""
    namespace = find(cls, "__dict__")[0]
    slots = [
        (name, member.__get__)
        for one in mro_of(cls)
        if is_heap(one)
        for name, member in namespace_of(one).items()
        if type(name) is str and type(member) is MEMBER and not (name.startswith("__") and name.endswith("__"))
    ]
    if derives(cls, BaseException):
        return _attributes_of, tuple(slots)
    if derives(cls, slice):
        slots = [(name, namespace_of(slice)[name].__get__) for name in ("start", "stop", "step")]
    return (namespace.__get__ if type(namespace) is GETSET or type(namespace) is MEMBER else None), tuple(slots)

"""What a class has, read as the interpreter has it: no code of the class, its metaclass or its instances runs.

`type.__dict__["__mro__"]` and the like are descriptors written in C; `cls.__mro__`, `cls.__dict__` and `cls.name` ask the metaclass first.
A class is told from another by identity, and looked up by its `id`: a metaclass may define `==` and `hash`.
"""

from __future__ import annotations

import types
from builtins import any, bool, bytes, frozenset, id, map, str, type  # noqa: UP029 - bound now: each may be the target of a hook
from typing import Any, FrozenSet, Optional, Tuple

_namespace: Any = type.__dict__
mro_of = _namespace["__mro__"].__get__
namespace_of = _namespace["__dict__"].__get__
_qualname_of = _namespace["__qualname__"].__get__
_module_of = _namespace["__module__"].__get__
_flags_of = _namespace["__flags__"].__get__

# Of a class that a `class` statement made, or C code at run time (`Include/object.h`, Py_TPFLAGS_HEAPTYPE).
_HEAP = 1 << 9

# What is longer is no name.
_LONGEST_NAME = 255

MEMBER = types.MemberDescriptorType
GETSET = types.GetSetDescriptorType


class _Missing:
    """Its one instance stands for what is not there."""


MISSING: Any = _Missing()


def ids(*classes: type) -> FrozenSet[int]:
    """The `id`s of classes that live as long as the process."""
    return frozenset(map(id, classes))


def find(cls: type, name: str) -> Tuple[Any, Any]:
    """What lies under a name in the class or one that it derives from, nearest first, and in which; `(MISSING, None)` if nothing does."""
    for one in mro_of(cls):
        namespace = namespace_of(one)
        if name in namespace:
            return namespace[name], one
    return MISSING, None


def has(cls: type, name: str) -> bool:
    """Whether something lies there."""
    return find(cls, name)[0] is not MISSING


def derives(cls: type, base: type) -> bool:
    """Whether a class is `base` or derives from it, whatever `__subclasscheck__` says."""
    return any(one is base for one in mro_of(cls))


def is_heap(cls: type) -> bool:
    """Whether a class was made at run time, by a `class` statement or by C code."""
    return bool(_flags_of(cls) & _HEAP)


def qualname_of(cls: type) -> str:
    """The qualified name of a class, as plain text."""
    name = _qualname_of(cls)
    return name if type(name) is str else str.__str__(name)


def module_name(cls: type) -> str:
    """The module that a class says it is of; "" where that is no plain text."""
    named = namespace_of(cls).get("__module__")
    if named is None and not is_heap(cls):
        named = _module_of(cls)
    return named if type(named) is str else ""


def name_in(key: Any) -> Optional[str]:
    """A key as the name that it says: a str, bytes, or an instance of what derives from these; None for any other."""
    kind = type(key)
    if type(key) is str:
        return key
    if derives(kind, str):
        return str.__str__(key)
    is_short = (kind is bytes or derives(kind, bytes)) and bytes.__len__(key) <= _LONGEST_NAME
    return bytes.decode(key, "latin-1") if is_short else None


def label(cls: type, separator: str = ":") -> str:
    """`module:Qualified.name` of a class, and the bare name of a built-in one."""
    module, name = module_name(cls), qualname_of(cls)
    return name if module in ("", "builtins") else f"{module}{separator}{name}"

"""Looking at classes, modules and descriptors, and changing them: no code of the application runs.

Rules:
- Raw descriptors from `__dict__`, found along the MRO; never `getattr`, which binds and may run code of the application.
- Never `isinstance` on what may be an object of the application's: it asks for `__class__`, which a proxy or a lazy object answers by
  making the real one.
- What a class says of itself is read with the descriptors of `type`; a metaclass may answer anything.
"""

from __future__ import annotations

import types
from typing import Any, Mapping, Optional, Tuple

# What a type written in C keeps its attributes in; reading through one runs nothing of the application's.
C_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_MODULE_NAMESPACE: Any = vars(types.ModuleType)["__dict__"]


def is_a(value: Any, *kinds: Any) -> bool:
    """Whether the type of a value is one of `kinds` or derives from one."""
    return issubclass(type(value), kinds)


def of_class(cls: Any, name: str) -> Any:
    """What `type` itself says of a class; a metaclass may say anything."""
    return type.__dict__[name].__get__(cls)


def class_name(cls: Any) -> str:
    """The qualified name of a class."""
    return str(of_class(cls, "__qualname__"))


def on_type(value: Any, name: str) -> Any:
    """The raw attribute of the type of a value, or None."""
    found = raw_attribute(type(value), name)
    return None if found is None else found[0]


def function_in(raw: Any) -> Any:
    """What a static or class method holds."""
    kind: Any = staticmethod if is_a(raw, staticmethod) else classmethod
    return kind.__dict__["__func__"].__get__(raw)


def namespace_of(owner: Any) -> Mapping[Any, Any]:
    """The `__dict__` of a class or module; of what an application has put in a module's place, its instance's."""
    found: Any = None
    if is_a(owner, type):
        found = of_class(owner, "__dict__")
    elif is_a(owner, types.ModuleType):
        # A module of a class of its own may answer `__dict__` as it likes.
        found = _MODULE_NAMESPACE.__get__(owner)
    else:
        try:
            found = object.__getattribute__(owner, "__dict__")
        except AttributeError:
            pass  # it has slots
    return found if is_a(found, dict, types.MappingProxyType) else {}


def raw_attribute(owner: Any, name: str) -> Optional[Tuple[Any, bool]]:
    """(the raw attribute, whether it is inherited), or None."""
    for cls in of_class(owner, "__mro__") if is_a(owner, type) else (owner,):
        namespace = namespace_of(cls)
        if name in namespace:
            return namespace[name], cls is not owner
    return None


def set_raw(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a class or module, past what a metaclass or a module of a class of its own does with it.

    Raises `TypeError` or `AttributeError`, and what an owner of another kind raises, which is asked.
    """
    _change(owner, "__setattr__", name, value)


def delete_raw(owner: Any, name: str) -> None:
    """Delete an attribute, as `set_raw` sets it."""
    _change(owner, "__delattr__", name)


def _change(owner: Any, method: str, *args: Any) -> None:
    kind: Any = type if is_a(owner, type) else types.ModuleType if is_a(owner, types.ModuleType) else type(owner)
    try:
        getattr(kind, method)(owner, *args)
    except TypeError:
        # A class of a metaclass in C has its own way, which this refuses to go past.
        getattr(type(owner), method)(owner, *args)


def mangled(owner: Any, name: str) -> str:
    """The name under which a class keeps a private `__name`."""
    if is_a(owner, type) and name.startswith("__") and not name.endswith("__"):
        stripped = of_class(owner, "__name__").lstrip("_")
        return f"_{stripped}{name}" if stripped else name  # as the compiler does it: `class __` keeps its names
    return name


def described(value: Any) -> str:
    """What a value is, for messages."""
    return f"an object of type {of_class(type(value), '__name__')}"

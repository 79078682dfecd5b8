"""The fields of an exception, read and written without any code of its class: neither `__init__` nor a property, `__reduce__` or `__str__`.

Rules:
- What `BaseException` keeps (arguments, `__dict__`, what it is chained to) is reached through the descriptors of `BaseException`; what its
  classes keep beside that, in slots or as members of a type written in C, through the descriptors of these.
- An exception is made by the `__new__` of the type written in C that its class derives from.
"""

from __future__ import annotations

import builtins
import struct
import types
from typing import Any, Dict, Optional, Sequence, Tuple, Type

from ..model.interrupts import raise_interrupt

_own: Any = BaseException.__dict__
get_args = _own["args"].__get__
set_args = _own["args"].__set__
get_attributes = _own["__dict__"].__get__
get_cause = _own["__cause__"].__get__
_set_cause = _own["__cause__"].__set__
get_context = _own["__context__"].__get__
set_context = _own["__context__"].__set__
get_suppress = _own["__suppress_context__"].__get__
_set_suppress = _own["__suppress_context__"].__set__
get_traceback = _own["__traceback__"].__get__
set_traceback = _own["__traceback__"].__set__

# From Python 3.11 on; the package of the same name for older ones keeps the members in attributes, as any class may.
GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)

_MEMBER = types.MemberDescriptorType
_mro_of = type.__dict__["__mro__"].__get__
_namespace_of = type.__dict__["__dict__"].__get__
_size_of = type.__dict__["__basicsize__"].__get__
_base_of = type.__dict__["__base__"].__get__
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__

_flags_of = type.__dict__["__flags__"].__get__

# What these have is no field of its own: it is chained, or given to a group when that is made.
_ELSEWHERE = (BaseException, Exception, GROUP)
# Of a class that a `class` statement made, or C code at run time.
_HEAP = 1 << 9
_POINTER = struct.calcsize("P")


def names_of(cls: type) -> Tuple[Tuple[str, str], ...]:
    """Module and qualified name of a class and of those that it derives from, nearest first."""
    found = []
    for one in _mro_of(cls):
        module = _module_of(one)
        if one is not object:
            found.append((module if type(module) is str else "?", str(_qualname_of(one))))
    return tuple(found)


def is_exception(value: Any) -> bool:
    """Whether a value is an exception; a proxy that says so is none."""
    return any(one is BaseException for one in _mro_of(type(value)))


def is_group(cls: type) -> bool:
    """Whether exceptions of that class are groups of exceptions."""
    return GROUP is not None and any(one is GROUP for one in _mro_of(cls))


def members_of(group: BaseException) -> Sequence[BaseException]:
    """The members of a group."""
    found: Sequence[BaseException] = _namespace_of(GROUP)["exceptions"].__get__(group)
    return found


def message_of(group: BaseException) -> str:
    """The message of a group."""
    return str(_namespace_of(GROUP)["message"].__get__(group))


# Of the built-in types, by `id`; they are for ever, and their members too.
_built_in: Dict[int, Dict[str, Any]] = {}


def _members_of(cls: type) -> Dict[str, Any]:
    """The descriptors of what a class itself adds."""
    found = _built_in.get(id(cls))
    if found is None:
        found = {}
        for name, raw in list(_namespace_of(cls).items()):
            if type(raw) is _MEMBER or (name == "characters_written" and cls is OSError):
                found[name] = raw
        if any(cls is elsewhere for elsewhere in _ELSEWHERE):
            found = {}
        if not _flags_of(cls) & _HEAP:
            _built_in[id(cls)] = found
    return found


def _descriptors(cls: type) -> Dict[str, Any]:
    places: Dict[str, Any] = {}
    for one in reversed(_mro_of(cls)):
        places.update(_members_of(one))
    return places


def get_fields(error: BaseException) -> Dict[str, Any]:
    """What is in the slots of an exception, and in the members of its type written in C."""
    found = {}
    for name, raw in _descriptors(type(error)).items():
        try:
            found[name] = raw.__get__(error)
        except AttributeError:
            pass  # nothing is in it
    return found


def set_fields(error: BaseException, values: Dict[str, Any]) -> None:
    """The inverse; what has no such place here becomes an attribute. Raises what a place that takes no value raises."""
    if not values:
        return
    places = _descriptors(type(error))
    for name, value in values.items():
        if name in places:
            # A member without a value gives None too. An OSError tells the two apart: with two to five arguments it has these.
            if value is not None or not _gives_none(places[name], error) or (name in _OF_TWO and 2 <= len(get_args(error)) <= 5):
                places[name].__set__(error, value)
        else:
            get_attributes(error)[name] = value


_OF_TWO = ("errno", "strerror")


def set_text(error: BaseException, text: str) -> None:
    """Have its text be this one, as far as its class makes it of its arguments."""
    set_args(error, (text,))
    if isinstance(error, OSError):
        # Without it the text is made of the arguments.
        error.strerror = None
        del error.strerror


def _gives_none(place: Any, error: BaseException) -> bool:
    try:
        return place.__get__(error) is None
    except AttributeError:
        return False


def set_chain(error: BaseException, cause: Optional[BaseException], context: Optional[BaseException], suppress: bool) -> None:
    """What it came of. To set a cause suppresses the context."""
    if cause is not None:
        _set_cause(error, cause)
    if context is not None:
        set_context(error, context)
    _set_suppress(error, suppress)


def come_of(error: BaseException, handled: Optional[BaseException]) -> None:
    """`handled` becomes the context of the first that has none, as if `error` and its contexts had been raised while it is handled.

    One that has no context gets it when it is raised.
    """
    if handled is None or get_context(error) is None:
        return
    here, seen = handled, set()
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        here = get_context(here)
    while id(error) not in seen:
        seen.add(id(error))
        if get_context(error) is None:
            set_context(error, handled)
        error = get_context(error)


def set_cause(error: BaseException, cause: Optional[BaseException]) -> None:
    """A cause, and all else as it was. Not by assignment, which an exception that is a frozen dataclass refuses."""
    suppress = get_suppress(error)
    _set_cause(error, cause)
    _set_suppress(error, suppress)


class CannotBeMade(Exception):
    """An exception of that class is not made by the `__new__` of a built-in one."""


def has_hidden_state(cls: type) -> bool:
    """Whether a type written in C that is not built in keeps something in its exceptions that no descriptor shows, or makes them itself."""
    try:
        _maker(cls)
    except CannotBeMade:
        return True
    while cls is not BaseException and _flags_of(cls) & _HEAP:
        base = _base_of(cls)
        namespace = _namespace_of(cls)
        shown = sum(type(raw) is _MEMBER for raw in namespace.values()) + ("__weakref__" in namespace)
        if _size_of(cls) - _size_of(base) > shown * _POINTER:
            return True
        cls = base
    return False


def _maker(cls: type) -> Any:
    """The `__new__` that Python allows for a class: that of the nearest type written in C."""
    owner: Any = cls
    while owner is not None:
        made = _namespace_of(owner).get("__new__")
        if type(made) is types.BuiltinFunctionType:
            if _module_of(owner) != "builtins":
                break
            return made
        owner = _base_of(owner)
    raise CannotBeMade(f"{_qualname_of(cls)} is made by code of its own")


def make(cls: Type[BaseException], message: str = "", members: Sequence[BaseException] = ()) -> BaseException:
    """An exception of that class with nothing in it; a group with its message and members. Raises `CannotBeMade`."""
    new = _maker(cls)
    try:
        found = new(cls, message, list(members)) if is_group(cls) else new(cls)
    except Exception as error:
        raise_interrupt(error, of_values=True)
        raise CannotBeMade(str(error)) from error
    if type(found) is not cls:
        raise CannotBeMade(f"{_qualname_of(cls)} is made by code of its own")
    result: BaseException = found
    return result

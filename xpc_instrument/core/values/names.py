"""What is shown of a value: its type, a short text, the text of an error.

Rule: no code of the value, its class or its metaclass runs. A class is read by `type` itself and compared by identity, since a metaclass
may define `==` and `__module__`. The text of an error is the exception: `describe` calls its `__str__`, and outlives what that raises.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..model.interrupts import raise_interrupt

# What a value's own code may raise while it is pickled, loaded or shown: it must not end the thread. KeyboardInterrupt is the user's.
FAULTS = (Exception, SystemExit, GeneratorExit)


def describe(error: BaseException) -> str:
    try:
        # What `__str__` gives may be a subclass of str with methods of its own; `join` makes a plain one.
        text = "".join((str(error), " "))[:-1]
    except FAULTS as fault:
        raise_interrupt(fault, of_values=True)
        text = "(its text cannot be had)"
    return f"{_name_of(type(error))}: {text[:300]}"


module_of = type.__dict__["__module__"].__get__
qualname_of = type.__dict__["__qualname__"].__get__
_name_of = type.__dict__["__name__"].__get__


def type_name(value: Any) -> str:
    """`module.Qualified` of a value's class, from the class itself: runs no code of the value, its class or its metaclass."""
    return class_name(type(value))


def class_name(cls: type) -> str:
    """The same of a class; one that was made in a namespace without a name has none of a module."""
    try:
        module = module_of(cls)
    except AttributeError:
        module = None
    return f"{module if type(module) is str else '?'}.{qualname_of(cls)}"


def instance_text(name: str, ident: int) -> str:
    """The text of an object of which no more is to be shown than its class and its `id`."""
    return f"{name} at {ident:#x}"


# By identity: a lookup in a tuple would compare with `==`, which a metaclass may define.
_SHOWN_WHOLE = frozenset(map(id, (float, complex, bool, type(None))))
_SEQUENCES = frozenset(map(id, (list, tuple, set, frozenset)))
_ITEMS_SHOWN = 4


def safe_repr(value: Any, depth: int = 2) -> str:
    """A short text for a value that runs no code of its class: built-in atoms and containers are shown, all else is named."""
    cls = type(value)
    kind = id(cls)
    if cls is int:
        return repr(value) if -(10**30) < value < 10**30 else f"<int of {value.bit_length()} bits>"
    if kind in _SHOWN_WHOLE:
        return repr(value)
    if cls is str or cls is bytes:
        return repr(value[:40]) + ("..." if len(value) > 40 else "")
    if depth and kind in _SEQUENCES:
        # The few that are shown are taken in one step, which no other thread can interrupt.
        items = tuple(itertools.islice(value, _ITEMS_SHOWN))
        shown = ", ".join([safe_repr(item, depth - 1) for item in items])
        return f"{cls.__name__}({shown}{', ...' if len(value) > _ITEMS_SHOWN else ''})"
    if depth and cls is dict:
        pairs = tuple(itertools.islice(value.items(), _ITEMS_SHOWN))
        shown = ", ".join([f"{safe_repr(k, depth - 1)}: {safe_repr(v, depth - 1)}" for k, v in pairs])
        return "{" + shown + (", ..." if len(value) > _ITEMS_SHOWN else "") + "}"
    return instance_text(type_name(value), id(value))

"""The classes that an object of the other side is an instance of, by name, and those of them that are here.

Rules:
- Nothing is imported for it, and no lazy attribute of a module is asked: a class is found in the module that it names, if that is loaded.
- What is in `__main__` there is not what is in `__main__` here.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .names import class_name, module_of, qualname_of

Ancestry = Tuple[Tuple[str, str], ...]
"""Module and qualified name of a class and of those that it derives from, in the order in which attributes are looked up."""

_mro_of = type.__dict__["__mro__"].__get__


def ancestry_of(value: Any) -> Ancestry:
    """That of a value's class. Runs no code of the class or its metaclass."""
    names = []
    for cls in _mro_of(type(value)):
        module = module_of(cls)
        names.append((module if type(module) is str else "?", qualname_of(cls)))
    return tuple(names)


def class_of(name: str, known: Dict[str, Ancestry], ask: Callable[[], Ancestry]) -> type:
    """What to take for the class of an object whose class has that full name: the class itself, or what is here of its ancestry.

    `known` has the ancestries that have been asked for, by full name; `ask` asks for this one.
    """
    ancestry = known.get(name)
    if ancestry is None:
        own = _by_full_name(name)
        if own is not None:
            return own
        ancestry = tuple(ask())
        if "<locals>" not in name:
            # Of classes that functions make there are several of one name.
            known[name] = ancestry
    here = [cls for cls in (_find(*one) for one in ancestry) if cls is not None] or [object]
    covered = set(map(id, _mro_of(here[0])))
    if all(id(cls) in covered for cls in here):
        return here[0]
    # A mixin, say, of a class that is not here itself.
    return _standing_for(ancestry[0][1], here)


def _by_full_name(name: str) -> Optional[type]:
    """The class whose full name that is: where in it the name of the module ends is not known."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        found = _find(".".join(parts[:count]), ".".join(parts[count:]))
        if found is not None and class_name(found) == name:
            return found
    return None


def _find(module_name: str, name: str) -> Optional[type]:
    """The class of that name, if it is here."""
    module = sys.modules.get(module_name)
    if module_name == "__main__" or not issubclass(type(module), types.ModuleType):
        return None
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part) if found is module or issubclass(type(found), type) else None
    if issubclass(type(found), type):
        return found  # type: ignore[no-any-return]
    return _BUILT_IN.get(name) if module_name == "builtins" else None


# Those that are built in and not in `builtins`: functions, generators, modules.
_BUILT_IN = {qualname_of(one): one for one in vars(types).values() if type(one) is type and module_of(one) == "builtins"}


def _standing_for(name: str, here: Sequence[type]) -> type:
    """A class that derives from all of them as far as `issubclass` goes: none of them is told of it, or lends it anything."""

    class Standing(type):
        def mro(cls) -> List[type]:
            return [cls, *here]

    try:
        return Standing(name.rpartition(".")[2], (), {})
    except TypeError:
        # One of them has a layout of its own in memory, as a subclass of `dict` has.
        return here[0]

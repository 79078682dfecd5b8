"""The texts of objects whose type is known: dates, decimals, paths, functions, made by C code, or from what their slots hold.

Each is for exactly that type, of which no code of the application is part; a time zone of the application's is named and not asked.
"""

from __future__ import annotations

import sys
import types
from builtins import all, any, id, type  # bound now: each may be the target of a hook, though a guard is up where these are used
from typing import Any, Callable, Dict, Tuple

from ..model.raw import MEMBER, MISSING, derives, find, label, namespace_of, qualname_of

# The text of a longer int takes too long to make.
_LONGEST_INT = 4000

_module_dict = namespace_of(types.ModuleType)["__dict__"].__get__


def exact(text: Any) -> str:
    """A str as one that is no instance of a subclass."""
    return text if type(text) is str else str.__str__(text)


def classes(module: str, *names: str) -> Tuple[Any, ...]:
    """Classes of a module, if that is loaded: only then can there be instances."""
    there = sys.modules.get(module)
    found = [] if there is None else [there.__dict__.get(name, MISSING) for name in names]
    return tuple(one for one in found if derives(type(one), type))


def long_int(value: Any) -> str:
    """The text of an int of any size, or of a subclass."""
    bits = int.bit_length(value)
    return int.__repr__(value) if bits <= _LONGEST_INT else f"<int of {bits} bits>"


def texts() -> Dict[int, Callable[[Any], str]]:
    """What gives the text of an instance of exactly these types, by the `id` of the type."""
    found: Dict[int, Callable[[Any], str]] = {
        id(complex): complex.__repr__,
        id(range): _range_text,
        id(type(...)): lambda value: "...",
        id(type(NotImplemented)): lambda value: "NotImplemented",
        id(types.FunctionType): _function_text,
        id(types.MethodType): lambda value: _function_text(value.__func__),
        id(types.BuiltinFunctionType): lambda value: exact(value.__name__),
        id(types.ModuleType): _module_text,
        id(types.CodeType): lambda value: exact(value.co_name),
    }
    for date in classes("datetime", "date"):
        found[id(date)] = date.isoformat
    for moment in classes("datetime", "datetime", "time"):
        found[id(moment)] = _clock_text(moment)
    for duration in classes("datetime", "timedelta"):
        found[id(duration)] = duration.__str__
    for decimal in classes("_decimal", "Decimal"):
        found[id(decimal)] = decimal.__str__
    for fraction in classes("fractions", "Fraction"):
        found[id(fraction)] = _of_slots(fraction, ("_numerator", "_denominator"), "{}/{}".format)
    for uuid in classes("uuid", "UUID"):
        found[id(uuid)] = _of_slots(uuid, ("int",), _uuid_text)
    for path in classes("pathlib", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
        found[id(path)] = _path_text
    return found


def _range_text(value: range) -> str:
    ends = value.start, value.stop, value.step
    return f"range({', '.join(map(str, ends))})" if all(type(one) is int for one in ends) else "range(...)"


def _function_text(value: Any) -> str:
    if type(value) is not types.FunctionType:
        return qualname_of(type(value))
    module, name = value.__module__, value.__qualname__
    return f"{module}:{exact(name)}" if type(module) is str else exact(name)


def _module_text(value: Any) -> str:
    namespace = _module_dict(value)
    name = namespace.get("__name__") if type(namespace) is dict else None
    return name if type(name) is str else "?"


def _clock_text(cls: Any) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        zone = cls.tzinfo.__get__(value)
        if zone is not None and not any(type(zone) is one for one in (*classes("datetime", "timezone"), *classes("zoneinfo", "ZoneInfo"))):
            # Its offset is the application's to tell.
            return f"{cls.isoformat(cls.replace(value, tzinfo=None))} ({label(type(zone))})"
        return cls.isoformat(value)  # type: ignore[no-any-return]

    return text


def _of_slots(cls: Any, names: Tuple[str, ...], form: Callable[..., str]) -> Callable[[Any], str]:
    readers = [namespace_of(cls)[name].__get__ for name in names]

    def text(value: Any) -> str:
        values = [read(value) for read in readers]
        return form(*values) if all(type(one) is int for one in values) else "?"

    return text


def _uuid_text(number: int) -> str:
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _path_text(value: Any) -> str:
    """A path from its slots: its own `__str__` keeps what it has made."""
    cls = type(value)

    def slot(name: str) -> Any:
        member = find(cls, name)[0]
        if type(member) is not MEMBER:
            return None
        try:
            return member.__get__(value)
        except AttributeError:
            return None

    separator = "\\" if "Windows" in qualname_of(cls) else "/"
    kept = slot("_str")
    if type(kept) is str:
        return kept
    parts, raw = slot("_parts"), slot("_raw_paths")
    if type(parts) is list and all(type(one) is str for one in parts):
        # Up to Python 3.11: drive and root are the first part.
        root = slot("_root")
        return (parts[0] + separator.join(parts[1:]) if root and parts else separator.join(parts)) or "."
    if type(raw) is list and all(type(one) is str for one in raw):
        return separator.join(raw) or "."
    return "?"

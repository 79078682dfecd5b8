"""Plain values: which there are, which are small, which cannot be changed, and copies of them. Decided here and nowhere else.

A value is plain if it can be copied without running anybody's code: exact atoms of Python, `bytes` and `str` among them; exact dates,
times, decimals, UUIDs and paths of the standard library; and exact lists, tuples, dicts, sets and frozensets of such.

Rules:
- A class is looked at by `type` and compared by identity: a metaclass may have a `__hash__` and an `__eq__` of its own.
- What a container holds is looked at, and pickled, as a copy of it: another thread may put anything into it between the two.
- Nothing is hashed or compared before it is known to be plain.
- Plain pickle copies a small plain value in one step. No code of the application runs while it is pickled, no name is looked up while it is
  loaded, and neither the size limit nor a module that the other side lacks can be in its way.
"""

from __future__ import annotations

import os
import pickle
import sys
import types
from typing import Any, Callable, Dict, Final, Iterable, List, Optional, Sequence, Tuple

PROTOCOL = 5
SCALARS = frozenset({int, float, complex, bool, type(None)})
# The types of values that cannot be changed in place.
ATOMS = SCALARS | {str, bytes}
# What counts as small: bytes or characters of a string, items of a container, containers within each other.
_SMALL_TEXT = 4096
_SMALL_COUNT = 16
_SMALL_DEPTH = 2
# What weighs nothing worth counting: a string up to this length, an integer up to this size.
SHORT = 512
BIG = 1 << 64
# What is plain has so many items at most, all its containers together, and so many containers within each other: to look at that many takes
# the application's thread 0.1 ms.
MOST_ITEMS = 1000
DEEPEST = 8

NOT_PLAIN: Final[Any] = object()
"""What `snapshot` gives for a value that is not plain."""


def is_atom(value: Any) -> bool:
    """Whether a value cannot be changed in place, and weighs nothing worth counting."""
    kind = type(value)
    if kind is int:
        return bool(-BIG < value < BIG)
    if kind is str or kind is bytes:
        return bool(len(value) <= SHORT)
    return kind is float or kind is bool or kind is complex or value is None


def are_small(values: Iterable[Any], depth: int = _SMALL_DEPTH) -> bool:
    """Whether all values are plain and small."""
    for value in values:
        kind = type(value)
        if kind is int or kind is float or kind is bool or value is None:
            continue
        if kind is str or kind is bytes:
            if len(value) > _SMALL_TEXT:
                return False
        elif kind is dict:
            # Copied in one step: another thread may change it meanwhile.
            if len(value) > _SMALL_COUNT or not depth:
                return False
            for key, inner in list(value.items()):
                kind = type(inner)
                plain = kind is int or (kind is str and len(inner) <= _SMALL_TEXT) or are_small((inner,), depth - 1)
                if not plain or not ((type(key) is str and len(key) <= _SMALL_TEXT) or are_small((key,), 0)):
                    return False
        elif kind is list or kind is tuple:
            if len(value) > _SMALL_COUNT or not depth or not are_small(tuple(value), depth - 1):
                return False
        elif kind is not complex:
            return False
    return True


def dump_if_small(value: Any, limit: int, dumps: Callable[[Any, int], bytes] = pickle.dumps) -> Optional[bytes]:
    """The pickle of a plain and small value that is within the limit; None of any other."""
    # Asked of most results: to call `are_small` for a scalar takes as long as to pickle it.
    kind = type(value)
    if not (kind is int or value is None or kind is bool or kind is float) and not are_small((value,)):
        return None
    body = dumps(value, PROTOCOL)
    return body if len(body) <= limit else None


def dumper_of_small_calls(
    limit: int, dumps: Callable[[Any, int], bytes] = pickle.dumps
) -> Callable[[Tuple[Any, ...], Dict[str, Any], Tuple[Any, ...], Any], Optional[bytes]]:
    """What pickles the record `(args, kwargs, meta, outcome)` of a call whose values are all plain and small, in at most `limit` bytes.

    It gives None for any other record. A function of its own for each limit: one call fewer for each call of a hook.
    """

    def dump_call(args: Tuple[Any, ...], kwargs: Dict[str, Any], meta: Tuple[Any, ...], outcome: Any) -> Optional[bytes]:
        if not are_small(args) or (kwargs and not are_small(kwargs.values())) or (outcome is not None and not are_small((outcome,))):
            return None
        body = dumps((args, kwargs, meta, outcome), PROTOCOL)
        return body if len(body) <= limit else None

    return dump_call


# copies ------------------------------------------------------------------------------------------------------------------


class Snapshots:
    """Makes copies of plain values that together are to fit into `room` bytes.

    `named` says whether there is a value among them whose pickle names its type, which only `pickling.dump_plain` may pickle; `large`,
    whether one was not copied because there was no room for it.
    """

    __slots__ = ("_items", "_names", "large", "named", "room")

    def __init__(self, room: int, *, names: bool = True) -> None:
        self.room = room
        self.large = self.named = False
        self._names = names
        self._items = 0

    def of(self, value: Any) -> Any:
        """A copy of a plain value that shares nothing with it that can be changed; `NOT_PLAIN` for any other, or one that is too large."""
        self._items = MOST_ITEMS
        room = self.room
        copy = self._of(value, DEEPEST)
        if copy is NOT_PLAIN:
            self.room = room
        return copy

    def _of(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str or kind is bytes:
            return value if self._fits(len(value)) else NOT_PLAIN
        if kind is int:
            return value if -BIG < value < BIG or self._fits(value.bit_length() // 8) else NOT_PLAIN
        if kind is float or kind is bool or value is None or kind is complex:
            return value
        if kind is dict or kind is list or kind is tuple or kind is set or kind is frozenset:
            self._items -= len(value)
            if not depth or self._items < 0 or not self._fits(4 * len(value)):
                return NOT_PLAIN
            return self._dict(value, depth - 1) if kind is dict else self._sequence(value, kind, depth - 1)
        if kind is bytearray:
            return bytearray(value) if self._fits(len(value)) else NOT_PLAIN
        if self._names and _is_named(value, kind):
            self.named = True
            return value
        return NOT_PLAIN

    def _fits(self, size: int) -> bool:
        self.room -= size
        if self.room >= 0:
            return True
        self.large = True
        return False

    def _dict(self, value: Dict[Any, Any], depth: int) -> Any:
        try:
            pairs = list(value.items())
        except RuntimeError:
            # A garbage collection in the middle of it had another thread, or a finalizer, change it.
            return NOT_PLAIN
        keys = self._all([key for key, _ in pairs], depth)
        values = None if keys is None else self._all([inner for _, inner in pairs], depth)
        return NOT_PLAIN if values is None or keys is None else dict(zip(keys, values))

    def _sequence(self, value: Any, kind: type, depth: int) -> Any:
        # Each in one step; a copy of a set compares nothing, and what is in one cannot be changed.
        whole = value if kind is tuple or kind is frozenset else value.copy()
        items = self._all(whole, depth) if kind is tuple or kind is list else self._all(tuple(whole), depth)
        if items is None:
            return NOT_PLAIN
        if kind is list:
            return items
        return tuple(items) if kind is tuple else whole

    def _all(self, items: Sequence[Any], depth: int) -> Optional[List[Any]]:
        copies = []
        for item in items:
            kind = type(item)
            if kind is int and -BIG < item < BIG:
                copies.append(item)
                continue
            copy = self._of(item, depth)
            if copy is NOT_PLAIN:
                return None
            copies.append(copy)
        return copies


def snapshot(value: Any, room: int) -> Any:
    """A copy of a plain value that fits into about `room` bytes, or `NOT_PLAIN`; it shares nothing with it that can be changed."""
    return Snapshots(room).of(value)


# what pickles under a name -------------------------------------------------------------------------------------------------

# The types of the standard library that are plain, and the modules that have them. None is imported here: there is no value of a type
# before somebody has.
_PATHS = frozenset({"PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"})
NAMED: Dict[str, Tuple[str, ...]] = {
    **dict.fromkeys(("date", "datetime", "time", "timedelta", "timezone"), ("datetime",)),
    **dict.fromkeys(_PATHS, ("pathlib",)),
    "Decimal": ("decimal",),
    "UUID": ("uuid",),
    # As the C module has it, of which it is in both.
    "ZoneInfo": ("_zoneinfo",),
}
_LIBRARY = os.path.dirname(os.__file__)
name_of = type.__dict__["__name__"].__get__

# The types that have been found, by `id`.
_found: Dict[int, type] = {}

REDUCERS: Dict[type, Callable[[Any], Any]] = {}
"""For the `dispatch_table` of a pickler: with it, none that the application has registered with `copyreg` is asked."""


def _is_named(value: Any, kind: type) -> bool:
    """Whether a value is of a plain type that pickles under its name."""
    if id(kind) not in _found and not _find(kind):
        return False
    name = name_of(kind)
    if name in ("datetime", "time"):
        zone = value.tzinfo
        return zone is None or (name_of(type(zone)) in ("timezone", "ZoneInfo") and _is_named(zone, type(zone)))
    # One that was read from a file has no key, and cannot be pickled.
    return name != "ZoneInfo" or type(kind.__dict__["key"].__get__(value)) is str


def _find(kind: type) -> bool:
    name = name_of(kind)
    for module_name in NAMED.get(name, ()):
        module = sys.modules.get(module_name)
        # As it is in the module, and the module that of the standard library, not one of the application's that hides it.
        if type(module) is not types.ModuleType or module.__dict__.get(name) is not kind:
            continue
        file = module.__dict__.get("__file__")
        if file is None or (type(file) is str and file.startswith(_LIBRARY)):
            _found[id(kind)] = kind
            if name in _PATHS:
                REDUCERS[kind] = _reduce_path
            return True
    return False


def _reduce_path(path: Any) -> Any:
    # By itself its pickle names a module that only some versions of Python have.
    return path_of, (name_of(type(path)), str(path))


def path_of(name: str, text: str) -> Any:
    """A path of that type, or of the pure one where this system has none such."""
    import pathlib

    if name not in _PATHS:
        raise ValueError(f"{name!r:.40} is no type of paths")
    try:
        return getattr(pathlib, name)(text)
    except NotImplementedError:
        return getattr(pathlib, f"Pure{name}")(text)


# comparing ---------------------------------------------------------------------------------------------------------------


def alike(one: Any, other: Any, depth: int = 2 * DEEPEST) -> bool:
    """Whether two plain values are equal in type and value all the way down, the order of a dict and the sign of zero included.

    False where one of them is not plain, or nested deeper than `depth`.
    """
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is int or kind is str or kind is bytes or kind is bool or one is None or kind is bytearray:
        return bool(one == other)
    if kind is float:
        # That of what is no number is equal too.
        return bool(one.hex() == other.hex())
    if not depth:
        return False
    if kind is list or kind is tuple:
        return len(one) == len(other) and all(alike(left, right, depth - 1) for left, right in zip(one, other))
    if kind is dict:
        return len(one) == len(other) and all(
            alike(left, right, depth - 1) and alike(one[left], other[right], depth - 1) for left, right in zip(one, other)
        )
    if kind is set or kind is frozenset:
        if snapshot(one, sys.maxsize) is NOT_PLAIN or snapshot(other, sys.maxsize) is NOT_PLAIN:
            return False
        same = {item: item for item in other}
        return len(one) == len(other) and all(item in same and alike(item, same[item], depth - 1) for item in one)
    if kind is complex or _is_named(one, kind):
        # Which tells apart what is equal by `==`: 1.0 and 1.00, an hour in two time zones. Pickles of equal paths may differ.
        return repr(one) == repr(other)
    return False

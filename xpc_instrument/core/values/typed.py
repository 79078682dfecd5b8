"""Values in full, as plain data that JSON takes and from which they can be made again: for recordings.

Rules:
- No code of the application runs: fields are read from the instance's own `__dict__` and slots, as for captures (`captures.py`).
- Nothing is shortened. What cannot be made again, and what no longer fits, stands there as a cut that says why; the rest is whole.
- All values of one call share one `Room`. What is redacted is not read.
- An object that is in several places is written in each of them; one that contains itself is a cut, "cycle".

A tree is None, a bool, an int of 64 bits, a float that is a number, a str, a list of trees, a dict of trees by text, or one of these:

    {"type": "int", "text": "..."}                      what has a text: a long int, a float that is none, a date, a decimal, a path
    {"type": "tuple", "items": [...]}                   a container; of a dict with other keys, or with the key "type", each item is a pair
    {"type": "bytes", "base64": "..."}
    {"type": "shop.models:Colour", "member": "RED"}     a member of an enum; {"value": 3} where a flag has no name
    {"type": "shop.models:Point", "tuple": {...}}       a named tuple
    {"type": "shop.models:Order", "fields": {...}}      an object
    {"type": "shop:Declined", "args": [...], "fields": {...}}   an exception
    {"type": "type", "name": "shop.models:Order"}       a class; "function" likewise
    {"type": "...", "cut": why}                         "redacted", "cycle", "size", "depth", "changed", or "type": cannot be made again
"""

from __future__ import annotations

import struct
import types
from binascii import b2a_base64
from builtins import all, any, id, len, type  # bound now: each may be the target of a hook
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..model.raw import GETSET, MEMBER, derives, find, is_heap, label, mro_of, name_in, namespace_of
from .fields import get_args, get_attributes, get_fields
from .readers import readers_of
from .redaction import Redaction
from .texts import classes, long_int, texts

MOST_BYTES = 256 * 1024
"""Of the values of one call with its inner calls, about; what no longer fits is a cut."""

Tree = Any
Show = Callable[["Room", Any, Any, int], Tree]

_BIG = 1 << 63
# Deeper values would need the stack of a thread that is deep already.
_DEEPEST = 50
# What a value takes beside its text.
_EACH = 8
_MOST_SHAPES = 2048
_POINTER = struct.calcsize("P")

# What has a text from which it is made again, by where the type is found.
TEXTS = (
    ("_decimal", "Decimal", "decimal.Decimal"),
    ("fractions", "Fraction", "fractions.Fraction"),
    ("uuid", "UUID", "uuid.UUID"),
    ("datetime", "date", "datetime.date"),
    ("pathlib", "PosixPath", "pathlib.PosixPath"),
    ("pathlib", "PurePosixPath", "pathlib.PurePosixPath"),
    ("pathlib", "WindowsPath", "pathlib.WindowsPath"),
    ("pathlib", "PureWindowsPath", "pathlib.PureWindowsPath"),
)
_SEQUENCES: Tuple[Any, ...] = (tuple, set, frozenset)
# Whose length is known without asking any code of theirs.
_SIZED = frozenset((list, dict, *_SEQUENCES))


def cut(kind: str, why: str) -> Tree:
    """What stands in the place of a value that is not there."""
    return {"type": kind, "cut": why}


class Encoder:
    """Makes trees for one hook; any thread may use it at any time."""

    __slots__ = ("_redaction", "shapes")

    def __init__(self, redaction: Optional[Redaction] = None) -> None:
        self._redaction = Redaction() if redaction is None else redaction
        self.shapes: Dict[int, Tuple[type, str, Show, Any]] = {}

    def room(self, most: int = MOST_BYTES) -> Room:
        """For the values of one call."""
        return Room(self._redaction, self.shapes, most)

    def encode(self, value: Any) -> Tree:
        """The tree of a value that has a room of its own. Raises nothing but what interrupts the thread."""
        return self.room().value(value)

    def forget(self) -> None:
        """Let go of the types that were seen; any thread may, at any time."""
        self.shapes.clear()


class Room:
    """What the values of one call may still take, in bytes."""

    __slots__ = ("_known", "_open", "_redaction", "_shapes", "left")

    def __init__(self, redaction: Redaction, shapes: Dict[int, Tuple[type, str, Show, Any]], most: int) -> None:
        self.left = most
        self._redaction = redaction
        self._known = redaction.known.get
        self._shapes = shapes
        # The containers and objects around the value that is being read.
        self._open: Dict[int, Any] = {}

    def value(self, value: Any, depth: int = 0) -> Tree:
        """The tree of a value."""
        kind = type(value)
        self.left -= _EACH
        if kind is str:
            size = len(value)
            if size > self.left:
                return cut("str", "size")
            self.left -= size
            return value
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -_BIG < value < _BIG else self._text(kind, "int", long_int(value))
        if kind is float:
            # Neither infinite nor "not a number", of which JSON has none.
            return value if value - value == 0.0 else {"type": "float", "text": float.__repr__(value)}
        shape = self._shapes.get(id(kind))
        if shape is None:
            shape = self._shape_of(kind)
        _, name, show, _how = shape
        if self.left < 0 or (kind in _SIZED and len(value) * _EACH > self.left):
            # Before anything of it is copied or walked: each of its values takes so much at least.
            return cut(name, "size")
        address = id(value)
        if address in self._open:
            return cut(name, "cycle")
        if depth > _DEEPEST:
            return cut(name, "depth")
        self._open[address] = value
        try:
            return show(self, value, shape, depth + 1)
        except RuntimeError:
            # Changed by another thread while it was iterated over; or a stack that is used up.
            return cut(name, "changed")
        finally:
            self._open.pop(address, None)

    def named(self, name: str, value: Any, depth: int = 0) -> Tree:
        """The tree of what lies under a name."""
        hidden = self._known(name)
        if hidden is None:
            hidden = self._redaction.hides(name)
        return cut("", "redacted") if hidden else self.value(value, depth)

    def _text(self, kind: Any, name: str, text: str) -> Tree:
        self.left -= len(text)
        return cut(name, "size") if self.left < 0 or text.startswith("<") else {"type": name, "text": text}

    def items(self, values: Any, depth: int) -> List[Tree]:
        """The trees of several values."""
        one = self.value
        if len(values) == 2:
            # A name and its value, as headers are kept.
            name = name_in(values[0])
            if name is not None:
                return [one(values[0], depth), self.named(name, values[1], depth)]
        return [one(value, depth) for value in values]

    def _shape_of(self, cls: type) -> Tuple[type, str, Show, Any]:
        show, how = (_cut, "redacted") if self._redaction.hides_type(cls) else _how(cls)
        shape = (cls, label(cls), show, how)
        if len(self._shapes) >= _MOST_SHAPES:
            self._shapes.clear()
        self._shapes[id(cls)] = shape
        return shape


# how each kind is told --------------------------------------------------------------------------------------------------


def _cut(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    return cut(shape[1], shape[3])


def _list(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    return room.items(list.copy(value), depth)


def _sequence(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    return {"type": shape[1], "items": room.items(list(shape[0].__iter__(value)), depth)}


def _deque(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    if len(value) * _EACH > room.left:
        return cut(shape[1], "size")
    return {"type": shape[1], "items": room.items(list(shape[0].__iter__(value)), depth), "most": shape[0].maxlen.__get__(value)}


def _dict(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    if dict.__len__(value) * _EACH > room.left:
        return cut(shape[1], "size")
    pairs = list(dict.items(value))
    named, one = room.named, room.value
    if shape[0] is dict and all(type(key) is str for key, _ in pairs) and "type" not in [key for key, _ in pairs]:
        room.left -= sum(len(key) for key, _ in pairs)
        if room.left < 0:
            return cut(shape[1], "size")
        return {key: named(key, item, depth) for key, item in pairs}
    found = []
    for key, item in pairs:
        name = name_in(key)
        found.append([one(key, depth), one(item, depth) if name is None else named(name, item, depth)])
    return {"type": shape[1], "items": found}


def _bytes(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    size = len(value) * 4 // 3
    if size > room.left:
        return cut(shape[1], "size")
    room.left -= size
    return {"type": shape[1], "base64": b2a_base64(value, newline=False).decode("ascii")}


def _text(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    name, text = shape[3]
    return room._text(None, name, text(value))


def _clock(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    cls = shape[0]
    zone = cls.tzinfo.__get__(value)
    tree: Dict[str, Any] = {"type": f"datetime.{cls.__name__}"}
    if zone is not None and any(type(zone) is one for one in classes("zoneinfo", "ZoneInfo")):
        key = object.__getattribute__(zone, "key")
        if type(key) is not str:
            return cut(shape[1], "type")
        tree["zone"] = key
        value = cls.replace(value, tzinfo=None)
    elif zone is not None and not any(type(zone) is one for one in classes("datetime", "timezone")):
        # Its offset is the application's to tell.
        return cut(label(type(zone)), "type")
    tree["text"] = cls.isoformat(value)
    if cls.fold.__get__(value):
        tree["fold"] = 1
    return tree


def _span(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    cls = shape[0]
    return {"type": "datetime.timedelta", "items": [getattr(cls, part).__get__(value) for part in ("days", "seconds", "microseconds")]}


def _zone(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    span = shape[0].utcoffset(value, None)
    return {"type": "datetime.timezone", "items": [span.days, span.seconds, span.microseconds]}


def _range(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    return {"type": "range", "items": room.items((value.start, value.stop, value.step), depth)}


def _complex(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    return {"type": "complex", "text": complex.__repr__(value)}


def _class(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    name = label(value)
    return cut("type", "type") if "<locals>" in name else {"type": "type", "name": name}


def _function(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    module, name = value.__module__, value.__qualname__
    if type(module) is not str or "<" in name:
        return cut("function", "type")
    return {"type": "function", "name": f"{module}:{name}"}


def _enum(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    namespace = shape[3](value)
    if type(namespace) is not dict:
        return cut(shape[1], "type")
    name = namespace.get("_name_")
    if type(name) is str and "|" not in name:
        return {"type": shape[1], "member": name}
    number = namespace.get("_value_")
    return {"type": shape[1], "value": number} if type(number) is int else cut(shape[1], "type")


def _named_tuple(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    return {"type": shape[1], "tuple": {name: room.named(name, one, depth) for name, one in zip(shape[3], tuple.__iter__(value))}}


def _exception(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    args = get_args(value)
    if len(args) * _EACH > room.left:
        return cut(shape[1], "size")
    fields = dict(get_fields(value))
    attributes = get_attributes(value)
    if type(attributes) is dict:
        fields.update(attributes)
    shown = {name: room.named(name, one, depth) for name, one in fields.items() if type(name) is str and one is not None}
    # What a note says is of the traceback, and no part of what was raised.
    shown.pop("__notes__", None)
    return {"type": shape[1], "args": room.items(args, depth), "fields": shown}


def _object(room: Room, value: Any, shape: Any, depth: int) -> Tree:
    read_namespace, slots = shape[3]
    found: Dict[str, Tree] = {}
    for name, read in slots:
        try:
            one = read(value)
        except AttributeError:
            continue
        found[name] = room.named(name, one, depth)
    namespace = None if read_namespace is None else read_namespace(value)
    if type(namespace) is dict:
        if len(namespace) * _EACH > room.left:
            return cut(shape[1], "size")
        for name, one in namespace.copy().items():
            if type(name) is not str:
                return cut(shape[1], "type")
            room.left -= len(name)
            found[name] = room.named(name, one, depth)
    return {"type": shape[1], "fields": found}


# what a type is ---------------------------------------------------------------------------------------------------------


def _how(cls: type) -> Tuple[Show, Any]:
    exactly: Dict[int, Show] = {
        id(list): _list,
        id(dict): _dict,
        id(bytes): _bytes,
        id(bytearray): _bytes,
        id(range): _range,
        id(complex): _complex,
        id(types.FunctionType): _function,
        **{id(one): _sequence for one in _SEQUENCES},
        **{id(one): _deque for one in classes("collections", "deque")},
        **{id(one): _dict for one in classes("collections", "OrderedDict")},
        **{id(one): _clock for one in classes("datetime", "datetime", "time")},
        **{id(one): _span for one in classes("datetime", "timedelta")},
        **{id(one): _zone for one in classes("datetime", "timezone")},
    }
    show = exactly.get(id(cls))
    if show is not None:
        return show, None
    for module, name, shown in TEXTS:
        if any(cls is one for one in classes(module, name)):
            return _text, (shown, texts()[id(cls)])
    if derives(cls, type):
        return _class, None
    if "<locals>" in label(cls):
        return _cut, "type"
    if derives(cls, BaseException):
        return _exception, None
    namespace = find(cls, "__dict__")[0]
    if any(derives(cls, one) for one in classes("enum", "Enum")) and type(namespace) is GETSET:
        return _enum, namespace.__get__
    names = find(cls, "_fields")[0]
    if derives(cls, tuple) and type(names) is tuple and all(type(one) is str for one in names) and is_plain(cls, tuple):
        return _named_tuple, names
    return (_object, (readers_of(cls)[0], _slots_of(cls))) if is_plain(cls) else (_cut, "type")


def _slots_of(cls: type) -> List[Tuple[str, Callable[[Any], Any]]]:
    """The names and readers of all slots, those of Python's own form too: pydantic keeps in such what a model needs."""
    found = [pair for one in mro_of(cls) if is_heap(one) for pair in namespace_of(one).items()]
    return [(name, member.__get__) for name, member in found if type(name) is str and type(member) is MEMBER]


def is_plain(cls: type, base: type = object) -> bool:
    """Whether all that an instance has beside what `base` keeps is in its `__dict__` and in slots, and no type written in C makes it."""
    line = mro_of(cls)
    if line[-2 if base is not object else -1] is not base:
        return False
    size_of = namespace_of(type)["__basicsize__"].__get__
    base_of = namespace_of(type)["__base__"].__get__
    one = cls
    while one is not base:
        if one is None or not is_heap(one) or type(namespace_of(one).get("__new__")) is types.BuiltinFunctionType:
            return False
        namespace, above = namespace_of(one), base_of(one)
        places = sum(type(raw) is MEMBER for raw in namespace.values()) + ("__weakref__" in namespace) + ("__dict__" in namespace)
        if base is object and size_of(one) - size_of(above) > places * _POINTER:
            return False
        one = above
    return all(is_heap(other) or other is base or other is object for other in line)

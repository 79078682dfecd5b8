"""Captures: what a value holds, bounded while it is read, as plain data that `marshal` takes; for events, which refer to nothing.

Rules:
- No code of the application runs. Fields are read from the instance's own `__dict__` and slots by the descriptors of the type, never as
  attributes; built-in containers by the functions of the built-in type; what else has a text (a date, a decimal, a path) by the C code of
  exactly that type. No `repr`, no property, no `__iter__`, no `__len__` of the application's.
- It is bounded by depth, items, fields, length of texts, nodes and time, so that a value of any size takes up to some milliseconds.
- What is redacted is not read: see `redaction.py`.
- The thread that has the value captures it, since it changes; a container is copied in one step where it is short, and one that another
  thread changes meanwhile is told as "changed".
- On 3.11 and 3.12 reading an instance's `__dict__` slows later reads of that instance's attributes by 5 to 20 ns each, since Python makes
  the dict then; there is no other way to know which attributes it has.

A tree is an atom (None, bool, an int of 64 bits, float, a str that is not too long) or one of these tuples:

    ("s", text, length)                     a str that was cut
    ("b", bytes, length)                    bytes, bytearray
    ("q", type, [tree, ...], size)          a sequence or set
    ("d", type, [(tree, tree), ...], size)  a mapping
    ("o", type, [(name, tree), ...], size)  an object and its fields
    ("t", type, text)                       what has a text: a date, an enum member, a class, a long int
    ("e", type, [tree, ...], [(file, line, function), ...], cause, [(name, tree), ...])  an exception: arguments, innermost frames, fields
    ("a", type, dtype, shape)               an array of numpy
    ("!", why, type, size)                  left out: "depth", "items", "time", "redacted", "changed"; size is None or that of a container
    ("@", type)                             was seen further up
"""

from __future__ import annotations

from builtins import (  # bound now: each may be the target of a hook, though a guard is up where these are used
    all,
    any,
    id,
    len,
    slice,
    type,
)
from itertools import islice
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..model.raw import GETSET, derives, find, label, name_in, namespace_of
from ..unpatched import perf_counter
from .readers import readers_of
from .redaction import Redaction
from .texts import classes, exact, long_int, texts

Tree = Any
Pairs = List[Tuple[Any, Tree]]


class CaptureLimits(NamedTuple):
    """How much of a value is captured; what peers show: Datadog 2 levels, 100 items, 255 characters, 20 fields."""

    depth: int = 2
    """Levels of containers and objects."""

    items: int = 100
    """Of one container."""

    fields: int = 50
    """Of one object."""

    text: int = 255
    """Characters of a text, or bytes."""

    nodes: int = 1000
    """Values in all."""

    seconds: float = 0.002
    """Time in all."""

    frames: int = 30
    """Innermost frames of the traceback of an exception."""

    size: int = 16 * 1024
    """Characters of longer texts in all; when they are used up, a text is cut to the length of a short one."""


MOST_DEPTH = 5
DEFAULT_CAPTURE = CaptureLimits()

REDACTED: Tree = ("!", "redacted", None, None)
SHORT = 33
"""Texts of fewer characters are taken without a further look."""
BIG = 1 << 63
"""Integers between this and its negative are atoms."""
_MOST_ARGS = 10
# A name of the application's may be of any length.
_LONGEST_NAME = 255
_CHECKED = 64
_MOST_SHAPES = 2048
_LONGEST_CHAIN = 5


_error: Any = BaseException.__dict__
_args_of, _trace_of, _cause_of = _error["args"].__get__, _error["__traceback__"].__get__, _error["__cause__"].__get__
_context_of, _suppress_of = _error["__context__"].__get__, _error["__suppress_context__"].__get__

Show = Callable[["_Walk", Any, "Shape", int], Tree]


class Shape:
    """What a type is captured as; `cls` is kept so that its `id` stays its own, until `Capturer.forget`."""

    __slots__ = ("cls", "extra", "is_leaf", "label", "show", "size")

    def __init__(
        self, cls: type, show: Show, label: str, extra: Any = None, is_leaf: bool = False, size: Optional[Callable[[Any], int]] = None
    ) -> None:
        self.cls, self.show, self.label, self.extra, self.is_leaf, self.size = cls, show, label, extra, is_leaf, size


class Capturer:
    """Captures values for one hook; any thread may use it at any time."""

    __slots__ = ("_limits", "_redaction", "_shapes")

    def __init__(self, limits: CaptureLimits = DEFAULT_CAPTURE, redaction: Optional[Redaction] = None) -> None:
        self._limits = limits._replace(depth=max(0, min(limits.depth, MOST_DEPTH)))
        self._redaction = Redaction() if redaction is None else redaction
        self._shapes: Dict[int, Shape] = {}

    def forget(self) -> None:
        """Let go of the types that were seen; any thread may, at any time. What a type is captured as is found anew."""
        self._shapes.clear()

    def capture(self, value: Any, depth: Optional[int] = None) -> Tree:
        """The tree of a value. Raises nothing but what interrupts the thread."""
        kind = type(value)
        if kind is str:
            if len(value) < SHORT:
                return value
        elif kind is int:
            if -BIG < value < BIG:
                return value
        elif kind is float or value is None or kind is bool:
            return value
        return _Walk(self._limits, self._redaction, self._shapes).value(value, self._limits.depth if depth is None else depth)

    def named(self, name: str, value: Any) -> Tree:
        """The tree of what lies under a name, as an argument: redacted if that hides it."""
        hidden = self._redaction.known.get(name)
        if hidden is None:
            hidden = self._redaction.hides(name)
        return REDACTED if hidden else self.capture(value)

    def pairs(self, names: Any, values: Any) -> Pairs:
        """The trees of several values by name, captured within the same limits."""
        walk = _Walk(self._limits, self._redaction, self._shapes)
        out: Pairs = []
        for name, value in zip(names, values):
            out.append((name, walk.field(name, value, self._limits.depth)))
        return out


class _Walk:
    """One capture: what is left of the limits, and what was seen."""

    __slots__ = ("hides", "known", "left", "limits", "most_fields", "redaction", "room", "seen", "shapes", "until")

    def __init__(self, limits: CaptureLimits, redaction: Redaction, shapes: Dict[int, Shape]) -> None:
        self.limits = limits
        self.most_fields = limits.fields
        self.redaction = redaction
        self.known = redaction.known.get
        self.shapes = shapes
        self.left = limits.nodes
        self.room = limits.size
        self.seen: Dict[int, Any] = {}
        self.until = 0.0

    def value(self, value: Any, depth: int) -> Tree:
        """The tree of a value."""
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is int:
            return value if -BIG < value < BIG else ("t", "int", long_int(value))
        if kind is float or value is None or kind is bool:
            return value
        shape = self.shapes.get(id(kind))
        if shape is None:
            shape = self.shape_of(kind)
        self.left -= 1
        if self.left < 0:
            return "!", "items", shape.label, None
        if not self.left % _CHECKED:
            now = perf_counter()
            if not self.until:
                self.until = now + self.limits.seconds
            elif now > self.until:
                self.left = 0
                return "!", "time", shape.label, None
        if shape.is_leaf:
            return shape.show(self, value, shape, 0)
        if depth <= 0:
            return "!", "depth", shape.label, None if shape.size is None else shape.size(value)
        address = id(value)
        if address in self.seen:
            return "@", shape.label
        # The object too, so that its `id` stays its own.
        self.seen[address] = value
        try:
            return shape.show(self, value, shape, depth - 1)
        except RuntimeError:
            # Changed by another thread while it was iterated over.
            return "!", "changed", shape.label, None

    def text(self, value: str) -> Tree:
        """The same of a str."""
        most = self.limits.text if self.room > 0 else SHORT - 1
        length = len(value)
        self.room -= min(length, most)
        return value if length <= most else ("s", value[:most], length)

    def field(self, name: str, value: Any, depth: int) -> Tree:
        """The same of what lies under a name."""
        hidden = self.known(name)
        if hidden is None:
            hidden = self.redaction.hides(name)
        if hidden:
            return REDACTED
        kind = type(value)
        if kind is int:
            if -BIG < value < BIG:
                return value
        elif kind is str:
            if len(value) < SHORT:
                return value
        elif kind is float or value is None or kind is bool:
            return value
        return self.value(value, depth)

    def shape_of(self, cls: type) -> Shape:
        """What a type is captured as."""
        shape = Shape(cls, _hidden, "", is_leaf=True) if self.redaction.hides_type(cls) else _shape(cls)
        if len(self.shapes) >= _MOST_SHAPES:
            self.shapes.clear()
        self.shapes[id(cls)] = shape
        return shape

    def items(self, items: Any, depth: int) -> List[Tree]:
        """The trees of several values."""
        big, short, value_of = BIG, SHORT, self.value
        return [
            one
            if (kind := type(one)) is float
            or one is None
            or (kind is int and -big < one < big)
            or (kind is str and len(one) < short)
            or kind is bool
            else value_of(one, depth)
            for one in items
        ]

    def count(self, size: int, most: int) -> int:
        """How many of `size` items are captured."""
        taken = min(size, most, max(self.left, 0))
        self.left -= taken
        return taken


# how each kind is shown -----------------------------------------------------------------------------------------------------


def _hidden(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    return REDACTED


def _sequence(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    base = shape.extra
    size = base.__len__(value)
    if not size:
        return "q", shape.label, [], 0
    taken = walk.count(size, walk.limits.items)
    if base is list:
        items: Any = list.__getitem__(value, slice(0, taken))
    elif base is tuple:
        items = tuple.__getitem__(value, slice(0, taken))
    else:
        items = list(islice(base.__iter__(value), taken))
    if size == 2 and taken == 2:
        # A name and its value, as headers are kept.
        name = name_in(items[0])
        if name is not None and walk.redaction.hides(name):
            return "q", shape.label, [walk.value(items[0], depth), REDACTED], size
    return "q", shape.label, walk.items(items, depth), size


def _mapping(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    size = dict.__len__(value)
    taken = walk.count(size, walk.limits.items)
    # A copy of a subclass would ask its `keys`.
    pairs = dict.items(value.copy()) if shape.cls is dict and taken == size else list(islice(dict.items(value), taken))
    out: Pairs = []
    known, field, big, short, longest, add = walk.known, walk.field, BIG, SHORT, _LONGEST_NAME, out.append
    for key, one in pairs:
        if type(key) is str:
            # As `field`, without a call for what is hidden by no name and an atom.
            if known(key) is False and (
                (kind := type(one)) is float
                or one is None
                or (kind is int and -big < one < big)
                or (kind is str and len(one) < short)
                or kind is bool
            ):
                tree = one
            else:
                tree = field(key, one, depth)
            add((key if len(key) <= longest else walk.text(key), tree))
        else:
            name = name_in(key)
            hidden = name is not None and walk.redaction.hides(name)
            out.append((walk.value(key, depth), REDACTED if hidden else walk.value(one, depth)))
    return "d", shape.label, out, size


def _object(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    out: Pairs = []
    read_namespace, slots = shape.extra
    most, size = walk.most_fields, 0
    for name, read in slots:
        try:
            one = read(value)
        except AttributeError:
            continue
        size += 1
        if len(out) < most:
            out.append((name, walk.field(name, one, depth)))
    namespace = None if read_namespace is None else read_namespace(value)
    if type(namespace) is dict:
        size += len(namespace)
        pairs: Any = namespace.copy().items()
        if size > most:
            pairs = list(islice(pairs, max(0, most - len(out))))
        known, value_of, big, short, longest, add = walk.known, walk.value, BIG, SHORT, _LONGEST_NAME, out.append
        for name, one in pairs:
            if type(name) is not str:
                continue
            # As `field`, one call less.
            hidden = known(name)
            if hidden is None:
                hidden = walk.redaction.hides(name)
            kind, tree = type(one), one
            if hidden:
                tree = REDACTED
            elif kind is str:
                if len(one) >= short:
                    tree = walk.text(one)
            elif kind is int:
                if not -big < one < big:
                    tree = value_of(one, depth)
            elif kind is not float and one is not None and kind is not bool:
                tree = value_of(one, depth)
            add((name if len(name) <= longest else name[:longest], tree))
    walk.left -= len(out)
    return "o", shape.label, out, size


def _named_tuple(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    names = shape.extra
    out = [(name, walk.field(name, one, depth)) for name, one in zip(names, islice(tuple.__iter__(value), walk.limits.fields))]
    walk.left -= len(out)
    return "o", shape.label, out, len(names)


def _exception(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    args = walk.items(_args_of(value)[:_MOST_ARGS], depth)
    cause: Any = _cause_of(value)
    if cause is None and not _suppress_of(value):
        cause = _context_of(value)
    shown = None
    if cause is not None and len(walk.seen) < _LONGEST_CHAIN:
        shown = walk.value(cause, max(depth, 1))
    return "e", shape.label, args, frames_of(_trace_of(value), walk.limits.frames), shown, _object(walk, value, shape, depth)[2]


def frames_of(trace: Any, most: int) -> List[Tuple[str, int, str]]:
    """(file, line, function) of the innermost frames of a traceback, the innermost last."""
    found: List[Tuple[str, int, str]] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append((exact(code.co_filename), trace.tb_lineno or 0, exact(code.co_name)))
        trace = trace.tb_next
        if len(found) > 2 * most:
            del found[:most]
    return found[-most:]


def _bytes(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    base = shape.extra
    most = walk.limits.text if walk.room > 0 else SHORT
    size = base.__len__(value)
    walk.room -= min(size, most)
    return "b", bytes(base.__getitem__(value, slice(0, most))), size


def _text_of(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    return "t", shape.label, shape.extra(value)[: walk.limits.text]


def _text_subclass(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    size = str.__len__(value)
    shown = str.__getitem__(value, slice(0, walk.limits.text))
    return "t", shape.label, shown if size <= walk.limits.text else shown + "..."


def _enum(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    namespace = shape.extra(value)
    name = namespace.get("_name_") if type(namespace) is dict else None
    return "t", shape.label, name[: walk.limits.text] if type(name) is str else "?"


def _array(walk: _Walk, value: Any, shape: Shape, depth: int) -> Tree:
    read_type, read_shape = shape.extra
    kind = read_type(value)
    code = find(type(kind), "str")[0]
    text = code.__get__(kind) if type(code) is GETSET else ""
    return "a", shape.label, text if type(text) is str else "", [size for size in read_shape(value) if type(size) is int]


# what a type is -------------------------------------------------------------------------------------------------------------


def _shape(cls: type) -> Shape:
    name, dotted = label(cls), label(cls, ".")
    for base, size in _sequences():
        if cls is base:
            return Shape(cls, _sequence, name, base, size=size)
    if cls is dict:
        return Shape(cls, _mapping, name, size=dict.__len__)
    text = texts().get(id(cls))
    if text is not None:
        return Shape(cls, _text_of, dotted, text, True)
    if derives(cls, type):
        return Shape(cls, _text_of, "type", label, True)
    if derives(cls, BaseException):
        return Shape(cls, _exception, name, readers_of(cls))
    return _shape_of_subclass(cls, name, dotted) or Shape(cls, _object, name, readers_of(cls))


def _shape_of_subclass(cls: type, name: str, dotted: str) -> Optional[Shape]:
    """That of a type that derives from one whose contents are known."""
    namespace = find(cls, "__dict__")[0]
    if any(derives(cls, one) for one in classes("enum", "Enum")) and type(namespace) is GETSET:
        return Shape(cls, _enum, dotted, namespace.__get__, True)
    for array in classes("numpy", "ndarray"):
        if derives(cls, array):
            own = namespace_of(array)
            return Shape(cls, _array, name, (own["dtype"].__get__, own["shape"].__get__), True)
    if derives(cls, str):
        return Shape(cls, _text_subclass, dotted, None, True)
    for binary in (bytes, bytearray):
        if derives(cls, binary):
            return Shape(cls, _bytes, name, binary, True)
    if derives(cls, int):
        return Shape(cls, _text_of, dotted, long_int, True)
    if derives(cls, float):
        return Shape(cls, _text_of, dotted, float.__repr__, True)
    if derives(cls, dict):
        return Shape(cls, _mapping, name, size=dict.__len__)
    if derives(cls, tuple):
        names = find(cls, "_fields")[0]
        if type(names) is tuple and all(type(one) is str for one in names):
            return Shape(cls, _named_tuple, name, names)
    for base, size in _sequences():
        if derives(cls, base):
            return Shape(cls, _sequence, name, base, size=size)
    return None


def _sequences() -> List[Tuple[Any, Callable[[Any], int]]]:
    """The types that are shown as sequences, and what gives their sizes."""
    found: Any = (tuple, list, set, frozenset, *classes("collections", "deque"))
    return [(one, one.__len__) for one in found]

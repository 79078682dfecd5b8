"""What is done with an object for its references, on the side that has the object.

Rules:
- What is asked for runs there as it would in a program there, in the thread that makes the call; nothing else of the object runs.
- An iterator gives one item at a time, since its maker can notice what is taken. Those that were made for a reference, of built-in
  containers whose iterators run nobody's code, give several at once.
- A hook that only observes assigns and deletes nothing. Where the config allows no other hooks, an operation must be one of `READING`, to
  which the other side sends nothing but names, and no iterator of the application's own is moved.
"""

from __future__ import annotations

import itertools
import operator
from collections import deque
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..model.errors import PayloadError
from .ancestry import ancestry_of
from .records import exactly
from .references import MOST_ITEMS_AT_ONCE, Table

Arguments = Tuple[Tuple[Any, ...], Dict[str, Any]]
_Operation = Callable[[Any, str, Tuple[Any, ...], Dict[str, Any]], Any]

_TWO: Dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "matmul": operator.matmul,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": operator.pow,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
}
_COMPARED: Dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _forward(function: Callable[[Any, Any], Any]) -> _Operation:
    return lambda target, name, args, kwargs: function(target, args[0])


def _reflected(function: Callable[[Any, Any], Any]) -> _Operation:
    return lambda target, name, args, kwargs: function(args[0], target)


# Each gives a value that is plain if it says a number, a text or a truth: of a subclass of `int` or `str` it would be a reference.
_OPERATIONS: Dict[str, _Operation] = {
    "get": lambda target, name, args, kwargs: getattr(target, name),
    "call": lambda target, name, args, kwargs: target(*args, **kwargs),
    "item": lambda target, name, args, kwargs: target[args[0]],
    "contains": lambda target, name, args, kwargs: args[0] in target,
    "len": lambda target, name, args, kwargs: len(target),
    "truth": lambda target, name, args, kwargs: bool(target),
    "copy": lambda target, name, args, kwargs: target,
    "str": lambda target, name, args, kwargs: exactly(str(target)),
    "format": lambda target, name, args, kwargs: exactly(format(target, name)),
    "hash": lambda target, name, args, kwargs: hash(target),
    "int": lambda target, name, args, kwargs: int(target),
    "float": lambda target, name, args, kwargs: float(target),
    "complex": lambda target, name, args, kwargs: complex(target),
    "index": lambda target, name, args, kwargs: int(operator.index(target)),
    "round": lambda target, name, args, kwargs: round(target, *args),
    "abs": lambda target, name, args, kwargs: abs(target),
    "neg": lambda target, name, args, kwargs: -target,
    "pos": lambda target, name, args, kwargs: +target,
    "invert": lambda target, name, args, kwargs: ~target,
    "setattr": lambda target, name, args, kwargs: setattr(target, name, args[0]),
    "delattr": lambda target, name, args, kwargs: delattr(target, name),
    "setitem": lambda target, name, args, kwargs: operator.setitem(target, *args),
    "delitem": lambda target, name, args, kwargs: operator.delitem(target, args[0]),
    "classes": lambda target, name, args, kwargs: ancestry_of(target),
    **{name: _forward(function) for name, function in {**_TWO, **_COMPARED}.items()},
    **{f"r{name}": _reflected(function) for name, function in _TWO.items()},
}
_CHANGING = frozenset({"setattr", "delattr", "setitem", "delitem"})

READING = frozenset(
    {"abs", "classes", "complex", "copy", "float", "format", "get", "hash", "index", "int", "invert", "iter", "len", "neg", "next", "pos"}
    | {"reversed", "str", "truth"}
)
"""Operations that only read, and to which the other side sends nothing but names."""


class Taken:
    """Items of an iterator, and whether it has ended; then what it gave at its end."""

    __slots__ = ("ended", "items", "value")

    def __init__(self, items: List[Any], ended: bool, value: Any = None) -> None:
        self.items = items
        self.ended = ended
        self.value = value


def refusal(table: Table, op: str, number: int, sends: bool, *, observing: bool, may_refer: bool) -> Optional[str]:
    """Why an operation is not to be performed, if it is not: decided before anything that came with it is loaded (`sends`)."""
    if not may_refer:
        own = op != "next" or number in (table.iterators or ())
        if op not in READING or sends or not own:
            return "the config allows no more than to observe this target: its references can be read, and no more"
    if observing and op in _CHANGING:
        return "a before or after hook observes, and assigns or deletes nothing in the application: register it with around() for that"
    return None


def perform(table: Table, op: str, number: int, name: str, arguments: Arguments) -> Any:
    """One operation of a reference; `Taken` for `next`. Raises whatever the object raises."""
    target = table.get(number)
    if op == "iter":
        return _made(table, target, iter(target), "__iter__", _ITERATED)
    if op == "reversed":
        return _made(table, target, reversed(target), "__reversed__", _REVERSED)
    if op == "next":
        return _take(table, number, target, name)
    operation = _OPERATIONS.get(op)
    if operation is None:
        raise PayloadError(f"unknown operation {op!r:.40} on a reference")
    args, kwargs = arguments
    return operation(target, name, args, kwargs)


# iterators ---------------------------------------------------------------------------------------------------------------

# Whose iterators run no code but their own: by the class that has the method, of which the target's may be a subclass. That of an
# `OrderedDict` asks its keys for their hash.
_CONTAINERS: Tuple[type, ...] = (list, dict, type({}.keys()), type({}.values()), type({}.items()), range, deque)
_REVERSED = frozenset(map(id, _CONTAINERS))
_ITERATED = _REVERSED | frozenset(map(id, (tuple, set, frozenset, str, bytes, bytearray)))
_mro_of = type.__dict__["__mro__"].__get__
_namespace_of = type.__dict__["__dict__"].__get__


def _made(table: Table, target: Any, iterator: Any, method: str, known: frozenset[int]) -> Any:
    """An iterator, noted as one that is not the application's own."""
    if iterator is not target:
        owner = next((cls for cls in _mro_of(type(target)) if method in _namespace_of(cls)), object)
        if table.iterators is None:
            table.iterators = {}
        table.iterators[table.add(iterator)] = id(owner) in known
    return iterator


def _take(table: Table, number: int, iterator: Any, name: str) -> Taken:
    try:
        count = min(int(name), MOST_ITEMS_AT_ONCE)
    except ValueError:
        raise PayloadError(f"{name!r:.40} is no number of items") from None
    if count > 1 and (table.iterators or {}).get(number):
        items = list(itertools.islice(iterator, count))
        return Taken(items, len(items) < count)
    try:
        return Taken([next(iterator)], False)
    except StopIteration as stop:
        return Taken([], True, stop.value)

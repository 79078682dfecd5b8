"""References to objects that stay in the other process.

Rules:
- A reference names an object in the table of one call, on the side that makes the call. It ends with that call.
- It reads attributes, calls methods and shows a text that runs no code of the object; sent back within its call, it is the object itself.
- To a hook that looks all crosses as a reference that is not plain; to one that gets copies, what cannot be pickled or is too large.
"""

from __future__ import annotations

import itertools
import pickle
import re
import threading
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from ..model.errors import PayloadError, ReferenceExpiredError
from ..protocol.codec import Bytes
from .names import instance_text, type_name
from .pickling import RECORD_SLACK, Payload, dump, load, load_plain
from .plain import dump_if_small
from .traits import PeerProfile

# What `list(reference)` fetches at most.
MAX_ITEMS = 10_000

# The opcode with which a pickle of protocol 5 gets at anything that can be called, as a number, since to look for `bytes` in `bytes` takes
# as long as to raise an error; and how it stands behind the name in what pickle writes: as a string that has just been put into the memo,
# or as one that is taken from there.
_NAMED = pickle.STACK_GLOBAL[0]
_NAMES = re.compile(rb"(?:\x94|h.|j....)\x93", re.DOTALL)
# In a longer one the head of a frame may come between the two, and to search it takes longer than what is spared.
_SEARCHED = 4096

_here = threading.local()


class Table:
    """The objects of one call that the other side may refer to, by their numbers.

    The number of an object is its `id`, which is its own for as long as the table keeps it: so the same object has the same number.
    """

    __slots__ = ("objects",)

    def __init__(self) -> None:
        self.objects: Dict[int, Any] = {}

    def add(self, value: Any) -> int:
        """Keep an object; its number."""
        number = id(value)
        self.objects[number] = value
        return number

    def get(self, number: int) -> Any:
        """The object of that number. Raises `ReferenceExpiredError`."""
        try:
            return self.objects[number]
        except KeyError:
            raise ReferenceExpiredError(f"reference {number} does not belong to this call") from None

    def reference_to(self, value: Any) -> OutgoingReference:
        """What crosses in the object's place."""
        return OutgoingReference(self.add(value), type_name(value))


class OutgoingReference:
    """Pickles, on the side that has the object, into a `Reference` on the other."""

    __slots__ = ("number", "type")

    def __init__(self, number: int, type_: str) -> None:
        self.number = number
        self.type = type_

    def __reduce__(self) -> Any:
        return _make_reference, (self.number, self.type)


class Asker(Protocol):
    """What a reference needs to reach its object."""

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        """Perform one operation on the object and return its outcome."""


class Reference:
    """An object that stays in the other process, for as long as the call that brought it lasts.

    Attributes are read, items looked up and methods called there; what they give comes back by value if it is plain, and else as a
    reference. ``len``, ``bool``, ``in`` and iteration, up to 10,000 items, ask the object too; ``copy()`` fetches a pickled copy of it.
    ``repr`` shows its type and runs no code of it. Sent back within its call, as an argument or a result, it is the object itself.

    Raises what the object raises, ``AttributeError`` for an assignment, and ``ReferenceExpiredError`` once the call has ended or where the
    application did not wait for it (``wait=False``).
    """

    __slots__ = ("_xpc_asker", "_xpc_number", "_xpc_text", "_xpc_type")

    def __init__(self, asker: Asker, number: int, type_: str, text: str = "") -> None:
        _set_asker(self, asker)
        _set_number(self, number)
        _set_type(self, type_)
        _set_text(self, text)

    def _xpc_do(self, op: str, name: str = "", payload: Any = None) -> Any:
        return self._xpc_asker.refer(op, self._xpc_number, name, payload)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            # copy, pickle, inspect and others probe for protocols; only what the class says is supported.
            raise AttributeError(name)
        return self._xpc_do("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"cannot set {name!r}: a reference reads attributes and calls methods of {self._xpc_type}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._xpc_do("call", "", (args, kwargs))

    def __getitem__(self, key: Any) -> Any:
        return self._xpc_do("item", "", ((key,), {}))

    def __contains__(self, item: Any) -> bool:
        return bool(self._xpc_do("contains", "", ((item,), {})))

    def __len__(self) -> int:
        return int(self._xpc_do("len"))

    def __bool__(self) -> bool:
        return bool(self._xpc_do("truth"))

    def __iter__(self) -> Any:
        return iter(self._xpc_do("iter"))

    def copy(self) -> Any:
        """The object itself, pickled there and loaded here. Raises ``PayloadError`` if it cannot cross."""
        return self._xpc_do("copy")

    def __repr__(self) -> str:
        return f"<reference to {self._xpc_text or instance_text(self._xpc_type, self._xpc_number)}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reference):
            return NotImplemented
        return self._xpc_asker is other._xpc_asker and bool(self._xpc_number == other._xpc_number)

    def __hash__(self) -> int:
        return hash((id(self._xpc_asker), self._xpc_number))

    def __reduce__(self) -> Any:
        if getattr(_here, "sending", None) is not self._xpc_asker:
            raise ReferenceExpiredError("a reference can be sent only to the process that it came from, within its call")
        return _take_reference, (self._xpc_number,)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


# Past its own `__setattr__`, and in a quarter of the time that `object.__setattr__` takes.
_set_asker, _set_number, _set_text, _set_type = [Reference.__dict__[name].__set__ for name in Reference.__slots__]


def _make_reference(number: int, type_: str) -> Reference:
    asker = getattr(_here, "asker", None)
    if asker is None:
        raise ReferenceExpiredError("a reference can be loaded only within the call that it came with")
    return Reference(asker, number, type_)


def _take_reference(number: int) -> Any:
    table = getattr(_here, "table", None)
    if table is None:
        raise ReferenceExpiredError("a reference can be sent only to the process that it came from, within its call")
    return table.get(number)


def is_plain(body: Bytes) -> bool:
    """Whether a small pickle calls nothing when it is loaded, and so has no reference in it; one that arrived in one piece is bytes.

    The other side could write one that has a reference nevertheless: loading that fails, since it would be loaded as if it had none.
    """
    # A number, such as that of a thread, may have that byte by chance.
    return type(body) is bytes and (_NAMED not in body or (len(body) <= _SEARCHED and not _NAMES.search(body)))


def load_with_table(table: Table, body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """Load what came back from the other side; references in it turn into the objects themselves."""
    if is_plain(body):
        return load(body, buffers) if buffers else load_plain(body)
    before = getattr(_here, "table", None)
    _here.table = table
    try:
        return load(body, buffers)
    finally:
        _here.table = before


def load_with_asker(asker: Asker, body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """Load what came with a call; references in it ask through `asker`."""
    if is_plain(body):
        return load(body, buffers) if buffers else load_plain(body)
    before = getattr(_here, "asker", None)
    _here.asker = asker
    try:
        return load(body, buffers)
    finally:
        _here.asker = before


def dump_with_asker(asker: Optional[Asker], value: Any, profile: PeerProfile, slack: int = 0) -> Payload:
    """Pickle what goes back with the call that `asker` belongs to: its references cross as the objects themselves."""
    body = dump_if_small(value, profile.limit + slack)
    if body is not None:
        return body, ()
    before = getattr(_here, "sending", None)
    _here.sending = asker
    try:
        return dump(value, profile, slack)
    finally:
        _here.sending = before


def dump_or_refer(values: Sequence[Any], table: Table, profile: PeerProfile) -> List[Any]:
    """The values, each that cannot cross replaced by a reference."""
    return [value if _crosses(value, profile) else table.reference_to(value) for value in values]


def _crosses(value: Any, profile: PeerProfile) -> bool:
    try:
        dump(value, profile)
    except PayloadError:
        return False
    return True


def dump_result(value: Any, table: Table, profile: PeerProfile) -> Payload:
    """The value, or a reference to it where it is callable, cannot be pickled or is too large."""
    if not callable(value):
        try:
            return dump(value, profile)
        except PayloadError:
            pass  # a reference does what a copy cannot
    return dump(table.reference_to(value), profile, RECORD_SLACK)


def perform(table: Table, op: str, number: int, name: str, arguments: Tuple[Tuple[Any, ...], Dict[str, Any]]) -> Any:
    """One operation of a reference, on the side that has the object. Raises whatever the object raises."""
    target = table.get(number)
    args, kwargs = arguments
    operation = _OPERATIONS.get(op)
    if operation is None:
        raise PayloadError(f"unknown operation {op!r:.40} on a reference; there are {', '.join(sorted(_OPERATIONS))}")
    return operation(target, name, args, kwargs)


_OPERATIONS: Dict[str, Callable[[Any, str, Tuple[Any, ...], Dict[str, Any]], Any]] = {
    "get": lambda target, name, args, kwargs: getattr(target, name),
    "call": lambda target, name, args, kwargs: target(*args, **kwargs),
    "item": lambda target, name, args, kwargs: target[args[0]],
    "contains": lambda target, name, args, kwargs: args[0] in target,
    "len": lambda target, name, args, kwargs: len(target),
    "truth": lambda target, name, args, kwargs: bool(target),
    "iter": lambda target, name, args, kwargs: list(itertools.islice(target, MAX_ITEMS)),
    "copy": lambda target, name, args, kwargs: target,
}

READING = frozenset({"copy", "get", "iter", "len", "truth"})
"""Operations that only read, and to which the other side sends nothing but names."""


def is_unchanged(asker: Asker, value: Any, body: Bytes, buffers: Sequence[Bytes], profile: PeerProfile) -> bool:
    """Whether a value that was loaded from this payload is as it was then: a fresh copy pickles to the same bytes."""
    try:
        now = dump_with_asker(asker, value, profile)
        then = dump_with_asker(asker, load_with_asker(asker, body, buffers), profile)
    except PayloadError:
        return False  # then the value itself is sent, or that fails
    return now == then

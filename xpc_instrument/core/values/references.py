"""References to objects that stay in the other process.

Rules:
- A reference names an object in the table of one call, on the side that makes the call. It ends with that call.
- What is done with it is done to the object, by the thread that makes the call (`operations.py`); its `repr` and its class are known here,
  and run no code of the object. Sent back within its call, it is the object itself.
- To a hook that looks all crosses as a reference that is not plain; to one that gets copies, what cannot be pickled or is too large.
"""

from __future__ import annotations

import pickle
import re
import sys
import threading
from typing import Any, Callable, Dict, Generator, List, Optional, Protocol, Sequence, Tuple

from ..model.errors import PayloadError, ReferenceExpiredError, XpcError
from ..protocol.codec import Bytes
from .ancestry import Ancestry, class_of
from .names import instance_text, type_name
from .pickling import RECORD_SLACK, Payload, dump, load, load_plain
from .plain import NOT_PLAIN, dump_if_small, snapshot
from .traits import PeerProfile

# How many items an iteration asks for at first and at most. Only of built-in containers more than one comes at once.
_FIRST_ITEMS, MOST_ITEMS_AT_ONCE = 8, 256

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
    `iterators` has those that were made for a reference, and whether taking an item of them runs nobody's code.
    """

    __slots__ = ("iterators", "objects")

    def __init__(self) -> None:
        self.objects: Dict[int, Any] = {}
        self.iterators: Optional[Dict[int, bool]] = None

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

    @property
    def ancestries(self) -> Dict[str, Ancestry]:
        """What is known of the classes at the other side, by name."""

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        """Perform one operation on the object and return its outcome."""


def _asking(op: str) -> Callable[[Reference], Any]:
    def ask(self: Reference) -> Any:
        return self._xpc_do(op)

    return ask


def _asking_of_two(op: str) -> Callable[[Reference, Any], Any]:
    def ask(self: Reference, other: Any) -> Any:
        return self._xpc_of_two(op, other)

    return ask


class Reference:
    """An object that stays in the other process, for as long as the call that brought it lasts.

    Attributes, items, methods, iteration, comparisons, arithmetic, ``len``, ``bool``, ``in``, ``str``, ``format``, ``int``, ``float``
    and ``hash`` ask the object, in the thread of the application that makes the call; what they give comes back by value if it is plain,
    and else as a reference. ``copy()`` fetches a pickled copy; an attribute that a reference hides is had by ``attribute_of``. Attributes
    and items can be assigned in ``around`` and ``instead`` hooks. ``repr`` shows the type and runs no code of the object. ``isinstance``
    goes by the names of the object's classes, as far as they are imported here; ``type`` is ``Reference``. Sent back within its call, as
    an argument or a result, it is the object itself.

    An iteration takes one item at a time, of an iterator or generator too, and of built-in containers up to 256. Two references to one
    object are equal without asking. What is neither plain nor a reference is not sent to be compared: its own ``==`` is asked, here.

    Raises what the object raises, ``PayloadError`` for what the mode of the hook or the config does not allow, and
    ``ReferenceExpiredError`` once the call has ended or where the application did not wait for it (``wait=False``); only ``str`` is
    ``repr`` then.
    """

    # Asker, number, full name of the class, and a text to be shown: one tuple is set in half the time that four slots take.
    __slots__ = ("_xpc_of",)
    _xpc_of: Tuple[Asker, int, str, str]

    def __init__(self, asker: Asker, number: int, type_: str, text: str = "") -> None:
        _set(self, (asker, number, type_, text))

    def _xpc_do(self, op: str, name: str = "", payload: Any = None) -> Any:
        asker, number, _, _ = self._xpc_of
        return asker.refer(op, number, name, payload)

    def _xpc_of_two(self, op: str, other: Any) -> Any:
        if not _is_sendable(other, self._xpc_of[0]):
            return NotImplemented
        return self._xpc_do(op, "", ((other,), {}))

    # what is known here ------------------------------------------------------------------------------------------------

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        asker, _, type_, _ = self._xpc_of
        try:
            return class_of(type_, asker.ancestries, lambda: self._xpc_do("classes"))
        except XpcError:
            # `isinstance` is asked of all kinds of things, by loggers too, and raises nothing.
            return Reference

    def __repr__(self) -> str:
        _, number, type_, text = self._xpc_of
        return f"<reference to {text or instance_text(type_, number)}>"

    # attributes, items, calls ------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            # copy, pickle, inspect and others probe for protocols; only what the class says is supported.
            raise AttributeError(f"{name}: of the object it is had by xpc_instrument.attribute_of(reference, {name!r})")
        return self._xpc_do("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._xpc_do("setattr", name, ((value,), {}))

    def __delattr__(self, name: str) -> None:
        self._xpc_do("delattr", name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._xpc_do("call", "", (args, kwargs))

    def __getitem__(self, key: Any) -> Any:
        return self._xpc_do("item", "", ((key,), {}))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._xpc_do("setitem", "", ((key, value), {}))

    def __delitem__(self, key: Any) -> None:
        self._xpc_do("delitem", "", ((key,), {}))

    def __contains__(self, item: Any) -> bool:
        return bool(self._xpc_do("contains", "", ((item,), {})))

    def copy(self) -> Any:
        """The object itself, pickled there and loaded here. Raises ``PayloadError`` if it cannot cross."""
        return self._xpc_do("copy")

    # iteration ---------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Any:
        return _each(self._xpc_do("iter"))

    def __reversed__(self) -> Any:
        return _each(self._xpc_do("reversed"))

    def __next__(self) -> Any:
        items, ended, value = self._xpc_take(1)
        if ended:
            raise StopIteration(value)
        return items[0]

    def _xpc_take(self, count: int) -> Tuple[Sequence[Any], bool, Any]:
        """Items of an iterator, `count` at most; whether it has ended, and what it gave then."""
        items, _, (ended,), value = self._xpc_do("next", str(count))
        return items, ended, value

    # numbers and texts -------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        try:
            return self._xpc_told("str", "")
        except ReferenceExpiredError:
            return repr(self)

    def __format__(self, spec: str) -> str:
        try:
            return self._xpc_told("format", spec)
        except ReferenceExpiredError:
            if spec:
                raise
            return repr(self)

    def _xpc_told(self, op: str, name: str) -> str:
        text = self._xpc_do(op, name)
        if type(text) is not str:
            raise PayloadError(f"the text of {self!r} is larger than max-payload")
        return text

    def __hash__(self) -> int:
        return int(self._xpc_do("hash"))

    def __round__(self, *digits: Any) -> Any:
        return self._xpc_do("round", "", (digits, {}))

    __len__ = _asking("len")
    __bool__ = _asking("truth")
    __int__ = _asking("int")
    __float__ = _asking("float")
    __complex__ = _asking("complex")
    __index__ = _asking("index")
    __abs__ = _asking("abs")
    __neg__ = _asking("neg")
    __pos__ = _asking("pos")
    __invert__ = _asking("invert")

    # two operands ------------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> Any:
        return True if _is_same(self, other) else self._xpc_of_two("eq", other)

    def __ne__(self, other: object) -> Any:
        return False if _is_same(self, other) else self._xpc_of_two("ne", other)

    __lt__, __le__, __gt__, __ge__ = map(_asking_of_two, ("lt", "le", "gt", "ge"))
    __add__, __radd__ = map(_asking_of_two, ("add", "radd"))
    __sub__, __rsub__ = map(_asking_of_two, ("sub", "rsub"))
    __mul__, __rmul__ = map(_asking_of_two, ("mul", "rmul"))
    __matmul__, __rmatmul__ = map(_asking_of_two, ("matmul", "rmatmul"))
    __truediv__, __rtruediv__ = map(_asking_of_two, ("truediv", "rtruediv"))
    __floordiv__, __rfloordiv__ = map(_asking_of_two, ("floordiv", "rfloordiv"))
    __mod__, __rmod__ = map(_asking_of_two, ("mod", "rmod"))
    __pow__, __rpow__ = map(_asking_of_two, ("pow", "rpow"))
    __and__, __rand__ = map(_asking_of_two, ("and", "rand"))
    __or__, __ror__ = map(_asking_of_two, ("or", "ror"))
    __xor__, __rxor__ = map(_asking_of_two, ("xor", "rxor"))
    __lshift__, __rlshift__ = map(_asking_of_two, ("lshift", "rlshift"))
    __rshift__, __rrshift__ = map(_asking_of_two, ("rshift", "rrshift"))

    # sent back ---------------------------------------------------------------------------------------------------------

    def __reduce__(self) -> Any:
        asker, number, _, _ = self._xpc_of
        if getattr(_here, "sending", None) is not asker:
            raise ReferenceExpiredError(
                "a reference can be sent only to the process that it came from, within its call; .copy() gives a copy of the object"
            )
        return _take_reference, (number,)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


def _each(iterator: Reference) -> Generator[Any, None, Any]:
    """The items of an iterator over there, fetched as they are wanted."""
    count = _FIRST_ITEMS
    while True:
        items, ended, value = iterator._xpc_take(count)
        yield from items
        if ended:
            return value
        count = min(2 * count, MOST_ITEMS_AT_ONCE)


def _is_same(one: Reference, other: object) -> bool:
    if type(other) is not Reference:
        return False
    (asker, number, _, _), (other_asker, other_number, _, _) = one._xpc_of, other._xpc_of
    return asker is other_asker and number == other_number


def _is_sendable(value: Any, asker: Asker) -> bool:
    """Whether a value is plain, but for references that belong to the same call."""
    kind = type(value)
    if kind is Reference:
        return bool(value._xpc_of[0] is asker)
    if kind is list or kind is tuple:
        return all(_is_sendable(one, asker) for one in value)
    if kind is dict:
        return all(_is_sendable(one, asker) for pair in value.items() for one in pair)
    return snapshot(value, sys.maxsize) is not NOT_PLAIN


def attribute_of(value: Any, name: str) -> Any:
    """An attribute of the object that a reference stands for, one that ``Reference`` hides among them: ``copy``, and names such as
    ``__dict__``. Of any other value the attribute itself.

    Raises what ``getattr`` raises there, and ``ReferenceExpiredError`` once the call has ended.
    """
    return value._xpc_do("get", name) if type(value) is Reference else getattr(value, name)


def copy_of(value: Any) -> Any:
    """A pickled copy of the object that a reference stands for; any other value, which is a copy already, as it is.

    Raises ``PayloadError`` if it cannot cross, and ``ReferenceExpiredError`` once the call has ended.
    """
    return value.copy() if type(value) is Reference else value


# Past its own `__setattr__`, and in a quarter of the time that `object.__setattr__` takes.
_set = Reference.__dict__["_xpc_of"].__set__
_new = object.__new__


def refer_to(asker: Asker, number: int, type_: str) -> Reference:
    """A `Reference`, in less time than to call the class takes."""
    reference = _new(Reference)
    _set(reference, (asker, number, type_, ""))
    return reference


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


def is_unchanged(asker: Asker, value: Any, body: Bytes, buffers: Sequence[Bytes], profile: PeerProfile) -> bool:
    """Whether a value that was loaded from this payload is as it was then: a fresh copy pickles to the same bytes."""
    try:
        now = dump_with_asker(asker, value, profile)
        then = dump_with_asker(asker, load_with_asker(asker, body, buffers), profile)
    except PayloadError:
        return False  # then the value itself is sent, or that fails
    return now == then

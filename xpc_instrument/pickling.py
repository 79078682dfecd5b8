"""Values to bytes and back: pickle first, cloudpickle where it is needed, references for what cannot or should not be copied.

Rules:
- Protocol 5 of pickle; large buffers (what pickles as a `PickleBuffer`, such as a numpy array) travel beside the pickle, uncopied.
- Plain pickle names classes and functions by module; what the other side cannot import (`__main__`, local functions, modules that
  the other side said it lacks) is pickled by value, with cloudpickle. By-value code crosses only between equal minor versions of
  Python.
- Pickling stops as soon as the limit is passed: an argument of 4 GB costs no 4 GB.
- A reference names an object in the table of one call, on the side that makes the call. It ends with that call, and can be sent back
  in that call only: in another one its number would name another object.
- What is shown of a value (`safe_repr`, `type_name`) is read by `type` itself and compared by identity, since even a class may have a
  metaclass with code of its own.
- `loads` is only ever used on what a peer sent that has proved the key.
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
import sys
import threading
import traceback
import types
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Protocol, Sequence, Tuple

from .channel.codec import Bytes
from .errors import PayloadError, ReferenceExpiredError, RemoteError, RemoteTraceback

PROTOCOL = 5
# Buffers smaller than this are cheaper inside the pickle than as a piece of their own.
_OUT_OF_BAND = 16 * 1024
_MAX_OUT_OF_BAND = 255
# A pickle frame is closed when it has passed 64 KiB, so it may hold one string of nearly 64 KiB more, and a few bytes of opcodes. Larger
# pieces are the content of one string or bytes object and name no module.
_FRAME = 2 * 64 * 1024 + 1024
# What a record of references may have beyond the limit: they are the remedy for what is too large. A lane has room for it (LANE_SLACK).
RECORD_SLACK = 768 * 1024
# What `list(reference)` fetches at most.
MAX_ITEMS = 10_000

Payload = Tuple[Bytes, Sequence[Bytes]]

_here = threading.local()


class Traits:
    """What is known of the other side, and so decides how values are pickled for it.

    `by_value` says whether code may cross (equal minor versions), `limit` is in bytes, `foreign` names top-level modules of this process
    that the other side cannot import, and so nothing in them.
    """

    __slots__ = ("_foreign_bytes", "by_value", "foreign", "limit", "python")

    def __init__(self, python: str, own_python: str, limit: int, foreign: FrozenSet[str] = frozenset()) -> None:
        self.python = python
        self.by_value = python == own_python
        self.limit = limit
        self.foreign: FrozenSet[str] = frozenset()
        self._foreign_bytes: Tuple[bytes, ...] = (b"__main__",)
        for module in foreign:
            self.add_foreign(module)

    def add_foreign(self, module: str) -> None:
        """The other side cannot import the package of `module`: from now on, what lives there crosses by value."""
        top = module.partition(".")[0]
        if top in self.foreign or top == "__main__":
            return
        self.foreign |= {top}
        self._foreign_bytes += (top.encode(),)

    def names_foreign(self, piece: bytes) -> bool:
        """Whether a piece of a pickle seems to name a module that the other side cannot import."""
        for name in self._foreign_bytes:  # noqa: SIM110 - a generator for any() costs more than the search
            if name in piece:
                return True
        return False


# What a value's own code may raise while it is pickled, loaded or shown: it must not end the thread. KeyboardInterrupt is the user's.
_FAULTS = (Exception, SystemExit, GeneratorExit)


class _TooLarge(Exception):
    pass


class _Writer:
    """A file for a pickler that keeps the pieces and stops at a limit."""

    __slots__ = ("buffers", "pieces", "room")

    def __init__(self, limit: int) -> None:
        self.room = limit
        self.pieces: List[bytes] = []
        self.buffers: List[memoryview] = []

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise _TooLarge
        self.pieces.append(data if type(data) is bytes else bytes(data))
        return len(data)

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """The pickler's buffer callback: True keeps the buffer inside the pickle."""
        raw = buffer.raw()
        if raw.nbytes < _OUT_OF_BAND or len(self.buffers) >= _MAX_OUT_OF_BAND:
            return True
        self.room -= raw.nbytes
        if self.room < 0:
            raise _TooLarge
        self.buffers.append(raw)
        return False


def dump(value: Any, traits: Traits, slack: int = 0) -> Payload:
    """Pickle one value for the other side, in at most `traits.limit` and `slack` bytes.

    Raises `PayloadError` that says why it cannot cross and what to do.
    """
    writer = _Writer(traits.limit + slack)
    try:
        pickle.Pickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
    except _TooLarge:
        raise _too_large(value, traits) from None
    except (pickle.PicklingError, AttributeError) as error:
        # Raised for functions and classes that have no importable name. What fails otherwise is not copied by cloudpickle either, or is
        # better off as a reference: a module, a memoryview.
        return _dump_by_value(value, traits, slack, error)
    except _FAULTS as error:
        raise PayloadError(f"{_type_name(value)} cannot be pickled: {_describe(error)}") from error
    pieces = writer.pieces
    if len(pieces) == 1:
        body = pieces[0]
        suspect = traits.names_foreign(body)
    else:
        body = b"".join(pieces)
        suspect = any(len(piece) < _FRAME and traits.names_foreign(piece) for piece in pieces)
    # A string may hold the name of a module without meaning it.
    if suspect and _imports_foreign(body, traits):
        return _dump_by_value(value, traits, slack, None)
    return body, writer.buffers


def _imports_foreign(body: bytes, traits: Traits) -> bool:
    """Whether a pickle, when it is loaded, imports from a module that the other side cannot import."""
    names = traits.foreign | {"__main__"}
    memo: List[Any] = []
    recent: List[Any] = [None, None]
    argument: Any
    for opcode, argument, _position in pickletools.genops(body):
        name = opcode.name
        if name == "STACK_GLOBAL":
            if str(recent[0]).partition(".")[0] in names:
                return True
            recent = [None, None]
        elif name == "MEMOIZE":
            memo.append(recent[1])
        elif "GET" in name:
            recent = [recent[1], memo[argument]]
        elif name not in ("PROTO", "FRAME"):
            # The name of a module and the name in it are strings, pushed one after the other right before they are used.
            recent = [recent[1], argument if "UNICODE" in name else None]
    return False


def _dump_by_value(value: Any, traits: Traits, slack: int, cause: Optional[Exception]) -> Payload:
    if not traits.by_value:
        raise PayloadError(
            f"{_type_name(value)} holds code or a class that only this program has, and code does not cross between Python "
            f"{_own_minor()} and {traits.python}: put it into a module that both sides can import"
        ) from cause
    import cloudpickle

    writer = _Writer(traits.limit + slack)
    by_value = [module for module in map(sys.modules.get, traits.foreign) if isinstance(module, types.ModuleType)]
    registered = []
    try:
        with _by_value_lock:
            known = cloudpickle.list_registry_pickle_by_value()
            for module in by_value:
                if module.__name__ not in known:
                    cloudpickle.register_pickle_by_value(module)
                    registered.append(module)
            try:
                cloudpickle.CloudPickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
            finally:
                for module in registered:
                    cloudpickle.unregister_pickle_by_value(module)
    except _TooLarge:
        raise _too_large(value, traits) from None
    except _FAULTS as error:
        raise PayloadError(f"{_type_name(value)} cannot be pickled: {_describe(error)}") from error
    return b"".join(writer.pieces), writer.buffers


# cloudpickle's registry of modules is global; ours are in it only while we pickle.
_by_value_lock = threading.RLock()


def load(body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """The value in a payload. Raises `PayloadError` that says what could not be loaded."""
    try:
        return pickle.loads(body, buffers=buffers) if buffers else pickle.loads(body)
    except _FAULTS as error:
        raise PayloadError(f"what the other side sent cannot be loaded here: {_describe(error)}") from error


def _too_large(value: Any, traits: Traits) -> PayloadError:
    return PayloadError(f"{_type_name(value)} is larger than max-payload, {traits.limit} bytes")


def _own_minor() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _describe(error: BaseException) -> str:
    try:
        # What `__str__` gives may be a subclass of str with methods of its own; `join` makes a plain one.
        text = "".join((str(error), " "))[:-1]
    except _FAULTS:
        text = "(its text cannot be had)"
    return f"{_name_of(type(error))}: {text[:300]}"


_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__
_name_of = type.__dict__["__name__"].__get__


def type_name(value: Any) -> str:
    """`module.Qualified` of a value's class, from the class itself: runs no code of the value, its class or its metaclass."""
    cls = type(value)
    module = _module_of(cls)
    return f"{module if type(module) is str else '?'}.{_qualname_of(cls)}"


_type_name = type_name


# references --------------------------------------------------------------------------------------------------------------


class Table:
    """The objects of one call that the other side may refer to; index 0 is the instance, if there is one."""

    __slots__ = ("_numbers", "objects")

    def __init__(self) -> None:
        self.objects: List[Any] = []
        self._numbers: Dict[int, int] = {}

    def add(self, value: Any) -> int:
        """The number of an object; the same object has the same number."""
        number = self._numbers.get(id(value))
        if number is None:
            number = len(self.objects)
            self.objects.append(value)
            self._numbers[id(value)] = number
        return number

    def get(self, number: int) -> Any:
        """The object of that number. Raises `ReferenceExpiredError`."""
        if not 0 <= number < len(self.objects):
            raise ReferenceExpiredError(f"reference {number} does not belong to this call")
        return self.objects[number]

    def handle(self, value: Any) -> Handle:
        """What crosses in the object's place."""
        return Handle(self.add(value), type_name(value), safe_repr(value))


class Handle:
    """Pickles, on the side that has the object, into a `Reference` on the other."""

    __slots__ = ("number", "text", "type")

    def __init__(self, number: int, type_: str, text: str) -> None:
        self.number = number
        self.type = type_
        self.text = text

    def __reduce__(self) -> Any:
        return _make_reference, (self.number, self.type, self.text)


class Asker(Protocol):
    """What a reference needs to reach its object."""

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        """Perform one operation on the object and return its outcome."""


class Reference:
    """An object that stays in the other process, for as long as the call that brought it lasts.

    Attributes are read and methods called there; what they give comes back as a copy, or as a reference where it is callable or cannot be
    copied. `repr` runs no code of the object. Raises `ReferenceExpiredError` once the call has ended.
    """

    __slots__ = ("_xpc_asker", "_xpc_number", "_xpc_text", "_xpc_type")

    def __init__(self, asker: Asker, number: int, type_: str, text: str) -> None:
        object.__setattr__(self, "_xpc_asker", asker)
        object.__setattr__(self, "_xpc_number", number)
        object.__setattr__(self, "_xpc_type", type_)
        object.__setattr__(self, "_xpc_text", text)

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

    def __repr__(self) -> str:
        return f"<reference to {self._xpc_text}>"

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


def _make_reference(number: int, type_: str, text: str) -> Reference:
    asker = getattr(_here, "asker", None)
    if asker is None:
        raise ReferenceExpiredError("a reference can be loaded only within the call that it came with")
    return Reference(asker, number, type_, text)


def _take_reference(number: int) -> Any:
    table = getattr(_here, "table", None)
    if table is None:
        raise ReferenceExpiredError("a reference can be sent only to the process that it came from, within its call")
    return table.get(number)


def load_with_table(table: Table, body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """Load what came back from the other side; references in it turn into the objects themselves."""
    before = getattr(_here, "table", None)
    _here.table = table
    try:
        return load(body, buffers)
    finally:
        _here.table = before


def load_with_asker(asker: Asker, body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """Load what came with a call; handles in it turn into references that ask through `asker`."""
    before = getattr(_here, "asker", None)
    _here.asker = asker
    try:
        return load(body, buffers)
    finally:
        _here.asker = before


def dump_with_asker(asker: Optional[Asker], value: Any, traits: Traits) -> Payload:
    """Pickle what goes back with the call that `asker` belongs to: its references cross as the objects themselves."""
    before = getattr(_here, "sending", None)
    _here.sending = asker
    try:
        return dump(value, traits)
    finally:
        _here.sending = before


def dump_or_refer(values: Sequence[Any], table: Table, traits: Traits) -> List[Any]:
    """The values, each that cannot cross replaced by a handle."""
    return [value if _crosses(value, traits) else table.handle(value) for value in values]


def _crosses(value: Any, traits: Traits) -> bool:
    try:
        dump(value, traits)
    except PayloadError:
        return False
    return True


def dump_result(value: Any, table: Table, traits: Traits) -> Payload:
    """The value, or a handle to it where it is callable, cannot be pickled or is too large."""
    if not callable(value):
        try:
            return dump(value, traits)
        except PayloadError:
            pass  # a reference does what a copy cannot
    return dump(table.handle(value), traits, RECORD_SLACK)


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
}


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
    return f"{type_name(value)} at {id(value):#x}"


# exceptions --------------------------------------------------------------------------------------------------------------


def dump_exception(error: BaseException, traits: Traits, asker: Optional[Asker] = None) -> Payload:
    """An exception with its text and traceback; the object itself too, if it can be pickled. At most half the limit, and RECORD_SLACK."""
    text = _describe(error)
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except _FAULTS as problem:
        trace = f"{text}\n(its traceback cannot be formatted: {_describe(problem)})"
    inner: Optional[bytes] = None
    try:
        body, buffers = dump_with_asker(asker, error, traits)
        if not buffers and len(body) < traits.limit // 2:
            inner = bytes(body)
    except PayloadError:
        pass  # the text goes; the other side raises a RemoteError with it
    if len(trace) > 100_000:
        # Its beginning says where, its end says what.
        trace = f"{trace[:50_000]}\n[...]\n{trace[-50_000:]}"
    record = pickle.dumps((text, trace, inner), PROTOCOL)
    return record, ()


def load_exception(body: Bytes, table: Optional[Table] = None, asker: Optional[Asker] = None) -> BaseException:
    """The exception that `dump_exception` packed, with the remote traceback as its cause; a `RemoteError` where it cannot be built."""
    record = load(body, ())
    if not (isinstance(record, tuple) and len(record) == 3):
        raise PayloadError("an exception came in an unknown form")
    text, trace, inner = record
    error: Any = None
    if inner is not None:
        try:
            if table is not None:
                error = load_with_table(table, inner, ())
            elif asker is not None:
                error = load_with_asker(asker, inner, ())
            else:
                error = load(inner, ())
        except PayloadError as problem:
            text = f"{text} (it arrives as a RemoteError, because {problem})"
    found = error if isinstance(error, BaseException) else RemoteError(str(text))
    # Not by assignment, which an exception that is a frozen dataclass refuses.
    _set_cause(found, RemoteTraceback(str(trace)))
    return found


_set_cause = BaseException.__dict__["__cause__"].__set__


def is_unchanged(asker: Asker, value: Any, body: Bytes, buffers: Sequence[Bytes], traits: Traits) -> bool:
    """Whether a value that was loaded from this payload is as it was then: a fresh copy pickles to the same bytes."""
    try:
        now = dump_with_asker(asker, value, traits)
        then = dump_with_asker(asker, load_with_asker(asker, body, buffers), traits)
    except PayloadError:
        return False  # then the value itself is sent, or that fails
    return now == then

"""Values to bytes and back: pickle first, cloudpickle where it is needed, references for what cannot or should not be copied.

Rules:
- Protocol 5 of pickle; large buffers (arrays, bytearrays) travel beside the pickle, uncopied.
- Plain pickle names classes and functions by module; what the other side cannot import (`__main__`, local functions, modules that
  the other side said it lacks) is pickled by value, with cloudpickle. By-value code crosses only between equal minor versions of
  Python.
- Pickling stops as soon as the limit is passed: an argument of 4 GB costs no 4 GB.
- A reference names an object in the table of one call, on the side that makes the call. It ends with that call.
- `loads` is only ever used on what a peer sent that has proved the key.
"""

from __future__ import annotations

import io
import itertools
import pickle
import threading
import traceback
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Protocol, Sequence, Tuple, Union

from .channel.codec import Bytes
from .errors import PayloadError, ReferenceExpiredError, RemoteError, RemoteTraceback

PROTOCOL = 5
# Buffers smaller than this are cheaper inside the pickle than as a piece of their own.
_OUT_OF_BAND = 16 * 1024
_MAX_OUT_OF_BAND = 255
# Pickle frames are at most 64 KiB; larger pieces are the content of one string or bytes object and name no module.
_FRAME = 128 * 1024
# What `list(reference)` fetches at most.
MAX_ITEMS = 10_000

Payload = Tuple[Bytes, Sequence[Bytes]]

_here = threading.local()


class Traits:
    """What is known of the other side, and so decides how values are pickled for it.

    `by_value` says whether code may cross (equal minor versions), `limit` is in bytes, `foreign` names modules of this process that
    the other side cannot import.
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
        """The other side cannot import `module`: from now on, what lives there crosses by value."""
        if module in self.foreign or module == "__main__":
            return
        self.foreign |= {module}
        self._foreign_bytes += (module.encode(),)

    def names_foreign(self, piece: bytes) -> bool:
        """Whether a piece of a pickle seems to name a module that the other side cannot import."""
        return any(name in piece for name in self._foreign_bytes)


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


def dump(value: Any, traits: Traits) -> Payload:
    """Pickle one value for the other side. Raises `PayloadError` that says why it cannot cross and what to do."""
    writer = _Writer(traits.limit)
    try:
        pickle.Pickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
    except _TooLarge:
        raise _too_large(value, traits) from None
    except (pickle.PicklingError, AttributeError) as error:
        # Raised for functions and classes that have no importable name; anything else is beyond cloudpickle too.
        return _dump_by_value(value, traits, error)
    except _FAULTS as error:
        raise PayloadError(f"{_type_name(value)} cannot be pickled: {_describe(error)}") from error
    pieces = writer.pieces
    if len(pieces) == 1:
        body = pieces[0]
        if traits.names_foreign(body):
            return _dump_by_value(value, traits, None)
        return body, writer.buffers
    if any(len(piece) < _FRAME and traits.names_foreign(piece) for piece in pieces):
        return _dump_by_value(value, traits, None)
    return b"".join(pieces), writer.buffers


def _dump_by_value(value: Any, traits: Traits, cause: Optional[Exception]) -> Payload:
    if not traits.by_value:
        raise PayloadError(
            f"{_type_name(value)} holds code or a class that only this program has, and code does not cross between Python "
            f"{_own_minor()} and {traits.python}: put it into a module that both sides can import"
        ) from cause
    import sys

    import cloudpickle

    writer = _Writer(traits.limit)
    by_value = [sys.modules[name] for name in traits.foreign if name in sys.modules]
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
    import sys

    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except _FAULTS:
        text = "(its text cannot be had)"
    return f"{type(error).__name__}: {text:.300}"


def type_name(value: Any) -> str:
    """`module.Qualified` of a value's class, from the class itself: runs no code of the value."""
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


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
    return dump(table.handle(value), traits)


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


_ATOMS = (int, float, complex, bool, type(None))


def safe_repr(value: Any, depth: int = 2) -> str:
    """A short text for a value that runs no code of its class: built-in atoms and containers are shown, all else is named."""
    cls = type(value)
    if cls in _ATOMS:
        text = repr(value) if cls is not int or -(10**30) < value < 10**30 else f"<int of {value.bit_length()} bits>"
        return text[:60]
    if cls in (str, bytes):
        return repr(value[:40]) + ("..." if len(value) > 40 else "")
    if cls in (list, tuple, set, frozenset) and depth:
        shown = ", ".join(safe_repr(item, depth - 1) for item in itertools.islice(tuple(value), 4))
        more = ", ..." if len(value) > 4 else ""
        return f"{cls.__name__}({shown}{more})"
    if cls is dict and depth:
        items = itertools.islice(tuple(value.items()), 4)
        shown = ", ".join(f"{safe_repr(k, depth - 1)}: {safe_repr(v, depth - 1)}" for k, v in items)
        return "{" + shown + (", ..." if len(value) > 4 else "") + "}"
    return f"{cls.__module__}.{cls.__qualname__} at {id(value):#x}"


# exceptions --------------------------------------------------------------------------------------------------------------


def dump_exception(error: BaseException, traits: Traits) -> Payload:
    """An exception with its text and traceback; the object itself too, if it can be pickled."""
    text = _describe(error)
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except _FAULTS as problem:
        trace = f"{text}\n(its traceback cannot be formatted: {_describe(problem)})"
    inner: Optional[bytes] = None
    try:
        body, buffers = dump(error, traits)
        if not buffers and len(body) < traits.limit // 2:
            inner = bytes(body)
    except PayloadError:
        pass  # the text goes; the other side raises a RemoteError with it
    record = pickle.dumps((text[:10_000], trace[-100_000:], inner), PROTOCOL)
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
    found.__cause__ = RemoteTraceback(str(trace))
    return found


def same_pickle(value: Any, body: Bytes, buffers: Sequence[Bytes], load_again: Callable[[Bytes, Sequence[Bytes]], Any]) -> bool:
    """Whether a value that was loaded from this payload is unchanged since: a fresh copy pickles to the same bytes."""
    return _plain(value) == _plain(load_again(body, buffers))


def _plain(value: Any) -> Union[bytes, object]:
    writer = io.BytesIO()
    try:
        pickle.Pickler(writer, PROTOCOL).dump(value)
    except _FAULTS:
        return object()  # equal to nothing: then the value itself is sent
    return writer.getvalue()

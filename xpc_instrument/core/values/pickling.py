"""Values to bytes and back: pickle first, cloudpickle where it is needed.

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

import pickle
import pickletools
import sys
import threading
import types
from typing import Any, Callable, FrozenSet, Iterable, List, Optional, Sequence, Tuple

from ..model.errors import PayloadError
from ..protocol.codec import Bytes

PROTOCOL = 5
# Buffers smaller than this are cheaper inside the pickle than as a piece of their own; and a hot lane has room for what is smaller.
_OUT_OF_BAND = 64 * 1024
# One less than fit into a frame: a call by name has the name in one.
_MAX_OUT_OF_BAND = 254
# A pickle frame is closed when it has passed 64 KiB, so it may hold one string of nearly 64 KiB more, and a few bytes of opcodes. Larger
# pieces are the content of one string or bytes object and name no module.
_FRAME = 2 * 64 * 1024 + 1024
# What a record of references may have beyond the limit: they are the remedy for what is too large. A lane has room for it (LANE_SLACK).
RECORD_SLACK = 768 * 1024

Payload = Tuple[Bytes, Sequence[Bytes]]


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
FAULTS = (Exception, SystemExit, GeneratorExit)


class _TooLarge(Exception):
    pass


class _Writer:
    """A file for a pickler that keeps the pieces and stops at a limit."""

    __slots__ = ("buffers", "pieces", "room")

    def __init__(self, limit: int) -> None:
        self.room = limit
        self.pieces: List[bytes] = []
        self.buffers: List[Bytes] = []

    def write(self, data: Any) -> int:
        if type(data) is pickle.PickleBuffer:
            # One that is kept inside: as it lies in memory.
            data = data.raw()
        size = len(data)
        self.room -= size
        if self.room < 0:
            raise _TooLarge
        self.pieces.append(data if type(data) is bytes else bytes(data))
        return size

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """The pickler's buffer callback: True keeps the buffer inside the pickle."""
        raw = buffer.raw()
        if raw.nbytes < _OUT_OF_BAND or len(self.buffers) >= _MAX_OUT_OF_BAND:
            return True
        self.room -= raw.nbytes
        if self.room < 0:
            raise _TooLarge
        # `bytes` as such: that is what they are loaded as.
        self.buffers.append(raw.obj if type(raw.obj) is bytes and len(raw.obj) == raw.nbytes else raw)
        return False


def beside(values: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """The values, each that is large `bytes` put beside the pickle; these values themselves if there is none.

    A read-only buffer that arrives as `bytes` (see `codec`) is loaded as those very `bytes`, without a copy.
    """
    for value in values:
        if type(value) is bytes and len(value) >= _OUT_OF_BAND:
            return tuple([pickle.PickleBuffer(one) if type(one) is bytes and len(one) >= _OUT_OF_BAND else one for one in values])
    return values


# Of such values no code runs while they are pickled, and no name is looked up while they are loaded.
SCALARS = frozenset({int, float, complex, bool, type(None)})
# What counts as small: bytes or characters of a string, items of a container, containers within each other.
SMALL_TEXT = 4096
_SMALL_COUNT = 16
_SMALL_DEPTH = 2


def are_small(values: Iterable[Any], depth: int = _SMALL_DEPTH) -> bool:
    """Whether all values are plain and small: then plain pickle does, and neither the limit nor a missing module can be in its way."""
    for value in values:
        kind = type(value)
        if kind in SCALARS:
            continue
        if kind is str or kind is bytes:
            if len(value) > SMALL_TEXT:
                return False
        elif kind is dict:
            # Copied in one step: another thread may change it meanwhile.
            if len(value) > _SMALL_COUNT or not depth:
                return False
            for key, inner in list(value.items()):
                kind = type(inner)
                plain = kind in SCALARS or (kind is str and len(inner) <= SMALL_TEXT) or are_small((inner,), depth - 1)
                if not plain or not ((type(key) is str and len(key) <= SMALL_TEXT) or are_small((key,), 0)):
                    return False
        elif kind is list or kind is tuple:
            if len(value) > _SMALL_COUNT or not depth or not are_small(tuple(value), depth - 1):
                return False
        else:
            return False
    return True


def dump_small(value: Any, dumps: Callable[[Any, int], bytes] = pickle.dumps) -> bytes:
    """Pickle what is known to be plain and small."""
    return dumps(value, PROTOCOL)


def dump_if_small(value: Any, limit: int) -> Optional[bytes]:
    """The pickle of a plain and small value that is within the limit; None of any other."""
    if type(value) not in SCALARS and not are_small((value,)):
        return None
    body = dump_small(value)
    return body if len(body) <= limit else None


def dump(value: Any, traits: Traits, slack: int = 0) -> Payload:
    """Pickle one value for the other side, in at most `traits.limit` and `slack` bytes.

    Raises `PayloadError` that says why it cannot cross and what to do.
    """
    body = dump_if_small(value, traits.limit + slack)
    if body is not None:
        return body, ()
    writer = _Writer(traits.limit + slack)
    try:
        pickle.Pickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
    except _TooLarge:
        raise _too_large(value, traits) from None
    except (pickle.PicklingError, AttributeError) as error:
        # Raised for functions and classes that have no importable name. What fails otherwise is not copied by cloudpickle either, or is
        # better off as a reference: a module, a memoryview.
        return _dump_by_value(value, traits, slack, error)
    except FAULTS as error:
        raise PayloadError(f"{type_name(value)} cannot be pickled: {describe(error)}") from error
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
            f"{type_name(value)} holds code or a class that only this program has, and code does not cross between Python "
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
    except FAULTS as error:
        raise PayloadError(f"{type_name(value)} cannot be pickled: {describe(error)}") from error
    return b"".join(writer.pieces), writer.buffers


# cloudpickle's registry of modules is global; ours are in it only while we pickle.
_by_value_lock = threading.RLock()


def load(body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """The value in a payload. Raises `PayloadError` that says what could not be loaded."""
    try:
        return pickle.loads(body, buffers=buffers) if buffers else pickle.loads(body)
    except FAULTS as error:
        raise PayloadError(f"what the other side sent cannot be loaded here: {describe(error)}") from error


def _too_large(value: Any, traits: Traits) -> PayloadError:
    return PayloadError(f"{type_name(value)} is larger than max-payload, {traits.limit} bytes")


def _own_minor() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def describe(error: BaseException) -> str:
    try:
        # What `__str__` gives may be a subclass of str with methods of its own; `join` makes a plain one.
        text = "".join((str(error), " "))[:-1]
    except FAULTS:
        text = "(its text cannot be had)"
    return f"{_name_of(type(error))}: {text[:300]}"


_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__
_name_of = type.__dict__["__name__"].__get__


def type_name(value: Any) -> str:
    """`module.Qualified` of a value's class, from the class itself: runs no code of the value, its class or its metaclass."""
    return class_name(type(value))


def class_name(cls: type) -> str:
    """The same of a class."""
    module = _module_of(cls)
    return f"{module if type(module) is str else '?'}.{_qualname_of(cls)}"

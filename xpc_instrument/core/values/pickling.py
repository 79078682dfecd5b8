"""Values to bytes and back: pickle first, cloudpickle where it is needed.

Rules:
- Protocol 5 of pickle; large buffers (what pickles as a `PickleBuffer`, such as a numpy array) travel beside the pickle, uncopied.
- Plain pickle names classes and functions by module; what the other side cannot import (`__main__`, local functions, modules that
  the other side said it lacks) is pickled by value, with cloudpickle. By-value code crosses only between equal minor versions of
  Python.
- Pickling stops as soon as the limit is passed: an argument of 4 GB costs no 4 GB.
- A class that is here is never replaced by one that comes (`classes.py`).
- `loads` is only ever used on what a peer sent that has proved the key.
"""

from __future__ import annotations

import pickle
from typing import Any, List, Optional, Sequence, Tuple

from ..model.errors import PayloadError
from ..model.interrupts import raise_interrupt
from ..protocol.codec import Bytes
from . import by_value
from .classes import has_classes, load_with_classes
from .names import FAULTS, describe, type_name
from .plain import PROTOCOL, REDUCERS, dump_if_small
from .traits import PeerProfile, python_version

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


def dump(value: Any, profile: PeerProfile, slack: int = 0) -> Payload:
    """Pickle one value for the other side, in at most `profile.limit` and `slack` bytes.

    Raises `PayloadError` that says why it cannot cross and what to do.
    """
    body = dump_if_small(value, profile.limit + slack)
    if body is not None:
        return body, ()
    writer = _Writer(profile.limit + slack)
    try:
        pickle.Pickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
    except _TooLarge:
        raise _too_large(value, profile) from None
    except (pickle.PicklingError, AttributeError) as error:
        raise_interrupt(error, of_values=True)
        # Raised for functions and classes that have no importable name. What fails otherwise is not copied by cloudpickle either, or is
        # better off as a reference: a module, a memoryview.
        return _dump_by_value(value, profile, slack, error)
    except FAULTS as error:
        raise_interrupt(error, of_values=True)
        raise PayloadError(f"{type_name(value)} cannot be pickled: {describe(error)}") from error
    pieces = writer.pieces
    if len(pieces) == 1:
        body = pieces[0]
        suspect = profile.names_foreign(body)
    else:
        body = b"".join(pieces)
        suspect = any(len(piece) < _FRAME and profile.names_foreign(piece) for piece in pieces)
    # A string may hold the name of a module without meaning it.
    if suspect and _imports_foreign(body, profile):
        return _dump_by_value(value, profile, slack, None)
    return body, writer.buffers


def dump_plain(value: Any, profile: PeerProfile, slack: int = 0) -> Payload:
    """Pickle a plain value, whose types need no import on the other side but of the standard library; otherwise as `dump`."""
    writer = _Writer(profile.limit + slack)
    pickler = pickle.Pickler(writer, PROTOCOL, buffer_callback=writer.take_buffer)
    pickler.dispatch_table = REDUCERS
    try:
        pickler.dump(value)
    except _TooLarge:
        raise _too_large(value, profile) from None
    except FAULTS as error:
        raise_interrupt(error, of_values=True)
        raise PayloadError(f"{type_name(value)} cannot be pickled: {describe(error)}") from error
    pieces = writer.pieces
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), writer.buffers


def _imports_foreign(body: bytes, profile: PeerProfile) -> bool:
    """Whether a pickle, when it is loaded, imports from a module that the other side cannot import."""
    names = profile.foreign | {"__main__"}
    import pickletools  # late: it makes a table of all opcodes, and few pickles get here

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


def _dump_by_value(value: Any, profile: PeerProfile, slack: int, cause: Optional[Exception]) -> Payload:
    if not profile.by_value:
        raise PayloadError(
            f"{type_name(value)} holds code or a class that only this program has, and code does not cross between Python "
            f"{python_version()} and {profile.python}: put it into a module that both sides can import"
        ) from cause
    writer = _Writer(profile.limit + slack)
    try:
        by_value.dump(value, writer, profile.foreign)
    except _TooLarge:
        raise _too_large(value, profile) from None
    except FAULTS as error:
        raise_interrupt(error, of_values=True)
        raise PayloadError(f"{type_name(value)} cannot be pickled: {describe(error)}") from error
    return b"".join(writer.pieces), writer.buffers


def load(body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """The value in a payload. Raises `PayloadError` that says what could not be loaded."""
    try:
        if has_classes(body):
            return load_with_classes(body, buffers)
        return pickle.loads(body, buffers=buffers) if buffers else pickle.loads(body)
    except FAULTS as error:
        raise_interrupt(error, of_values=True)
        raise PayloadError(f"what the other side sent cannot be loaded here: {describe(error)}") from error


def load_plain(body: Bytes) -> Any:
    """The same of what is known to name nothing (`references.is_plain`)."""
    try:
        return pickle.loads(body)
    except FAULTS as error:
        raise_interrupt(error, of_values=True)
        raise PayloadError(f"what the other side sent cannot be loaded here: {describe(error)}") from error


def _too_large(value: Any, profile: PeerProfile) -> PayloadError:
    return PayloadError(f"{type_name(value)} is larger than max-payload, {profile.limit} bytes")

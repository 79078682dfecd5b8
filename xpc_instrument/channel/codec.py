"""Frames and control messages to bytes and back.

A frame, all numbers big-endian:

    opcode        1 byte
    buffers       1 byte, how many out-of-band buffers follow the body
    zero          2 bytes
    ident         4 bytes, what it is about: the number of a hook, or 0
    body length   4 bytes
    lengths       8 bytes for each buffer
    body, then each buffer, each of them padded with zeros to a multiple of 16 bytes, so that arrays can be used where they arrive

Rules:
- The sizes are checked against the limit before anything is allocated.
- A reader never keeps more than one frame plus what arrived with its end.
"""

from __future__ import annotations

import json
import struct
from typing import Any, List, Optional, Sequence, Tuple, Union

from ..errors import LocalProtocolError, RemoteProtocolError
from .limits import Limits
from .messages import LANE_OPCODES, OPCODES, SCHEMAS, Message, Opcode

Bytes = Union[bytes, bytearray, memoryview]

HEADER = struct.Struct("!BBHII")
_HEADER_SIZE = HEADER.size
_ALIGNMENT = 16
# A larger body is sent as a piece of its own, which costs less than copying it behind its header.
_WORTH_A_PIECE = 16 * 1024
MAX_BUFFERS = 255
# A HELLO is about 300 bytes; nothing that comes before the keys are proved needs more.
MAX_UNPROVED = 4096
# A list of 10,000 probe points with their states is about 3 MB.
MAX_CONTROL = 16 * 1024 * 1024
# What a host is sent is short: a registration has a name and terms. So no joined node keeps its service thread from the others for long.
MAX_REQUEST = 256 * 1024

OPCODES_BY_NUMBER = {int(opcode): opcode for opcode in Opcode}
_PADS = [b"\0" * n for n in range(_ALIGNMENT)]


class Frame:
    """One frame: `opcode`, `ident`, `body` and out-of-band `buffers` (writable views into one allocation)."""

    __slots__ = ("body", "buffers", "ident", "opcode")

    def __init__(self, opcode: Opcode, ident: int, body: Bytes, buffers: Sequence[memoryview] = ()) -> None:
        self.opcode = opcode
        self.ident = ident
        self.body = body
        self.buffers = buffers

    def __repr__(self) -> str:
        return f"<Frame {self.opcode.name} {self.ident} {len(self.body)}+{len(self.buffers)}>"


def encode(opcode: Opcode, ident: int, body: Bytes, buffers: Sequence[Bytes] = ()) -> List[Bytes]:
    """The pieces of one frame, to be sent in this order; large buffers are passed on without a copy."""
    if not buffers:
        if len(body) > _WORTH_A_PIECE:
            return [HEADER.pack(opcode, 0, 0, ident, len(body)), body]
        return [HEADER.pack(opcode, 0, 0, ident, len(body)) + body]
    if len(buffers) > MAX_BUFFERS:
        raise LocalProtocolError(f"{len(buffers)} buffers in one frame; at most {MAX_BUFFERS} fit")
    views = [memoryview(buffer).cast("B") if not isinstance(buffer, bytes) else buffer for buffer in buffers]
    lengths = struct.pack(f"!{len(views)}Q", *map(len, views))
    pieces: List[Bytes] = [HEADER.pack(opcode, len(views), 0, ident, len(body)) + lengths + body + _pad(len(body))]
    for view in views:
        pieces.append(view)
        pieces.append(_pad(len(view)))
    return pieces


def _pad(length: int) -> bytes:
    return _PADS[-length % _ALIGNMENT]


class FrameReader:
    """Bytes in, frames out. `limit` bounds the bytes of one frame after its header; it may be raised between frames.

    `idle` says whether the reader stands between two frames.
    """

    __slots__ = ("_data", "_filled", "_head", "_storage", "idle", "limit")

    def __init__(self, limit: int = MAX_UNPROVED) -> None:
        self.limit = limit
        self.idle = True
        self._data = bytearray()
        # A frame whose sizes are known but whose bytes are not all here: (opcode, ident, sizes, storage, bytes filled).
        self._storage: Optional[bytearray] = None
        self._filled = 0
        self._head: Tuple[Opcode, int, Tuple[int, ...]] = (Opcode.PING, 0, (0,))

    def feed(self, data: Bytes) -> Optional[Frame]:
        """Take bytes; returns the first whole frame, or None if more bytes are needed. More may wait: call `next_frame`.

        Raises `RemoteProtocolError` for what is no frame or is over the limit.
        """
        if self.idle:
            # The usual case: one read brought exactly one small frame.
            if len(data) >= _HEADER_SIZE:
                opcode, count, zero, ident, length = HEADER.unpack_from(data)
                if count == 0 and len(data) == _HEADER_SIZE + length and zero == 0 and length <= self.limit:
                    known = OPCODES_BY_NUMBER.get(opcode)
                    if known is not None:
                        return Frame(known, ident, data[_HEADER_SIZE:])
        self._data += data
        self.idle = False
        return self.next_frame()

    def next_frame(self) -> Optional[Frame]:
        """The next frame out of what has been fed already, or None."""
        if self._storage is None and not self._start():
            self.idle = not self._data
            return None
        storage = self._storage
        assert storage is not None
        if self._data:
            take = min(len(storage) - self._filled, len(self._data))
            storage[self._filled : self._filled + take] = memoryview(self._data)[:take]
            del self._data[:take]
            self._filled += take
        return self._finish()

    def missing(self) -> Optional[memoryview]:
        """Where the rest of a frame that has begun may be received straight into, or None; report it with `advance`."""
        if self._storage is None:
            return None
        return memoryview(self._storage)[self._filled :]

    def advance(self, count: int) -> Optional[Frame]:
        """`count` bytes have been written into `missing()`; returns the frame if that completed it."""
        self._filled += count
        return self._finish()

    def _start(self) -> bool:
        data = self._data
        if len(data) < _HEADER_SIZE:
            return False
        opcode, count, zero, ident, length = HEADER.unpack_from(data)
        known = OPCODES_BY_NUMBER.get(opcode)
        if known is None or zero:
            raise RemoteProtocolError(f"not a frame: it begins with the bytes {bytes(data[:_HEADER_SIZE]).hex()}")
        if count and known not in LANE_OPCODES:
            raise RemoteProtocolError(f"{known.name} with {count} buffers; it takes none")
        if length > self.limit:
            raise RemoteProtocolError(f"{known.name} of {length} bytes; at most {self.limit} are accepted now")
        head = _HEADER_SIZE + 8 * count
        if len(data) < head:
            return False
        sizes: Tuple[int, ...] = (length,)
        total = length
        if count:
            sizes += struct.unpack_from(f"!{count}Q", data, _HEADER_SIZE)
            total = sum(size + (-size % _ALIGNMENT) for size in sizes)
            if total > self.limit:
                raise RemoteProtocolError(f"{known.name} of {total} bytes; at most {self.limit} are accepted now")
        del data[:head]
        self._head = (known, ident, sizes)
        self._storage = bytearray(total)
        self._filled = 0
        return True

    def _finish(self) -> Optional[Frame]:
        storage = self._storage
        assert storage is not None
        if self._filled < len(storage):
            return None
        self._storage = None
        self.idle = not self._data
        opcode, ident, sizes = self._head
        view = memoryview(storage)
        if len(sizes) == 1:
            return Frame(opcode, ident, view)
        parts = []
        position = 0
        for size in sizes:
            parts.append(view[position : position + size])
            position += size + (-size % _ALIGNMENT)
        return Frame(opcode, ident, parts[0], parts[1:])


def dump_message(message: Message) -> Tuple[Opcode, bytes]:
    """The opcode and the JSON body of a control message."""
    opcode = OPCODES[type(message)]
    fields = {name: getattr(message, name) for name in SCHEMAS[opcode][1]}
    return opcode, json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()


def load_message(opcode: Opcode, body: Bytes, max_nesting: int = Limits.max_nesting) -> Any:
    """The control message in a frame. Raises `RemoteProtocolError` naming the field that is wrong."""
    try:
        cls, schema = SCHEMAS[opcode]
    except KeyError:
        raise RemoteProtocolError(f"{opcode.name} is not a control message") from None
    fields = load_json(body, opcode.name, max_nesting)
    if not isinstance(fields, dict):
        raise RemoteProtocolError(f"{opcode.name}: expected a JSON object, got {type(fields).__name__}")
    unknown = fields.keys() - schema.keys()
    if unknown:
        raise RemoteProtocolError(f"{opcode.name}: unknown field {min(unknown)!r:.80}")
    for name, types in schema.items():
        if name not in fields:
            raise RemoteProtocolError(f"{opcode.name}: the field {name!r} is missing")
        value = fields[name]
        # bool is an int to isinstance, but not to the protocol.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(kind.__name__ for kind in types)
            raise RemoteProtocolError(f"{opcode.name}: {name} is a {type(value).__name__}; expected {expected}")
    return cls(**fields)


def load_json(body: Bytes, what: str, max_nesting: int) -> Any:
    """Parse JSON from outside: no NaN, at most `max_nesting` containers within each other. Raises `RemoteProtocolError`."""
    try:
        value = json.loads(bytes(body), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"{what}: not JSON ({type(error).__name__}: {error!s:.120})") from None
    containers = _containers([value])
    for _ in range(max_nesting):
        if not containers:
            return value
        containers = _containers([child for node in containers for child in (node.values() if isinstance(node, dict) else node)])
    if containers:
        raise RemoteProtocolError(f"{what}: JSON nested deeper than {max_nesting} levels (max-nesting)")
    return value


def _containers(values: List[Any]) -> List[Any]:
    return [value for value in values if isinstance(value, (dict, list))]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

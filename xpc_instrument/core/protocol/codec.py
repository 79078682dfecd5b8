"""Frames and control messages to bytes and back.

A frame, all numbers big-endian:

    opcode        1 byte
    buffers       1 byte, how many out-of-band buffers follow the body
    zero          2 bytes
    ident         4 bytes, what it is about: the number of a hook, or 0
    body length   4 bytes
    lengths       8 bytes for each buffer; the topmost bit says that it is read-only where it comes from
    body, then each buffer, each of them padded with zeros to a multiple of 16 bytes, so that arrays can be used where they arrive

Rules:
- The sizes are checked against the limit before anything is allocated.
- A reader never keeps more than one frame plus what arrived with its end.
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any, List, Optional, Sequence, Tuple, Union

from ..model.errors import LocalProtocolError, RemoteProtocolError
from ..model.limits import DEFAULT_LIMITS
from ..model.record import as_dict
from .messages import LANE_OPCODES, SCHEMAS, Message, Opcode

Bytes = Union[bytes, bytearray, memoryview]

HEADER = struct.Struct("!BBHII")
_HEADER_SIZE = HEADER.size
_ALIGNMENT = 16
# A larger body is sent as a piece of its own, which costs less than copying it behind its header.
_WORTH_A_PIECE = 16 * 1024
MAX_BUFFERS = 255
# From here on glibc's malloc takes fresh pages each time (mallopt(3), DEFAULT_MMAP_THRESHOLD_MAX); below it gives what was used before.
_HUGE = 32 * 1024 * 1024
# In the length of a buffer.
_READ_ONLY = 1 << 63
# A HELLO is about 300 bytes; nothing that comes before the keys are proved needs more.
MAX_UNPROVED = 4096
# A list of 10,000 probe points with their states is about 3 MB.
MAX_CONTROL = 16 * 1024 * 1024
# What a host is sent is short: a registration has a name and terms. So no joined node keeps its service thread from the others for long.
MAX_REQUEST = 256 * 1024

OPCODES_BY_NUMBER = {int(opcode): opcode for opcode in Opcode}
_PADS = [b"\0" * n for n in range(_ALIGNMENT)]


class Frame:
    """One frame: `opcode`, `ident`, `body` and out-of-band `buffers`, which are writable views, or `bytes` for what is read-only."""

    __slots__ = ("body", "buffers", "ident", "opcode")

    def __init__(self, opcode: Opcode, ident: int, body: Bytes, buffers: Sequence[Bytes] = ()) -> None:
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
    lengths = struct.pack(f"!{len(views)}Q", *[len(view) | (_READ_ONLY if _is_worth_bytes(view) else 0) for view in views])
    pieces: List[Bytes] = [HEADER.pack(opcode, len(views), 0, ident, len(body)) + lengths + body + _pad(len(body))]
    for view in views:
        pieces.append(view)
        pieces.append(_pad(len(view)))
    return pieces


def _is_worth_bytes(view: Bytes) -> bool:
    """Whether it is to become `bytes` where it arrives, which whoever loads `bytes` out of it need not copy."""
    return len(view) >= _WORTH_A_PIECE and (type(view) is bytes or (type(view) is memoryview and view.readonly))


def _pad(length: int) -> bytes:
    return _PADS[-length % _ALIGNMENT]


def _padded(size: int) -> int:
    return size + (-size % _ALIGNMENT)


def _huge(size: int) -> Any:
    """Memory of its own, in huge pages where there are any; its pages are zeroed as they are filled, those of a bytearray before."""
    try:
        import mmap

        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except (ImportError, AttributeError, OSError):
        # Not on this system.
        return bytearray(size)
    return memory


class _Bytes(io.BytesIO):
    """Bytes in the making. Where the garbage collector finds half a frame in a circle, it closes what says that it is open: while there is
    a view of it that fails, and Python 3.15 prints so."""

    __slots__ = ()

    closed = True


class _Place:
    """Where one piece of a frame is received: `view` is to be filled, `take` then gives the first `size` bytes of it."""

    __slots__ = ("_bytes", "_size", "view")

    def __init__(self, size: int, padded: int, read_only: bool = False) -> None:
        self._size = size
        self._bytes: Optional[_Bytes] = None
        if read_only and size:
            # The one way to `bytes` that are filled in place: what a BytesIO holds is given away without a copy.
            self._bytes = _Bytes()
            self._bytes.seek(padded - 1)
            self._bytes.write(b"\0")
            self.view = self._bytes.getbuffer()
        else:
            self.view = memoryview(_huge(padded) if padded >= _HUGE else bytearray(padded))

    def take(self) -> Bytes:
        if self._bytes is None:
            return self.view[: self._size]
        self.view.release()
        self._bytes.truncate(self._size)
        return self._bytes.getvalue()


class FrameReader:
    """Bytes in, frames out. `limit` bounds the bytes of one frame after its header; it may be raised between frames.

    `idle` says whether the reader stands between two frames.
    """

    __slots__ = ("_data", "_filled", "_head", "_places", "_started", "idle", "limit")

    def __init__(self, limit: int = MAX_UNPROVED) -> None:
        self.limit = limit
        self.idle = True
        self._data = bytearray()
        # A frame whose sizes are known but whose bytes are not all here: its head, its pieces, how many of them have been begun before
        # the one that is filled now, and how many bytes of that one are here.
        self._head: Optional[Tuple[Opcode, int]] = None
        self._places: List[_Place] = []
        self._started = self._filled = 0

    @property
    def kept(self) -> int:
        """How many bytes are held for a frame that is not whole."""
        return len(self._data) + sum(len(place.view) for place in self._places)

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
        if self._head is None and not self._start():
            self.idle = not self._data
            return None
        while self._data and self._started < len(self._places):
            view = self._places[self._started].view
            take = min(len(view) - self._filled, len(self._data))
            view[self._filled : self._filled + take] = memoryview(self._data)[:take]
            del self._data[:take]
            self._has_filled(take)
        return self._finish()

    def missing(self) -> Optional[memoryview]:
        """Where the rest of a piece that has begun may be received straight into, or None.

        Report it with `advance`, after the view has been released.
        """
        if self._head is None:
            return None
        return self._places[self._started].view[self._filled :]

    def advance(self, count: int) -> Optional[Frame]:
        """`count` bytes have been written into `missing()`; returns the frame if that completed it."""
        self._has_filled(count)
        return self._finish()

    def _has_filled(self, count: int) -> None:
        self._filled += count
        # Empty pieces are passed over.
        while self._started < len(self._places) and self._filled == len(self._places[self._started].view):
            self._started += 1
            self._filled = 0

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
        pieces: List[Tuple[int, bool]] = []
        if count:
            lengths = struct.unpack_from(f"!{count}Q", data, _HEADER_SIZE)
            pieces = [(number & ~_READ_ONLY, number >= _READ_ONLY) for number in lengths]
            total = _padded(length) + sum(_padded(size) for size, _ in pieces)
            if total > self.limit:
                raise RemoteProtocolError(f"{known.name} of {total} bytes; at most {self.limit} are accepted now")
        del data[:head]
        places = [_Place(length, _padded(length) if count else length)]
        places += [_Place(size, _padded(size), read_only) for size, read_only in pieces]
        self._places, self._head = places, (known, ident)
        self._started = self._filled = 0
        self._has_filled(0)
        return True

    def _finish(self) -> Optional[Frame]:
        if self._started < len(self._places):
            return None
        assert self._head is not None
        opcode, ident = self._head
        body, *buffers = [place.take() for place in self._places]
        self._head = None
        self._places = []
        self.idle = not self._data
        return Frame(opcode, ident, body, buffers)


def dump_message(message: Message) -> Tuple[Opcode, bytes]:
    """The opcode and the JSON body of a control message."""
    return message.opcode, json.dumps(as_dict(message), separators=(",", ":"), allow_nan=False).encode()


def load_message(opcode: Opcode, body: Bytes, max_nesting: int = DEFAULT_LIMITS.max_nesting) -> Any:
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
        raise RemoteProtocolError(f"{what}: not JSON ({type(error).__name__}: {error!s:.120})") from error
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

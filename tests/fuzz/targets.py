"""What is fuzzed: each target takes bytes and raises only if the channel does with them what it must not do.

Whatever an unauthenticated peer sends: only `RemoteProtocolError` and `AuthenticationError` come out, nothing is unpickled, what is kept is
bounded, the key is proved by nobody who does not hold it, and it makes no difference in which pieces the bytes arrive.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, Callable, Dict, List, Tuple

from xpc_instrument.core.model.errors import AuthenticationError, RemoteProtocolError
from xpc_instrument.core.protocol import codec
from xpc_instrument.core.protocol.codec import MAX_UNPROVED, Frame, FrameReader, load_message
from xpc_instrument.core.protocol.connection import Connection, State, prove
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, SCHEMAS, Hello, Opcode, Welcome

KEY = b"the key that the fuzzer does not know"
WELCOME = Welcome("", 1, "3.11", "shop", 1000)
# A frame that is under way, its header, and what one read may bring behind it.
_MOST_KEPT = MAX_UNPROVED + 16 + 8 * codec.MAX_BUFFERS


class Unpickled(BaseException):
    """Something was unpickled: no `Exception`, so that no handler on the way takes it for bad input."""


def _alarm(*_: Any, **__: Any) -> Any:
    raise Unpickled


def arm() -> None:
    """Have unpickling end the process's fuzzing."""
    pickle.loads = pickle.load = _alarm  # type: ignore[assignment]
    pickle.Unpickler = _alarm  # type: ignore[misc,assignment]


def pieces_of(data: bytes) -> Tuple[List[bytes], bytes]:
    """The bytes in pieces whose sizes the first bytes say, and the same bytes whole."""
    if not data:
        return [], b""
    count = data[0] % 16
    sizes, rest = data[1 : 1 + count], data[1 + count :]
    pieces = []
    position = 0
    for size in sizes:
        pieces.append(rest[position : position + size])
        position += size
    pieces.append(rest[position:])
    return [piece for piece in pieces if piece], rest


def frames_of(pieces: List[bytes]) -> Tuple[List[Tuple[int, int, bytes, List[bytes]]], str]:
    """All frames in the pieces, and how it ended."""
    reader = FrameReader()
    found = []
    try:
        for piece in pieces:
            frame = reader.feed(piece)
            while frame is not None:
                found.append((int(frame.opcode), frame.ident, bytes(frame.body), [bytes(buffer) for buffer in frame.buffers]))
                frame = None if reader.idle else reader.next_frame()
            assert reader.kept <= _MOST_KEPT + len(piece), f"{reader.kept} bytes are kept"
    except RemoteProtocolError as error:
        return found, str(error)
    return found, ""


def fuzz_reader(data: bytes) -> None:
    """The frame reader: the same frames and the same end, however the bytes are cut."""
    pieces, whole = pieces_of(data)
    assert frames_of(pieces) == frames_of([whole]) == frames_of([whole[n : n + 1] for n in range(len(whole))])


def fuzz_message(data: bytes) -> None:
    """The reader of control messages: a message whose fields have the types of the protocol, or a `RemoteProtocolError`."""
    opcodes = list(Opcode)
    opcode = opcodes[data[0] % len(opcodes)] if data else Opcode.HELLO
    try:
        message = load_message(opcode, data[1:])
    except RemoteProtocolError as error:
        complaint = str(error)
    else:
        complaint = ""
    if complaint:
        # A line in the log; what it quotes must not make it a page.
        assert len(complaint) < 600
        return
    cls, schema = SCHEMAS[opcode]
    assert type(message) is cls
    for name, types in schema.items():
        assert isinstance(getattr(message, name), types)


def _listening() -> Connection:
    return Connection(dialling=False, key=KEY, max_payload=1000)


def fuzz_handshake(data: bytes) -> None:
    """The listening side of a connection before the proof: it is never open, and it ends in one of two errors."""
    pieces, _ = pieces_of(data)
    connection = _listening()
    said = 0
    try:
        for piece in pieces:
            frame = connection.reader.feed(piece)
            while frame is not None:
                said += sum(map(len, connection.shake(frame, WELCOME)))
                assert not connection.open, "the key was proved by who does not hold it"
                frame = None if connection.reader.idle else connection.reader.next_frame()
    except (AuthenticationError, RemoteProtocolError) as error:
        said += sum(map(len, connection.refusal("protocol", str(error))))
    assert connection.state in {State.AWAIT_HELLO, State.AWAIT_PROOF, State.CHALLENGING, State.WELCOMING, State.REFUSED}
    assert said < 2 * MAX_UNPROVED


def fuzz_proof(data: bytes) -> None:
    """As `fuzz_handshake`, behind a HELLO that is right: the fuzzer's bytes are what follows, or the fields of the PROOF."""
    connection = _listening()
    hello = Hello(PROTOCOL_VERSION, "control", "session", "00" * 32, 1, "3.11", "fuzz")
    opcode, body = codec.dump_message(hello)
    connection.shake(Frame(opcode, 0, body), WELCOME)
    text = data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace") if _decodes(data) else ""
    for proof in (data, json.dumps({"mac": text}).encode()):
        if connection.state is not State.AWAIT_PROOF:
            break
        try:
            connection.shake(Frame(Opcode.PROOF, 0, proof), WELCOME)
        except (AuthenticationError, RemoteProtocolError):
            pass
        assert not connection.open
        connection.state = State.AWAIT_PROOF
    # The proof of another connection, as somebody may have recorded it.
    replayed = prove(KEY, "dialler", bytes(body), b'{"version":1,"nonce":"another"}')
    try:
        connection.shake(Frame(Opcode.PROOF, 0, json.dumps({"mac": replayed}).encode()), WELCOME)
    except AuthenticationError:
        pass
    assert not connection.open


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace")
    except UnicodeDecodeError:
        return False
    return True


def fuzz_dialler(data: bytes) -> None:
    """The dialling side: whoever answers at an address without holding the key is found out."""
    pieces, _ = pieces_of(data)
    connection = Connection(dialling=True, key=KEY, max_payload=1000)
    connection.start(Hello(PROTOCOL_VERSION, "control", "session", "00" * 32, 1, "3.11", "fuzz"))
    try:
        for piece in pieces:
            frame = connection.reader.feed(piece)
            while frame is not None:
                connection.shake(frame, WELCOME)
                assert not connection.open
                frame = None if connection.reader.idle else connection.reader.next_frame()
    except (AuthenticationError, RemoteProtocolError):
        pass


TARGETS: Dict[str, Callable[[bytes], None]] = {
    "reader": fuzz_reader,
    "message": fuzz_message,
    "handshake": fuzz_handshake,
    "proof": fuzz_proof,
    "dialler": fuzz_dialler,
}


def seeds() -> Dict[str, List[bytes]]:
    """Where to begin: what an honest peer sends, and what once was wrong."""
    hello = codec.dump_message(Hello(PROTOCOL_VERSION, "control", "session", "00" * 32, 1, "3.11", "fuzz"))[1]
    proof = b'{"mac":"' + b"0" * 64 + b'"}'
    surrogate = b'{"mac":"\\ud800"}'
    stream = b"".join(bytes(piece) for piece in [*codec.encode(Opcode.HELLO, 0, hello), *codec.encode(Opcode.PROOF, 0, proof)])
    challenge = b'{"version":1,"nonce":"00"}'
    welcome = b'{"mac":"\\ud800","pid":1,"python":"3.11","app":"","max_payload":1}'
    answer = b"".join(bytes(piece) for piece in [*codec.encode(Opcode.CHALLENGE, 0, challenge), *codec.encode(Opcode.WELCOME, 0, welcome)])
    bad_proof = b"".join(bytes(piece) for piece in [*codec.encode(Opcode.HELLO, 0, hello), *codec.encode(Opcode.PROOF, 0, surrogate)])
    lane = b"".join(bytes(piece) for piece in codec.encode(Opcode.CALL, 1, b"body", [b"buffer", b"x" * 40]))
    deep = b"[" * 4000
    numbers = b'{"version":' + b"9" * 4000 + b"}"
    return {
        "reader": [b"\0" + stream, b"\x03\x01\x02\x20" + stream, b"\0" + lane, b"\0" + lane + stream],
        "message": [bytes([n]) + text for n in range(len(Opcode)) for text in (b"{}", hello, deep, numbers)],
        "handshake": [b"\0" + stream, b"\x02\x05\x30" + stream, b"\0" + bad_proof],
        "proof": [proof, surrogate, b"\xed\xa0\x80", b"{}"],
        "dialler": [b"\0" + answer, b"\0" + b"".join(bytes(p) for p in codec.encode(Opcode.REFUSED, 0, b'{"reason":"","message":""}'))],
    }

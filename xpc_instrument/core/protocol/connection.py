"""The state machine of one connection, without I/O: bytes in, frames out.

Rules:
- The transition table is the protocol. What it does not list is refused: `LocalProtocolError` if this side tries to send it,
  `RemoteProtocolError` if the other side did.
- The handshake proves the key both ways, dialling side first, so that nobody gets a keyed hash out of a listener without
  holding the key:

      HELLO (role, nonce) ->   <- CHALLENGE (nonce)   PROOF ->   <- WELCOME (proof)

  Each proof is an HMAC-SHA256 with the key over a label that names the side and over both messages before it, byte by byte, so a
  proof fits one connection, one direction and one role. Without a key (a unix socket, where the kernel says who the peer is) the
  key is empty and the same steps run.
- Until the handshake ends, frames are at most `MAX_UNPROVED` bytes and none of them can hold a pickle.
- A lane carries one conversation at a time: the caller sends CALL and waits; the callee answers with RETURN, RAISE, FAILED or
  NOT_FOUND, and may first ask back with PROCEED or REFER, each answered by RESULT or FAULT. So a lane never holds two questions.
- EVENTS is called like CALL, with a batch of invocations that nobody waits for; its answer, an empty RETURN, asks for the next one.
"""

from __future__ import annotations

import enum
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..model.errors import AuthenticationError, CrowdedError, LocalProtocolError, NoLaneError, RemoteProtocolError
from ..model.limits import DEFAULT_LIMITS
from .codec import MAX_CONTROL, MAX_REQUEST, Bytes, Frame, FrameReader, dump_message, encode, load_message
from .digest import compare_digest, hmac_sha256
from .messages import PROTOCOL_VERSION, Challenge, Hello, Message, Opcode, Proof, Refused, Role, Welcome


class State(enum.Enum):
    """Where one side of a connection stands."""

    # The row of the table that is this state's: what it may send and receive, and where that leads.
    sends: Dict[Opcode, State]
    receives: Dict[Opcode, State]

    # handshake, dialling side
    START = "start"
    AWAIT_CHALLENGE = "await challenge"
    PROVING = "proving"
    AWAIT_WELCOME = "await welcome"
    # handshake, listening side
    AWAIT_HELLO = "await hello"
    CHALLENGING = "challenging"
    AWAIT_PROOF = "await proof"
    WELCOMING = "welcoming"
    # control connection
    CONTROL = "control"
    # a lane, caller's side
    CALLER_IDLE = "caller idle"
    CALLER_WAITING = "caller waiting"
    CALLER_SERVING = "caller serving"
    # a lane, callee's side
    CALLEE_IDLE = "callee idle"
    CALLEE_RUNNING = "callee running"
    CALLEE_ASKING = "callee asking"
    # the end
    REFUSED = "refused"


SEND = "send"
RECEIVE = "receive"

_O = Opcode
_S = State

TRANSITIONS: Dict[Tuple[State, str, Opcode], State] = {
    (_S.START, SEND, _O.HELLO): _S.AWAIT_CHALLENGE,
    (_S.AWAIT_CHALLENGE, RECEIVE, _O.CHALLENGE): _S.PROVING,
    (_S.AWAIT_CHALLENGE, RECEIVE, _O.REFUSED): _S.REFUSED,
    (_S.PROVING, SEND, _O.PROOF): _S.AWAIT_WELCOME,
    (_S.AWAIT_WELCOME, RECEIVE, _O.REFUSED): _S.REFUSED,
    (_S.AWAIT_HELLO, RECEIVE, _O.HELLO): _S.CHALLENGING,
    (_S.AWAIT_HELLO, SEND, _O.REFUSED): _S.REFUSED,
    (_S.CHALLENGING, SEND, _O.CHALLENGE): _S.AWAIT_PROOF,
    (_S.CHALLENGING, SEND, _O.REFUSED): _S.REFUSED,
    (_S.AWAIT_PROOF, RECEIVE, _O.PROOF): _S.WELCOMING,
    (_S.AWAIT_PROOF, SEND, _O.REFUSED): _S.REFUSED,
    (_S.WELCOMING, SEND, _O.REFUSED): _S.REFUSED,
    # WELCOME leads on to the state that the role asks for: see _OPENED.
    (_S.CALLER_IDLE, SEND, _O.CALL): _S.CALLER_WAITING,
    (_S.CALLER_IDLE, SEND, _O.CALL_NAMED): _S.CALLER_WAITING,
    (_S.CALLER_IDLE, SEND, _O.EVENTS): _S.CALLER_WAITING,
    (_S.CALLER_WAITING, RECEIVE, _O.PROCEED): _S.CALLER_SERVING,
    (_S.CALLER_WAITING, RECEIVE, _O.REFER): _S.CALLER_SERVING,
    (_S.CALLER_SERVING, SEND, _O.RESULT): _S.CALLER_WAITING,
    (_S.CALLER_SERVING, SEND, _O.FAULT): _S.CALLER_WAITING,
    (_S.CALLER_WAITING, RECEIVE, _O.RETURN): _S.CALLER_IDLE,
    (_S.CALLER_WAITING, RECEIVE, _O.RETURN_SAME): _S.CALLER_IDLE,
    (_S.CALLER_WAITING, RECEIVE, _O.RAISE): _S.CALLER_IDLE,
    (_S.CALLER_WAITING, RECEIVE, _O.RAISE_SAME): _S.CALLER_IDLE,
    (_S.CALLER_WAITING, RECEIVE, _O.FAILED): _S.CALLER_IDLE,
    (_S.CALLER_WAITING, RECEIVE, _O.NOT_FOUND): _S.CALLER_IDLE,
    (_S.CALLEE_IDLE, RECEIVE, _O.CALL): _S.CALLEE_RUNNING,
    (_S.CALLEE_IDLE, RECEIVE, _O.CALL_NAMED): _S.CALLEE_RUNNING,
    (_S.CALLEE_IDLE, RECEIVE, _O.EVENTS): _S.CALLEE_RUNNING,
    (_S.CALLEE_RUNNING, SEND, _O.PROCEED): _S.CALLEE_ASKING,
    (_S.CALLEE_RUNNING, SEND, _O.REFER): _S.CALLEE_ASKING,
    (_S.CALLEE_ASKING, RECEIVE, _O.RESULT): _S.CALLEE_RUNNING,
    (_S.CALLEE_ASKING, RECEIVE, _O.FAULT): _S.CALLEE_RUNNING,
    (_S.CALLEE_RUNNING, SEND, _O.RETURN): _S.CALLEE_IDLE,
    (_S.CALLEE_RUNNING, SEND, _O.RETURN_SAME): _S.CALLEE_IDLE,
    (_S.CALLEE_RUNNING, SEND, _O.RAISE): _S.CALLEE_IDLE,
    (_S.CALLEE_RUNNING, SEND, _O.RAISE_SAME): _S.CALLEE_IDLE,
    (_S.CALLEE_RUNNING, SEND, _O.FAILED): _S.CALLEE_IDLE,
    (_S.CALLEE_RUNNING, SEND, _O.NOT_FOUND): _S.CALLEE_IDLE,
}
for _opcode in (
    _O.REGISTER,
    _O.UNREGISTER,
    _O.QUERY,
    _O.ANSWER,
    _O.LANES_WANTED,
    _O.NOTICE,
    _O.SYNCED,
    _O.PING,
    _O.PONG,
):
    TRANSITIONS[_S.CONTROL, SEND, _opcode] = _S.CONTROL
    TRANSITIONS[_S.CONTROL, RECEIVE, _opcode] = _S.CONTROL

for _state in State:
    _state.sends = {opcode: to for (at, way, opcode), to in TRANSITIONS.items() if at is _state and way == SEND}
    _state.receives = {opcode: to for (at, way, opcode), to in TRANSITIONS.items() if at is _state and way == RECEIVE}

# role -> the state of the dialling and of the listening side once WELCOME has been said.
_OPENED: Dict[str, Tuple[State, State]] = {
    Role.CONTROL.value: (_S.CONTROL, _S.CONTROL),
    Role.SERVE.value: (_S.CALLEE_IDLE, _S.CALLER_IDLE),
    Role.CALL.value: (_S.CALLER_IDLE, _S.CALLEE_IDLE),
}

_NONCE_BYTES = 32
# What a frame of a lane may hold beyond its payload: the record of the invocation, padding, a traceback.
LANE_SLACK = 1024 * 1024


def prove(key: bytes, side: str, hello: bytes, challenge: bytes) -> str:
    """The proof of one side: HMAC-SHA256 over its label and the two messages before it, in hexadecimal."""
    transcript = b"%s|%d|%b%b" % (side.encode(), len(hello), hello, challenge)
    return hmac_sha256(key, transcript).hex()


def _same(expected: str, seen: str) -> bool:
    # JSON can hold surrogates without their partner, which have no encoding of their own.
    return compare_digest(expected.encode(), seen.encode("utf-8", "surrogatepass"))


def new_nonce() -> str:
    """A fresh random number for one handshake, in hexadecimal."""
    return os.urandom(_NONCE_BYTES).hex()


class Connection:
    """One side of one connection. `send` gives bytes to transmit, `feed` and `next_frame` give frames that arrived."""

    def __init__(self, *, dialling: bool, key: bytes, max_payload: int, max_nesting: int = DEFAULT_LIMITS.max_nesting) -> None:
        self.state = State.START if dialling else State.AWAIT_HELLO
        self.hello: Optional[Hello] = None
        self.welcome: Optional[Welcome] = None
        self.max_payload = max_payload
        self._max_nesting = max_nesting
        self._key = key
        self._dialling = dialling
        self._hello_bytes = b""
        self._challenge_bytes = b""
        self.reader = FrameReader()

    # frames ------------------------------------------------------------------------------------------------------------

    def send(self, opcode: Opcode, ident: int = 0, body: Bytes = b"", buffers: Sequence[Bytes] = ()) -> List[Bytes]:
        """The pieces of a frame to transmit. Raises `LocalProtocolError` where the state does not allow it."""
        self.sending(opcode)
        return encode(opcode, ident, body, buffers)

    def sending(self, opcode: Opcode) -> None:
        """Account for a frame that is about to be transmitted. Raises `LocalProtocolError` where the state does not allow it."""
        try:
            self.state = self.state.sends[opcode]
        except KeyError:
            raise LocalProtocolError(f"cannot send {opcode.name} in the state {self.state.value!r}") from None

    def accept(self, frame: Frame) -> Frame:
        """Account for a frame that arrived. Raises `RemoteProtocolError` where the state does not allow it."""
        try:
            self.state = self.state.receives[frame.opcode]
        except KeyError:
            raise RemoteProtocolError(f"{frame.opcode.name} in the state {self.state.value!r}") from None
        return frame

    def send_message(self, message: Message) -> List[Bytes]:
        """The pieces of a control message to transmit."""
        opcode, body = dump_message(message)
        return self.send(opcode, 0, body)

    def read(self, frame: Frame) -> Any:
        """The control message in a frame. Raises `RemoteProtocolError`."""
        return load_message(frame.opcode, frame.body, self._max_nesting)

    # the handshake -----------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether the handshake has ended well."""
        return self.welcome is not None

    def start(self, hello: Hello) -> List[Bytes]:
        """Dialling side: the first message."""
        self.hello = hello
        pieces = self.send_message(hello)
        self._hello_bytes = bytes(dump_message(hello)[1])
        return pieces

    def shake(self, frame: Frame, welcome: Welcome) -> List[Bytes]:
        """One step of the handshake: a frame that arrived -> what to transmit (may be nothing).

        `welcome` is what a listening side says about itself (its `mac` is filled in here). Raises `AuthenticationError` if the
        other side does not hold the key or refused us, `RemoteProtocolError` for anything else that is wrong; what a
        listening side should transmit before it closes is then in `refusal`.
        """
        if frame.opcode is Opcode.WELCOME and self.state is State.AWAIT_WELCOME:
            return self._finish_dialling(frame)
        self.accept(frame)
        message = self.read(frame)
        if isinstance(message, Refused):
            if message.reason == "authentication":
                raise AuthenticationError(message.message)
            kind = {"crowded": CrowdedError, "lanes": NoLaneError}.get(message.reason, RemoteProtocolError)
            raise kind(f"refused ({message.reason}): {message.message}")
        if isinstance(message, Hello):
            self.hello = message
            self._hello_bytes = bytes(frame.body)
            if message.version != PROTOCOL_VERSION:
                raise RemoteProtocolError(
                    f"the other side speaks protocol {message.version}, this one {PROTOCOL_VERSION}: "
                    "install the same version of xpc-instrument on both"
                )
            if message.role not in _OPENED:
                raise RemoteProtocolError(f"unknown role {message.role!r:.40}")
            challenge = Challenge(PROTOCOL_VERSION, new_nonce())
            pieces = self.send_message(challenge)
            self._challenge_bytes = dump_message(challenge)[1]
            return pieces
        if isinstance(message, Challenge):
            self._challenge_bytes = bytes(frame.body)
            return self.send_message(Proof(prove(self._key, "dialler", self._hello_bytes, self._challenge_bytes)))
        assert isinstance(message, Proof)
        return self._finish_listening(message, welcome)

    def refusal(self, reason: str, text: str) -> List[Bytes]:
        """What to transmit before closing, or nothing where the state has no room for it."""
        if Opcode.REFUSED not in self.state.sends:
            return []
        return self.send_message(Refused(reason, text[:500]))

    def turn_away(self, reason: str, text: str) -> List[Bytes]:
        """Listening side: what to transmit instead of WELCOME to a peer that has proved the key but cannot join."""
        opcode, body = dump_message(Refused(reason, text[:500]))
        return encode(opcode, 0, body)

    def _finish_listening(self, proof: Proof, welcome: Welcome) -> List[Bytes]:
        expected = prove(self._key, "dialler", self._hello_bytes, self._challenge_bytes)
        if not _same(expected, proof.mac):
            raise AuthenticationError("the keys of the two sides differ")
        mac = prove(self._key, "listener", self._hello_bytes, self._challenge_bytes)
        self.welcome = Welcome(mac, welcome.pid, welcome.python, welcome.app, welcome.max_payload)
        opcode, body = dump_message(self.welcome)
        self._opened()
        return encode(opcode, 0, body)

    def _finish_dialling(self, frame: Frame) -> List[Bytes]:
        welcome = self.read(frame)
        expected = prove(self._key, "listener", self._hello_bytes, self._challenge_bytes)
        if not _same(expected, welcome.mac):
            raise AuthenticationError("the listening side does not hold the key: something else answers at that address")
        self.welcome = welcome
        self._opened()
        return []

    def _opened(self) -> None:
        assert self.hello is not None
        self.state = _OPENED[self.hello.role][0 if self._dialling else 1]
        if self._dialling and self.welcome is not None:
            self.max_payload = self.welcome.max_payload
        most = MAX_CONTROL if self._dialling else MAX_REQUEST
        self.reader.limit = most if self.state is State.CONTROL else self.max_payload + LANE_SLACK

"""The state machine: two sides over a fake wire, every transition, and everything that is no transition."""

from __future__ import annotations

from itertools import product
from typing import Any, List, Tuple

import pytest

from xpc_instrument.core.model.errors import AuthenticationError, LocalProtocolError, RemoteProtocolError
from xpc_instrument.core.protocol.codec import Frame, FrameReader, encode
from xpc_instrument.core.protocol.connection import RECEIVE, SEND, TRANSITIONS, Connection, State
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, Hello, Opcode, Role, Welcome

WELCOME = Welcome("", 1, "3.11", "shop", 5000)


def hello(role: str = "control", nonce: str = "abc", version: int = PROTOCOL_VERSION) -> Hello:
    return Hello(version, role, "session", nonce, 5, "3.11", "test")


def carry(pieces: List[Any], limit: int = 1_000_000) -> Frame:
    """The fake wire: the one frame in these pieces."""
    frame = FrameReader(limit).feed(b"".join(bytes(piece) for piece in pieces))
    assert frame is not None
    return frame


def pair(role: str = "control", dialler_key: bytes = b"key", listener_key: bytes = b"key") -> Tuple[Connection, Connection]:
    dialler = Connection(dialling=True, key=dialler_key, max_payload=1000)
    listener = Connection(dialling=False, key=listener_key, max_payload=5000)
    challenge = listener.shake(carry(dialler.start(hello(role))), WELCOME)
    proof = dialler.shake(carry(challenge), WELCOME)
    welcome = listener.shake(carry(proof), WELCOME)
    dialler.shake(carry(welcome), WELCOME)
    return dialler, listener


@pytest.mark.parametrize(
    ("role", "dialling", "listening"),
    [
        (Role.CONTROL, State.CONTROL, State.CONTROL),
        (Role.SERVE, State.CALLEE_IDLE, State.CALLER_IDLE),
        (Role.CALL, State.CALLER_IDLE, State.CALLEE_IDLE),
    ],
)
def test_the_handshake_opens_both_sides_in_their_roles(role: Role, dialling: State, listening: State) -> None:
    dialler, listener = pair(role.value)
    assert (dialler.state, listener.state) == (dialling, listening)
    assert dialler.open
    assert listener.open
    assert dialler.max_payload == 5000


def test_a_wrong_key_is_noticed_by_the_listener_which_refuses() -> None:
    dialler = Connection(dialling=True, key=b"wrong", max_payload=1000)
    listener = Connection(dialling=False, key=b"right", max_payload=1000)
    proof = dialler.shake(carry(listener.shake(carry(dialler.start(hello())), WELCOME)), WELCOME)
    with pytest.raises(AuthenticationError, match="keys"):
        listener.shake(carry(proof), WELCOME)
    assert not listener.open
    with pytest.raises(AuthenticationError, match="differ"):
        dialler.shake(carry(listener.refusal("authentication", "the keys differ")), WELCOME)


def test_a_listener_that_does_not_hold_the_key_is_noticed_by_the_dialler() -> None:
    dialler = Connection(dialling=True, key=b"key", max_payload=1000)
    listener = Connection(dialling=False, key=b"other", max_payload=1000)
    dialler.shake(carry(listener.shake(carry(dialler.start(hello())), WELCOME)), WELCOME)
    forged = encode(Opcode.WELCOME, 0, b'{"mac":"00","pid":1,"python":"3","app":"","max_payload":1}')
    with pytest.raises(AuthenticationError, match="does not hold the key"):
        dialler.shake(carry(forged), WELCOME)
    assert not dialler.open


def test_a_recorded_proof_does_not_open_a_second_connection() -> None:
    dialler = Connection(dialling=True, key=b"key", max_payload=1000)
    first = Connection(dialling=False, key=b"key", max_payload=1000)
    proof = dialler.shake(carry(first.shake(carry(dialler.start(hello())), WELCOME)), WELCOME)
    second = Connection(dialling=False, key=b"key", max_payload=1000)
    second.shake(carry(Connection(dialling=True, key=b"", max_payload=1).start(hello())), WELCOME)
    with pytest.raises(AuthenticationError):
        second.shake(carry(proof), WELCOME)


def test_another_version_is_refused_with_the_remedy() -> None:
    dialler = Connection(dialling=True, key=b"key", max_payload=1000)
    listener = Connection(dialling=False, key=b"key", max_payload=1000)
    with pytest.raises(RemoteProtocolError, match="install the same version"):
        listener.shake(carry(dialler.start(hello(version=PROTOCOL_VERSION + 1))), WELCOME)
    assert listener.refusal("protocol", "version")


def test_the_table_is_all_there_is() -> None:
    for state, direction, opcode in product(State, (SEND, RECEIVE), Opcode):
        connection = Connection(dialling=True, key=b"", max_payload=1000)
        connection.state = state
        expected = TRANSITIONS.get((state, direction, opcode))
        error = None
        try:
            if direction == SEND:
                connection.send(opcode)
            else:
                connection.accept(Frame(opcode, 0, b""))
        except (LocalProtocolError, RemoteProtocolError) as raised:
            error = type(raised)
        refusal = LocalProtocolError if direction == SEND else RemoteProtocolError
        assert (connection.state, error) == ((state, refusal) if expected is None else (expected, None)), (state, direction, opcode)


@pytest.mark.parametrize("opcode", [Opcode.CALL, Opcode.RETURN, Opcode.REGISTER, Opcode.PROCEED])
def test_nothing_but_the_handshake_is_heard_before_its_end(opcode: Opcode) -> None:
    listener = Connection(dialling=False, key=b"key", max_payload=1000)
    with pytest.raises(RemoteProtocolError):
        listener.shake(Frame(opcode, 0, b"{}"), WELCOME)
    assert listener.reader.limit == 4096


def test_each_state_has_the_rows_of_the_table_that_are_its_own() -> None:
    rows = {(state, SEND, opcode): to for state in State for opcode, to in state.sends.items()}
    rows.update({(state, RECEIVE, opcode): to for state in State for opcode, to in state.receives.items()})
    assert rows == TRANSITIONS

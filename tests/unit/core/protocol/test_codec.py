"""Frames and control messages: what goes in comes out, and no bytes from outside do anything but that or a RemoteProtocolError."""

from __future__ import annotations

import gc
import pickle
import struct
import sys
import weakref
from typing import Any, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.model.errors import RemoteProtocolError
from xpc_instrument.core.protocol import codec
from xpc_instrument.core.protocol.codec import Frame, FrameReader, dump_message, encode, load_message
from xpc_instrument.core.protocol.messages import LANE_OPCODES, SCHEMAS, Answer, Hello, Opcode, Register
from xpc_instrument.core.values.pickling import beside, dump
from xpc_instrument.core.values.traits import PeerProfile


def feed(reader: FrameReader, data: bytes) -> List[Frame]:
    frames = []
    frame = reader.feed(data)
    while frame is not None:
        frames.append(frame)
        frame = None if reader.idle else reader.next_frame()
    return frames


@given(
    opcode=st.sampled_from(sorted(LANE_OPCODES)),
    ident=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=200),
    buffers=st.lists(st.binary(max_size=100) | st.just(b"y" * 17_000), max_size=4),
    cuts=st.lists(st.integers(1, 50), max_size=20),
)
def test_a_frame_survives_any_split_of_its_bytes(opcode: Opcode, ident: int, body: bytes, buffers: List[bytes], cuts: List[int]) -> None:
    wire = b"".join(bytes(piece) for piece in encode(opcode, ident, body, buffers)) * 2
    reader = FrameReader(100_000)
    frames: List[Frame] = []
    position = 0
    for cut in [*cuts, len(wire)]:
        if wire[position : position + cut]:
            frames += feed(reader, wire[position : position + cut])
        position += cut
    assert len(frames) == 2
    for frame in frames:
        assert (frame.opcode, frame.ident, bytes(frame.body)) == (opcode, ident, body)
        assert [bytes(buffer) for buffer in frame.buffers] == buffers
    assert reader.idle


@settings(max_examples=300)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=10))
def test_no_bytes_do_anything_but_give_frames_or_a_protocol_error(pieces: List[bytes]) -> None:
    reader = FrameReader(1000)
    try:
        for piece in pieces:
            for frame in feed(reader, piece):
                assert len(frame.body) <= 1000
                if frame.opcode in SCHEMAS:
                    load_message(frame.opcode, frame.body)
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("!BBHII", Opcode.HELLO, 0, 0, 0, 4097),
        struct.pack("!BBHII", Opcode.CALL, 0, 0, 0, 2**32 - 1),
        struct.pack("!BBHIIQ", Opcode.CALL, 1, 0, 0, 0, 2**62),
        struct.pack("!BBHIIQ", Opcode.CALL, 1, 0, 0, 0, 2**64 - 1),
        struct.pack("!BBHIIQ", Opcode.CALL, 1, 0, 0, 0, 2**63 + 4097),
        struct.pack("!BBHIIQ", Opcode.HELLO, 1, 0, 0, 0, 5),
        struct.pack("!BBHII", 200, 0, 0, 0, 0),
        struct.pack("!BBHII", Opcode.PING, 0, 1, 0, 0),
    ],
)
def test_what_is_too_large_or_no_frame_is_refused_before_anything_is_allocated(header: bytes) -> None:
    reader = FrameReader(codec.MAX_UNPROVED)
    with pytest.raises(RemoteProtocolError):
        reader.feed(header)
    assert reader.missing() is None


def test_a_large_frame_can_be_received_in_place() -> None:
    wire = b"".join(bytes(piece) for piece in encode(Opcode.CALL, 1, b"x" * 100_000))
    reader = FrameReader(200_000)
    assert reader.feed(wire[:1000]) is None
    place = reader.missing()
    assert place is not None
    with place:
        place[:] = wire[1000:]
    frame = reader.advance(len(wire) - 1000)
    assert frame is not None
    assert bytes(frame.body) == b"x" * 100_000


@pytest.mark.parametrize("size", [16 * 1024 - 1, 16 * 1024, 100_001])
def test_large_bytes_arrive_as_bytes_in_place_and_all_else_as_what_can_be_written(size: int) -> None:
    sent = [b"a" * size, bytearray(b"b" * size), memoryview(b"c" * size), memoryview(bytearray(b"d" * size)), b"e", b""]
    wire = b"".join(bytes(piece) for piece in encode(Opcode.CALL, 1, b"body", sent))
    reader = FrameReader(1_000_000)
    frame = reader.feed(wire[:50])
    position = 50
    while frame is None:
        place = reader.missing()
        if place is None:
            frame = reader.feed(wire[position : position + 10])
            position += 10
            continue
        with place:
            count = min(len(place), 7000)
            place[:count] = wire[position : position + count]
        position += count
        frame = reader.advance(count)
    assert position == len(wire) and reader.idle and reader.kept == 0
    assert [bytes(buffer) for buffer in frame.buffers] == [bytes(buffer) for buffer in sent]
    large = size >= 16 * 1024
    assert [type(buffer) is bytes for buffer in frame.buffers] == [large, False, large, False, False, False]
    assert all(not buffer.readonly for buffer in frame.buffers if type(buffer) is memoryview)


def test_what_a_piece_is_read_only_for_is_not_copied_by_pickle() -> None:
    value = b"x" * 100_000
    body, buffers = dump(beside((value,)), PeerProfile("3.11", "3.11", 1_000_000))
    wire = b"".join(bytes(piece) for piece in encode(Opcode.CALL, 1, body, buffers))
    (frame,) = feed(FrameReader(1_000_000), wire)
    (loaded,) = pickle.loads(frame.body, buffers=frame.buffers)
    assert loaded == value and loaded is frame.buffers[0]


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, "control", "s", "n", 5, "3.11", "p"),
        Register(1, "shop:charge", 2, "call", {"expires": 1.5}),
        Answer(3, False, "TargetError", "no", {"near": ["a"]}),
    ],
)
def test_control_messages_round_trip(message: Any) -> None:
    opcode, body = dump_message(message)
    assert load_message(opcode, body) == message


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b'{"version": NaN}', "not JSON"),
        (b'{"version": 1}', "is missing"),
        (b'{"version": 1, "nonce": 5}', "nonce is a int; expected str"),
        (b'{"version": true, "nonce": "x"}', "version is a bool; expected int"),
        (b'{"version": 1, "nonce": "x", "more": 1}', "unknown field 'more'"),
        (b"[" * 100_000, "not JSON"),
        (b'{"version": ' + b"[" * 40 + b"]" * 40 + b', "nonce": "x"}', "nested deeper"),
    ],
)
def test_a_wrong_control_message_is_refused_with_the_field(body: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem):
        load_message(Opcode.CHALLENGE, body)


def test_a_huge_buffer_arrives_as_what_can_be_written_and_is_let_go() -> None:
    sent = bytearray(codec._HUGE + 3)
    sent[-3:] = b"end"
    (frame,) = feed(FrameReader(codec._HUGE + 1000), b"".join(bytes(piece) for piece in encode(Opcode.CALL, 1, b"body", [sent])))
    (buffer,) = frame.buffers
    assert isinstance(buffer, memoryview) and not buffer.readonly
    assert len(buffer) == len(sent) and buffer == sent
    held = weakref.ref(buffer)
    del frame, buffer
    assert held() is None


def test_half_a_frame_that_the_garbage_collector_finds_is_let_go_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: List[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    body, buffers = dump(beside((b"y" * 100_000,)), PeerProfile("3.11", "3.11", 1_000_000))
    whole = b"".join(bytes(piece) for piece in encode(Opcode.CALL, 1, body, buffers))
    reader = FrameReader(1_000_000)
    assert feed(reader, whole[:-1]) == []
    assert any(place._bytes is not None for place in reader._places)
    reader._places.append(reader)  # type: ignore[arg-type]
    del reader
    gc.collect()
    assert not said

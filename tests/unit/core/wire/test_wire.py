"""A wire between a thread that waits on it and one that closes it."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any, List

import pytest

from xpc_instrument.core.model.errors import ChannelError, DeadlineError, LocalProtocolError
from xpc_instrument.core.protocol.codec import HEADER, encode
from xpc_instrument.core.protocol.connection import Connection, State
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.wire.held import close_lost
from xpc_instrument.core.wire.wire import Wire


class ClosingPoller:
    """Closes the wire in the last moment before its thread waits, as another thread may; notes the descriptor that is waited on."""

    def __init__(self, wire: Wire, waited_on: List[int]) -> None:
        self.wire = wire
        self.waited_on = waited_on
        self.poller = select.poll()
        self.poller.register(wire.fileno(), select.POLLIN)

    def poll(self, *timeout: Any) -> Any:
        self.wire.close()
        self.waited_on.append(self.wire.fileno())
        return self.poller.poll(*timeout)


def test_a_wire_closed_under_a_waiting_thread_keeps_its_descriptor_until_the_thread_has_left() -> None:
    sock, other = socket.socketpair()
    with other:
        wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
        descriptor = wire.fileno()
        waited_on: List[int] = []
        wire._pollers[False] = ClosingPoller(wire, waited_on)
        with pytest.raises(ChannelError):
            wire.receive(None)
        assert waited_on == [descriptor]
        assert wire.fileno() == -1


def test_a_wire_closed_under_a_waiting_task_wakes_it_and_leaves_no_descriptor_in_the_loop() -> None:
    async def scenario() -> None:
        sock, other = socket.socketpair()
        with other:
            wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
            descriptor = wire.fileno()
            waiting = asyncio.ensure_future(wire.receive_async(None))
            await asyncio.sleep(0)
            wire.close()
            with pytest.raises(ChannelError):
                await asyncio.wait_for(waiting, 10)
            assert wire.fileno() == -1
            assert asyncio.get_running_loop().remove_reader(descriptor) is False

    asyncio.run(scenario())


def test_waiting_on_a_closed_wire_ends_at_once() -> None:
    sock, other = socket.socketpair()
    with other:
        wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
        wire.close()
        with pytest.raises(ChannelError):
            wire.receive(None)
        with pytest.raises(ChannelError):
            asyncio.run(wire.receive_async(None))


def test_closing_wakes_a_thread_that_waits_in_the_kernel() -> None:
    sock, other = socket.socketpair()
    with other:
        wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
        ended: List[BaseException] = []

        def wait() -> None:
            try:
                wire.receive(None)
            except ChannelError as error:
                ended.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while not wire._waiting[False]:
            pass
        wire.close()
        thread.join(10)
        assert not thread.is_alive()
        assert len(ended) == 1
        assert wire.fileno() == -1


def test_a_frame_that_comes_in_pieces_is_received_whole() -> None:
    sock, other = socket.socketpair()
    data = b"".join(bytes(piece) for piece in encode(Opcode.PING, 0, b"x" * 50))
    with other:
        wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
        other.sendall(data[:5])
        thread = threading.Thread(target=lambda: [other.sendall(data[place : place + 1]) for place in range(5, len(data))])
        thread.start()
        frame = wire.receive(time.monotonic() + 10)
        thread.join()
        assert (frame.opcode, bytes(frame.body)) == (Opcode.PING, b"x" * 50)
        wire.close()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.01, 0.1])
def test_a_deadline_ends_the_waiting_whether_the_kernel_or_poll_waits(seconds: float) -> None:
    sock, other = socket.socketpair()
    with other:
        wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
        deadline = time.monotonic() + seconds
        with pytest.raises(DeadlineError):
            wire.receive(deadline)
        assert time.monotonic() >= deadline
        wire.close()


def test_a_peer_that_does_not_read_blocks_no_thread_that_must_not_wait() -> None:
    sock, other = socket.socketpair()
    with other:
        wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
        rest: Any = [b"x" * 10_000_000]
        for _ in range(3):
            rest = wire.transmit_some(rest)
            assert rest
        assert wire.recv_frames() == []
        wire.close()


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 1_000_000])
def test_put_says_what_send_says_whatever_fits_into_the_socket(size: int) -> None:
    body = b"x" * size
    received = []
    for method in ("put", "send"):
        near, far = socket.socketpair()
        with far:
            wire = Wire(near, Connection(dialling=True, key=b"", max_payload=1000))
            wire.connection.state = State.CALLER_IDLE
            reader = threading.Thread(target=lambda far=far: received.append(far.recv(size + HEADER.size, socket.MSG_WAITALL)))
            reader.start()
            if method == "put":
                wire.send_frame(Opcode.CALL, 7, body, time.monotonic() + 10)
            else:
                wire.send_frame(Opcode.CALL, 7, body, time.monotonic() + 10)
            reader.join(10)
            assert wire.connection.state is State.CALLER_WAITING
            wire.close()
    assert received[0] == received[1]
    assert len(received[0]) == size + HEADER.size


def test_put_refuses_what_the_state_does_not_allow() -> None:
    near, far = socket.socketpair()
    with far:
        wire = Wire(near, Connection(dialling=True, key=b"", max_payload=1000))
        wire.connection.state = State.CALLEE_IDLE
        with pytest.raises(LocalProtocolError, match="CALL"):
            wire.send_frame(Opcode.CALL, 7, b"", None)
        wire.close()


@pytest.mark.parametrize("waits", ["in the thread", "on a loop"])
def test_bytes_of_any_size_arrive_as_they_were_sent(waits: str) -> None:
    sizes = [16 * 1024, 16 * 1024 + 1, 20_000, 32 * 1024, 33_000, 65_536, 200_000]
    near, far = socket.socketpair()
    with near:
        wire = Wire(far, Connection(dialling=True, key=b"", max_payload=1_000_000))
        wire.connection.state, wire.connection.reader.limit = State.CALLEE_IDLE, 1_000_000
        try:
            for size in sizes:
                sent = [bytearray(size), bytes([size % 251]) * size]
                data = b"".join(bytes(piece) for piece in encode(Opcode.CALL, 7, b"body", sent))
                sender = threading.Thread(target=near.sendall, args=(data,))
                sender.start()
                deadline = time.monotonic() + 10
                frame = wire.receive(deadline) if waits == "in the thread" else asyncio.run(wire.receive_async(deadline))
                sender.join()
                assert bytes(frame.body) == b"body"
                assert [bytes(buffer) for buffer in frame.buffers] == [bytes(buffer) for buffer in sent]
                assert type(frame.buffers[1]) is bytes
        finally:
            wire.close()


@pytest.mark.parametrize("way", ["close", "abandon", "lost"])
def test_a_wire_whose_descriptor_the_application_has_closed_leaves_the_file_that_has_its_number(way: str, tmp_path: Path) -> None:
    sock, other = socket.socketpair()
    wire = Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))
    number = wire.fileno()
    os.close(number)
    with other, open(tmp_path / "log", "wb", buffering=0) as file:
        # As a daemon does that closes all descriptors, and then opens its own.
        if file.fileno() != number:
            os.dup2(file.fileno(), number)
        if way == "close":
            wire.close()
        elif way == "abandon":
            wire.abandon()
        del wire, sock
        if way == "lost":
            close_lost()
        assert os.write(number, b"still there") == 11
        if file.fileno() != number:
            os.close(number)
    assert (tmp_path / "log").read_bytes() == b"still there"

"""A wire between a thread that waits on it and one that closes it."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any, List

import pytest

from xpc_instrument.channel.connection import Connection
from xpc_instrument.channel.transport import Wire
from xpc_instrument.errors import ChannelError


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

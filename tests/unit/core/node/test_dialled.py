"""The lanes that a joined node dials: used again while they are fresh, and none left open by a node that has closed."""

from __future__ import annotations

import queue
import socket
import threading
import time
from typing import Callable, Iterator, List

import pytest

from xpc_instrument.core.model.errors import ChannelError, DeadlineError, NoLaneError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.dialled import AnsweringLanes, CallingLanes
from xpc_instrument.core.protocol.connection import Connection
from xpc_instrument.core.protocol.messages import Role
from xpc_instrument.core.wire.wire import Wire

ADDRESS = parse_address("/nowhere/at/all")


class Listener:
    """Dialling it gives a lane whose other end it keeps."""

    def __init__(self) -> None:
        self.ends: List[socket.socket] = []
        self.dialled: List[Wire] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def dial(self, role: Role, deadline: float) -> Wire:
        assert role is Role.CALL
        end, other = socket.socketpair()
        self.ends.append(other)
        self.dialled.append(Wire(end, Connection(dialling=True, key=b"", max_payload=1)))
        self.meanwhile()
        return self.dialled[-1]


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    for end in found.ends:
        end.close()
    for wire in found.dialled:
        wire.close()


@pytest.fixture
def lanes(listener: Listener) -> CallingLanes:
    return CallingLanes(ADDRESS, 2, listener.dial)


def soon() -> float:
    return time.monotonic() + 20


def test_a_lane_that_was_given_back_is_taken_again(lanes: CallingLanes, listener: Listener) -> None:
    one = lanes.take(soon())
    two = lanes.take(soon())
    assert lanes.wires() == [one, two]
    lanes.give(one)
    assert lanes.take(soon()) is one
    assert listener.dialled == [one, two]


def test_who_finds_all_lanes_in_use_waits_for_one(lanes: CallingLanes, listener: Listener) -> None:
    one, two = lanes.take(soon()), lanes.take(soon())
    with pytest.raises(DeadlineError, match=r"all 2 lanes .* are in use \(max-lanes\)"):
        lanes.take(time.monotonic() + 0.01)
    taken: List[Wire] = []
    waiting = [threading.Thread(target=lambda: taken.append(lanes.take(soon()))) for _ in range(2)]
    for thread in waiting:
        thread.start()
    lanes.give(one)
    lanes.drop(two)
    for thread in waiting:
        thread.join()
    assert one in taken
    assert len(listener.dialled) == 3


def test_whom_the_host_grants_fewer_waits_for_one_of_these(lanes: CallingLanes, listener: Listener) -> None:
    one = lanes.take(soon())
    refused = threading.Event()

    def refuse() -> None:
        refused.set()
        raise NoLaneError("its session has 1 lanes to call on, the limit (max-lanes)")

    listener.meanwhile = refuse
    with pytest.raises(NoLaneError):
        lanes.take(time.monotonic() + 0.01)
    refused.clear()
    taken: List[Wire] = []
    waiting = threading.Thread(target=lambda: taken.append(lanes.take(soon())))
    waiting.start()
    assert refused.wait(20)
    lanes.give(one)
    waiting.join()
    assert taken == [one]


def test_a_lane_whose_other_end_has_gone_is_replaced(lanes: CallingLanes, listener: Listener) -> None:
    wire = lanes.take(soon())
    lanes.give(wire)
    listener.ends[0].close()
    assert lanes.take(soon()) is listener.dialled[1]
    assert wire.closed
    assert lanes.wires() == [listener.dialled[1]]


def test_a_dropped_lane_is_closed_and_forgotten(lanes: CallingLanes) -> None:
    wire = lanes.take(soon())
    lanes.drop(wire)
    assert wire.closed
    assert lanes.wires() == []


def test_closing_ends_all_lanes_and_says_why_there_are_no_more(lanes: CallingLanes) -> None:
    used, idle = lanes.take(soon()), lanes.take(soon())
    lanes.give(idle)
    lanes.close("the host closed the connection")
    assert used.closed
    assert idle.closed
    with pytest.raises(ChannelError, match="not connected to unix:/nowhere/at/all: the host closed the connection"):
        lanes.take(soon())
    lanes.give(used)
    assert idle.closed


def test_a_lane_that_was_dialled_while_the_node_closed_is_closed_too(lanes: CallingLanes, listener: Listener) -> None:
    listener.meanwhile = lambda: lanes.close("closed by this process")
    with pytest.raises(ChannelError, match="closed by this process"):
        lanes.take(soon())
    assert listener.dialled[0].closed


def test_a_lane_that_there_was_no_room_for_comes_when_another_one_ends() -> None:
    """As when the host waits no more for the callbacks that have all lanes, and for a lane for another call."""
    ends: queue.Queue[socket.socket] = queue.Queue()
    missed: queue.Queue[int] = queue.Queue()

    def dial(role: Role, deadline: float) -> Wire:
        end, other = socket.socketpair()
        ends.put(other)
        return Wire(end, Connection(dialling=True, key=b"", max_payload=1))

    lanes = AnsweringLanes(ADDRESS, Limits(max_lanes=1), dial, lambda wire, frame: None, lambda count, why: missed.put(count))
    try:
        lanes.want(1)
        with ends.get(timeout=20):
            lanes.want(1)
            assert missed.get(timeout=20) == 1
        # Its end is closed now.
        with ends.get(timeout=20):
            assert missed.empty()
    finally:
        for thread in lanes.close():
            thread.join(20)

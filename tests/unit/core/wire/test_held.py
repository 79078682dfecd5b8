"""The sockets of streams that nobody refers to any more: closed, but not by code of ours that runs where the last reference goes."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, Iterator, List, Tuple

import pytest

from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.protocol.connection import Connection
from xpc_instrument.core.wire import held
from xpc_instrument.core.wire.held import close_lost
from xpc_instrument.core.wire.wire import Wire


def wire_on(sock: socket.socket) -> Wire:
    return Wire(sock, Connection(dialling=True, key=b"", max_payload=1000))


@pytest.fixture
def ends() -> Iterator[Tuple[socket.socket, socket.socket]]:
    mine, other = socket.socketpair()
    yield mine, other
    for sock in (mine, other):
        sock.close()


def calls_while_dropping(box: List[Any]) -> List[str]:
    """The functions of Python that run while the last reference goes."""
    called: List[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        box.clear()
    finally:
        sys.setprofile(before)
    return called


def is_over(other: socket.socket) -> bool:
    other.setblocking(False)
    try:
        return other.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_wire_that_is_lost_runs_no_code_and_is_closed_by_whoever_looks_next(ends: Tuple[socket.socket, socket.socket]) -> None:
    mine, other = ends
    assert calls_while_dropping([wire_on(mine)]) == []
    assert not is_over(other)
    close_lost()
    assert is_over(other)
    assert mine.fileno() == -1


def test_a_lane_that_is_lost_runs_no_code_and_leaves_its_place(ends: Tuple[socket.socket, socket.socket]) -> None:
    pool = LanePool(lambda number: None, 1)
    assert pool.add(wire_on(ends[0]))
    assert calls_while_dropping([pool.take(0.0)]) == []
    assert len(pool) == 0
    assert is_over(ends[1])
    pool.close()


def test_a_wire_that_was_closed_is_not_looked_after_any_more(ends: Tuple[socket.socket, socket.socket]) -> None:
    before = len(held._held)
    box = [wire_on(ends[0])]
    assert len(held._held) == before + 1
    box[0].close()
    assert len(held._held) == before
    assert calls_while_dropping(box) == []
    assert not held._lost


def test_a_socket_that_is_given_away_stays_open(ends: Tuple[socket.socket, socket.socket]) -> None:
    box = [wire_on(ends[0])]
    box[0].give_away()
    box.clear()
    close_lost()
    assert not is_over(ends[1])


def test_a_file_that_has_the_number_of_a_lost_socket_by_now_stays_open(ends: Tuple[socket.socket, socket.socket]) -> None:
    mine, _other = ends
    box = [wire_on(mine)]
    number = mine.fileno()
    os.close(number)
    file = os.open(os.devnull, os.O_RDONLY)
    os.dup2(file, number)
    box.clear()
    close_lost()
    os.fstat(number)
    for descriptor in {file, number}:
        os.close(descriptor)

"""Hot lanes in one process, for the tests of `hot`, `polling` and `opening`."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Iterator, List, Tuple

import pytest

from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.protocol.connection import Connection
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, Hello, Welcome
from xpc_instrument.core.wire.hot import HotWire
from xpc_instrument.core.wire.opening import OpeningWire, welcome_with_memory
from xpc_instrument.core.wire.wire import Wire

# Polls for longer than the system needs to run the other thread, so that what is to be hot is.
PATIENT = Limits(hot_spin=0.2, hot_short=0.2)
WELCOME = Welcome("", os.getpid(), "3", "app", 1 << 20)
KEY = b"key"


def later(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def shaken(limits: Limits) -> Tuple[Wire, List[Any], OpeningWire]:
    """A listening wire that has WELCOME to transmit, and the dialling one that waits for it."""
    near, far = socket.socketpair()
    listening = Wire(near, Connection(dialling=False, key=KEY, max_payload=limits.max_payload))
    dialling = OpeningWire(far, Connection(dialling=True, key=KEY, max_payload=limits.max_payload))
    hello = Hello(PROTOCOL_VERSION, "serve", "s", "00", os.getpid(), "3", "test", True)
    dialling.transmit(dialling.connection.start(hello), None)
    listening.transmit(listening.connection.shake(listening.receive(later()), WELCOME), None)
    dialling.transmit(dialling.connection.shake(dialling.receive(later()), WELCOME), None)
    return listening, listening.connection.shake(listening.receive(later()), WELCOME), dialling


def opened(dialling: OpeningWire, limits: Limits) -> Wire:
    dialling.connection.shake(dialling.receive(later()), WELCOME)
    return dialling.opened(limits)


def lane(limits: Limits = PATIENT) -> Tuple[HotWire, HotWire]:
    """A lane: the side that calls, as the application does, and the side that answers."""
    listening, welcome, dialling = shaken(limits)
    caller = welcome_with_memory(listening, welcome, limits)
    callee = opened(dialling, limits)
    assert isinstance(caller, HotWire) and isinstance(callee, HotWire)
    return caller, callee


@pytest.fixture
def pair() -> Iterator[Tuple[HotWire, HotWire]]:
    caller, callee = lane()
    yield caller, callee
    caller.close()
    callee.close()


def polls(wire: HotWire) -> None:
    """Have a side poll, whatever it has gone through."""
    while not wire._polls:
        wire._start_polling()

"""The lanes on which a session calls: it has as many as it may have of the others, and needs to have joined."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

from tests.integration.app_fixture import App
from tests.programs import PATIENCE, wait_for
from xpc_instrument import Limits, Manager
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.errors import NoLaneError, RemoteProtocolError
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.dial import dial
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.connection import new_nonce
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, Hello, Role
from xpc_instrument.core.values.traits import python_version

# Observing is all that the application allows.
CONFIG = '[limits]\nmax-lanes = 4\n[defaults]\nallow = ["before"]\n[[probe]]\ntarget = "shop:charge"\n'


def descriptors(app: App) -> int:
    return len(os.listdir(f"/proc/{app.program.pid}/fd"))


def settles_at(app: App, count: int) -> None:
    """It has so many, as soon as it has closed what has ended."""
    patience = threading.Event()
    deadline = time.monotonic() + PATIENCE
    while descriptors(app) != count and time.monotonic() < deadline:
        patience.wait(0.01)
    assert descriptors(app) == count


def call_lane(session: str) -> Any:
    address = parse_address(discovery.find("shop")[0].address)
    hello = Hello(PROTOCOL_VERSION, Role.CALL.value, session, new_nonce(), os.getpid(), python_version(), "a test")
    return dial(address, b"", hello, time.monotonic() + PATIENCE, Limits())


def joined() -> Joiner:
    joiner = Joiner(parse_address(discovery.find("shop")[0].address), b"", limits=Limits())
    joiner.connect(time.monotonic() + PATIENCE)
    return joiner


def test_an_observer_takes_no_more_descriptors_than_its_limit_and_gives_them_back(begin_app: Callable[..., App]) -> None:
    app = begin_app(CONFIG)
    before = descriptors(app)
    joiner, other = joined(), joined()
    lanes: List[Any] = []
    lanes += [call_lane(joiner.session) for _ in range(4)]
    with pytest.raises(NoLaneError, match=r"its session has 4 lanes to call on, the limit \(max-lanes\)"):
        call_lane(joiner.session)
    # Each session has its own.
    lanes.append(call_lane(other.session))
    with pytest.raises(RemoteProtocolError, match="its session has not joined"):
        call_lane("a session that has not joined")
    settles_at(app, before + 2 + 5)
    # One that is closed makes room for another.
    lanes[0].close()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            lanes.append(call_lane(joiner.session))
            break
        except NoLaneError:
            assert time.monotonic() < deadline
    # And all end with their session, whoever closes them.
    joiner.close()
    other.close()
    settles_at(app, before)
    for lane in lanes:
        lane.close()
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


@pytest.mark.parametrize("own", [3, 32])
def test_more_threads_than_lanes_take_turns(tmp_path: Path, own: int) -> None:
    """Whichever side has the smaller limit."""
    address = str(tmp_path / "manager")
    entered, leave = threading.Semaphore(0), threading.Event()

    def wait(number: int) -> int:
        entered.release()
        wait_for(leave)
        return number

    with Manager(address, limits=Limits(max_lanes=3)) as host, Manager(address, limits=Limits(max_lanes=own)) as manager:
        host.register("wait", wait)
        answers: List[Any] = []
        threads = [threading.Thread(target=lambda number=number: answers.append(manager.call("wait", number))) for number in range(12)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert entered.acquire(timeout=PATIENCE)
        assert not entered.acquire(timeout=0.2)
        leave.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(answers) == [(number, True) for number in range(12)]

"""The memory of a hot lane on its way: one that is not as it must be makes a plain lane, and nothing is left of any."""

from __future__ import annotations

import array
import gc
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

from xpc_instrument.core.model.errors import DeadlineError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.node.peer import Policy
from xpc_instrument.core.protocol.codec import HEADER
from xpc_instrument.core.protocol.connection import Connection
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, Hello, Opcode
from xpc_instrument.core.wire import memory, opening
from xpc_instrument.core.wire.hot import HotWire
from xpc_instrument.core.wire.memory import why_plain
from xpc_instrument.core.wire.opening import OpeningWire, welcome_with_memory
from xpc_instrument.core.wire.wire import Wire

from .hot_fixture import KEY, later, opened, shaken

pytestmark = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")


def test_a_script_knows_how_long_to_look_from_its_first_moment_on() -> None:
    for seconds in (0.00005, 0.0005, 0.001):
        listening, welcome, dialling = shaken(Limits(hot_spin=seconds))
        found: List[Wire] = []
        # It takes the memory as soon as it is sent.
        thread = threading.Thread(target=lambda dialling=dialling, found=found: found.append(opened(dialling, Limits())))
        thread.start()
        caller = welcome_with_memory(listening, welcome, Limits(hot_spin=seconds))
        thread.join()
        (callee,) = found
        assert isinstance(callee, HotWire) and callee._spin == pytest.approx(seconds)
        caller.close()
        callee.close()


def test_a_script_looks_no_longer_than_any_config_may_say() -> None:
    listening, welcome, dialling = shaken(Limits(hot_spin=60.0))
    caller = welcome_with_memory(listening, welcome, Limits(hot_spin=60.0))
    callee = opened(dialling, Limits())
    assert isinstance(callee, HotWire) and callee._spin == 0.001
    caller.close()
    callee.close()


# the memory on its way -------------------------------------------------------------------------------------------------------------


def descriptors() -> List[str]:
    gc.collect()
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # that of the listing
    return sorted(one for one in found if "memfd" in one or "xpc" in one or "/dev/null" in one)


def mappings() -> int:
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:xpc-instrument")


def unsealed() -> int:
    descriptor = os.memfd_create("xpc-instrument test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, memory.SIZE)
    return descriptor


def resized(size: int) -> Callable[[], int]:
    def make() -> int:
        descriptor = os.memfd_create("xpc-instrument test", os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        memory.fcntl.fcntl(descriptor, memory.fcntl.F_ADD_SEALS, memory._seals)
        return descriptor

    return make


def write_sealed() -> int:
    descriptor = resized(memory.SIZE)
    made = os.memfd_create("xpc-instrument test", os.MFD_ALLOW_SEALING)
    os.close(descriptor())
    os.ftruncate(made, memory.SIZE)
    memory.fcntl.fcntl(made, memory.fcntl.F_ADD_SEALS, memory.fcntl.F_SEAL_WRITE | memory.fcntl.F_SEAL_SHRINK | memory.fcntl.F_SEAL_GROW)
    memory.fcntl.fcntl(made, memory.fcntl.F_ADD_SEALS, memory.fcntl.F_SEAL_SEAL)
    return made


def no_memory() -> int:
    return os.open("/dev/null", os.O_RDWR)


WRONG: Dict[str, Tuple[List[Callable[[], int]], str]] = {
    "not sealed": ([unsealed], "not sealed, or has another size"),
    "too small": ([resized(4096)], "not sealed, or has another size"),
    "too large": ([resized(2 * memory.SIZE)], "not sealed, or has another size"),
    "sealed against writing": ([write_sealed], "no memory that can be mapped"),
    "another file": ([no_memory], "no memory that can be mapped"),
    "none": ([], "passed no descriptors"),
    "two": ([resized(memory.SIZE)] * 2, "passed 2 descriptors"),
    "five": ([resized(memory.SIZE)] * 5, "passed 4 descriptors"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_memory_that_is_not_as_it_must_be_makes_a_plain_lane_that_says_why(what: str) -> None:
    makers, why = WRONG[what]
    before = descriptors()
    listening, welcome, dialling = shaken(Limits())
    made = [make() for make in makers]
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", made))] if made else []
    listening.sock.sendmsg(welcome, passed)
    for one in made:
        os.close(one)
    wire = opened(dialling, Limits())
    assert type(wire) is OpeningWire and why in wire.plain
    assert descriptors() == before
    listening.send_frame(Opcode.CALL, 1, b"plain", later())
    assert bytes(wire.recv_frame(later()).body) == b"plain"
    wire.close()
    listening.close()


def test_descriptors_in_the_middle_of_the_handshake_do_not_fill_the_table() -> None:
    before = descriptors()
    near, far = socket.socketpair()
    wire = OpeningWire(far, Connection(dialling=True, key=KEY, max_payload=1000))
    wire.connection.start(Hello(PROTOCOL_VERSION, "serve", "s", "00", os.getpid(), "3", "test", True))
    null = os.open("/dev/null", os.O_RDWR)
    for byte in HEADER.pack(Opcode.CHALLENGE, 0, 0, 1, 100):
        near.sendmsg([bytes([byte])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 4))])
        with pytest.raises(DeadlineError):
            wire.receive(time.monotonic() + 0.001)
    os.close(null)
    assert len(descriptors()) <= len(before) + opening._MOST
    near.close()
    wire.close()
    assert descriptors() == before


class Refusing:
    """A socket that passes no descriptors, as a rule of a system may have it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendmsg(self, buffers: Any, ancdata: Any = (), *rest: Any) -> int:
        if ancdata:
            raise OSError(109, "Too many references: cannot splice")
        return self._sock.sendmsg(buffers, ancdata, *rest)


def test_a_memory_that_cannot_be_passed_makes_a_plain_lane() -> None:
    before = descriptors(), mappings()
    listening, welcome, dialling = shaken(Limits())
    listening.sock = Refusing(listening.sock)  # type: ignore[assignment]
    wire = welcome_with_memory(listening, welcome, Limits())
    assert wire is listening and "cannot splice" in wire.plain
    other = opened(dialling, Limits())
    assert "passed no descriptors" in other.plain
    assert (descriptors(), mappings()) == before
    wire.close()
    other.close()


class Welcoming(Policy):
    """Takes everybody."""

    def joined(self, peer: Any) -> None:
        self.peer = peer


def test_lanes_that_were_opened_and_closed_leave_nothing(runtime_dir: Path) -> None:
    before = descriptors(), mappings()
    policy = Welcoming()
    address = parse_address(str(runtime_dir / "s"))
    limits = Limits(max_lanes=1000)
    host = Host(address, KEY, policy, app="app", python="3", limits=limits, logger=logging.getLogger("test"))
    host.start()
    joiner = Joiner(address, KEY, limits=limits, serve=lambda wire, frame: wire.send_frame(Opcode.RETURN, 0, b"back", None))
    joiner.connect(later())

    def rounds(count: int) -> None:
        for _ in range(count):
            joiner.answering.open(later())
            wire = policy.peer.lanes.take(later())
            assert isinstance(wire, HotWire)
            for _ in range(5):
                wire.send_frame(Opcode.CALL, 1, b"there", later())
                assert bytes(wire.recv_frame(later()).body) == b"back"
            policy.peer.lanes.drop(wire)

    rounds(200)
    # Others were asked for meanwhile, since the last free one was taken: 200 are more than what may be left.
    assert mappings() < 50
    joiner.close()
    host.stop()
    assert (descriptors(), mappings()) == before

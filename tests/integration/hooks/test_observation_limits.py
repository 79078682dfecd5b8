"""A script that may only observe is hostile in another way: it takes time, memory and the attention of the application."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from tests.integration.hooks.test_observation import Hostile, refer
from xpc_instrument import TargetError
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.errors import ChannelError, DeadlineError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.codec import Frame, encode
from xpc_instrument.core.protocol.connection import Connection, State
from xpc_instrument.core.protocol.messages import Opcode, Unregister
from xpc_instrument.core.wire.hot import HotWire
from xpc_instrument.core.wire.memory import make_memory, why_plain
from xpc_instrument.core.wire.wire import Wire

TIMEOUT = 0.5
# What a call may take on a machine that is busy with other tests.
SLACK = 2.0
CHARGE = "(lambda t: (shop.charge(4), t() - started) if not globals().update(started=t()) else None)(__import__('time').monotonic)"


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    """An application that lets scripts observe, for half a second."""
    settings = f'[defaults]\nallow = ["before", "after"]\ntimeout = {TIMEOUT}\nsuspend-after = 0\n[[probe]]\ntarget = "shop:*"\n'
    return begin_app(settings)


def charge(app: App) -> float:
    """How long a call takes."""
    result, took = eval(app.evaluate(CHARGE))
    assert result == "4 EUR"
    return float(took)


def join(**options: Any) -> Joiner:
    joiner = Joiner(parse_address(discovery.find("shop")[0].address), b"", limits=Limits(), **options)
    joiner.connect(time.monotonic() + 20)
    return joiner


@pytest.mark.skipif(bool(why_plain()), reason=why_plain() or "hot lanes")
def test_questions_that_wait_in_the_memory_do_not_hold_a_call_beyond_its_deadline(app: App) -> None:
    """The next question lies there before the application has answered the last: it never comes to look at the clock by waiting."""
    asked: List[int] = []
    gone_on = threading.Event()

    def answer(wire: Wire, frame: Frame) -> None:
        assert isinstance(wire, HotWire)
        question = b"".join(encode(Opcode.REFER, 0, refer("extra", 0, "signature")))
        memory, (at, _, slot) = wire._memory, wire._out
        # As if this side looked there: so the application answers the first one, and awaits the next, in the memory.
        memory[wire._in[1]] = 1
        wire.sock.send(question)
        number, end = wire._put, time.monotonic() + 8 * TIMEOUT
        while time.monotonic() < end and not gone_on.is_set():
            if memory[at] == 0:
                memory[slot : slot + len(question)] = question
                number = number % 255 + 1
                memory[at] = number
                asked.append(number)

    with Hostile(answer, "before:shop:charge"):
        took = charge(app)
        gone_on.set()
        assert asked
        assert took < TIMEOUT + SLACK


def test_questions_that_wait_in_the_socket_do_not_hold_a_call_beyond_its_deadline(app: App) -> None:
    def answer(wire: Wire, frame: Frame) -> None:
        question = b"".join(encode(Opcode.REFER, 0, refer("extra", 0, "signature")))

        def send(size: int, flags: int) -> int:
            return wire.sock.send((question * 200)[:size], flags | socket.MSG_NOSIGNAL)

        end = time.monotonic() + 8 * TIMEOUT
        while time.monotonic() < end:
            for act in (send, wire.sock.recv):
                try:
                    act(1 << 20, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
                except OSError:
                    return  # the call has ended, and the lane with it

    with Hostile(answer, "before:shop:charge"):
        assert charge(app) < TIMEOUT + SLACK


@pytest.mark.parametrize("hot", [False, pytest.param(True, marks=pytest.mark.skipif(bool(why_plain()), reason=why_plain() or "hot"))])
def test_a_frame_that_is_there_is_not_taken_once_the_deadline_has_passed(hot: bool) -> None:
    """Else a side that has its next question there in time, as a program that is not in Python can, holds the other for ever."""
    ours, theirs = socket.socketpair()
    connection = Connection(dialling=False, key=b"", max_payload=1024)
    connection.state = State.CALLER_IDLE
    wire = Wire(ours, connection)
    question = b"".join(encode(Opcode.REFER, 0, refer("extra", 0, "signature")))
    if hot:
        descriptor, memory = make_memory()
        os.close(descriptor)
        wire = HotWire(wire, memory, True, Limits())
        memory[wire._out[1]] = 1
    wire.send_frame(Opcode.CALL, 1, b"", time.monotonic() + 20)
    theirs.send(question)
    if hot:
        memory[wire._in[2] : wire._in[2] + len(question)] = question
        memory[wire._in[0]] = 1
    with pytest.raises(DeadlineError):
        wire.recv_frame(time.monotonic() - 0.01)
    wire.close()
    theirs.close()


@pytest.mark.parametrize("opcode", [Opcode.FAILED, Opcode.REFER])
def test_a_long_answer_is_refused_before_it_is_parsed(app: App, opcode: Opcode) -> None:
    body = b"{" + b",".join(b'"%d":[]' % number for number in range(3_000_000)) + b"}"

    def answer(wire: Wire, frame: Frame) -> None:
        wire.transmit(encode(opcode, 0, body), time.monotonic() + 20)

    with Hostile(answer, "before:shop:charge"):
        assert charge(app) < TIMEOUT + SLACK


@pytest.mark.parametrize("within", [1e300, "1e999", -1e300])
def test_an_absurd_time_to_deliver_in_does_not_end_the_delivery_for_others(app: App, within: Any) -> None:
    seen: List[Any] = []
    free, all_seen = threading.Event(), threading.Event()

    def see(call: Any) -> None:
        seen.append(call.args)
        if len(seen) == 20:
            all_seen.set()

    joiner = join(serve=lambda wire, frame: free.wait(20))
    joiner.register("before:shop:charge", 1, "call", terms={"wait": False}, timeout=20)
    try:
        # The barrier is behind events that are under way, and there is nothing else that the thread which delivers could wait for.
        charge(app)
        message = joiner._control.connection.send_message(Unregister(7, 1, 0.125))  # type: ignore[union-attr]
        text = b"".join(message)[12:].replace(b"0.125", str(within).encode())
        joiner._control.transmit(encode(Opcode.UNREGISTER, 0, text), time.monotonic() + 20)  # type: ignore[union-attr]
        with xpc_instrument.connect("shop") as session:
            session.before("shop:charge", see, wait=False)
            for _ in range(20):
                charge(app)
            assert all_seen.wait(10), seen
    finally:
        free.set()
    joiner.close()
    assert "sender of events failed" not in app.log()


@pytest.mark.parametrize("name", [b"\0", b"\0a\0b", b"\0a\0b\0c", b"\0" + b"9" * 60_000])
def test_a_strange_name_on_a_lane_that_calls_is_no_callback_and_fills_no_log(app: App, name: bytes) -> None:
    joiner = join()
    if name == b"\0a\0b":
        name = b"\0" + joiner.session.encode() + b"\0" + b"99999999999999999999"
    wire = joiner.calling.take(time.monotonic() + 20)
    wire.send_frame(Opcode.CALL_NAMED, 0, b"", None, [name])
    assert wire.recv_frame(time.monotonic() + 20).opcode is Opcode.NOT_FOUND
    joiner.close()
    assert "Traceback" not in app.log()


def test_a_very_long_target_is_refused_at_once(app: App) -> None:
    joiner = join()
    joiner.register("before:shop:charge", 1, "call", timeout=20)
    started = time.monotonic()
    with pytest.raises(TargetError) as caught:
        joiner.register("before:shop:" + "charge" * 30_000, 2, "call", timeout=60)
    assert time.monotonic() - started < 10
    assert len(str(caught.value)) < 1000
    joiner.close()


@pytest.mark.parametrize("number", [-1, 1 << 32, 1 << 70])
def test_a_hook_number_that_no_frame_can_hold_is_refused(app: App, number: int) -> None:
    joiner = join()
    with pytest.raises(TargetError, match="hook number"):
        joiner.register("before:shop:charge", number, "call", timeout=20)
    charge(app)
    joiner.close()
    assert "Traceback" not in app.log()


def test_a_long_control_message_does_not_keep_the_service_thread_from_others(app: App) -> None:
    other, joiner = join(), join()
    body = b'{"kind":"x","data":{' + b",".join(b'"%d":1' % number for number in range(1_000_000)) + b"}}"
    with pytest.raises(ChannelError):
        joiner._control.transmit(encode(Opcode.NOTICE, 0, body), time.monotonic() + 20)  # type: ignore[union-attr]
    started = time.monotonic()
    other.query("probes", 20)
    assert time.monotonic() - started < SLACK
    joiner.close()
    other.close()

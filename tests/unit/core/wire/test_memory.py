"""Hot lanes: frames through memory and socket arrive once, in order and whole, whatever the other side does to the memory."""

from __future__ import annotations

import array
import asyncio
import gc
import logging
import mmap
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.programs import Program
from xpc_instrument.core.model.errors import ChannelError, DeadlineError, RemoteProtocolError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.node.peer import Policy
from xpc_instrument.core.protocol.codec import HEADER, Frame
from xpc_instrument.core.protocol.connection import LANE_SLACK, Connection, State
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, Hello, Opcode, Welcome
from xpc_instrument.core.wire import memory as hot
from xpc_instrument.core.wire.memory import HotWire, OpeningWire, welcome_with_memory, why_plain
from xpc_instrument.core.wire.wire import Wire

pytestmark = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")

# Looked at for longer than the system needs to run the other thread, so that what is to be hot is.
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


def wake(wire: HotWire) -> None:
    """Have a side be awake, whatever it has gone through."""
    wire._pause = 0
    wire._retreat_until = min(wire._retreat_until, time.monotonic())
    if not wire._awake:
        wire._wake_unless_paused()
    assert wire._awake


def whole(frame: Frame) -> Tuple[Opcode, int, bytes, List[bytes]]:
    return frame.opcode, frame.ident, bytes(frame.body), [bytes(one) for one in frame.buffers]


# frames -------------------------------------------------------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 100, 16 * 1024, 16 * 1024 + 1, 64 * 1024 - 12, 64 * 1024, 64 * 1024 + 1, 300_000])
ANSWERS = [Opcode.RETURN, Opcode.RAISE, Opcode.FAILED, Opcode.NOT_FOUND]


class Lane(RuleBasedStateMachine):
    """Both sides in one thread, by turns: what was sent is heard before anything else can be, as the state machine of a lane has it."""

    @initialize()
    def open(self) -> None:
        # Not to look for long, since nobody puts anything meanwhile.
        self.caller, self.callee = lane(Limits(hot_spin=0.00001))
        self.sides = [self.caller, self.callee]
        self.under_way: Optional[Tuple[HotWire, Any]] = None
        self.loop = asyncio.new_event_loop()

    def teardown(self) -> None:
        self.caller.close()
        self.callee.close()
        self.loop.close()

    @precondition(lambda self: self.under_way is None)
    @rule(
        how=st.sampled_from(["put", "send", "async", "some"]),
        size=SIZES,
        buffers=st.lists(st.sampled_from([0, 5, 70_000]), max_size=3),
        pick=st.integers(0, 9),
        asleep=st.booleans(),
        late=st.booleans(),
    )
    def send(self, how: str, size: int, buffers: List[int], pick: int, asleep: bool, late: bool) -> None:
        sender, reader = (self.caller, self.callee) if self.caller.connection.state.sends else (self.callee, self.caller)
        if not sender.connection.state.sends:
            sender, reader = reader, sender
        opcode = sorted(sender.connection.state.sends)[pick % len(sender.connection.state.sends)]
        body = bytes([pick + 1]) * size
        kept = [bytes([pick + 2]) * one for one in buffers] if how != "put" else []
        if how == "put":
            # Small ones only: the buffer of a socket has to take it, since nobody reads meanwhile.
            size = min(size, 66_000)
            body = body[:size]
        passed = sender.passed
        if asleep:
            reader.stop_polling()
        expects_memory = reader._awake and how in ("put", "send") and not kept and size <= 64 * 1024
        if how == "put":
            sender.send_frame(opcode, 0, body, later())
        elif how == "send":
            # In a thread, since what does not fit waits for the reader.
            expected = (opcode, 7, body, kept)
            self.under_way = (reader, expected)
            thread = threading.Thread(target=sender.send, args=(later(), opcode, 7, body, kept))
            thread.start()
            assert whole(reader.recv_frame(later())) == expected
            thread.join()
            self.under_way = None
            assert sender.passed - passed == expects_memory == sender._told
            return
        elif how == "async":
            thread = threading.Thread(
                target=lambda: asyncio.run(sender.transmit_async(sender.connection.send(opcode, 7, body, kept), later()))
            )
            thread.start()
            assert whole(self.loop.run_until_complete(reader.recv_frame_async(later()))) == (opcode, 7, body, kept)
            thread.join()
            assert sender.passed == passed and not sender._awake
            return
        else:
            sender.stop_polling()
            kept, body = [], body[:50_000]
            assert not sender.transmit_some(sender.connection.send(opcode, 0, body))
        assert sender.passed - passed == (how == "put" and expects_memory)
        if late and expects_memory:
            # A doorbell for what is taken before it is heard: to be ignored.
            Wire._push(sender, hot._WAKE_FRAME, later())
        self.under_way = (reader, (opcode, 0, body, kept))

    @precondition(lambda self: self.under_way is not None)
    @rule(way=st.sampled_from(["recv_frame", "recv_frame_async", "recv_frames"]))
    def hear(self, way: str) -> None:
        assert self.under_way is not None
        reader, expected = self.under_way
        self.under_way = None
        if way == "recv_frame":
            frame = reader.recv_frame(later())
        else:
            in_memory = reader._awake
            if in_memory:
                # What a task does first; what is in the memory by now is rung for by nobody, so its owner looks.
                reader.stop_polling()
                frame_or_none = reader._look()
            else:
                frame_or_none = None
            if frame_or_none is not None:
                frame = reader.connection.accept(frame_or_none)
            elif way == "recv_frame_async":
                frame = self.loop.run_until_complete(reader.recv_frame_async(later()))
            else:
                (frame,) = reader.recv_frames()
                reader.connection.accept(frame)
        assert whole(frame) == expected

    @rule(side=st.integers(0, 1))
    def stop_polling(self, side: int) -> None:
        if self.under_way is None:
            self.sides[side].stop_polling()

    @rule(side=st.integers(0, 1))
    def wake(self, side: int) -> None:
        if self.under_way is None:
            wake(self.sides[side])

    @precondition(lambda self: self.under_way is None)
    @rule(side=st.integers(0, 1))
    def nothing_comes(self, side: int) -> None:
        with pytest.raises(DeadlineError):
            self.sides[side].recv_frame(time.monotonic() + 0.0005)
        assert self.sides[side].recv_frames() == []


TestLane = Lane.TestCase
TestLane.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_back_to_back_calls_go_through_memory_in_order_and_numbers_go_round(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    # In two processes: of one, only one thread looks at a time, and two that would are in each other's way.
    child = os.fork()
    if not child:
        status = 1
        try:
            number = 0
            while True:
                frame = callee.recv_frame(later())
                assert bytes(frame.body) in (b"%d" % number, b"end")
                callee.send_frame(Opcode.RETURN, 0, b"%d!" % number, later())
                if bytes(frame.body) == b"end":
                    break
                number += 1
            status = 0
        finally:
            os._exit(status)
    sizes = number = 0
    # Two rounds in each direction, and more where other programs keep the processors busy and the lane retreats.
    until = later(20)
    while caller.passed < 2 * 2 * 255 and time.monotonic() < until:
        if number % 2:
            caller.send_frame(Opcode.CALL, 1, b"%d" % number, later())
            assert bytes(caller.recv_frame(later()).body) == b"%d!" % number
        else:
            assert caller.call(1, b"%d" % number, later()) == b"%d!" % number
        sizes += len(f"{number}") + HEADER.size
        number += 1
    caller.send_frame(Opcode.CALL, 1, b"end", later())
    caller.recv_frame(later())
    assert os.waitpid(child, 0)[1] == 0
    assert caller.passed >= 2 * 2 * 255
    # What is heard in vain is a doorbell, if the reader fell asleep in between.
    assert caller.sent >= sizes and caller.received >= sizes + number


@pytest.mark.parametrize("awake", [False, True])
def test_what_comes_back_of_a_call_is_a_body_for_a_return_and_a_frame_for_all_else(pair: Tuple[HotWire, HotWire], awake: bool) -> None:
    caller, callee = pair
    answers: List[Tuple[Opcode, bytes, List[bytes]]] = [
        (Opcode.RETURN, b"value", []),
        (Opcode.RAISE, b"error", []),
        (Opcode.PROCEED, b"", []),
        (Opcode.RETURN, b"with", [b"a buffer"]),
        (Opcode.RETURN, b"x" * 100_000, []),
    ]

    def answer() -> None:
        for opcode, body, buffers in answers:
            callee.recv_frame(later())
            callee.send(later(), opcode, 0, body, buffers)
            if opcode is Opcode.PROCEED:
                callee.recv_frame(later())
                callee.send_frame(Opcode.RETURN, 0, b"", later())

    thread = threading.Thread(target=answer)
    thread.start()
    for opcode, body, buffers in answers:
        if awake:
            wake(caller)
        got = caller.call(1, b"arguments", later())
        if opcode is Opcode.PROCEED:
            assert isinstance(got, Frame) and got.opcode is opcode and caller.connection.state is State.CALLER_SERVING
            caller.send_frame(Opcode.RESULT, 0, b"", later())
            got = caller.recv_frame(later())
            assert got.opcode is Opcode.RETURN
        elif opcode is Opcode.RETURN and body == b"value":
            assert got == body
        elif isinstance(got, Frame):
            assert whole(got) == (opcode, 0, body, buffers)
        else:
            # What is larger than one read takes arrives in a place of its own, or in one piece.
            assert got == body
        assert caller.connection.state is State.CALLER_IDLE
    thread.join()
    with pytest.raises(DeadlineError):
        caller.call(1, b"", time.monotonic() - 0.001)


@pytest.mark.parametrize("how", ["put", "call"])
def test_whoever_slept_as_a_frame_was_put_is_rung_before_its_writer_sleeps(pair: Tuple[HotWire, HotWire], how: str) -> None:
    caller, callee = pair
    caller._spin = 0.0001
    wake(caller)
    wake(callee)
    if how == "put":
        caller.send_frame(Opcode.CALL, 1, b"unseen", later())
        # It sleeps, and its last look came before the frame: so one of the two stores has been seen by nobody yet.
        callee._awake = False
        callee._memory[callee._in[1]] = 0
        with pytest.raises(DeadlineError):
            caller.recv_frame(later(0.01))
    else:

        class Late(HotWire):
            __slots__ = ()

            def _look_again(self, started: float, deadline: Optional[float]) -> bool:
                # The frame has been put by now.
                callee._awake = False
                callee._memory[callee._in[1]] = 0
                return super()._look_again(started, deadline)

        caller.__class__ = Late
        with pytest.raises(DeadlineError):
            caller.call(1, b"unseen", later(0.01))
    frame = callee.recv_frame(later())
    assert bytes(frame.body) == b"unseen"


def test_a_lane_that_is_used_now_and_then_uses_its_socket() -> None:
    caller, callee = lane(Limits(hot_short=0.0))

    def answer() -> None:
        for _ in range(50):
            callee.recv_frame(later())
            callee.send_frame(Opcode.RETURN, 0, b"", later())

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(50):
        caller.send_frame(Opcode.CALL, 1, b"", later())
        caller.recv_frame(later())
    thread.join()
    # No wait was short; so nobody has woken.
    assert caller.passed == callee.passed == 0
    caller.close()
    callee.close()


def test_whoever_has_looked_in_vain_looks_ever_less_often(pair: Tuple[HotWire, HotWire]) -> None:
    _, callee = pair
    callee._spin = 0.0001
    pauses = []
    for _ in range(10):
        wake(callee)
        with pytest.raises(DeadlineError):
            callee.recv_frame(time.monotonic() + 0.001)
        assert not callee._awake
        pauses.append(callee._pause)
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]


@pytest.mark.parametrize("found", [False, True])
def test_whoever_has_lost_its_processor_while_it_looked_stays_with_its_socket_for_a_time(
    pair: Tuple[HotWire, HotWire], monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    caller, callee = pair
    # Each look counts as late: as if others had had the processor.
    monkeypatch.setattr(hot, "_LATE", -60.0)
    callee._spin = 10.0 if found else 1e-9

    def put() -> None:
        while callee not in hot._looking.values():
            os.sched_yield()
        caller.send_frame(Opcode.CALL, 1, b"late", later())

    lengths = []
    for _ in range(7):
        wake(callee)
        other = threading.Thread(target=put)
        if found:
            other.start()
        frame = callee._look() if callee._look_again(time.monotonic(), None) else None
        if found:
            other.join()
            assert frame is not None and bytes(frame.body) == b"late"
            callee.connection.state = State.CALLEE_IDLE
            caller.connection.state = State.CALLER_IDLE
        assert not callee._awake and callee._memory[callee._in[1]] == 0
        lengths.append(callee._retreat)
        callee._pause = 0
        callee._wake_unless_paused()
        assert not callee._awake
        callee._retreat_until = time.monotonic()
    assert lengths == [0.064, 0.128, 0.256, 0.512, 1.0, 1.0, 1.0]
    # One that has been left alone for long begins anew.
    callee._retreat_until = time.monotonic() - hot._SOON
    callee._give_way(time.monotonic())
    assert callee._retreat == 0.064
    callee._retreat_until = time.monotonic()
    callee._wake_unless_paused()
    assert callee._awake


def test_one_thread_of_a_process_looks_at_a_time_and_a_wire_that_was_interrupted_there_gives_way(pair: Tuple[HotWire, HotWire]) -> None:
    _, callee = pair
    other, its_callee = lane()
    hot._looking[None] = other
    wake(callee)
    assert not callee._look_again(time.monotonic(), None)
    # It has not looked at all, and sleeps in its next waits.
    assert hot._looking == {None: other} and (callee._penalty, callee._pause) == (2, 2)
    other.close()
    assert not callee._look_again(time.monotonic(), None)
    assert hot._looking == {}
    callee._spin = 0.0001
    assert not callee._look_again(time.monotonic(), None)
    assert callee._penalty == 4 and hot._looking == {}
    its_callee.close()


def test_a_frame_that_was_put_just_before_its_reader_gave_way_is_found(
    pair: Tuple[HotWire, HotWire], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, callee = pair
    # Each look counts as late, and ends before there is anything.
    monkeypatch.setattr(hot, "_LATE", -60.0)
    callee._spin = 1e-9
    wake(callee)
    give_way = callee._give_way

    def put_first(now: float) -> None:
        # The writer is asleep, and finds the reader awake: it rings for nobody.
        caller.stop_polling()
        caller.send_frame(Opcode.CALL, 1, b"at the last moment", later())
        give_way(now)

    class Late(HotWire):
        __slots__ = ()

        def _give_way(self, now: float) -> None:
            put_first(now)

    callee.__class__ = Late
    assert bytes(callee.recv_frame(later(2.0)).body) == b"at the last moment"


def test_who_reads_no_doorbells_keeps_nobody_waiting_beyond_the_deadline(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    # The other side shows itself asleep after each frame, and reads nothing of what it is rung with.
    for _ in range(5000):
        wake(caller)
        caller._memory[caller._out[0]] = 1
        caller._memory[caller._out[1]] = 0
        caller.stop_polling()
    # There has been no room for another one for long.
    with pytest.raises(BlockingIOError):
        caller.sock.send(hot._WAKE_FRAME, socket.MSG_DONTWAIT)
    callee.close()


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


@pytest.mark.parametrize("place", ["_look_again", "_look_on", "_push", "send_frame", "call", "stop_polling"])
def test_a_thread_that_is_interrupted_anywhere_keeps_nobody_else_from_looking(place: str) -> None:
    """An exception at each line of a step in turn, as a signal handler raises it."""
    code = getattr(HotWire, place).__code__
    for at in range(1000):
        caller, callee = lane(Limits(hot_spin=0.00001))
        wake(caller)
        wake(callee)
        left = at
        raised = False

        def trace(frame: Any, event: str, _arg: Any, code: Any = code) -> Any:
            nonlocal left, raised
            if frame.f_code is code and event == "line":
                left -= 1
                if left < 0 and not raised:
                    raised = True
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            if place == "call":
                caller.call(1, b"x", time.monotonic() + 0.002)
            else:
                caller.send_frame(Opcode.CALL, 1, b"x", later())
                caller.recv_frame(time.monotonic() + 0.002)
        except (KeyboardInterrupt, DeadlineError):
            pass
        finally:
            sys.settrace(before)
        caller.close()
        callee.close()
        # The next one looks, at the latest after one that took the closed one away.
        one, other = lane(Limits(hot_spin=0.00001))
        wake(one)
        one._look_again(time.monotonic(), None)
        one._look_again(time.monotonic(), None)
        assert one._penalty > 1 and not hot._looking
        one.close()
        other.close()
        if not raised:
            return
    raise AssertionError("the step never ends")


def test_closing_ends_a_thread_that_looks(pair: Tuple[HotWire, HotWire]) -> None:
    _, callee = pair
    callee._spin = 60.0
    wake(callee)
    ended: List[BaseException] = []

    def look() -> None:
        try:
            callee.recv_frame(None)
        except ChannelError as error:
            ended.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    while not hot._looking:
        pass
    callee.close()
    thread.join(10)
    assert not thread.is_alive() and len(ended) == 1


def test_the_end_of_the_other_side_is_noticed_while_it_counts_as_awake(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    caller._spin = 0.001
    wake(callee)
    callee.close()
    caller.send_frame(Opcode.CALL, 1, b"", later())
    started = time.monotonic()
    with pytest.raises(ChannelError):
        caller.recv_frame(later())
    assert time.monotonic() - started < 1.0


def test_a_forked_child_touches_neither_the_memory_nor_the_socket_of_its_parent(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    wake(callee)
    caller.send_frame(Opcode.CALL, 1, b"for the parent", later())
    child = os.fork()
    if not child:
        status = 1
        try:
            callee.abandon()
            try:
                callee.recv_frame(later(0.1))
            except ChannelError:
                try:
                    callee._push(HEADER.pack(Opcode.RETURN, 0, 0, 0, 0), None)
                except ChannelError:
                    pass
                mapped = "memfd:xpc-instrument" in Path("/proc/self/maps").read_text()
                status = 2 if mapped and caller._memory.closed else 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 if hasattr(os, "waitstatus_to_exitcode") else True
    assert bytes(callee.recv_frame(later()).body) == b"for the parent"


def test_a_greenlet_sleeps_on_a_lane_that_a_thread_has_woken(run_program: Callable[..., Program]) -> None:
    pytest.importorskip("gevent", reason="gevent is not installed")
    program = run_program(GREENLET, str(Path(__file__).parents[4]))
    assert program.read_until("slept").split() == ["slept", "True", "turns", "True", "True"]
    assert program.wait() == 0


# The hub has turns while a greenlet waits on a lane that is awake and may be looked at for ten seconds.
GREENLET = """
import sys, time
sys.path.insert(0, sys.argv[1])
import gevent
from tests.unit.core.wire.test_memory import lane, wake, later, Limits, Opcode, DeadlineError
caller, callee = lane(Limits(hot_spin=10.0))
wake(callee)
turns = 0
def count():
    global turns
    while True:
        turns += 1
        gevent.sleep(0)
def wait():
    try:
        callee.recv_frame(time.monotonic() + 0.1)
    except DeadlineError:
        return not callee._awake
counting = gevent.spawn(count)
waiting = gevent.spawn(wait)
waiting.join()
slept, many = waiting.value, turns > 10
callee._awake = True
callee._memory[callee._in[1]] = 1
waiting = gevent.spawn(lambda: bytes(callee.recv_frame(later()).body))
caller.send_frame(Opcode.CALL, 1, b"there", later())
waiting.join()
counting.kill()
print("slept", slept, "turns", many, waiting.value == b"there", flush=True)
caller.close()
callee.close()
"""


# what the other side may do to the memory ------------------------------------------------------------------------------------------


def forged(opcode: int = Opcode.CALL, buffers: int = 0, zero: int = 0, length: int = 0) -> bytes:
    return HEADER.pack(opcode, buffers, zero, 1, length)


@pytest.mark.parametrize(
    "header",
    [
        forged(length=hot.SLOT),
        forged(length=0xFFFFFFFF),
        forged(length=64 * 1024 + 1),
        forged(buffers=1),
        forged(zero=1),
        forged(opcode=0),
        forged(opcode=255),
        b"\xff" * HEADER.size,
        # Frames, but not now.
        forged(opcode=Opcode.RETURN),
        forged(opcode=Opcode.WAKE),
        forged(opcode=Opcode.HELLO),
    ],
    ids=repr,
)
def test_a_header_in_the_memory_is_checked_before_anything_is_read(pair: Tuple[HotWire, HotWire], header: bytes) -> None:
    caller, callee = pair
    wake(callee)
    number, _, slot = caller._out
    caller._memory[slot : slot + len(header)] = header
    caller._memory[number] = 1
    with pytest.raises(RemoteProtocolError):
        callee.recv_frame(later())


def test_what_fits_into_the_memory_is_within_the_limit_of_every_lane() -> None:
    assert hot._LONGEST_BODY <= LANE_SLACK


@pytest.mark.parametrize("seed", range(4))
def test_scribbling_over_the_memory_spoils_nothing_but_the_lane(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(8):
        caller, callee = lane(Limits(hot_spin=0.0005))
        memory = caller._memory if seed % 2 else callee._memory
        ended = threading.Event()

        def scribble(memory: mmap.mmap = memory, ended: threading.Event = ended) -> None:
            while not ended.is_set():
                at = rng.choice([*hot._NUMBERS, *hot._AWAKE, *hot._SLOTS, hot._THREAD, rng.randrange(hot.SIZE - 64)])
                what = rng.choice(
                    [b"\0", b"\1", bytes([rng.randrange(256)]), rng.randbytes(12) if hasattr(rng, "randbytes") else b"\xee" * 12]
                )
                try:
                    memory[at : at + len(what)] = what
                    if rng.random() < 0.05:
                        memory[:] = bytes([rng.randrange(3)]) * hot.SIZE
                except ValueError:
                    # The lane is closed.
                    return

        def talk(wire: HotWire, calls: bool, outcomes: List[Any]) -> None:
            deadline = time.monotonic() + 0.2
            try:
                for number in range(200):
                    if calls:
                        wire.send_frame(Opcode.CALL, 1, b"x" * (number * 300), deadline)
                        frame = wire.recv_frame(deadline)
                    else:
                        frame = wire.recv_frame(deadline)
                        wire.send_frame(Opcode.RETURN, 0, b"y" * (number * 300), deadline)
                    assert len(frame.body) <= 64 * 1024
                outcomes.append(None)
            except BaseException as error:
                outcomes.append(error)
            finally:
                # The other one is not to wait for its deadline.
                wire.close()
            outcomes.append(time.monotonic() - deadline)

        outcomes: List[Any] = []
        threads = [
            threading.Thread(target=talk, args=(caller, True, outcomes)),
            threading.Thread(target=talk, args=(callee, False, outcomes)),
            threading.Thread(target=scribble),
        ]
        for thread in threads:
            thread.start()
        for thread in threads[:2]:
            thread.join(20)
        ended.set()
        threads[2].join(20)
        assert not any(thread.is_alive() for thread in threads)
        errors = [one for one in outcomes if isinstance(one, BaseException)]
        assert all(isinstance(one, (ChannelError, RemoteProtocolError)) for one in errors), errors
        assert max(one for one in outcomes if isinstance(one, float)) < 5.0


def test_doorbells_without_end_do_not_prolong_a_wait(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    caller.send_frame(Opcode.CALL, 1, b"", later())
    going = True

    def ring() -> None:
        while going:
            try:
                callee.sock.send(hot._WAKE_FRAME * 100, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass

    thread = threading.Thread(target=ring)
    thread.start()
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        caller.recv_frame(started + 0.1)
    going = False
    thread.join()
    assert time.monotonic() - started < 5.0


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
    os.ftruncate(descriptor, hot.SIZE)
    return descriptor


def resized(size: int) -> Callable[[], int]:
    def make() -> int:
        descriptor = os.memfd_create("xpc-instrument test", os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        hot.fcntl.fcntl(descriptor, hot.fcntl.F_ADD_SEALS, hot._seals)
        return descriptor

    return make


def write_sealed() -> int:
    descriptor = resized(hot.SIZE)
    made = os.memfd_create("xpc-instrument test", os.MFD_ALLOW_SEALING)
    os.close(descriptor())
    os.ftruncate(made, hot.SIZE)
    hot.fcntl.fcntl(made, hot.fcntl.F_ADD_SEALS, hot.fcntl.F_SEAL_WRITE | hot.fcntl.F_SEAL_SHRINK | hot.fcntl.F_SEAL_GROW)
    hot.fcntl.fcntl(made, hot.fcntl.F_ADD_SEALS, hot.fcntl.F_SEAL_SEAL)
    return made


def no_memory() -> int:
    return os.open("/dev/null", os.O_RDWR)


WRONG: Dict[str, Tuple[List[Callable[[], int]], str]] = {
    "not sealed": ([unsealed], "not sealed, or has another size"),
    "too small": ([resized(4096)], "not sealed, or has another size"),
    "too large": ([resized(2 * hot.SIZE)], "not sealed, or has another size"),
    "sealed against writing": ([write_sealed], "no memory that can be mapped"),
    "another file": ([no_memory], "no memory that can be mapped"),
    "none": ([], "passed no descriptors"),
    "two": ([resized(hot.SIZE)] * 2, "passed 2 descriptors"),
    "five": ([resized(hot.SIZE)] * 5, "passed 4 descriptors"),
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
    for byte in forged(opcode=Opcode.CHALLENGE, length=100):
        near.sendmsg([bytes([byte])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 4))])
        with pytest.raises(DeadlineError):
            wire.receive(time.monotonic() + 0.001)
    os.close(null)
    assert len(descriptors()) <= len(before) + hot._MOST
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


def test_where_there_can_be_no_hot_lanes_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(name: str, value: Any, on: Any = os) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(on, name, value, raising=False)
            return why_plain()

    assert seen("uname", lambda: SimpleNamespace(machine="aarch64")) == "the order of stores on aarch64 is not what hot lanes rely on"
    assert seen("sched_getaffinity", lambda _: {3}) == "this process may run on one processor only"
    assert seen("_is_gil_enabled", lambda: False, sys) == "this Python runs without the GIL of CPython"
    assert seen("platform", "darwin", sys) == "this system has no sealed memory (memfd)"
    assert why_plain() == ""


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

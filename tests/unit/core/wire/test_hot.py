"""Hot lanes: frames through memory and socket arrive once, in order and whole, whatever the other side does to the memory."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.programs import Program
from xpc_instrument.core.model.errors import ChannelError, DeadlineError, RemoteProtocolError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.protocol.codec import HEADER, Frame
from xpc_instrument.core.protocol.connection import LANE_SLACK, State
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.wire import hot
from xpc_instrument.core.wire import memory as layout
from xpc_instrument.core.wire.hot import HotWire
from xpc_instrument.core.wire.memory import why_plain
from xpc_instrument.core.wire.polling import Bounds, Pauses
from xpc_instrument.core.wire.wire import Wire

from .hot_fixture import lane, later, pair, polls

__all__ = ["pair"]

pytestmark = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")


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
        how=st.sampled_from(["at once", "in a thread", "async", "some"]),
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
        kept = [bytes([pick + 2]) * one for one in buffers] if how != "at once" else []
        if how == "at once":
            # Small ones only: the buffer of a socket has to take it, since nobody reads meanwhile.
            size = min(size, 66_000)
            body = body[:size]
        passed = sender.passed
        if asleep:
            reader.stop_polling()
        expects_memory = reader._polls and how in ("at once", "in a thread") and not kept and size <= 64 * 1024
        if how == "at once":
            sender.send_frame(opcode, 0, body, later())
        elif how == "in a thread":
            # In a thread, since what does not fit waits for the reader.
            expected = (opcode, 7, body, kept)
            self.under_way = (reader, expected)
            thread = threading.Thread(target=sender.send_frame, args=(opcode, 7, body, later(), kept))
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
            assert sender.passed == passed and not sender._polls
            return
        else:
            sender.stop_polling()
            kept, body = [], body[:50_000]
            assert not sender.transmit_some(sender.connection.send(opcode, 0, body))
        assert sender.passed - passed == (how == "at once" and expects_memory)
        if late and expects_memory:
            # WAKE for what is taken before it is read: to be ignored.
            Wire._push(sender, hot._WAKE_FRAME, later())
        self.under_way = (reader, (opcode, 0, body, kept))

    @precondition(lambda self: self.under_way is not None)
    @rule(way=st.sampled_from(["recv_frame", "recv_frame_async", "recv_frames"]))
    def receive(self, way: str) -> None:
        assert self.under_way is not None
        reader, expected = self.under_way
        self.under_way = None
        if way == "recv_frame":
            frame = reader.recv_frame(later())
        else:
            in_memory = reader._polls
            if in_memory:
                # What a task does first; what is in the memory by now is told of by nobody, so its owner looks.
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
    def start_polling(self, side: int) -> None:
        if self.under_way is None:
            polls(self.sides[side])

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
    # In two processes: of one, only one thread polls at a time, and two that would are in each other's way.
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
    # Two rounds in each direction, and more where other programs keep the processors busy and the lane pauses.
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
    # What comes in vain is WAKE, if the reader stopped polling in between.
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
            callee.send_frame(opcode, 0, body, later(), buffers)
            if opcode is Opcode.PROCEED:
                callee.recv_frame(later())
                callee.send_frame(Opcode.RETURN, 0, b"", later())

    thread = threading.Thread(target=answer)
    thread.start()
    for opcode, body, buffers in answers:
        if awake:
            polls(caller)
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


@pytest.mark.parametrize("how", ["send_frame", "call"])
def test_whoever_stopped_polling_as_a_frame_was_put_is_told_before_its_writer_sleeps(pair: Tuple[HotWire, HotWire], how: str) -> None:
    caller, callee = pair
    caller._spin = 0.0001
    polls(caller)
    polls(callee)
    if how == "send_frame":
        caller.send_frame(Opcode.CALL, 1, b"unseen", later())
        # Its last look came before the frame: so one of the two stores has been seen by nobody yet.
        callee._polls = False
        callee._memory[callee._in[1]] = 0
        with pytest.raises(DeadlineError):
            caller.recv_frame(later(0.01))
    else:

        class Late(HotWire):
            __slots__ = ()

            def _poll(self, started: float, deadline: Optional[float]) -> bool:
                # The frame has been put by now.
                callee._polls = False
                callee._memory[callee._in[1]] = 0
                return super()._poll(started, deadline)

        caller.__class__ = Late
        with pytest.raises(DeadlineError):
            caller.call(1, b"unseen", later(0.01))
    frame = callee.recv_frame(later())
    assert bytes(frame.body) == b"unseen"


def test_a_frame_that_was_put_just_before_its_reader_stopped_polling_is_found(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    callee._spin = 1e-9
    polls(callee)

    class Last(Pauses):
        __slots__ = ()

        def begin(self, bounds: Bounds, frames: int) -> None:
            # The writer does not poll, and finds that the reader does: it wakes nobody.
            caller.stop_polling()
            caller.send_frame(Opcode.CALL, 1, b"at the last moment", later())
            super().begin(bounds, frames)

    callee._pauses = Last(0.2)
    assert bytes(callee.recv_frame(later(2.0)).body) == b"at the last moment"


def test_who_reads_no_wake_keeps_nobody_waiting_beyond_the_deadline(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    # The other side says after each frame that it does not poll, and reads nothing of what it is sent.
    for _ in range(5000):
        polls(caller)
        caller._memory[caller._out[0]] = 1
        caller._memory[caller._out[1]] = 0
        caller.stop_polling()
    # There has been no room for another one for long.
    with pytest.raises(BlockingIOError):
        caller.sock.send(hot._WAKE_FRAME, socket.MSG_DONTWAIT)
    callee.close()


@pytest.mark.parametrize("place", ["_poll", "_poll_on", "_push", "_next", "_take", "stop_polling"])
def test_a_thread_that_is_interrupted_anywhere_keeps_nobody_else_from_polling(place: str) -> None:
    """An exception at each line of a step in turn, as a signal handler raises it."""
    code = getattr(HotWire, place).__code__
    for at in range(1000):
        caller, callee = lane(Limits(hot_spin=0.00001))
        polls(caller)
        polls(callee)
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
            caller.send_frame(Opcode.CALL, 1, b"x", later())
            if place == "_take":
                callee.recv_frame(later())
            else:
                caller.recv_frame(time.monotonic() + 0.002)
        except (KeyboardInterrupt, DeadlineError):
            pass
        finally:
            sys.settrace(before)
        caller.close()
        callee.close()
        # The next one polls.
        one, other = lane(Limits(hot_spin=0.00001))
        polls(one)
        other._push(HEADER.pack(Opcode.RETURN, 0, 0, 0, 0), later())
        assert one._poll(time.monotonic(), None) and hot._polling is None
        one.close()
        other.close()
        if not raised:
            return
    raise AssertionError("the step never ends")


def test_closing_ends_a_thread_that_polls(pair: Tuple[HotWire, HotWire]) -> None:
    _, callee = pair
    callee._spin = 60.0
    polls(callee)
    ended: List[BaseException] = []

    def look() -> None:
        try:
            callee.recv_frame(None)
        except ChannelError as error:
            ended.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    while hot._polling is None:
        pass
    callee.close()
    thread.join(10)
    assert not thread.is_alive() and len(ended) == 1


def test_the_end_of_the_other_side_is_noticed_while_it_seems_to_poll(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    caller._spin = 0.001
    polls(callee)
    callee.close()
    caller.send_frame(Opcode.CALL, 1, b"", later())
    started = time.monotonic()
    with pytest.raises(ChannelError):
        caller.recv_frame(later())
    assert time.monotonic() - started < 5.0


def test_a_forked_child_touches_neither_the_memory_nor_the_socket_of_its_parent(pair: Tuple[HotWire, HotWire]) -> None:
    caller, callee = pair
    polls(callee)
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


def test_a_greenlet_sleeps_on_a_lane_that_polled_for_a_thread(run_program: Callable[..., Program]) -> None:
    pytest.importorskip("gevent", reason="gevent is not installed")
    program = run_program(GREENLET, str(Path(__file__).parents[4]))
    assert program.read_until("slept").split() == ["slept", "True", "turns", "True", "True"]
    assert program.wait() == 0


# The hub has turns while a greenlet waits on a lane that may poll for ten seconds.
GREENLET = """
import sys, time
sys.path.insert(0, sys.argv[1])
import gevent
from tests.unit.core.wire.test_hot import lane, polls, later, Limits, Opcode, DeadlineError
caller, callee = lane(Limits(hot_spin=10.0))
polls(callee)
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
        return not callee._polls
counting = gevent.spawn(count)
waiting = gevent.spawn(wait)
waiting.join()
slept, many = waiting.value, turns > 10
callee._polls = True
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
        forged(length=68 * 1024),
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
    polls(callee)
    number, _, slot = caller._out
    caller._memory[slot : slot + len(header)] = header
    caller._memory[number] = 1
    with pytest.raises(RemoteProtocolError):
        callee.recv_frame(later())


def test_what_fits_into_the_memory_is_within_the_limit_of_every_lane() -> None:
    assert layout.LONGEST_BODY <= LANE_SLACK


@pytest.mark.parametrize("seed", range(4))
def test_scribbling_over_the_memory_spoils_nothing_but_the_lane(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(8):
        caller, callee = lane(Limits(hot_spin=0.0005))
        memory = caller._memory if seed % 2 else callee._memory
        ended = threading.Event()

        def scribble(memory: mmap.mmap = memory, ended: threading.Event = ended) -> None:
            while not ended.is_set():
                at = rng.choice([*layout.NUMBERS, *layout.POLLS, *layout.SLOTS, layout.THREAD, rng.randrange(layout.SIZE - 64)])
                what = rng.choice(
                    [b"\0", b"\1", bytes([rng.randrange(256)]), rng.randbytes(12) if hasattr(rng, "randbytes") else b"\xee" * 12]
                )
                try:
                    memory[at : at + len(what)] = what
                    if rng.random() < 0.05:
                        memory[:] = bytes([rng.randrange(3)]) * layout.SIZE
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


def test_wake_without_end_does_not_prolong_a_wait(pair: Tuple[HotWire, HotWire]) -> None:
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

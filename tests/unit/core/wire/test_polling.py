"""When a side of a hot lane polls: while calls are close, ever less often where it was in vain, and hardly ever where others want the
processors."""

from __future__ import annotations

import os
import threading
import time
from typing import List, Optional, Tuple

import pytest

from xpc_instrument.core.model.errors import DeadlineError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.wire import hot
from xpc_instrument.core.wire.hot import HotWire
from xpc_instrument.core.wire.memory import why_plain
from xpc_instrument.core.wire.polling import IN_VAIN, LOST_PROCESSOR, Bounds, Neighbour, Pauses

from .hot_fixture import lane, later, pair, polls

__all__ = ["pair"]

needs_memory = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")


# the policy ------------------------------------------------------------------------------------------------------------------------


def waits(pauses: Pauses) -> int:
    """How many waits are left of the pause."""
    return next(number for number in range(1 << 20) if pauses.is_over())


@pytest.mark.parametrize(
    ("bounds", "lengths"),
    [
        (IN_VAIN, [2, 4, 8, 16, 32, 64, 128, 256, 256]),
        (LOST_PROCESSOR, [64, 256, 1024, 4096, 16384, 16384]),
    ],
)
def test_each_pause_is_longer_than_the_last_one(bounds: Bounds, lengths: List[int]) -> None:
    pauses = Pauses(1.0)
    assert waits(pauses) == 0
    for length in lengths:
        pauses.begin(bounds, 0)
        assert waits(pauses) == length


def test_a_side_that_has_been_hot_for_longer_than_its_last_pause_begins_with_the_shortest() -> None:
    pauses = Pauses(1.0)
    for _ in range(3):
        pauses.begin(IN_VAIN, 0)
    waits(pauses)
    # As many waits as in the pause, of two frames each; and one more.
    pauses.begin(IN_VAIN, 2 * 8)
    assert waits(pauses) == 16
    pauses.begin(IN_VAIN, 2 * 8 + 2 * 16 + 1)
    assert waits(pauses) == 2


def test_a_side_that_has_lost_its_processor_once_polls_more_often_again_step_by_step() -> None:
    pauses = Pauses(1.0)
    lost, vain = LOST_PROCESSOR, IN_VAIN
    steps = [(lost, 64), (lost, 256), (lost, 1024), (vain, 768), (lost, 3072), (vain, 2304), (vain, 1728), (vain, 1296), (vain, 972)]
    for bounds, length in [*steps, (vain, 729), (vain, 547), (vain, 411), (vain, 309), (vain, 232), (vain, 256), (vain, 256)]:
        pauses.begin(bounds, 0)
        assert waits(pauses) == length


def test_calls_are_close_after_three_short_waits_in_a_row() -> None:
    pauses = Pauses(0.001)
    short = [0.0005] * 3
    assert [pauses.has_waited(seconds) for seconds in (*short[:2], 0.002, *short, 0.0005, 0.001)] == [False] * 5 + [True, True, False]
    # What was in vain shows that they are not.
    for seconds in short:
        pauses.has_waited(seconds)
    pauses.begin(IN_VAIN, 0)
    assert [pauses.has_waited(seconds) for seconds in (*short[:2], *short)] == [False] * 4 + [True]


def test_a_neighbour_is_suspected_after_answers_that_came_as_soon_as_the_processor_was_free() -> None:
    neighbour = Neighbour()
    for _ in range(23):
        neighbour.answered(True)
    assert not neighbour.suspected
    # One that had to be waited for has a processor of its own.
    neighbour.answered(False)
    for _ in range(23):
        neighbour.answered(True)
    assert not neighbour.suspected
    neighbour.answered(True)
    assert neighbour.suspected


@pytest.mark.skipif(bool(why_plain()), reason="processors can not be chosen here")
def test_a_neighbour_is_left_and_where_there_is_none_it_is_looked_for_half_as_often() -> None:
    allowed = os.sched_getaffinity(0)
    neighbour = Neighbour()
    # A thread that has ended, and one of a process that there is not.
    for pid, after in ((os.getpid(), 1 << 12), (2**22 + 1, 1 << 12)):
        neighbour.leave(pid, 0)
        assert neighbour._after == after
    # This thread itself is on its own processor.
    neighbour = Neighbour()
    neighbour.leave(os.getpid(), threading.get_native_id())
    assert (neighbour._after, neighbour.suspected) == (24, False)
    assert os.sched_getaffinity(0) == allowed


# the policy in use -----------------------------------------------------------------------------------------------------------------


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


@needs_memory
def test_whoever_has_polled_in_vain_sleeps_in_the_waits_of_the_pause(
    pair: Tuple[HotWire, HotWire], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, callee = pair
    # However crowded this machine is.
    monkeypatch.setattr(hot, "LATE", 60.0)
    callee._spin = 0.0001
    for length in (2, 4, 8):
        polls(callee)
        with pytest.raises(DeadlineError):
            callee.recv_frame(time.monotonic() + 0.001)
        assert not callee._polls and callee._memory[callee._in[1]] == 0
        assert waits(callee._pauses) == length


@needs_memory
@pytest.mark.parametrize("found", [False, True])
def test_whoever_has_lost_its_processor_while_it_polled_stays_with_its_socket_for_long(
    pair: Tuple[HotWire, HotWire], monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    caller, callee = pair
    # Each look counts as late: as if others had had the processor.
    monkeypatch.setattr(hot, "LATE", -60.0)
    callee._spin = 10.0 if found else 1e-9
    yielded = threading.Event()

    def yield_() -> None:
        yielded.set()
        # On to the thread that puts the frame.
        time.sleep(0)

    monkeypatch.setattr(hot, "_yield", yield_)

    def put() -> None:
        yielded.wait(10)
        caller.send_frame(Opcode.CALL, 1, b"late", later())

    polls(callee)
    other = threading.Thread(target=put)
    other.start()
    if not found:
        yielded.set()
        other.join()
        callee._take()
    assert callee._poll(time.monotonic(), None) is found
    other.join()
    assert not callee._polls and callee._memory[callee._in[1]] == 0
    assert waits(callee._pauses) == 64
    frame: Optional[object] = callee._look()
    assert (frame is not None) is found


@needs_memory
def test_one_thread_of_a_process_polls_at_a_time_and_a_wire_that_was_interrupted_there_gives_way(
    pair: Tuple[HotWire, HotWire], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, callee = pair
    other, its_callee = lane()
    monkeypatch.setattr(hot, "_polling", other)
    polls(callee)
    caller.send_frame(Opcode.CALL, 1, b"there", later())
    # It has not looked at all, and sleeps in its next waits.
    assert not callee._poll(time.monotonic(), None)
    assert hot._polling is other and waits(callee._pauses) == 2
    other.close()
    assert callee._poll(time.monotonic(), None)
    assert hot._polling is None
    its_callee.close()

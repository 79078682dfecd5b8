"""Lanes that stay watched for the tasks of a loop, from one answer to the next."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import select
import selectors
import socket
import sys
import threading
import time
import weakref
from typing import Any, Callable, Coroutine, Iterator, List, Tuple

import pytest

from tests.programs import PATIENCE
from xpc_instrument.core.model.errors import ChannelError, DeadlineError
from xpc_instrument.core.protocol.codec import encode
from xpc_instrument.core.protocol.connection import Connection, State
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.wire import arrivals as module
from xpc_instrument.core.wire.arrivals import _OFTEN
from xpc_instrument.core.wire.turns import _IN_ONE_TURN, turns_of
from xpc_instrument.core.wire.wire import Wire

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="tasks wait in the other way where there is no epoll")

Scenario = Callable[[], Coroutine[Any, Any, None]]


def _uvloop() -> Any:
    return pytest.importorskip("uvloop", reason="uvloop is not installed").new_event_loop()


LOOPS: List[Any] = [
    pytest.param(lambda: asyncio.SelectorEventLoop(selectors.EpollSelector()), id="epoll"),
    pytest.param(lambda: asyncio.SelectorEventLoop(selectors.PollSelector()), id="poll"),
    pytest.param(lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()), id="select"),
    pytest.param(_uvloop, id="uvloop"),
]


def run(scenario: Scenario, make: Callable[[], Any] = asyncio.SelectorEventLoop) -> None:
    loop = make()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario(), PATIENCE))
    finally:
        loop.close()


def later() -> float:
    return time.monotonic() + PATIENCE


class Lane:
    """A wire whose other side answers as it is told to."""

    def __init__(self) -> None:
        sock, self.other = socket.socketpair()
        self.wire = Wire(sock, Connection(dialling=False, key=b"", max_payload=1 << 20))
        self.wire.connection.reader.limit = 1 << 20
        self.ask()

    def ask(self) -> None:
        """From here on an answer may come."""
        self.wire.connection.state = State.CALLER_WAITING

    def answer(self, text: bytes) -> None:
        self.other.sendall(b"".join(bytes(piece) for piece in encode(Opcode.RETURN, 0, text)))

    async def hear(self, text: bytes) -> None:
        """Await an answer that comes while it is awaited."""
        self.ask()
        asyncio.get_running_loop().call_soon(self.answer, text)
        assert bytes((await self.wire.recv_frame_async(later())).body) == text

    async def warm(self) -> None:
        """Await answers until it stays watched."""
        for number in range(_OFTEN + 1):
            await self.hear(b"%d" % number)
        assert self.wire.watched is turns_of(asyncio.get_running_loop()).arrivals

    def close(self) -> None:
        self.wire.close()
        self.other.close()


@pytest.fixture
def lane() -> Iterator[Lane]:
    one = Lane()
    yield one
    one.close()


def descriptors() -> List[str]:
    """What this process has open, but for what reads it."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass
    return sorted(found)


async def left_alone(arrivals: Any) -> None:
    """Until the epoll is closed because nobody waits."""
    while arrivals._epoll is not None:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("make", LOOPS)
def test_answers_arrive_on_every_loop_and_afterwards_it_is_as_it_was(make: Callable[[], Any], lane: Lane) -> None:
    async def scenario() -> None:
        before = descriptors()
        await lane.warm()
        arrivals = lane.wire.watched
        epoll = arrivals._fd
        assert len(descriptors()) == len(before) + 1
        for number in range(30):
            text = bytes([number]) * (0, 10, 200_000)[number % 3]
            lane.ask()
            sender = threading.Thread(target=lane.answer, args=(text,))
            sender.start()
            assert bytes((await lane.wire.recv_frame_async(later())).body) == text
            sender.join()
        await left_alone(arrivals)
        assert descriptors() == before
        assert not asyncio.get_running_loop().remove_reader(epoll)
        await lane.warm()

    run(scenario, make)


def test_a_loop_on_which_tasks_seldom_wait_gets_no_descriptor(lane: Lane) -> None:
    async def scenario() -> None:
        before = descriptors()
        for number in range(_OFTEN):
            await lane.hear(b"%d" % number)
        assert descriptors() == before

    for _ in range(3):
        run(scenario)


def test_a_task_goes_on_in_the_turn_in_which_its_answer_is_there(lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        loop = asyncio.get_running_loop()
        turns: List[str] = []
        lane.ask()
        waiting = asyncio.ensure_future(lane.wire.recv_frame_async(later()))
        await asyncio.sleep(0)
        lane.answer(b"there")
        arrivals = lane.wire.watched
        before = arrivals._arrived
        loop.add_reader(arrivals._fd, lambda: (before(arrivals._fd), turns.append(str(waiting.done()))))
        await waiting
        assert turns == ["True"]

    run(scenario)


@pytest.mark.parametrize("make", LOOPS)
def test_what_a_task_keeps_in_its_context_stays_there(make: Callable[[], Any], lane: Lane) -> None:
    async def scenario() -> None:
        # Nothing is in it until the lane stays watched: a context without anything is one nevertheless.
        await lane.warm()
        await lane.hear(b"once more")
        token = variable.set("kept")
        await asyncio.sleep(0)
        assert variable.get() == "kept"
        await lane.hear(b"and again")
        assert variable.get() == "kept"
        await asyncio.sleep(0)
        variable.reset(token)
        assert variable.get("") == ""

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    loop = make()
    try:
        task = contextvars.Context().run(loop.create_task, scenario())
        loop.run_until_complete(task)
    finally:
        loop.close()


def test_few_tasks_go_on_in_one_turn_however_many_answers_are_there() -> None:
    async def scenario() -> None:
        lanes = [Lane() for _ in range(5 * _IN_ONE_TURN)]
        loop = asyncio.get_running_loop()
        await lanes[0].warm()
        lanes[0].ask()
        turn, seen = 0, []

        def count() -> None:
            nonlocal turn
            turn += 1
            if len(seen) < len(lanes):
                loop.call_soon(count)

        async def hear(one: Lane) -> None:
            await one.wire.recv_frame_async(later())
            seen.append(turn)

        tasks = [loop.create_task(hear(one)) for one in lanes]
        await asyncio.sleep(0)
        for one in lanes:
            one.answer(b"now")
        count()
        await asyncio.gather(*tasks)
        assert max(seen.count(number) for number in set(seen)) <= _IN_ONE_TURN
        for one in lanes:
            one.close()

    run(scenario)


@pytest.mark.parametrize("make", LOOPS)
@pytest.mark.parametrize("from_thread", [False, True])
def test_closing_wakes_a_task_that_waits_on_a_watched_lane(make: Callable[[], Any], from_thread: bool, lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        lane.ask()
        waiting = asyncio.ensure_future(lane.wire.recv_frame_async(later()))
        await asyncio.sleep(0)
        assert lane.wire._waiting[False]
        if from_thread:
            thread = threading.Thread(target=lane.wire.close)
            thread.start()
            thread.join()
        else:
            lane.wire.close()
        assert lane.wire.fileno() >= 0
        with pytest.raises(ChannelError):
            await waiting
        assert lane.wire.fileno() == -1
        with pytest.raises(ChannelError):
            await lane.wire.recv_frame_async(later())

    run(scenario, make)


def test_the_number_of_a_closed_lane_is_anothers_at_once(lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        number = lane.wire.fileno()
        # No task waits, and the descriptor is closed at once; a child may have it still.
        kept = os.dup(number)
        near, far = socket.socketpair()
        with near, far:
            arrivals = lane.wire.watched
            lane.close()
            assert lane.wire.fileno() == -1
            assert arrivals._epoll.poll(0) == []
            os.dup2(near.fileno(), number)
            loop = asyncio.get_running_loop()
            readable = asyncio.Event()
            loop.add_reader(number, readable.set)
            far.send(b"x")
            await readable.wait()
            assert loop.remove_reader(number)
            os.close(number)
        os.close(kept)
        one = Lane()
        await one.warm()
        one.close()

    run(scenario)


def test_a_lane_goes_from_loop_to_loop_and_to_a_thread_that_just_waits(lane: Lane) -> None:
    loops: List[Tuple[Any, threading.Thread]] = []
    for _ in range(2):
        loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        loops.append((loop, thread))
    for number in range(10):
        for loop, _ in loops:
            asyncio.run_coroutine_threadsafe(lane.warm(), loop).result(PATIENCE)
            assert lane.wire.watched.turns.loop() is loop
            watching = [turns_of(one).arrivals for one, _ in loops]
            assert [one is not None and lane.wire.fileno() in one._watched for one in watching] == [one is loop for one, _ in loops]
            lane.ask()
            lane.answer(b"%d" % number)
            assert bytes(lane.wire.recv_frame(later()).body) == b"%d" % number
    for loop, thread in loops:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_loop_is_told_once_of_what_comes_for_somebody_else(lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        arrivals = lane.wire.watched
        assert lane.wire.fileno() in arrivals._watched
        lane.answer(b"for a thread")
        while lane.wire.fileno() in arrivals._watched:
            await asyncio.sleep(0)
        assert arrivals._epoll.poll(0) == []
        lane.ask()
        assert bytes(lane.wire.recv_frame(later()).body) == b"for a thread"
        await lane.warm()

    run(scenario)


@pytest.mark.parametrize("make", LOOPS)
@pytest.mark.parametrize("answered", [False, True])
def test_a_task_that_is_cancelled_raises_that_and_nothing_else(make: Callable[[], Any], answered: bool, lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        lane.ask()
        waiting = asyncio.ensure_future(lane.wire.recv_frame_async(later()))
        await asyncio.sleep(0)
        waiting.cancel()
        waiting.cancel()
        if answered:
            lane.answer(b"too late")
            lane.wire.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not any(lane.wire._waiting)
        assert lane.wire.watched.waits == {}

    run(scenario, make)


def test_what_comes_for_a_task_that_was_cancelled_just_before_changes_nothing(lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        lane.ask()
        waiting = asyncio.ensure_future(lane.wire.recv_frame_async(later()))
        await asyncio.sleep(0)
        waiting.cancel()
        lane.other.close()
        arrivals = lane.wire.watched
        arrivals._arrived(arrivals._fd)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(scenario)


def test_a_task_whose_turn_has_not_come_can_be_cancelled() -> None:
    async def scenario() -> None:
        lanes = [Lane() for _ in range(2 * _IN_ONE_TURN)]
        await lanes[0].warm()
        lanes[0].ask()
        tasks = [asyncio.ensure_future(one.wire.recv_frame_async(later())) for one in lanes]
        await asyncio.sleep(0)
        for one in lanes:
            one.answer(b"now")
        turns = turns_of(asyncio.get_running_loop())
        while not turns._ready:
            await asyncio.sleep(0)
        queued = [task for task in tasks if not task.done()]
        for task in queued:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in results] == [task in queued for task in tasks]
        assert any(task in queued for task in tasks)
        for one in lanes:
            one.close()

    run(scenario)


@pytest.mark.parametrize("make", LOOPS)
def test_a_deadline_ends_the_waiting(make: Callable[[], Any], lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        lane.ask()
        deadline = time.monotonic() + 0.02
        with pytest.raises(DeadlineError):
            await lane.wire.recv_frame_async(deadline)
        assert time.monotonic() >= deadline
        assert lane.wire.watched.waits == {}

    run(scenario, make)


def test_what_waits_in_a_task_that_runs_the_loop_within_its_own_step_goes_on_afterwards(lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        lane.ask()
        waiting = asyncio.ensure_future(lane.wire.recv_frame_async(later()))
        await asyncio.sleep(0)
        lane.answer(b"there")
        # As a window does that is shown in a task, and handles what comes meanwhile.
        lane.wire.watched._arrived(lane.wire.watched._fd)
        assert not waiting.done()
        assert bytes((await waiting).body) == b"there"

    run(scenario)


def test_a_loop_that_is_dropped_takes_all_along(lane: Lane) -> None:
    before = descriptors()
    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(lane.warm())
    assert len(descriptors()) > len(before)
    gone = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
    assert descriptors() == before
    asyncio.run(lane.warm())


def test_an_application_that_closes_all_descriptors_keeps_its_own(lane: Lane) -> None:
    other = Lane()

    async def scenario() -> None:
        await lane.warm()
        arrivals = lane.wire.watched
        number = arrivals._fd
        near, far = socket.socketpair()
        os.dup2(near.fileno(), number)
        await other.hear(b"on another lane")
        await left_alone(other.wire.watched)
        far.send(b"still there")
        assert os.read(number, 20) == b"still there"
        os.close(number)
        near.close()
        far.close()
        await other.warm()

    run(scenario)
    other.close()
    # It would close what has its number by now.
    assert len(module._lost) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_child_leaves_its_parents_lanes_alone(lane: Lane) -> None:
    async def scenario() -> None:
        await lane.warm()
        lane.ask()
        waiting = asyncio.ensure_future(lane.wire.recv_frame_async(later()))
        await asyncio.sleep(0)
        pid = os.fork()
        if not pid:
            try:
                lane.wire.abandon()
                gc.collect()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        lane.answer(b"to the parent")
        assert bytes((await waiting).body) == b"to the parent"

    run(scenario)


def test_two_threads_that_close_while_tasks_wait_leave_no_descriptor() -> None:
    before = descriptors()

    async def scenario() -> None:
        for _ in range(30):
            lanes = [Lane() for _ in range(4)]
            await lanes[0].warm()
            lanes[0].ask()
            tasks = [asyncio.ensure_future(one.wire.recv_frame_async(later())) for one in lanes]
            await asyncio.sleep(0)
            threads = [threading.Thread(target=one.wire.close) for one in lanes for _ in range(2)]
            for thread in threads:
                thread.start()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, ChannelError) for one in results)
            for thread in threads:
                thread.join()
            for one in lanes:
                one.other.close()
                assert one.wire.fileno() == -1

    run(scenario)
    gc.collect()
    assert descriptors() == before


def test_an_error_leaves_nothing_behind_that_waits_for_the_collector() -> None:
    async def scenario() -> None:
        one = Lane()
        await one.warm()
        one.ask()
        gone = weakref.ref(one.wire)
        waiting = asyncio.ensure_future(one.wire.recv_frame_async(later()))
        await asyncio.sleep(0)
        one.other.close()
        with pytest.raises(ChannelError):
            await waiting
        one.wire.close()
        del waiting, one
        await asyncio.sleep(0)
        assert gone() is None

    gc.collect()
    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()


def test_waiting_needs_a_loop() -> None:
    one = Lane()
    coroutine = one.wire.recv_frame_async(later())
    with pytest.raises(ChannelError, match="asyncio"):
        coroutine.send(None)
    coroutine.close()
    one.close()

"""Tasks that go on few at a time, and give up by one timer."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, Callable, Coroutine, List

import pytest

from xpc_instrument.core.model.errors import ChannelError, DeadlineError
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.wire.turns import _IN_ONE_TURN, Turns, turns_of


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_many_tasks_go_on_in_their_order_and_few_in_one_turn() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        turns = turns_of(loop)
        turn, seen = 0, []

        def count() -> None:
            nonlocal turn
            turn += 1
            if len(seen) < 50:
                loop.call_soon(count)

        async def task(number: int, future: asyncio.Future[None]) -> None:
            await future
            seen.append((number, turn))

        futures = [loop.create_future() for _ in range(50)]
        tasks = [asyncio.ensure_future(task(number, future)) for number, future in enumerate(futures)]
        await asyncio.sleep(0)
        loop.call_soon(count)
        for future in futures:
            turns.settle(future)
        await asyncio.gather(*tasks)
        assert [number for number, _ in seen] == list(range(50))
        in_turn = [sum(1 for _, one in seen if one == number) for number in {one for _, one in seen}]
        assert max(in_turn) <= _IN_ONE_TURN
        assert len(in_turn) >= 50 // _IN_ONE_TURN

    run(scenario)


def test_a_turn_admits_so_many_and_the_next_one_again() -> None:
    async def scenario() -> None:
        turns = turns_of(asyncio.get_running_loop())
        for _ in range(3):
            assert [turns.admits() for _ in range(_IN_ONE_TURN + 2)] == [True] * _IN_ONE_TURN + [False] * 2
            await asyncio.sleep(0)

    run(scenario)


def test_each_future_expires_at_its_own_deadline_and_a_forgotten_one_never() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        turns = turns_of(loop)
        late, early, forgotten = (loop.create_future() for _ in range(3))
        now = time.monotonic()
        turns.expire(late, now + 0.05)
        turns.expire(early, now + 0.01)
        turns.expire(forgotten, now + 0.02)
        turns.forget(forgotten)
        with pytest.raises(DeadlineError):
            await early
        assert not late.done()
        with pytest.raises(DeadlineError):
            await late
        assert time.monotonic() - now > 0.045
        assert not forgotten.done()

    run(scenario)


def test_a_future_is_settled_from_another_thread() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        thread = threading.Thread(target=turns_of(loop).settle_soon, args=(future,))
        thread.start()
        await future
        thread.join()

    run(scenario)


def test_what_many_ask_for_in_one_turn_is_called_once() -> None:
    async def scenario() -> None:
        calls: List[int] = []

        def call() -> None:
            calls.append(1)

        turns = turns_of(asyncio.get_running_loop())
        for _ in range(5):
            turns.once(call)
        await asyncio.sleep(0)
        assert calls == [1]
        turns.once(call)
        await asyncio.sleep(0)
        assert calls == [1, 1]

    run(scenario)


def test_a_loop_has_its_turns_for_as_long_as_it_lives() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert turns_of(loop) is turns_of(loop)
        assert isinstance(turns_of(loop), Turns)

    run(scenario)


def test_tasks_that_wait_for_a_lane_ask_for_all_of_them_at_once_and_learn_that_the_session_has_gone() -> None:
    async def scenario() -> None:
        wanted: List[int] = []
        pool = LanePool(wanted.append, 32)
        tasks = [asyncio.ensure_future(pool.take_async(time.monotonic() + 20)) for _ in range(100)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert wanted == [32]
        pool.close()
        for task in tasks:
            with pytest.raises(ChannelError, match="gone"):
                await task
        with pytest.raises(ChannelError, match="gone"):
            await pool.take_async(time.monotonic() + 20)

    run(scenario)

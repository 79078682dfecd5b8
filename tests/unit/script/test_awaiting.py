"""What hooks return, awaited on the loop of the session."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from typing import Any, Iterator, List

import pytest

from tests.programs import PATIENCE
from xpc_instrument.script.awaiting import AsyncHooks


@pytest.fixture
def hooks() -> Iterator[AsyncHooks]:
    one = AsyncHooks()
    yield one
    one.close()


def test_a_coroutine_is_awaited_on_one_loop_in_a_thread_of_its_own(hooks: AsyncHooks) -> None:
    async def hook() -> Any:
        await asyncio.sleep(0)
        return asyncio.get_running_loop(), threading.current_thread()

    loop, thread = hooks.finished(hook())
    assert hooks.finished(hook()) == (loop, thread)
    assert thread is not threading.current_thread()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_a_coroutine_raises_is_raised_and_the_loop_goes_on(hooks: AsyncHooks, error: BaseException) -> None:
    async def hook() -> None:
        await asyncio.sleep(0)
        raise error

    async def well() -> str:
        return "well"

    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            hooks.finished(hook())
        assert caught.value is error
        assert hooks.finished(well()) == "well"


def test_many_coroutines_are_under_way_at_once(hooks: AsyncHooks) -> None:
    together = threading.Barrier(8)
    arrived: List[asyncio.Event] = []

    async def hook() -> int:
        mine = asyncio.Event()
        arrived.append(mine)
        if len(arrived) == 8:
            for one in arrived:
                one.set()
        await asyncio.wait_for(mine.wait(), PATIENCE)
        return len(arrived)

    results: List[int] = []

    def call() -> None:
        together.wait(PATIENCE)
        results.append(hooks.finished(hook()))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [8] * 8


def test_a_coroutine_has_the_context_of_the_thread_that_was_called(hooks: AsyncHooks) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def hook() -> str:
        return variable.get()

    variable.set("of the thread")
    assert hooks.finished(hook()) == "of the thread"


def test_awaitables_and_generators_of_all_kinds_are_finished(hooks: AsyncHooks) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            yield
            return "awaited"

    async def items() -> Any:
        for number in range(3):
            yield number

    assert hooks.finished(Awaitable()) == "awaited"
    assert hooks.finished(items()) == [0, 1, 2]
    assert hooks.finished(iter_three()) == [0, 1, 2]
    assert hooks.finished("plain") == "plain"


def iter_three() -> Iterator[int]:
    yield from range(3)


def test_an_error_leaves_nothing_behind_that_waits_for_the_collector(hooks: AsyncHooks) -> None:
    class Thing:
        pass

    async def hook(thing: Thing) -> None:
        raise ValueError(thing)

    async def nothing() -> None:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="Thing"):
            hooks.finished(hook(thing))
        del thing
        # The loop has let go of what was before.
        hooks.finished(nothing())
        assert gone() is None
    finally:
        gc.enable()


def test_hooks_under_way_are_cancelled_when_the_session_ends(hooks: AsyncHooks) -> None:
    begun, outcome = threading.Event(), []

    async def hook() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            outcome.append("unwound")

    def serve() -> None:
        with pytest.raises(asyncio.CancelledError):
            hooks.finished(hook())
        outcome.append("ended")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert begun.wait(PATIENCE)
    hooks.close()
    thread.join(PATIENCE)
    assert outcome == ["unwound", "ended"]

"""What hooks return, finished: coroutines are awaited on one event loop of the session, generators run to their end."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import types
from typing import Any, List, Optional

from ..core.node.threads import start_seen
from ..core.values.plain import ATOMS
from ..core.values.references import Reference

# What a hook returns most often; to ask `inspect` whether it is awaitable costs more than all else that `finished` does, and would ask the
# application for the class of a reference.
PLAIN = ATOMS | {tuple, list, dict, Reference}

# How many items of a generator are taken for its answer.
MAX_ITEMS = 10_000

# How long hooks that are under way when the session ends have to end, in seconds.
_TO_BE_CANCELLED = 1.0


class AsyncHooks:
    """The event loop of a session's `async def` hooks, in a thread that is started when the first of them runs."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[threading.Thread] = None
        self._lock = threading.Lock()

    def finished(self, value: Any) -> Any:
        """What a hook returned, once awaited; a generator is run to its end, since it cannot cross."""
        if type(value) in PLAIN:
            return value
        if isinstance(value, types.GeneratorType):
            return collect(value)
        if inspect.isasyncgen(value):
            value = collect_async(value)
        if inspect.isawaitable(value):
            loop = self._running_loop()
            errand = _Errand(value, loop)
            loop.call_soon_threadsafe(errand.start)
            return errand.result()
        return value

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = start_seen(self._loop.run_forever, name="async hooks")
            return self._loop

    def close(self) -> None:
        """Cancel the hooks that are under way, and end the loop, at the latest when they have had a second to take that. Also twice."""
        if self._loop is None or self._thread is None or self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(self._loop), self._loop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()

    @staticmethod
    async def _end(loop: asyncio.AbstractEventLoop) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=_TO_BE_CANCELLED)
        loop.stop()


class _Errand:
    """What a thread has the loop await: as by `asyncio.run_coroutine_threadsafe`, without its futures on both sides, with which a hook that
    does little takes half as long again.
    """

    __slots__ = ("_awaitable", "_done", "_error", "_loop", "_task", "_value")

    def __init__(self, awaitable: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._awaitable = awaitable
        self._loop = loop
        self._done = threading.Lock()
        self._done.acquire()
        self._value: Any = None
        self._error: Optional[BaseException] = None
        self._task: Any = None

    def start(self) -> None:
        """In the loop."""
        # Kept here, since the loop does not.
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            self._value = await self._awaitable
        except BaseException as error:
            # Of any kind: raised here, what is no `Exception` would end the loop for all hooks.
            self._error = error
        finally:
            self._done.release()

    def result(self) -> Any:
        """In the thread: what came of it, once it has ended."""
        self._done.acquire()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback holds this frame.
                del error
        return self._value


def collect(generator: Any) -> List[Any]:
    """The items of a generator, `MAX_ITEMS` at most."""
    return list(itertools.islice(generator, MAX_ITEMS))


async def collect_async(generator: Any) -> List[Any]:
    """The same of an async generator."""
    items: List[Any] = []
    async for item in generator:
        items.append(item)
        if len(items) >= MAX_ITEMS:
            break
    return items

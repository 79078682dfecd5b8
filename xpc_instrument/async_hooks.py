"""What hooks return, finished: coroutines are awaited on one event loop of the session, generators run to their end."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import types
from typing import Any, List, Optional

from .references import MAX_ITEMS

# What a hook returns most often; to ask `inspect` whether it is awaitable costs more than all else that `finished` does.
PLAIN = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict})


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
            return list(itertools.islice(value, MAX_ITEMS))
        if inspect.isasyncgen(value):
            value = _collect(value)
        if inspect.isawaitable(value):
            try:
                return asyncio.run_coroutine_threadsafe(_wait_for(value), self._running_loop()).result()
            except _Ended as ended:
                raise ended.error from None
        return value

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="xpc-instrument async hooks", daemon=True)
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """End the loop."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()


class _Ended(Exception):
    """Carries what is no `Exception` out of the loop: raised there, it would end the loop for all hooks."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


async def _wait_for(value: Any) -> Any:
    try:
        return await value
    except Exception:
        raise
    except BaseException as error:
        raise _Ended(error) from None


async def _collect(generator: Any) -> List[Any]:
    items: List[Any] = []
    async for item in generator:
        items.append(item)
        if len(items) >= MAX_ITEMS:
            break
    return items

"""How long an event loop is blocked while many tasks are in flight on it.

The loop is watched from its selector: what passes between the end of one `select` and the beginning of the next is one turn of the loop, in
which nothing else can run. A heartbeat, a callback that is due each millisecond, says how late such a callback comes: epoll rounds what it
waits up to whole milliseconds, so on an idle loop too that is up to one.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple

_BEAT = 0.001


class WatchedSelector(selectors.DefaultSelector):
    """Keeps the longest turn of the loop: `first`, the one that `split` was called in, and `later`, of those after it."""

    first = 0.0
    later = 0.0
    _back: Optional[float] = None
    _before = True
    _split = False

    def start(self) -> None:
        self.first = self.later = 0.0
        self._before, self._split = True, False

    def split(self) -> None:
        """This turn is the first that counts."""
        self._split = True

    def select(self, timeout: Optional[float] = None) -> Any:
        now = time.perf_counter()
        if self._back is not None:
            turn = now - self._back
            if self._split:
                self.first, self._before, self._split = turn, False, False
            elif not self._before:
                self.later = max(self.later, turn)
        ready = super().select(timeout)
        self._back = time.perf_counter()
        return ready


class OwnLoop:
    """An event loop that is watched, for many blocks one after the other."""

    def __init__(self) -> None:
        self.selector = WatchedSelector()
        self.loop = asyncio.SelectorEventLoop(self.selector)

    def close(self) -> None:
        self.loop.close()

    def blocked_by(self, call: Callable[..., Awaitable[Any]], count: int) -> Tuple[Dict[str, float], List[Any]]:
        """Run so many tasks, all started at once, that each await one `call`; how long they blocked the loop, and what they returned."""
        return self.loop.run_until_complete(self._blocked_by(call, count))

    async def _blocked_by(self, call: Callable[..., Awaitable[Any]], count: int) -> Tuple[Dict[str, float], List[Any]]:
        loop = asyncio.get_running_loop()
        last = loop.create_future()
        late = 0.0
        done = False

        def beat(due: float) -> None:
            nonlocal late
            now = loop.time()
            late = max(late, now - due)
            if not done:
                loop.call_at(now + _BEAT, beat, now + _BEAT)
            elif not last.done():
                last.set_result(None)

        async def task() -> Any:
            return await call(12, currency="USD")

        self.selector.start()
        due = loop.time() + _BEAT
        loop.call_at(due, beat, due)
        tasks = [loop.create_task(task()) for _ in range(count)]
        # Called after the first steps of all tasks, within the same turn.
        loop.call_soon(self.selector.split)
        results = [await task for task in tasks]
        done = True
        await last
        return {"first turn": self.selector.first, "later turns": self.selector.later, "heartbeat": late}, results

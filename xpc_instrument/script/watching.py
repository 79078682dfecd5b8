"""Calls of a target as they come: an iterator, an async iterator and a context manager of events.

Rules:
- A lane's thread appends, and whoever iterates takes. What nobody takes is dropped from `ROOM` events on, and counted.
- An event holds the values as they were, and nothing that leads back into the application.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Any, Deque, Iterator, Mapping, Optional

from ..core.model.errors import PayloadError
from ..core.model.record import Record
from .call import Call
from .handle import Handle

ROOM = 10_000
"""Events that wait to be taken."""

# How long an iterator sleeps at most until it looks whether there can be more, in seconds: nobody tells it that a term is over.
_LOOK_AGAIN = 0.1


class CallEvent(Record):
    """One call of a target."""

    time: float
    """When it was told here, in seconds since 1970."""

    pid: int
    thread: int
    id: str
    """A text that no other call of the application has."""

    target: str
    arguments: Mapping[str, Any]
    """By the names of the parameters; ``args`` and ``kwargs`` where the target does not tell them."""

    result: Any
    exception: Optional[BaseException]
    """What it raised, or None."""

    duration: float
    """In seconds; 0 for an event of the begin of a call."""


def call_event(call: Call) -> CallEvent:
    """What an unwaited hook was shown."""
    try:
        arguments: Mapping[str, Any] = call.arguments
    except (PayloadError, TypeError):
        arguments = {"args": call.args, "kwargs": call.kwargs}
    return CallEvent(time.time(), call.pid, call.thread, call.id, call.target, arguments, call.result, call.exception, call.duration)


class Watch:
    """A stream of ``CallEvent``. Leaving it as a context manager removes the hook; so does an iteration that has come to its end."""

    handle: Handle
    """The hook: its ``targets``, and why it is ``over``."""

    overflowed: int
    """Events that were dropped here, since nobody took them in time. ``dropped`` has those that the application dropped as well."""

    taken: int
    """Events that were taken from here."""

    def __init__(self, limit: Optional[int]) -> None:
        self.overflowed = 0
        self.taken = 0
        self._limit = limit
        self._events: Deque[CallEvent] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, call: Call) -> None:
        """The hook."""
        event = call_event(call)
        with self._changed:
            if len(self._events) >= ROOM:
                self.overflowed += 1
                return
            self._events.append(event)
            self._changed.notify()

    @property
    def dropped(self) -> int:
        """How many events were lost in all."""
        return self.overflowed + self.handle.dropped

    @property
    def over(self) -> str:
        """Why no more come, once all are taken: ``"removed"``, ``"limit"``, ``"expires"``, or ``""``."""
        if self._events:
            return ""
        return "removed" if self._closed else self.handle.over

    def take(self, timeout: float) -> Optional[CallEvent]:
        """The next event; None if none comes within so many seconds."""
        with self._changed:
            if not self._events:
                self._changed.wait(timeout)
            if not self._events:
                return None
            self.taken += 1
            return self._events.popleft()

    def remove(self) -> None:
        """Remove the hook; what has come until then can still be taken."""
        self.handle.remove()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    def __iter__(self) -> Iterator[CallEvent]:
        return self

    def __next__(self) -> CallEvent:
        while True:
            event = self.take(_LOOK_AGAIN)
            if event is not None:
                return event
            if self.over:
                self.remove()
                raise StopIteration

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> CallEvent:
        loop = asyncio.get_running_loop()
        while True:
            # In a thread, which waits a moment only: the loop may end meanwhile.
            event = await loop.run_in_executor(None, self.take, _LOOK_AGAIN)
            if event is not None:
                return event
            if self.over:
                await loop.run_in_executor(None, self.remove)
                raise StopAsyncIteration

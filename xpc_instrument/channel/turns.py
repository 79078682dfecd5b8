"""How tasks that wait for a hook go on: a few in each turn of their loop, and with one timer for all of them.

Rules:
- A loop runs all that is ready in one turn. With many tasks of ours in it, the application's own would wait for all of them; so a few go
  on in each turn, and the rest in the next ones, in their order.
- All methods run in the thread of the loop, `settle_soon` excepted.
- Whoever comes here has imported asyncio already, which costs 40 ms.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, MutableMapping, Optional, Set
from weakref import WeakKeyDictionary

from ..errors import DeadlineError

if TYPE_CHECKING:
    import asyncio

# Tasks that go on in one turn, at most: with some 100 µs each, the loop is back within a millisecond.
_IN_ONE_TURN = 8


class Turns:
    """Of one loop."""

    __slots__ = ("_deadlines", "_loop", "_next", "_once", "_ready", "_room", "_running_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from asyncio import _get_running_loop

        self._running_loop = _get_running_loop
        self._loop = loop
        self._ready: Deque[asyncio.Future[None]] = deque()
        # How many more may go on in this turn; None if nobody has in it.
        self._room: Optional[int] = None
        self._once: Set[Callable[[], None]] = set()
        self._deadlines: Dict[asyncio.Future[None], float] = {}
        self._timer: Optional[asyncio.TimerHandle] = None
        self._next = float("inf")

    # going on ----------------------------------------------------------------------------------------------------------

    def admits(self) -> bool:
        """Whether the running task may go on in this turn; it is counted. If not, it should wait to be settled."""
        if self._room is None:
            self._room = _IN_ONE_TURN
            self._loop.call_soon(self._turn)
        if self._room > 0 and not self._ready:
            self._room -= 1
            return True
        return False

    def settle(self, future: asyncio.Future[None]) -> None:
        """Have the task that awaits the future go on, in this turn or a later one."""
        if self.admits():
            _settle(future)
        else:
            self._ready.append(future)

    def settle_soon(self, future: asyncio.Future[None]) -> None:
        """`settle`, from any thread. Raises `RuntimeError` if the loop is closed."""
        if self._running_loop() is self._loop:
            self.settle(future)
        else:
            self._loop.call_soon_threadsafe(self.settle, future)

    def _turn(self) -> None:
        """A new turn."""
        self._room = None
        ready = self._ready
        if not ready:
            return
        self._room = _IN_ONE_TURN
        self._loop.call_soon(self._turn)
        while ready and self._room > 0:
            self._room -= 1
            _settle(ready.popleft())

    def once(self, call: Callable[[], None]) -> None:
        """Have something called after this turn, however many ask for it."""
        if call not in self._once:
            self._once.add(call)
            self._loop.call_soon(self._call, call)

    def _call(self, call: Callable[[], None]) -> None:
        self._once.discard(call)
        call()

    # giving up -----------------------------------------------------------------------------------------------------------

    def expire(self, future: asyncio.Future[None], deadline: float) -> None:
        """Have the future raise `DeadlineError` at that `time.monotonic()` instant, unless it is forgotten before."""
        self._deadlines[future] = deadline
        if deadline < self._next:
            self._set_timer(deadline)

    def forget(self, future: asyncio.Future[None]) -> None:
        """It is not waited for any more."""
        self._deadlines.pop(future, None)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer, self._next = None, float("inf")
        now = time.monotonic()
        for future, deadline in list(self._deadlines.items()):
            if deadline <= now:
                del self._deadlines[future]
                if not future.done():
                    future.set_exception(DeadlineError("there was no answer, or no free lane, in time"))
        if self._deadlines:
            self._set_timer(min(self._deadlines.values()))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_known: MutableMapping[Any, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Those of a loop, in whose thread this is called."""
    turns = _known.get(loop)
    if turns is None:
        turns = _known[loop] = Turns(loop)
    return turns

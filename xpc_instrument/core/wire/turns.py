"""How tasks that wait for a hook go on: a few in each turn of their loop, and with one timer for all of them.

Rules:
- A loop runs all that is ready in one turn. With many tasks of ours in it, the application's own would wait for all of them; so a few go
  on in each turn, and the rest in the next ones, in their order.
- All methods run in the thread of the loop, `settle_soon` excepted.
- Nothing here keeps a loop alive that nobody waits on.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Optional, Protocol, Set
from weakref import ref

from ..model.errors import ChannelError, DeadlineError
from ..unpatched import monotonic
from .hubs import NO_LOOP

if TYPE_CHECKING:
    import asyncio

# Tasks that go on in one turn, at most: with some 100 µs each, the loop is back within a millisecond.
_IN_ONE_TURN = 8


class Future(Protocol):
    """What a task waits for: one of asyncio's, or of ours."""

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class Turns:
    """Of one loop."""

    __slots__ = ("_deadlines", "_next", "_once", "_ready", "_room", "_running_loop", "_turning", "arrivals", "current_task", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, gone: Optional[Callable[[Any], None]] = None) -> None:
        from asyncio import _get_running_loop, current_task

        self._running_loop = _get_running_loop
        self.current_task = current_task
        # Weak, as handles and timers are not kept here, which hold the loop.
        self.loop = ref(loop, gone)
        self._ready: Deque[Future] = deque()
        # How many more may go on in this turn, and whether the next one is known to begin.
        self._room = _IN_ONE_TURN
        self._turning = False
        self._once: Set[Callable[[], None]] = set()
        self._deadlines: Dict[Future, float] = {}
        self._next = float("inf")
        # What `arrivals` has for this loop.
        self.arrivals: Any = None

    # going on ----------------------------------------------------------------------------------------------------------

    def admits(self) -> bool:
        """Whether the running task may go on in this turn; it is counted. If not, it should wait to be settled."""
        if self._room > 0 and not self._ready:
            self._room -= 1
            return True
        if not self._turning:
            self._begin_next()
        return False

    def begin(self) -> None:
        """A turn has begun, as somebody knows who is called once in each. A call that asks for it would cost a turn of its own."""
        if not self._turning:
            self._room = _IN_ONE_TURN

    def _begin_next(self) -> None:
        loop = self.loop()
        if loop is not None:
            loop.call_soon(self._turn)
            self._turning = True

    def settle(self, future: Future) -> None:
        """Have the task that awaits the future go on, in this turn or a later one."""
        if self.admits():
            _settle(future)
        else:
            self._ready.append(future)

    def queue(self, future: Future) -> None:
        """Have the task go on in a later turn: what `settle` does where `admits` said no."""
        self._ready.append(future)

    def settle_soon(self, future: Future) -> None:
        """`settle`, from any thread. Raises `RuntimeError` if the loop is closed."""
        loop = self.loop()
        if loop is None:
            raise RuntimeError("the loop is gone")
        if self._running_loop() is loop:
            self.settle(future)
        else:
            loop.call_soon_threadsafe(self.settle, future)

    def _turn(self) -> None:
        """A new turn."""
        self._room = _IN_ONE_TURN
        self._turning = False
        ready = self._ready
        if ready:
            self._begin_next()
        while ready and self._room > 0:
            self._room -= 1
            _settle(ready.popleft())

    def once(self, call: Callable[[], None]) -> None:
        """Have something called after this turn, however many ask for it."""
        if call not in self._once:
            loop = self.loop()
            if loop is not None:
                loop.call_soon(self._call, call)
                self._once.add(call)

    def _call(self, call: Callable[[], None]) -> None:
        self._once.discard(call)
        call()

    # giving up -----------------------------------------------------------------------------------------------------------

    def expire(self, future: Future, deadline: float) -> None:
        """Have the future raise `DeadlineError` at that `time.monotonic()` instant, unless it is forgotten before."""
        self._deadlines[future] = deadline
        if deadline < self._next:
            self._set_timer(deadline)

    def forget(self, future: Future) -> None:
        """It is not waited for any more."""
        self._deadlines.pop(future, None)

    def _set_timer(self, deadline: float) -> None:
        loop = self.loop()
        if loop is not None:
            loop.call_later(max(0.0, deadline - monotonic()), self._look, deadline)
            self._next = deadline

    def _look(self, due: float) -> None:
        if due != self._next:
            # There has been a shorter one since.
            return
        self._next = float("inf")
        now = monotonic()
        for future, deadline in self._deadlines.copy().items():
            if deadline <= now:
                del self._deadlines[future]
                if not future.done():
                    future.set_exception(DeadlineError("there was no answer, or no free lane, in time"))
        if self._deadlines:
            self._set_timer(min(self._deadlines.values()))


def _settle(future: Future) -> None:
    if not future.done():
        future.set_result(None)


# By the identity of the loop: this is asked for with each wait.
_known: Dict[int, Turns] = {}


_get_running_loop: Any = None


def turns_here() -> Turns:
    """Those of the running loop. Raises `ChannelError` where there is none."""
    global _get_running_loop
    if _get_running_loop is None:
        # Importing asyncio costs 40 ms; whoever comes here has paid that already.
        from asyncio import get_running_loop

        _get_running_loop = get_running_loop
    try:
        loop = _get_running_loop()
    except RuntimeError:
        raise ChannelError(NO_LOOP) from None
    turns = _known.get(id(loop))
    return turns if turns is not None and turns.loop() is loop else _made(loop)


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Those of a loop, in whose thread this is called."""
    turns = _known.get(id(loop))
    return turns if turns is not None and turns.loop() is loop else _made(loop)


def _made(loop: asyncio.AbstractEventLoop) -> Turns:
    # A copy is made in one step: to make a list of pairs may have the garbage collector run, and `gone` be called.
    for key, turns in _known.copy().items():
        other = turns.loop()
        if other is None or other.is_closed():
            _forget(key, turns)
    key = id(loop)

    def gone(_: Any) -> None:
        turns = _known.get(key)
        if turns is not None and turns.loop() is None:
            _forget(key, turns)

    turns = _known[key] = Turns(loop, gone)
    return turns


def _forget(key: int, turns: Turns) -> None:
    _known.pop(key, None)
    if turns.arrivals is not None:
        turns.arrivals.close()

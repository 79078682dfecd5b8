"""The pool of lanes that one session offers to one process, and waiting for a free one.

Rules:
- An invocation takes a lane, uses it, and gives it back. The lane that was given back last is taken first: its other side ran last, so
  its caches are warm.
- Nothing else runs while a lock is held, since a signal handler or a `__del__` that interrupts `take` may call `take` itself. The free
  lanes and the waiters are deques, whose single operations are atomic; a waiter that is woken looks again whether a lane is free.
- A caller that takes the last free lane, or finds none, asks the other side for one more, up to the limit.
- What a lane has counted is charged to an account when the lane leaves the pool; the time spent waiting for a lane is charged to the hook
  that it is for.
- A thread may be interrupted anywhere by a signal handler that raises, also with a lane in its hands that nobody gives back then. The pool
  refers to lanes in use weakly: when such a lane has gone with its last reference its place is free again, and its socket is closed before
  another lane is asked for (`wire.held`). A waiter that leaves passes its wake-up on to another.
"""

from __future__ import annotations

from collections import deque
from sys import modules
from typing import Any, Callable, Deque, Dict, List, Optional
from weakref import ref

from ..model.errors import ChannelError, DeadlineError
from ..model.interrupts import raise_interrupt
from ..unpatched import allocate_lock, get_ident, monotonic
from ..wire.held import close_lost
from ..wire.hubs import GREENLET, TrioBell, hub, trio
from ..wire.turns import Turns, turns_here
from ..wire.wire import Wire


class LanePool:
    """Lanes of one session. `want(n)` asks the other side for n more."""

    def __init__(self, want: Callable[[int], None], limit: int) -> None:
        self.want = want
        self._limit = limit
        self._free: Deque[Wire] = deque()
        self._all: Dict[int, ref[Wire]] = {}
        # Of lanes that have gone; noted by C, as no code of ours may run where the last reference goes.
        self._gone: Deque[ref[Wire]] = deque()
        self._waiters: Deque[Callable[[], None]] = deque()
        self._asked = 0
        self.closed = False

    def __len__(self) -> int:
        self._bury()
        return len(self._all)

    def wires(self) -> List[Wire]:
        """All lanes that there are, those in use included."""
        return [wire for one in list(self._all.values()) for wire in (one(),) if wire is not None]

    def _bury(self) -> None:
        """Forget the lanes that have gone. If it is interrupted, the next one does the rest."""
        if not self._gone:
            return
        close_lost()
        for one in list(self._gone):
            for key, known in self._all.copy().items():
                if known is one:
                    self._all.pop(key, None)
            try:
                self._gone.remove(one)
            except ValueError:
                pass  # another thread was faster

    def add(self, wire: Wire) -> bool:
        """A new lane has been opened; False if it is one too many or the pool is closed."""
        if self.closed or len(self) >= self._limit:
            return False
        # The handshake is on nobody's account.
        wire.open_account()
        self._all[id(wire)] = ref(wire, self._gone.append)
        self._asked = max(0, self._asked - 1)
        self.give(wire)
        return True

    def missed(self, count: int) -> None:
        """So many of the lanes that were asked for will not come."""
        self._asked = max(0, self._asked - max(0, count))

    def give(self, wire: Wire) -> None:
        """Put a lane back after use; one that is broken, closed, or not idle any more is dropped instead."""
        if wire.closed or self.closed:
            self.drop(wire)
            return
        self._free.append(wire)
        if self._waiters:
            self._wake_one()

    def drop(self, wire: Wire) -> None:
        """Close a lane for good."""
        # Before it is no longer found, since what it has counted is looked for in one of the two places.
        wire.charge(None)
        self._all.pop(id(wire), None)
        wire.close()
        # One that waits may now ask for a replacement.
        self._wake_one()

    def attach(self, other: LanePool) -> None:
        """From now on ask whom `other`, a new and empty pool, would ask; those who wait already ask again."""
        self.want = other.want
        self._asked = 0
        self._ask()

    def take(self, deadline: Optional[float]) -> Wire:
        """A free lane; waits for one in the calling thread. Raises `DeadlineError`, or `ChannelError` if the session is gone."""
        if not self.closed:
            # What `_pop` does, in fewer steps, where the newest free lane is as it should be.
            try:
                wire = self._free.pop()
            except IndexError as error:
                raise_interrupt(error, of_values=True)
            else:
                if not wire.closed:
                    return wire
                self._lose(wire)
        return self._pop() or self._wait(deadline)

    def _wait(self, deadline: Optional[float]) -> Wire:
        started = monotonic()
        wake = bell()
        if type(wake) is _Release and self._waits_for_itself():
            raise DeadlineError(f"all {self._limit} lanes are those of invocations that this one is inside of (max-lanes)")
        try:
            while True:
                self._waiters.append(wake)
                self._ask()
                wire = self._pop()
                if wire is not None:
                    return _after_waiting(wire, started)
                remaining = -1.0 if deadline is None else deadline - monotonic()
                if (deadline is not None and remaining <= 0) or not wake.wait(remaining):
                    raise DeadlineError("no lane became free in time")
        finally:
            # Also when the thread is interrupted: a wake-up that goes to nobody is one that somebody misses.
            self._forget(wake)
            wake.close()

    def _waits_for_itself(self) -> bool:
        """Whether this thread has to come back to all lanes that there may be, as in a deep recursion, before one becomes free."""
        ident = get_ident()
        return len(self) >= self._limit and all(wire.stopped_in == ident for wire in self.wires())

    async def take_async(self, deadline: Optional[float]) -> Wire:
        """Like `take`, without blocking the running loop. Where many tasks come in one turn of it, only a few get a lane in that turn."""
        return self.take_in_turn() or await self.take_later(deadline)

    def take_in_turn(self) -> Optional[Wire]:
        """The first step of `take_async`: a free lane; None if there is none, or many tasks got one in this turn: then `take_later`."""
        if "trio" in modules and trio() is not None:
            return self._pop()
        return self._pop() if turns_here().admits() else None

    async def take_later(self, deadline: Optional[float]) -> Wire:
        """The rest of `take_async`."""
        library = trio()
        if library is not None:
            return await self._take_in_trio(library, deadline)
        started = monotonic()
        turns = turns_here()
        loop: Any = turns.loop()
        wire: Optional[Wire] = None
        wake = _Settle(turns, loop.create_future())
        self._waiters.append(wake)
        queued = True
        try:
            while True:
                if self.closed:
                    raise ChannelError("the session is gone")
                # Once for all that come in this turn.
                turns.once(self._look_after_waiters)
                if deadline is not None:
                    turns.expire(wake.future, deadline)
                await wake.future
                queued = False
                wire = self._pop()
                if wire is not None:
                    return _after_waiting(wire, started)
                # Another one, who had not waited, was faster. Who waits longest stays first.
                turns.forget(wake.future)
                wake.future = loop.create_future()
                self._waiters.appendleft(wake)
                queued = True
        finally:
            turns.forget(wake.future)
            if queued:
                self._forget(wake)
            elif wire is None:
                # The wake-up was for a task that is leaving: pass it on.
                self._wake_one()
            # Its future holds the error that was raised, whose traceback holds this frame.
            del wake

    async def _take_in_trio(self, library: Any, deadline: Optional[float]) -> Wire:
        started = monotonic()
        while True:
            bell = TrioBell(library)
            self._waiters.append(bell)
            try:
                self._ask()
                wire = self._pop()
                if wire is not None:
                    return _after_waiting(wire, started)
                if not await bell.wait(deadline):
                    raise DeadlineError("no lane became free in time")
            finally:
                self._forget(bell)

    def close(self) -> None:
        """Close all lanes and wake all that wait."""
        self.closed = True
        for wire in self.wires():
            wire.close()
        self._all.clear()
        # Those in use settle their accounts when their users drop them.
        while self._free:
            try:
                self._free.pop().charge(None)
            except IndexError as error:
                raise_interrupt(error, of_values=True)
                break  # its last user was faster
        while self._waiters:
            self._wake_one()

    def abandon(self) -> None:
        """After a fork, in the child: close the descriptors, which are the parent's connections."""
        self.closed = True
        for wire in self.wires():
            wire.abandon()
        self._all.clear()
        self._free.clear()
        self._waiters.clear()

    def _pop(self) -> Optional[Wire]:
        if self.closed:
            raise ChannelError("the session is gone")
        while True:
            try:
                wire = self._free.pop()
            except IndexError as error:
                raise_interrupt(error, of_values=True)
                return None
            if not wire.closed:
                return wire
            self._lose(wire)

    def _lose(self, wire: Wire) -> None:
        """Forget a lane that has been closed."""
        wire.charge(None)
        self._all.pop(id(wire), None)

    def _ask(self) -> None:
        waiting = len(self._waiters)
        room = self._limit - len(self) - self._asked
        missing = min(waiting - self._asked, room)
        if missing > 0:
            self._asked += missing
            try:
                self.want(missing)
            except BaseException:
                # Whether it was said is not known: rather one lane too many than one too few.
                self.missed(missing)
                raise

    def _look_after_waiters(self) -> None:
        """Ask for the lanes that are missing, and wake as many waiters as there are free ones."""
        if self.closed:
            return
        self._ask()
        for _ in range(min(len(self._free), len(self._waiters))):
            self._wake_one()

    def _wake_one(self) -> None:
        try:
            wake = self._waiters.popleft()
        except IndexError as error:
            raise_interrupt(error, of_values=True)
            return
        wake()

    def _forget(self, wake: Callable[[], None]) -> None:
        try:
            self._waiters.remove(wake)
        except ValueError as error:
            raise_interrupt(error, of_values=True)
            # Already woken, by a lane that another one may use.
            if self._free:
                self._wake_one()


def _after_waiting(wire: Wire, started: float) -> Wire:
    """A lane on whose next account is the time since `started`."""
    wire.charge(None)
    wire.open_account(monotonic() - started)
    return wire


def bell() -> Any:
    """What any thread can wake the running thread or greenlet with; waited for once, and closed."""
    green = hub() if GREENLET in modules else None
    return _Release() if green is None else green.bell()


class _Release:
    """Wakes a thread that waits in `take`."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def __call__(self) -> None:
        try:
            self._lock.release()
        except RuntimeError as error:
            raise_interrupt(error, of_values=True)
            # Woken twice: it looks at the free lanes anyway.

    def wait(self, timeout: float) -> bool:
        return bool(self._lock.acquire(True, timeout))

    def close(self) -> None:
        """As a greenlet's bell, which has something to close."""


class _Settle:
    """Wakes a task that waits in `take_async`, from any thread."""

    __slots__ = ("_turns", "future")

    def __init__(self, turns: Turns, future: Any) -> None:
        self._turns = turns
        self.future = future

    def __call__(self) -> None:
        try:
            self._turns.settle_soon(self.future)
        except RuntimeError as error:
            raise_interrupt(error, of_values=True)
            # The loop was closed meanwhile; nobody waits there any more.

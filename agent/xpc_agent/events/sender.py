"""The thread that sends the events of all sessions.

Rules:
- It polls; it never waits for a script, nor for anything else but to dial the host of a fixed address, which is near.
- It is started when there is a hook for it, and ends with the last one, and around a fork (`ServiceThread`). A child begins with empty
  queues, and starts a sender of its own with its first event.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING, Dict, List, Tuple, Type

from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.node.threads import PAUSE_TIMEOUT, Run, ServiceThread
from xpc_instrument.core.node.wake import WakePipe
from xpc_instrument.core.unpatched import POLLIN, POLLOUT, Brief, allocate_lock, monotonic, poll

from ..guard import guard_thread, guarded

if TYPE_CHECKING:
    from .queue import EventQueue, QueuedHook

log = logging.getLogger("xpc_agent")


# How long a thread waits for the one that starts the sender, in seconds.
_BRIEF = 0.01
# How long the end of the process waits for the sender, which has had its time, in seconds.
_END_TIMEOUT = 0.1


class Sender:
    """The thread that sends, and its queues."""

    def __init__(self, max_queue: int, max_bytes: int) -> None:
        self.max_queue = max_queue
        self.max_bytes = max_bytes
        self.source = ""
        self.next_batch = itertools.count(1).__next__
        self._queues: List[EventQueue] = []
        self._lock = Brief(_BRIEF)
        self._pipe = WakePipe()
        # Released to end a nap, in which nothing is under way; else the thread polls.
        self._nap = allocate_lock()
        self._napping = False
        self._held = False
        self._finishing = False
        self._thread = ServiceThread(self._run, self._rouse)

    # hooks ---------------------------------------------------------------------------------------------------------------

    def add(self, hook: QueuedHook, queue_of: Type[EventQueue]) -> EventQueue:
        """The queue for a new hook's session. What packs values, `queue_of`, is loaded with the first hook, and nothing here."""
        with self._lock():
            queue = next((one for one in self._queues if one.session == hook.session and not one.gone), None)
            if queue is None:
                queue = queue_of(hook.session, self)
                self._queues.append(queue)
            queue.hooks[hook.key] = hook
        self._start()
        return queue

    def find(self, session: str, number: int) -> List[QueuedHook]:
        """The hooks of a registration, whether they are on their targets or something of them is queued."""
        queues = [one for one in list(self._queues) if one.session == session and not one.gone]
        return [hook for queue in queues for hook in list(queue.hooks.values()) if hook.number == number]

    def has_events(self, session: str) -> bool:
        """Whether something waits to be sent to that session."""
        return any(queue.session == session and not queue.idle for queue in list(self._queues))

    def discard(self, session: str) -> None:
        """The session has ended: drop what is queued for it."""
        for queue in list(self._queues):
            if queue.session == session and not queue.gone:
                queue.gone = True
                queue.wake()

    # the thread ----------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the thread look at all queues; starts it if it does not run and may."""
        if self._thread.running:
            self._rouse()
        elif not self._held:
            self._start()

    def _rouse(self) -> None:
        if self._napping:
            # Cheaper for the caller than a write, which would let go of the GIL: the sender would take it, and keep it for its turn.
            try:
                self._nap.release()
            except RuntimeError as error:
                raise_interrupt(error, of_values=True)  # else another thread was faster
            # Else it has begun to poll meanwhile, perhaps without having seen that.
            if self._napping:
                return
        try:
            self._pipe.wake()
        except OSError as error:
            raise_interrupt(error, of_values=True)
            log.debug("the sender of events could not be woken: %s", error)

    @guarded
    def _start(self) -> None:
        with self._lock() as held:
            if not held or self._thread.running or self._held or not self._queues:
                return
            self._pipe.open()
            self.source = self.source or f"{os.getpid()}-{os.urandom(8).hex()}"
            try:
                self._thread.start()
            except RuntimeError as error:
                raise_interrupt(error)
                log.error("no thread can be started to send events, which are dropped when their queue is full: %s", error)

    def _run(self, run: Run) -> None:
        guard_thread()
        try:
            while run.due:
                self._turn(run)
        except Exception:
            run.due = False
            log.exception("the sender of events failed; it is started again with the next event")
            for queue in list(self._queues):
                queue.sleeping = True

    def _turn(self, run: Run) -> None:
        # Set before the queues are looked at: whoever appends after that finds it, and ends a nap that is to come.
        self._nap.acquire(False)
        self._napping = True
        poller = poll()
        poller.register(self._pipe.read_end, POLLIN)
        now = monotonic()
        waits: List[float] = []
        under_way = False
        for queue in list(self._queues):
            wait = queue.step(now, self._finishing)
            if wait is not None:
                waits.append(wait)
            if queue.wire is not None and not queue.wire.closed:
                under_way = True
                poller.register(queue.wire.fileno(), POLLOUT if queue.unsent else POLLIN)
        if self._is_done(run) or not run.due:
            return
        patience = max(0.0, min(waits)) if waits else None
        if not under_way:
            # A wake-up since the beginning of the turn has released it already.
            self._nap.acquire(True, -1 if patience is None else patience)
            return
        self._napping = False
        if self._nap.acquire(False):
            return  # woken, by one who saw a nap coming
        for fd, _events in poller.poll(None if patience is None else patience * 1000):
            if fd == self._pipe.read_end:
                self._pipe.drain()

    def _is_done(self, run: Run) -> bool:
        """Whether the thread is to end, since there is no hook any more, or since all is sent and the process leaves."""
        if self._finishing and all(queue.idle for queue in list(self._queues)):
            run.due = False
            return True
        if self._queues and all(queue.needed for queue in self._queues):
            return False
        with self._lock() as held:
            if not held:
                return False
            self._queues = [queue for queue in self._queues if queue.needed]
            if not self._queues:
                run.due = False
                return True
        return False

    # fork and exit -------------------------------------------------------------------------------------------------------

    def pause(self, timeout: float = PAUSE_TIMEOUT) -> None:
        """End the thread but keep everything; for the moment of a fork."""
        self._held = True
        self._thread.end(timeout)

    def resume(self) -> None:
        """After a pause: go on if there is something to do."""
        self._held = False
        if self._queues:
            self._start()

    def reset_after_fork(self) -> None:
        """In a forked child: begin with empty queues and without a thread."""
        self._lock = Brief(_BRIEF)
        self._pipe.close()
        self._nap, self._napping = allocate_lock(), False
        self._held = self._finishing = False
        self._thread.forget()
        self.source = ""
        self._queues = [queue for queue in self._queues if queue.hooks and not queue.gone]
        for queue in self._queues:
            queue.reset_after_fork()

    def finish(self, patience: float) -> Dict[str, Dict[int, Tuple[int, int]]]:
        """Deliver what is queued, for at most `patience` seconds, and end the thread; returns what was dropped, by session and key of the
        hook, each with the hook's number."""
        if self._thread.running:
            self._finishing = True
            self.wake()
            self._thread.join(patience)
        self.pause(_END_TIMEOUT)
        untold: Dict[str, Dict[int, Tuple[int, int]]] = {}
        for queue in self._queues:
            hooks = list(queue.hooks.values())
            idle = queue.idle
            queue.gone = True
            queue.discard(arrives=True)
            if not idle:
                untold[queue.session] = {hook.key: (hook.number, hook.dropped) for hook in hooks}
        self._queues = []
        self._pipe.close()
        return untold

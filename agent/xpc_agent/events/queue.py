"""Events on their way to the scripts whose hooks nobody waits for: one bounded queue per session, from which the sender sends.

Rules:
- A thread of the application appends, and that is all: no lock, and no system call unless the sender sleeps. What does not fit is dropped,
  and counted by hook in one atomic step, so that a signal handler, a `__del__` or another thread in between loses no count.
- The queue is bounded in events and in bytes at once: an event that weighs more than its share is followed by fillers (`None`).
- The sender never waits for a script: it polls the lanes of all sessions, one batch of each under way, which keeps the order. A batch
  whose lane breaks is sent again with its number, by which the script knows it.
- Whoever removes a hook puts a `Barrier` behind what is queued; it is passed when all before it is delivered, or when its time is over.
- What is sent or dropped is counted in the sender only: `calls` of an unwaited hook is the sum of both.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Protocol, Set

from xpc_instrument.core.calls.batch import Batch, Event
from xpc_instrument.core.calls.rows import is_row
from xpc_instrument.core.model.errors import ChannelError, DeadlineError, RemoteProtocolError, XpcError
from xpc_instrument.core.protocol.codec import Bytes
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.unpatched import monotonic
from xpc_instrument.core.values.names import class_name
from xpc_instrument.core.values.records import exactly
from xpc_instrument.core.wire.wire import Wire

from ..relay import RelayLanes, relay_name
from .patience import bounded

log = logging.getLogger("xpc_agent")

# How long an event waits for others to go with it, in seconds: the first after a pause, and others at most, since a batch costs the
# application's threads more than what is in it, and for a person it is at once. And how much longer than the last span the next may be.
_GATHER = 0.005
_GATHER_MOST = 0.08
# Behind a span in which one came alone: whoever calls it may have waited for the one before to be told.
_GATHER_ALONE = 0.02
_LONGER = 8
# So many events are worth a batch: the next span is as long as these take to come, as far as the last one tells. A queue has room for what
# comes in so many spans, should more come all at once.
_ENOUGH, _SPANS = 128, 16
# A batch is closed when it has so many events, or bytes.
BATCH_EVENTS = 512
BATCH_BYTES = 256 * 1024
# How long a hook may keep what it has found out about types while events come, in seconds; without events it keeps nothing.
_FORGET = 1.0
# How long to wait for a lane before asking again, in seconds: doubled each time, up to the second.
_RETRY = 0.002
_RETRY_MOST = 0.05
# How much longer the end of a hook may take, in seconds, where it is not known whether the script has run a batch.
_DOUBT = 1.0
# How often a batch is sent whose answer makes no sense before it is given up; one whose lane breaks is sent as long as there is a session.
_TRIES = 5
# A deadline that has passed, whatever `now` says.
_AT_ONCE = 0.0
# How long dialling the host of a fixed address may take.
_DIAL_TIMEOUT = 0.2
# An event with fewer fields crosses as it was queued; with so many, it has keyword arguments beside.
_PLAIN = 5
# And a packed one with all there is has so many.
_CROSSING = 8


class QueuedHook(Protocol):
    """A hook as its queue sees it."""

    session: str
    # The script's number of it, which others may have that are of the same registration, and what no other of this process has.
    number: int
    key: int
    target: str
    queue: EventQueue

    @property
    def lanes(self) -> Any: ...

    @property
    def dropped(self) -> int: ...

    def count_calls(self, count: int) -> None: ...

    def count_bytes(self, sent: int, received: int) -> None: ...

    def lose(self, count: int) -> None: ...

    def settle(self) -> None: ...

    def forget_types(self) -> None: ...

    def forget_dropped(self) -> None: ...

    def signature(self) -> Any: ...


class Waker(Protocol):
    """The sender as a queue sees it."""

    max_queue: int
    max_bytes: int
    source: str
    # The numbers of batches go up for a source, whatever becomes of its queues.
    next_batch: Callable[[], int]

    def wake(self) -> None: ...


class Barrier:
    """Passed when what was queued before it is delivered: the sender calls `passed()`. At `deadline` the hook's rest is dropped; once
    that may be `extended`."""

    __slots__ = ("deadline", "extended", "hook", "passed")

    def __init__(self, hook: QueuedHook, deadline: float, passed: Callable[[], None]) -> None:
        self.hook = hook
        self.deadline = deadline
        self.extended = False
        self.passed = passed


class BatchAccount:
    """The account of a lane that carries a batch: its bytes are those of the hooks whose events are in it, each by its number of events."""

    __slots__ = ("_counts", "_hooks")

    def __init__(self, hooks: Dict[int, QueuedHook], batch: List[Event]) -> None:
        self._hooks = hooks
        self._counts: Dict[int, int] = {}
        for event in batch:
            self._counts[event[0]] = self._counts.get(event[0], 0) + 1

    def settle(self, sent: int, received: int, waited: float, longest: float) -> None:
        """As `HookCounters.settle`; nobody has waited."""
        whole = sum(self._counts.values())
        for number, count in self._counts.items():
            hook = self._hooks.get(number)
            if hook is not None:
                part, also = sent * count // whole, received * count // whole
                hook.count_bytes(part, also)
                sent, received = sent - part, received - also
            whole -= count


class EventQueue:
    """The events for one session.

    Threads of the application use `items`, `limit`, `share`, `sleeping` and `wake`; the rest is the sender's.
    """

    def __init__(self, session: str, sender: Waker) -> None:
        self.session = session
        self.items: Deque[Any] = deque()
        self.limit = sender.max_queue
        # How much an event may weigh without fillers.
        self.share = max(1, sender.max_bytes // sender.max_queue)
        # Whether the sender wants to be told of the next event.
        self.sleeping = True
        self.hooks: Dict[int, QueuedHook] = {}
        # The session has ended.
        self.gone = False
        self.barriers: List[Barrier] = []
        self._sender = sender
        self._begin()

    def _begin(self) -> None:
        self._told: Dict[int, int] = {}
        self._signed: Set[int] = set()
        self._due = 0.0
        self._gather = _GATHER
        self._hurry = False
        # The batch that is to be sent, or under way: its body, its events, and the barrier behind it.
        self._body: Optional[bytes] = None
        self._batch: List[Event] = []
        self._signing: Set[int] = set()
        self._telling: Dict[int, int] = {}
        self._behind: Optional[Barrier] = None
        self._tries = 0
        # The batch was under way at least once.
        self._was_sent = False
        self._forgets_at = 0.0
        self._retry = _RETRY
        self.wire: Optional[Wire] = None
        self.unsent: List[Bytes] = []
        self._lanes: Any = None

    def reset_after_fork(self) -> None:
        """In a forked child: what is queued, under way or counted is the parent's."""
        self.items.clear()
        self.barriers = []
        self.sleeping = True
        for hook in self.hooks.values():
            hook.forget_dropped()
        self._begin()

    # for threads of the application ------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the sender look at this queue."""
        self.sleeping = False
        self._sender.wake()

    # for those who remove hooks ----------------------------------------------------------------------------------------

    def retire(self, hook: QueuedHook, within: float, passed: Callable[[], None]) -> None:
        """Deliver what is queued for a hook that is disarmed, for at most `within` seconds, then forget it and call `passed`."""
        barrier = Barrier(hook, monotonic() + bounded(within), passed)
        self.barriers.append(barrier)
        self.items.append(barrier)
        self._hurry = True
        self.wake()

    # the sender's ------------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, under way or to be told."""
        return not self.items and self._body is None and not self._untold()

    @property
    def needed(self) -> bool:
        """Whether there is a hook, somebody waits for the end of one, or a lane is to come back."""
        return bool(self.hooks or self.barriers or self.wire is not None)

    def _untold(self) -> Dict[int, int]:
        now = {number: hook.dropped for number, hook in self.hooks.copy().items()}
        return {number: count for number, count in now.items() if count != self._told.get(number, 0)}

    def step(self, now: float, finishing: bool) -> Optional[float]:
        """Do what can be done at once; returns after how many seconds there may be more, or None if an event or the lane will tell."""
        while True:
            if self.gone:
                self.discard()
                return None
            # Before anybody is overdue: what was on a lane that has broken is queued still.
            if self.wire is not None:
                self._exchange()
            for barrier in [one for one in self.barriers if one.deadline <= now]:
                self._overdue(barrier, now)
            if self.wire is not None:
                return min((one.deadline - now for one in self.barriers), default=None)
            if self._body is None:
                patience = self._gathering(now, finishing)
                if patience is None or patience > 0:
                    return patience
                self._pack(now)
                if self._body is None:
                    continue
            if not self._start(now):
                self._retry = min(self._retry * 2, _RETRY_MOST)
                return self._retry
            self._retry = _RETRY

    def _gathering(self, now: float, finishing: bool) -> Optional[float]:
        """Seconds until a batch is to be packed; None, and asleep, if there is nothing to pack."""
        if not self.items and not self._untold():
            if self._due > now and not finishing:
                return self._due - now
            self._due, self._gather = 0.0, _GATHER
            # Looked at after `sleeping` is set, as the threads append before they look at it: one of the two sees the other.
            self.sleeping = True
            if not self.items and not self._untold():
                self._forget_types()
                return None
            self.sleeping = False
        if not self._due:
            self._due = now + self._gather
        if finishing or self._hurry or len(self.items) >= BATCH_EVENTS:
            return 0.0
        return max(0.0, self._due - now)

    def _forget_types(self) -> None:
        for hook in list(self.hooks.values()):
            hook.forget_types()

    def _pack(self, now: float) -> None:
        """Make a batch of what is queued first."""
        self._hurry = bool(self.barriers)
        popleft, hooks, share = self.items.popleft, self.hooks, self.share
        events: List[Event] = []
        counts: Dict[int, int] = {}
        size = 0
        behind: Optional[Barrier] = None
        while len(events) < BATCH_EVENTS and (size < BATCH_BYTES or not events):
            try:
                event = popleft()
            except IndexError:
                break
            if event is None:
                size += share
            elif type(event) is Barrier:
                behind = event
                break
            elif event[0] in hooks:
                # One whose hook is forgotten was late: its invocation began before the hook was removed.
                counts[event[0]] = counts.get(event[0], 0) + 1
                events.append(event if len(event) < _PLAIN or is_row(event) else _crossing(event))
        if events:
            self._gather = _next_span(self._gather, len(events), self.limit)
        # Until then the sender looks by itself: that it has to be woken costs the caller more than all else.
        self._due = now + self._gather
        self._count(counts)
        for hook in list(hooks.values()):
            hook.settle()
        if now >= self._forgets_at:
            self._forgets_at = now + _FORGET
            self._forget_types()
        dropped = self._untold()
        if behind is not None and not events and not dropped:
            self._pass(behind)
            return
        if not events and not dropped:
            return
        self._behind, self._batch, self._telling, self._tries = behind, events, dropped, 0
        self._was_sent = False
        self._signing = {number for number in counts if number not in self._signed}
        signatures = {number: hooks[number].signature() for number in self._signing}
        parts = {key: (hooks[key].number, hooks[key].target) for key in {*counts, *dropped} if key in hooks and key != hooks[key].number}
        batch = Batch(self._sender.source, os.getpid(), self._sender.next_batch(), dropped, signatures, events, parts)
        try:
            self._body = batch.dump()
        except Exception:
            log.exception("%d events of session %.8s were dropped", len(events), self.session)
            self._end_batch(False)

    def _count(self, counts: Dict[int, int]) -> None:
        for number, count in counts.items():
            hook = self.hooks.get(number)
            if hook is not None:
                hook.count_calls(count)

    def _start(self, now: float) -> bool:
        """Get a lane and send the batch on it; False if there is none now."""
        hook = next(iter(list(self.hooks.values())), None)
        if hook is None:
            self._end_batch(False)
            return True
        self._lanes = lanes = hook.lanes
        relayed = isinstance(lanes, RelayLanes)
        try:
            # One that does not wait; asking again is cheap. To the host of a fixed address a lane may have to be dialled.
            wire = lanes.take(now + _DIAL_TIMEOUT if relayed else _AT_ONCE)
        except DeadlineError:
            return False
        except (ChannelError, OSError) as error:
            # Gone, which the service thread will tell, or not to be had just now.
            log.debug("no lane for the events of session %.8s: %s", self.session, error)
            return False
        assert self._body is not None
        wire.stop_polling()
        wire.charge(BatchAccount(self.hooks, self._batch))
        self.wire = wire
        name = [relay_name(self.session, 0)] if relayed else []
        self._was_sent = True
        self.unsent = wire.connection.send(Opcode.EVENTS, 0, self._body, name)
        return True

    def _exchange(self) -> None:
        """Send what the socket takes of the batch, and read the answer if it has come."""
        wire = self.wire
        assert wire is not None
        try:
            if self.unsent:
                self.unsent = wire.transmit_some(self.unsent)
                if self.unsent:
                    return
            for frame in wire.recv_frames():
                wire.connection.accept(frame)
                if frame.opcode in (Opcode.PROCEED, Opcode.REFER):
                    raise RemoteProtocolError(f"{frame.opcode.name} as the answer to EVENTS")
                self.wire = None
                wire.charge(None)
                self._lanes.give(wire)
                # Whatever its body holds: nothing of it is read.
                self._end_batch(frame.opcode is Opcode.RETURN)
                return
        except (OSError, ValueError, XpcError) as error:
            log.debug("a lane for the events of session %.8s broke: %s", self.session, error)
            self.wire, self.unsent = None, []
            self._lanes.drop(wire)
            self._tries += isinstance(error, RemoteProtocolError)
            if self._tries >= _TRIES:
                self._end_batch(False)

    def _end_batch(self, delivered: bool) -> None:
        if delivered:
            self._told.update(self._telling)
            self._signed |= self._signing
        else:
            self._lose(self._batch)
        self._body, self._batch = None, []
        behind, self._behind = self._behind, None
        if behind is not None:
            self._pass(behind)

    def _lose(self, events: List[Event]) -> None:
        for event in events:
            hook = self.hooks.get(event[0])
            if hook is not None:
                hook.lose(1)

    def _pass(self, barrier: Barrier) -> None:
        """All before it has been delivered or dropped: the hook is done."""
        if barrier in self.barriers:
            self.barriers.remove(barrier)
            barrier.hook.settle()
            self._forget(barrier.hook)
            try:
                barrier.passed()
            except Exception:
                log.exception("telling that a hook is removed failed")

    def _forget(self, hook: QueuedHook) -> None:
        if self.hooks.get(hook.key) is hook:
            del self.hooks[hook.key]
            self._told.pop(hook.key, None)
            self._signed.discard(hook.key)

    def _overdue(self, barrier: Barrier, now: float) -> None:
        """Drop what is still queued of its hook. What is under way already is counted by the script, which has it."""
        if self._body is not None and self.wire is None:
            if self._was_sent and not barrier.extended:
                # Whether the script has run it, before its lane broke, shows when it is sent again, since a batch is run once.
                barrier.extended = True
                barrier.deadline = now + _DOUBT
                return
            # Packed, but not on its way: it is queued still.
            self._unpack()
        queued = sum(1 for event in self.items.copy() if type(event) is tuple and event[0] == barrier.hook.key)
        barrier.hook.count_calls(queued)
        barrier.hook.lose(queued)
        self._pass(barrier)

    def _unpack(self) -> None:
        """Put the batch back to the front of the queue."""
        counts: Dict[int, int] = {}
        for event in self._batch:
            counts[event[0]] = counts.get(event[0], 0) - 1
        self._count(counts)
        if self._behind is not None:
            self.items.appendleft(self._behind)
        self.items.extendleft(reversed(self._batch))
        self._body, self._batch, self._behind = None, [], None

    def discard(self, *, arrives: bool = False) -> None:
        """Count all that is left as dropped, pass all barriers, and forget the hooks.

        A batch that has been sent, but not answered, the script runs and counts if it lives (`arrives`).
        """
        counts: Dict[int, int] = {}
        while self.items:
            event = self.items.popleft()
            if type(event) is tuple:
                counts[event[0]] = counts.get(event[0], 0) + 1
        self._count(counts)
        for number, count in counts.items():
            if number in self.hooks:
                self.hooks[number].lose(count)
        wire, self.wire = self.wire, None
        self._behind = None
        if self._body is not None:
            self._end_batch(arrives and wire is not None and not self.unsent)
        if wire is not None:
            self._lanes.drop(wire)
        for hook in list(self.hooks.values()):
            hook.settle()
        for barrier in list(self.barriers):
            self._pass(barrier)
        self.hooks.clear()


def _next_span(span: float, came: int, room: int) -> float:
    """How long is gathered after a span in which so many events came, for a queue with so much room."""
    enough = span * min(_ENOUGH, room // _SPANS) / came
    return max(_GATHER, min(enough, _LONGER * span, _GATHER_ALONE if came == 1 else _GATHER_MOST))


def _crossing(event: Event) -> Event:
    """The event as it crosses: what costs the caller nothing. Queued, it has the instance's class, and names of arguments as they came."""
    if len(event) == _CROSSING:
        return event  # put back when it was packed already
    kwargs = event[4]
    for name in kwargs:
        if type(name) is not str:
            kwargs = dict(zip(map(exactly, kwargs), kwargs.values()))
            break
    if len(event) == _PLAIN:
        return event if kwargs is event[4] else (*event[:4], kwargs)
    hook, number, thread, args, _, cls, ident = event[:7]
    duration, outcome = event[7:] or (0.0, None)
    return hook, number, thread, args, kwargs, None if cls is None else (class_name(cls), ident), duration, outcome

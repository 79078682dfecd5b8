"""The lanes that a joined node has dialled: those on which it answers, and those on which it calls.

Rules:
- Each lane on which it answers has a thread, which runs the callbacks of that lane one after another.
- Lanes that the host asks for are dialled one after the other, since a crowd of them would keep out all others.
- The host hears of each lane that will not come, lest it wait for it and never ask for another. One that there was no room for, since all
  lanes were in use, comes when one of these ends: callbacks that the host waits for no more may have had them all.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Callable, Deque, Dict, List, Optional

from ..model.errors import AuthenticationError, ChannelError, DeadlineError, NoLaneError, RemoteProtocolError
from ..model.interrupts import raise_interrupt
from ..model.limits import Limits
from ..protocol.codec import Frame
from ..protocol.connection import State
from ..protocol.messages import Role
from ..unpatched import monotonic
from ..wire.wire import Wire
from .address import Address
from .lanes import bell
from .threads import start_seen

# How long a caller waits for a lane of its own before it asks the host again, which had none left for it, in seconds.
_LOOK_AGAIN = 0.05

Dial = Callable[[Role, float], Wire]
Serve = Callable[[Wire, Frame], None]
CutOff = Callable[[Wire, float, float], None]


class AnsweringLanes:
    """Lanes on which the host calls. `serve(wire, frame)` answers a CALL; `missed(count, why)` is told of lanes that will not come, and
    `cut_off(wire, seconds, since)` of those that the host has taken away: how long the last callback took there without what it asked for,
    and how long ago it ended.
    """

    def __init__(
        self,
        address: Address,
        limits: Limits,
        dial: Dial,
        serve: Optional[Serve],
        missed: Callable[[int, str], None],
        cut_off: Optional[CutOff] = None,
    ) -> None:
        self._address = address
        self._limits = limits
        self._dial = dial
        self._serve = serve
        self._missed = missed
        self._cut_off = cut_off
        self._lock = threading.Lock()
        # Held by whoever dials the first lane.
        self._opening = threading.Lock()
        self._threads: Dict[Wire, threading.Thread] = {}
        # Lanes that the host wants and nobody dials yet, and whether a thread is dialling.
        self._wanted = 0
        self._dialling = False
        # Lanes that there was no room for.
        self._owed = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._threads)

    @property
    def busy(self) -> int:
        """On how many of them a callback runs."""
        with self._lock:
            return sum(wire.connection.state is not State.CALLEE_IDLE for wire in self._threads)

    def ensure(self, deadline: float) -> None:
        """Open a lane if there is none. Raises what `dial` raises."""
        if self._threads:
            return
        if not self._opening.acquire(timeout=max(0.0, deadline - monotonic())):
            raise DeadlineError(f"no lane to {self._address} could be opened in time")
        try:
            if not self._threads:
                self.open(deadline)
        finally:
            self._opening.release()

    def want(self, count: int) -> None:
        """Open so many more, in a thread of its own: a handshake needs the host's answer, and who calls this must go on reading."""
        with self._lock:
            self._wanted += count
            if self._dialling:
                return
            self._dialling = True
        try:
            start_seen(self._dial_wanted, name="dialling")
        except RuntimeError as error:
            with self._lock:
                self._wanted -= count
                self._dialling = False
            self._missed(count, f"no thread can be started for a lane: {error}")

    def close(self) -> List[threading.Thread]:
        """Close all and open none any more; returns the threads, which end when their callbacks do."""
        with self._lock:
            self._closed = True
            lanes = dict(self._threads)
        for wire in lanes:
            wire.close()
        return list(lanes.values())

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors and leave the lanes to the parent."""
        self._closed = True
        for wire in self._threads:
            wire.abandon()
        self._threads.clear()

    def _dial_wanted(self) -> None:
        while True:
            with self._lock:
                count, self._wanted = self._wanted, 0
                if not count:
                    self._dialling = False
                    return
            self._open_several(count)

    def _open_several(self, count: int) -> None:
        wanted = max(0, min(count, self._limits.max_lanes - len(self)))
        if wanted < count:
            with self._lock:
                self._owed = min(self._owed + count - wanted, self._limits.max_lanes)
        opened = 0
        why = ""
        try:
            while opened < wanted and not self._closed:
                self.open(monotonic() + self._limits.connect_timeout)
                opened += 1
        except (OSError, AuthenticationError, RemoteProtocolError) as error:
            why = str(error)
        if opened < count and not self._closed:
            self._missed(count - opened, why)

    def open(self, deadline: float) -> None:
        """Open one more. Raises what `dial` raises, or `ChannelError` where there is no room for a thread."""
        lane: List[Wire] = []
        dialled = threading.Lock()
        dialled.acquire()
        # First of all: the host would call at once on a lane for which there is no thread, as when the interpreter shuts down.
        try:
            thread = start_seen(self._when_dialled, lane, dialled, name="lane")
        except RuntimeError as error:
            raise ChannelError(f"no thread can be started for a lane: {error}") from error
        try:
            wire = self._dial(Role.SERVE, deadline)
            with self._lock:
                if self._closed:
                    wire.close()
                    return
                self._threads[wire] = thread
                lane.append(wire)
        finally:
            dialled.release()

    def _when_dialled(self, lane: List[Wire], dialled: threading.Lock) -> None:
        """Answer on the lane, if there is one in the end."""
        dialled.acquire()
        if lane:
            self._answer(lane[0])

    def _answer(self, wire: Wire) -> None:
        serve = self._serve
        frame: Optional[Frame] = None
        try:
            while not self._closed:
                frame = wire.recv_frame(None)
                assert serve is not None
                serve(wire, frame)
                frame = None
        except ChannelError:
            # The host took the lane away: past its deadline, or gone altogether, which the control thread reports.
            if self._cut_off is not None and not self._closed:
                now = monotonic()
                ended = wire.since if frame is None else now
                self._cut_off(wire, ended - wire.arrived, now - ended)
        finally:
            with self._lock:
                self._threads.pop(wire, None)
                is_owed = self._owed > 0 and not self._closed
                self._owed -= is_owed
            wire.close()
            if is_owed:
                self.want(1)


class CallingLanes:
    """Lanes on which this node calls: one is dialled where none is idle and there are fewer than `limit`; else one is waited for.

    Threads of an application come here, so there is no lock: each step is one of C on a deque or a dict.
    """

    def __init__(self, address: Address, limit: int, dial: Dial) -> None:
        self.limit = limit
        self._address = address
        self._dial = dial
        self._idle: Deque[Wire] = deque()
        self._in_use: Dict[int, Wire] = {}
        # An entry for each that is being dialled.
        self._dialling: Deque[None] = deque()
        self._waiters: Deque[Callable[[], None]] = deque()
        self._closed = ""

    def take(self, deadline: float) -> Wire:
        """A lane; to be given back, or dropped. Raises what `dial` raises, or `DeadlineError` if all are in use."""
        while True:
            wire = self._idle_one(deadline)
            if wire is None:
                try:
                    return self._dialled(deadline)
                except NoLaneError:
                    # The host grants fewer, or has not noticed yet that one was closed.
                    if not self._wait(min(deadline, monotonic() + _LOOK_AGAIN), self._has_idle) and monotonic() >= deadline:
                        raise
            elif _is_fresh(wire):
                return wire
            else:
                self.drop(wire)

    def _idle_one(self, deadline: float) -> Optional[Wire]:
        """An idle lane; None if one is to be dialled, which is counted as being so."""
        while True:
            if self._closed:
                raise self._not_connected()
            try:
                wire = self._idle.pop()
            except IndexError as error:
                raise_interrupt(error, of_values=True)
            else:
                return self._used(wire)
            # Counted before there is known to be room, and looked for again after it was not: of those that come at once the last finds it.
            self._dialling.append(None)
            if len(self._in_use) + len(self._dialling) <= self.limit:
                return None
            self._dialling.pop()
            if not self._wait(deadline, self._may_take):
                raise DeadlineError(f"all {self.limit} lanes to call on to {self._address} are in use (max-lanes)")

    def _has_idle(self) -> bool:
        return bool(self._closed or self._idle)

    def _may_take(self) -> bool:
        return self._has_idle() or len(self._in_use) + len(self._dialling) < self.limit

    def _wait(self, deadline: float, is_there: Callable[[], bool]) -> bool:
        """Until something may be there; False if nothing was at the deadline."""
        wake = bell()
        woken = False
        try:
            self._waiters.append(wake)
            # As those look for who waits that have put something there.
            if is_there():
                return True
            remaining = deadline - monotonic()
            woken = remaining > 0 and wake.wait(remaining)
            return woken
        finally:
            try:
                self._waiters.remove(wake)
            except ValueError as error:
                raise_interrupt(error, of_values=True)
                if not woken:
                    self._wake_one()
            wake.close()

    def _wake_one(self) -> None:
        try:
            wake = self._waiters.popleft()
        except IndexError as error:
            raise_interrupt(error, of_values=True)
            return
        wake()

    def _dialled(self, deadline: float) -> Wire:
        try:
            wire = self._dial(Role.CALL, deadline)
        except BaseException:
            self._dialling.pop()
            self._wake_one()
            raise
        self._used(wire, self._dialling)
        return wire

    def _used(self, wire: Wire, dialling: Optional[Deque[None]] = None) -> Wire:
        self._in_use[id(wire)] = wire
        if dialling is not None:
            dialling.pop()
        if self._closed:
            # It was nowhere when all were closed.
            wire.close()
            raise self._not_connected()
        return wire

    def _not_connected(self) -> ChannelError:
        return ChannelError(f"not connected to {self._address}: {self._closed}")

    def wires(self) -> List[Wire]:
        """All, in use or idle."""
        return [*self._idle, *self._in_use.values()]

    def give(self, wire: Wire) -> None:
        """Put a lane back after a call that ended well."""
        if self._closed or wire.closed:
            self.drop(wire)
            return
        self._in_use.pop(id(wire), None)
        self._idle.append(wire)
        if self._closed:
            wire.close()
        self._wake_one()

    def drop(self, wire: Wire) -> None:
        """Close a lane whose call did not end well."""
        wire.charge(None)
        self._in_use.pop(id(wire), None)
        self._wake_one()
        wire.close()

    def close(self, why: str) -> None:
        """Close all; from now on `take` raises a `ChannelError` that says why."""
        self._closed = why
        for wire in self.wires():
            wire.close()
        self._idle.clear()
        while self._waiters:
            self._wake_one()

    def abandon(self, why: str) -> None:
        """In a forked child: close this process's descriptors and leave the lanes to the parent."""
        self._closed = why
        for wire in self.wires():
            wire.abandon()
        self._idle.clear()
        self._in_use.clear()
        self._waiters.clear()


def _is_fresh(wire: Wire) -> bool:
    """Whether an idle lane is still connected: the host may have gone, or started again, since it was last used."""
    try:
        return not wire.recv_frames() and wire.connection.reader.idle
    except ChannelError:
        return False

"""Forks: what pauses around one, and the hooks that a child inherits.

Rules:
- Our threads end before a fork and are started again after the last of those that are under way at once: from Python 3.12 on `os.fork`
  warns of a second thread.
- Where one fork follows the other, in several threads or in one, the service thread gets its turn between two of them, for a tenth of a
  second at most.
- After a fork the parent answers no session before the child has announced itself: a registration that returns has reached the child,
  by inheritance or because the session has found it. The end of a pipe that the child holds says so.
- A child keeps the hooks of its parent and waits, within the deadline of the first call, for their sessions to dial in; the parent's
  connections stay the parent's.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from typing import Callable, Deque, Dict, Optional, Protocol, Set, Tuple

from xpc_instrument.core.discovery.doorbell import bell_name, ring
from xpc_instrument.core.discovery.entry import own_root
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.unpatched import Brief, get_ident, monotonic

from ..events.sender import Sender
from ..guard import guarded
from ..points.table import ProbeTable
from ..service.registrations import Registrations
from .logs import LineQueue

log = logging.getLogger("xpc_agent")

# How long a fork waits for the service thread beyond its usual time, in seconds, where there is no other thread.
_LOADING_PATIENCE = 4.0

# How long a fork waits for another one that is just pausing or resuming, in seconds.
_PATIENCE = 0.5


class Forks:
    """The forks that are under way. `announced`: whether children announce themselves, since each has an address of its own."""

    def __init__(self, table: ProbeTable, sender: Sender, lines: LineQueue, announced: bool) -> None:
        self._table = table
        self._sender = sender
        self._lines = lines
        self._announced = announced
        # The pipes by thread; each tells the parent that its child is announced.
        self._births: Dict[int, Tuple[int, int]] = {}
        # Held to pause and resume, so that only the last fork does the other. A thread of the application that cannot have it goes on.
        self._lock = Brief(_PATIENCE)
        self._under_way: Deque[None] = deque()

    def before(self, host: Optional[Host]) -> None:
        """End our threads."""
        if host is not None:
            host.let_serve()
        self._under_way.append(None)
        with self._lock():
            if not self._pause(host) and _threads() == 2 and host is not None:
                # It is loading something, and nobody but a crowded machine holds it up: beside it the fork would warn.
                host.pause(_LOADING_PATIENCE)
                self._pause(host)
        # A child that shares a fixed address is told of all hooks by its host, which may be this process: nothing to wait for.
        if host is not None and self._announced:
            try:
                self._births[get_ident()] = os.pipe()
            except OSError as error:
                log.warning("a child that is forked now may miss the hooks that are registered at this moment: %s", error)

    def _pause(self, host: Optional[Host]) -> bool:
        """End our threads; False if that of the host goes on."""
        ended = host is None or host.pause()
        self._sender.pause()
        self._table.pause()
        self._lines.pause()
        return ended

    def in_parent(self, host: Optional[Host]) -> None:
        """Have our threads go on, once no other thread forks."""
        birth = self._births.pop(get_ident(), None)
        if birth is not None:
            os.close(birth[1])
            if host is None:
                os.close(birth[0])
            else:
                host.await_birth(birth[0])
        with self._lock():
            self._under_way.pop()
            if not self._under_way:
                self._sender.resume()
                self._table.resume()
                self._lines.resume()
                if host is not None:
                    host.resume()

    def in_child(self, begin_anew: Callable[[], None]) -> None:
        """Begin anew; the parent waits until that is done."""
        own = self._births.pop(get_ident(), None)
        for other in self._births.values():
            os.close(other[0])
            os.close(other[1])
        self._births, self._under_way, self._lock = {}, deque(), Brief(_PATIENCE)
        try:
            begin_anew()
        finally:
            if own is not None:
                os.close(own[0])
                os.close(own[1])


class Orphans:
    """The hooks that this process has inherited and whose sessions have not come yet: the lanes on which they wait, by session.

    The service thread takes a session out when it comes, and a thread of the application when it is known that it will not; each does so
    in one step.
    """

    def __init__(self, app: str, registrations: Registrations, max_lanes: int) -> None:
        self._app = app
        self._registrations = registrations
        self._max_lanes = max_lanes
        self._pools: Dict[str, LanePool] = {}

    def adopt(self) -> None:
        """Give the inherited hooks lanes to wait on until their sessions dial in."""
        self._pools = {}
        now = monotonic()
        for session, one in self._registrations.inherited():
            pool = self._pools.get(session)
            if pool is None:
                pool = self._pools[session] = LanePool(guarded(self._call_for_sessions), self._max_lanes)
            one.adopt(pool, now)

    def _call_for_sessions(self, _count: int) -> None:
        """An invocation wants a lane of a session that has not come: ring again, which tells who has gone since the fork."""
        alive: Set[str] = set()
        try:
            alive = ring(self._app, os.getpid(), own_root())
        finally:
            self.drop(alive)

    def attach(self, peer: Peer) -> None:
        """A session has joined; if it was inherited, its hooks wait on these lanes."""
        pool = self._pools.pop(peer.session, None)
        if pool is not None:
            pool.attach(peer.lanes)
            peer.lanes = pool

    def drop(self, alive: Set[str]) -> None:
        """Remove the hooks for which nobody will come: no invocation may wait for them. `alive` as `ring` returns it."""
        for session in list(self._pools):
            if bell_name(session) in alive:
                continue
            pool = self._pools.pop(session, None)
            if pool is not None:
                self._registrations.drop_orphans(session)
                pool.close()


def _threads() -> int:
    """How many the process has as the kernel sees it; 0 where that cannot be told."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


class Closing(Protocol):
    """What ends with the process."""

    def close(self) -> None:
        """End it."""


def close_with_multiprocessing(agent: Closing) -> None:
    """A multiprocessing child leaves by `os._exit`, without atexit; its own finalizers run."""
    # Without the name another thread of the parent was just importing it; a child of multiprocessing has the whole of it.
    register = getattr(sys.modules.get("multiprocessing.util"), "register_after_fork", None)
    if register is not None:
        register(agent, _finalize_later)


def _finalize_later(agent: Closing) -> None:
    util = sys.modules["multiprocessing.util"]
    util.Finalize(agent, guarded(agent.close), exitpriority=0)

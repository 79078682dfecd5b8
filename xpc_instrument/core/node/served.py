"""The lanes on which joined nodes call a host: a thread for each, which ends with its lane.

Rules:
- A lane is that of a node that has joined, ends with it, and counts towards what that node may have (`max-lanes`).
- A lane is closed by its own thread, where that waits on it. So who closes all of them waits, for a moment, for those that run no callback.
- Who has as many as it may have is told so, and waits until one of them is free (`dialled.py`).
"""

from __future__ import annotations

import logging
from typing import Callable, Dict, List, Optional

from ..model.errors import ChannelError
from ..protocol.codec import Bytes
from ..protocol.connection import State
from ..protocol.messages import Hello
from ..unpatched import Semaphore, allocate_lock, monotonic
from ..wire.wire import Wire
from .address import Address, named
from .peer import Peer
from .threads import start_unseen
from .throttle import LogThrottle

# How long who closes all lanes waits for their threads, in seconds. They need some tens of microseconds, and their turn.
_LEAVING = 1.0


class ServedLanes:
    """`serve(wire, hello)` answers the calls of a lane until it ends, in the lane's thread."""

    def __init__(self, address: Address, serve: Callable[[Wire, Hello], None], log: LogThrottle) -> None:
        self._address = address
        self._serve = serve
        self._log = log
        # By session. The service thread adds to it, and each lane's own thread takes from it.
        self._all: Dict[str, Dict[int, Wire]] = {}
        self._lock = allocate_lock()
        # Those whose thread has not ended, and closed them for good; told of each that does, when all are closed.
        self._open: Dict[int, Wire] = {}
        self._ended: Optional[Semaphore] = None

    def add(self, wire: Wire, hello: Hello, welcome: List[Bytes], peer: Optional[Peer]) -> None:
        """Send WELCOME on a new lane of `peer` and serve it; say why not, and close it, if it has not joined or has its lanes already."""
        have = len(self._all.get(hello.session, ()))
        if peer is None or have >= peer.max_calling:
            why = "its session has not joined" if peer is None else f"its session has {have} lanes to call on, the limit (max-lanes)"
            wire.transmit_some(wire.connection.turn_away("busy" if peer is None else "lanes", why))
            wire.close()
            return
        # A lane's first bytes: nothing else is on its socket yet, so they fit.
        if wire.transmit_some(welcome):
            wire.close()
            return
        with self._lock:
            self._all.setdefault(hello.session, {})[id(wire)] = wire
        self._open[id(wire)] = wire
        try:
            start_unseen(self._run, wire, hello, named(wire.sock, hello.pid))
        except RuntimeError as error:
            # The process has no room for a thread: this caller is turned away, and all others are served on.
            who = named(wire.sock, hello.pid)
            self._log.log("no thread", logging.WARNING, "a call of %s at %s cannot be served: %s", who, self._address, error)
            self._end(wire, hello)

    def drop(self, session: str) -> None:
        """The session has ended: close its lanes."""
        with self._lock:
            lanes = self._all.pop(session, {})
        for wire in lanes.values():
            wire.close()

    def close(self, abandon: bool) -> None:
        """Close all; `abandon`: after a fork, only this process's descriptors."""
        if abandon:
            # A thread that the child does not have may have held it.
            self._lock = allocate_lock()
        with self._lock:
            found, self._all = self._all, {}
        wires = [wire for lanes in found.values() for wire in lanes.values()]
        if abandon:
            for wire in wires:
                wire.abandon()
            self._open.clear()
            return
        idle = [wire for wire in list(self._open.values()) if wire.connection.state is State.CALLEE_IDLE]
        ended = self._ended = Semaphore()
        for wire in wires:
            wire.close()
        deadline = monotonic() + _LEAVING
        while any(wire.fileno() >= 0 for wire in idle) and ended.acquire(max(0.0, deadline - monotonic())):
            pass

    def _run(self, wire: Wire, hello: Hello, who: str) -> None:
        try:
            self._serve(wire, hello)
        except ChannelError as error:
            self._log.log("lane", logging.DEBUG, "a lane of %s ended: %s", who, error)
        except Exception as error:
            self._log.log("serving", logging.ERROR, "serving a lane of %s failed", who, exc_info=error)
        finally:
            self._end(wire, hello)

    def _end(self, wire: Wire, hello: Hello) -> None:
        with self._lock:
            lanes = self._all.get(hello.session, {})
            lanes.pop(id(wire), None)
            if not lanes:
                self._all.pop(hello.session, None)
        wire.close()
        self._open.pop(id(wire), None)
        if self._ended is not None:
            self._ended.release()

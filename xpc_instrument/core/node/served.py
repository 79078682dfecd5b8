"""The lanes on which joined nodes call a host: a thread for each, which ends with its lane."""

from __future__ import annotations

import logging
from typing import Callable, Dict, List

from ..model.errors import ChannelError
from ..protocol.codec import Bytes
from ..protocol.messages import Hello
from ..wire.wire import Wire
from .address import Address
from .threads import start_unseen


class ServedLanes:
    """At most `limit` lanes. `serve(wire, hello)` answers the calls of one until it ends, in the lane's thread."""

    def __init__(self, address: Address, limit: int, serve: Callable[[Wire, Hello], None], logger: logging.Logger) -> None:
        self._address = address
        self._limit = limit
        self._serve = serve
        self._logger = logger
        self._all: Dict[int, Wire] = {}

    def add(self, wire: Wire, hello: Hello, welcome: List[Bytes]) -> None:
        """Send WELCOME on a new lane and serve it; it is closed if there is no room for it."""
        # A lane's first bytes: nothing else is on its socket yet, so they fit.
        if wire.transmit_some(welcome) or len(self._all) >= self._limit:
            wire.close()
            return
        self._all[id(wire)] = wire
        try:
            start_unseen(self._run, wire, hello)
        except RuntimeError as error:
            # The process has no room for a thread: this caller is turned away, and all others are served on.
            self._logger.warning("a call of pid %d at %s cannot be served: %s", hello.pid, self._address, error)
            self._end(wire)

    def close(self, abandon: bool) -> None:
        """Close all; `abandon`: after a fork, only this process's descriptors."""
        for wire in list(self._all.values()):
            wire.abandon() if abandon else wire.close()
        self._all.clear()

    def _run(self, wire: Wire, hello: Hello) -> None:
        try:
            self._serve(wire, hello)
        except ChannelError as error:
            self._logger.debug("a lane of pid %d ended: %s", hello.pid, error)
        except Exception:
            self._logger.exception("serving a lane of pid %d failed", hello.pid)
        finally:
            self._end(wire)

    def _end(self, wire: Wire) -> None:
        self._all.pop(id(wire), None)
        wire.close()

"""Connections that have not proved the key yet: how many there may be, and which one is closed for another.

All that they can do is bounded in number. Where there are too many, the address with the most of them loses one of its own, so that a
crowd from one place does not keep out who comes from another; of its own, one that has sent nothing yet, the oldest first, since an
honest dialler speaks at once; if all have spoken, any of them, so that none can be pushed out with certainty.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Iterator, List, Optional

from ..protocol.codec import Bytes
from ..wire.wire import Wire

# So many that give way within a second are a storm.
_STORM = 200


class UnauthenticatedClient:
    """A connection in its handshake. `spoken`: it has said HELLO, and was answered."""

    __slots__ = ("deadline", "origin", "outbox", "spoken", "wire")

    def __init__(self, wire: Wire, deadline: float, origin: str) -> None:
        self.wire = wire
        self.deadline = deadline
        self.origin = origin
        self.outbox: List[Bytes] = []
        self.spoken = False


def origin_of(where: Any) -> str:
    """Where a connection comes from, by the address that `accept` gives: of IPv6 the network, which is one customer's; "" for unix."""
    if not isinstance(where, tuple):
        return ""
    host = str(where[0])
    if ":" not in host:
        return host
    import socket

    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()


class UnauthenticatedClients:
    """All of a host, the oldest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._all: Dict[int, UnauthenticatedClient] = {}
        self._gave_way = 0
        self._second = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[UnauthenticatedClient]:
        return iter(list(self._all.values()))

    def __contains__(self, client: UnauthenticatedClient) -> bool:
        return id(client) in self._all

    def add(self, client: UnauthenticatedClient) -> None:
        """One more has come."""
        self._all[id(client)] = client

    def remove(self, client: UnauthenticatedClient) -> None:
        """One has gone, or is none any more."""
        self._all.pop(id(client), None)

    def clear(self) -> None:
        """Forget all."""
        self._all.clear()

    @property
    def next_deadline(self) -> Optional[float]:
        """When the time of the first of them is over."""
        return min((client.deadline for client in self._all.values()), default=None)

    def overdue(self, now: float) -> List[UnauthenticatedClient]:
        """Those whose time is over."""
        return [client for client in self._all.values() if client.deadline <= now]

    def one_too_many(self, now: float) -> Optional[UnauthenticatedClient]:
        """Which one is closed, if there are more than the limit."""
        if len(self._all) <= self._limit:
            return None
        if now - self._second >= 1.0:
            self._second, self._gave_way = now, 0
        self._gave_way += 1
        crowds: Dict[str, List[UnauthenticatedClient]] = {}
        for client in self._all.values():
            crowds.setdefault(client.origin, []).append(client)
        crowd = max(crowds.values(), key=len)
        silent = next((client for client in crowd if not client.spoken), None)
        return crowd[int.from_bytes(os.urandom(4), "big") % len(crowd)] if silent is None else silent

    def are_storming(self, now: float) -> bool:
        """Whether so many come that looking at them would keep the process from its work."""
        return self._gave_way > _STORM and now - self._second < 1.0

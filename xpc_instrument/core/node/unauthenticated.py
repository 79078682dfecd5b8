"""Those who have connected to a host but not yet proved the key: who of them gives way, and how often the log hears of them.

Rules:
- All that they can do is bounded in number. Where there are too many, the address with the most of them loses one of its own, so that
  a crowd from one place does not keep out who comes from another; of its own, one that has said nothing yet, the oldest first, since
  an honest dialler speaks at once; if all have spoken, any of them, so that none can be pushed out with certainty.
- A line in the log for each refused connection, up to a few of each kind; what comes on top is counted, and the count is told at the
  end of a period, which grows while that goes on.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any, Dict, Iterator, List, Optional

from ..protocol.codec import Bytes
from ..wire.wire import Wire

# Lines of one kind within one period.
_LINES = 3
# A period, in seconds: this long at first, twice as long after each one that was too short for its lines, and so long at most.
_FIRST_PERIOD = 1.0
_LONGEST_PERIOD = 60.0
# Of what a peer sent that is quoted in a line, so many characters.
_LONGEST_LINE = 500
# So many that give way within a second are an onslaught.
_ONSLAUGHT = 200


class Stranger:
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


class Strangers:
    """All strangers of a host, the oldest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._all: Dict[int, Stranger] = {}
        self._gave_way = 0
        self._second = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Stranger]:
        return iter(list(self._all.values()))

    def __contains__(self, stranger: Stranger) -> bool:
        return id(stranger) in self._all

    def add(self, stranger: Stranger) -> None:
        """One more has come."""
        self._all[id(stranger)] = stranger

    def remove(self, stranger: Stranger) -> None:
        """One has gone, or is none any more."""
        self._all.pop(id(stranger), None)

    def clear(self) -> None:
        """Forget all."""
        self._all.clear()

    @property
    def next_deadline(self) -> Optional[float]:
        """When the first of them has had its time."""
        return min((stranger.deadline for stranger in self._all.values()), default=None)

    def overdue(self, now: float) -> List[Stranger]:
        """Those who have had their time."""
        return [stranger for stranger in self._all.values() if stranger.deadline <= now]

    def one_too_many(self, now: float) -> Optional[Stranger]:
        """Who has to give way, if there are more than the limit."""
        if len(self._all) <= self._limit:
            return None
        if now - self._second >= 1.0:
            self._second, self._gave_way = now, 0
        self._gave_way += 1
        crowds: Dict[str, List[Stranger]] = {}
        for stranger in self._all.values():
            crowds.setdefault(stranger.origin, []).append(stranger)
        crowd = max(crowds.values(), key=len)
        silent = next((stranger for stranger in crowd if not stranger.spoken), None)
        return crowd[secrets.randbelow(len(crowd))] if silent is None else silent

    def are_storming(self, now: float) -> bool:
        """Whether so many come that looking at them would keep the process from its work."""
        return self._gave_way > _ONSLAUGHT and now - self._second < 1.0


class _Kind:
    """Complaints of one kind in their current period."""

    __slots__ = ("end", "lines", "more", "period")

    def __init__(self) -> None:
        self.period = _FIRST_PERIOD
        self.end = 0.0
        self.lines = 0
        self.more = 0


class Complaints:
    """Writes lines of several kinds to a log, a bounded number of each. For one thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._kinds: Dict[str, _Kind] = {}

    def say(self, kind: str, level: int, text: str, *args: Any) -> None:
        """One line, or one more in the count."""
        now = time.monotonic()
        state = self._kinds.setdefault(kind, _Kind())
        if now >= state.end:
            self._end(kind, state)
            state.end = now + state.period
        if state.lines >= _LINES:
            state.more += 1
            return
        state.lines += 1
        self._logger.log(level, "%s", (text % args)[:_LONGEST_LINE])

    def tell(self, now: float, at_once: bool = False) -> None:
        """Tell the counts whose period is over, or all."""
        for kind, state in self._kinds.items():
            if state.more and (at_once or now >= state.end):
                self._end(kind, state)
                state.end = now + state.period

    @property
    def due(self) -> Optional[float]:
        """When the next count is to be told."""
        return min((state.end for state in self._kinds.values() if state.more), default=None)

    def _end(self, kind: str, state: _Kind) -> None:
        if state.more:
            self._logger.warning("%d more like that (%s) within %.0f s", state.more, kind, state.period)
            state.period = min(_LONGEST_PERIOD, state.period * 2)
        else:
            state.period = _FIRST_PERIOD
        state.lines = state.more = 0

"""What hooks count that live in the application: tables that can be looked at again and again, over all processes.

Rules:
- A process tells all that it has counted so far; the last that it has told stays when it ends.
- Removing such a hook tells what was counted until then, so that nothing is missed.
- What an interval had is the difference of two such sums.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Dict, Generic, Iterator, List, Mapping, Optional, Protocol, Sequence, Tuple, TypeVar

from ..core.model import aggregate
from ..core.model.aggregate import Cell, Table
from ..core.model.fault import Term
from ..core.model.record import Record
from ..core.unpatched import monotonic
from .handle import Handle
from .removable import Removable

# Within so many seconds what has taken one of a limit is counted, if its process lives.
_COUNTED_WITHIN = 1.0

Octaves = Tuple[Tuple[float, float, int], ...]


class Counting(Protocol):
    """A session, as far as it asks what was counted."""

    def _counts(self, handle: Handle) -> Dict[int, List[Mapping[str, Any]]]: ...

    @property
    def pids(self) -> List[int]: ...


class StatRow(Record):
    """A line of a table: what was counted under one key. Durations are in seconds; quantiles are within 1.6 %."""

    key: Tuple[Any, ...]
    """A value for each expression of ``by``."""

    count: int
    """How many calls; of those, the following."""

    sum: float
    avg: float
    min: float
    p50: float
    p95: float
    max: float
    errors: int
    """How many of the calls raised."""

    octaves: Octaves
    """How many of the numbers lay between which powers of two: ``(from, below, count)``."""


class MonitorRow(Record):
    """What the calls of one target came to in an interval. Times are in seconds; quantiles are within 1.6 %."""

    target: str
    calls: int
    errors: int
    rate: float
    """Calls a second."""

    avg: float
    p50: float
    p95: float
    p99: float
    max: float


class FaultRow(Record):
    """What one term of a fault has done."""

    term: str
    count: int
    """How many calls it was done to."""

    mean: float
    """How long each was held up by it, in seconds; 0 of what is raised or returned."""


class StackRow(Record):
    """One way in which a target was called."""

    count: int
    frames: Tuple[Tuple[str, int, str], ...]
    """File, line and function of the callers, the innermost first."""


Row = TypeVar("Row", bound=Record)


class Counted(Removable, Generic[Row]):
    """What one hook counts. A context manager, which removes the hook; iterated, it gives its rows every so many seconds."""

    def __init__(self, session: Counting, handle: Handle, every: float, limit: Optional[int] = None) -> None:
        self.handle = handle
        """The hook: its ``targets``, and why it is ``over``."""

        self._session = session
        self._every = every
        self._limit = limit
        self._told: Dict[int, List[Mapping[str, Any]]] = {}
        # Since when nothing is left of the limit.
        self._used_up_at = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    # what was counted --------------------------------------------------------------------------------------------------

    def pull(self) -> None:
        """Ask the processes what they have counted so far; ``rows`` does so by itself. Raises ``ChannelError`` if one does not answer."""
        if self._closed.is_set():
            return
        told = self._session._counts(self.handle)
        with self._lock:
            # Those that have ended have told more than when they were asked.
            self._told.update({**told, **self.handle._last_totals})

    def tables(self) -> Dict[str, Table]:
        """All that was counted up to the last ``pull``, by target."""
        whole: Dict[str, Table] = {}
        for one in self._each():
            aggregate.merge(whole.setdefault(str(one["target"]), {}), aggregate.from_json(one["table"]))
        return whole

    def _each(self) -> List[Mapping[str, Any]]:
        with self._lock:
            return [one for told in self._told.values() for one in told]

    @property
    def calls(self) -> int:
        """How many calls are in the table, as of the last time that it was looked at."""
        return sum(cell[aggregate.COUNT] for table in self.tables().values() for cell in table.values())

    @property
    def rejected(self) -> int:
        """How many calls did not meet the condition, likewise."""
        return sum(int(one["rejected"]) for one in self._each())

    @property
    def unusable(self) -> int:
        """How many calls were not counted because an expression failed or gave no number, likewise."""
        return sum(int(one["unusable"]) for one in self._each())

    @property
    def failed(self) -> int:
        """In how many calls an expression failed, likewise: those that then did not meet the condition, or were not counted.
        ``Handle.expression_error`` is the first reason."""
        return sum(int(one["failed"]) for one in self._each())

    @property
    def errors(self) -> int:
        """In how many calls an expression failed, or there was no number to count, likewise."""
        return sum(int(one["errors"]) for one in self._each())

    @property
    def skipped(self) -> Dict[str, int]:
        """How many calls the terms left out, by ``"sample"`` and ``"rate"``, likewise."""
        counts: Dict[str, int] = {}
        for one in self._each():
            for why, count in one["skipped"].items():
                counts[why] = counts.get(why, 0) + count
        return counts

    @property
    def over_budget(self) -> Dict[int, str]:
        """As ``Handle.over_budget``."""
        return self.handle.over_budget

    @property
    def over(self) -> str:
        """Why nothing is counted any more: ``"removed"``, ``"limit"``, ``"expires"``, or ``""``."""
        if self.handle.over:
            return self.handle.over
        if self._limit is None:
            return ""
        return "limit" if self._used() >= self._limit or self._is_used_up() else ""

    def _used(self) -> int:
        """How much of the limit is in the table."""
        return self.calls

    def _is_used_up(self) -> bool:
        """Whether all of the limit is taken, and what is not in the table was taken by processes that have died with it."""
        tokens = self.handle._tokens
        if tokens is None or tokens.left or self._under_way():
            self._used_up_at = 0.0
            return False
        now = monotonic()
        self._used_up_at = self._used_up_at or now
        return now - self._used_up_at >= _COUNTED_WITHIN

    def _under_way(self) -> bool:
        with self._lock:
            told = [one for pid in self._session.pids for one in self._told.get(pid, ())]
        return any(one.get("under-way") for one in told)

    def rows(self) -> List[Row]:
        """The table as it is now, from all processes."""
        self.pull()
        return self._rows()

    def _rows(self) -> List[Row]:
        raise NotImplementedError

    # life --------------------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Have nothing counted any more; what was counted until then can still be looked at."""
        if self._closed.is_set():
            return
        if not self.handle.over:
            # Of processes that share an address only the one that hosts it tells at the end.
            self.pull()
        self._closed.set()
        self.handle.remove()
        with self._lock:
            self._told.update(self.handle._last_totals)

    def __iter__(self) -> Iterator[List[Row]]:
        due = monotonic() + self._every
        while not self._closed.is_set():
            if self._closed.wait(max(0.0, due - monotonic())):
                return
            due += self._every
            rows = self.rows()
            over = self.over
            yield rows
            if over:
                self.remove()

    async def __aiter__(self) -> Any:
        loop = asyncio.get_running_loop()
        rows = iter(self)
        while True:
            one = await loop.run_in_executor(None, next, rows, None)
            if one is None:
                return
            yield one


class Stat(Counted[StatRow]):
    """A table by key, over all targets; its greatest counts come first."""

    def _rows(self) -> List[StatRow]:
        whole: Table = {}
        for table in self.tables().values():
            aggregate.merge(whole, table)
        ordered = sorted(whole.items(), key=lambda item: (-item[1][aggregate.COUNT], repr(item[0])))
        return [_stat_row(key, cell) for key, cell in ordered]


def _stat_row(key: Sequence[Any], cell: Cell) -> StatRow:
    shown = ("(other)",) if tuple(key) == aggregate.OTHER else tuple(map(aggregate.shown_part, key))
    return StatRow(
        key=shown,
        count=cell[aggregate.COUNT],
        sum=cell[aggregate.SUM],
        avg=aggregate.average(cell),
        min=cell[aggregate.LEAST],
        p50=aggregate.quantile(cell, 0.5),
        p95=aggregate.quantile(cell, 0.95),
        max=cell[aggregate.MOST],
        errors=cell[aggregate.ERRORS],
        octaves=tuple(aggregate.octaves(cell)),
    )


class Monitor(Counted[MonitorRow]):
    """The targets with their calls since the table was last looked at."""

    def __init__(self, session: Counting, handle: Handle, every: float, limit: Optional[int] = None) -> None:
        super().__init__(session, handle, every, limit)
        self._before: Dict[str, Cell] = {}
        self._looked = monotonic()

    def _rows(self) -> List[MonitorRow]:
        now = monotonic()
        seconds, self._looked = max(now - self._looked, 1e-9), now
        tables = self.tables()
        rows = []
        for target in sorted({*self.handle.targets, *tables}):
            cell = aggregate.new_cell()
            for one in tables.get(target, {}).values():
                aggregate.add(cell, one)
            rows.append(_monitor_row(target, aggregate.since(cell, self._before.get(target)), seconds))
            self._before[target] = cell
        return rows


def _monitor_row(target: str, cell: Cell, seconds: float) -> MonitorRow:
    return MonitorRow(
        target=target,
        calls=cell[aggregate.COUNT],
        errors=cell[aggregate.ERRORS],
        rate=cell[aggregate.COUNT] / seconds,
        avg=aggregate.average(cell),
        p50=aggregate.quantile(cell, 0.5),
        p95=aggregate.quantile(cell, 0.95),
        p99=aggregate.quantile(cell, 0.99),
        max=max(0.0, cell[aggregate.MOST]) if cell[aggregate.COUNT] else 0.0,
    )


class Stacks(Counted[StackRow]):
    """Who calls a target, the most frequent first."""

    def _rows(self) -> List[StackRow]:
        whole: Table = {}
        for table in self.tables().values():
            aggregate.merge(whole, table)
        found = [StackRow(cell[aggregate.COUNT], _frames(key)) for key, cell in whole.items()]
        return sorted(found, key=lambda row: -row.count)


class Injected(Counted[FaultRow]):
    """Faults that happen to calls, and how often; its rows are in the order of the terms."""

    def __init__(self, session: Counting, handle: Handle, every: float, limit: Optional[int], terms: Sequence[Term]) -> None:
        super().__init__(session, handle, every, limit)
        self._terms = terms

    @property
    def applied(self) -> int:
        """How many calls a fault has happened to, as of now; ``off`` is none."""
        self.pull()
        return self._used()

    def _used(self) -> int:
        return sum(row.count for row, term in zip(self._rows(), self._terms) if term.action != "off")

    @property
    def seen(self) -> int:
        """How many calls there were, as of the last time that it was looked at: those that no term applied to included, those that did
        not meet the condition, and those that ``sample`` and ``rate`` left out."""
        return self.calls + self.unusable + sum(self.skipped.values())

    def _rows(self) -> List[FaultRow]:
        whole: Table = {}
        for table in self.tables().values():
            aggregate.merge(whole, table)
        cells = [whole.get((index,), aggregate.new_cell()) for index in range(len(self._terms))]
        return [FaultRow(term.text, cell[aggregate.COUNT], aggregate.average(cell)) for term, cell in zip(self._terms, cells)]


def _frames(key: Sequence[Any]) -> Tuple[Tuple[str, int, str], ...]:
    return tuple(zip(key[::3], key[1::3], key[2::3])) if len(key) % 3 == 0 else ()

"""What a hook counts in this process: a table of cells for each thread, so that no count is lost and no thread waits.

Rules:
- A thread changes the cells of its own table only. Who reads copies them: the numbers of a cell whose thread is just counting may be one
  apart, and are exact when it has counted.
- A thread that ends leaves its table behind, which is added to the past by whoever looks next.
- The first keys that come are counted apart, up to `MOST_KEYS` in all threads; the others together, as `OTHER`.
- `update(key, value, failed)` is a closure: every name in it is a local one or its own, and nothing that it calls can be a target.
"""

from __future__ import annotations

import weakref
from math import frexp
from typing import Any, Callable, Dict, List, Tuple

from xpc_instrument.core.model.aggregate import MOST_KEYS, OTHER, Cell, Key, Table, merge, new_cell
from xpc_instrument.core.unpatched import Local, RLock

from ..guard import guarded
from .counters import Count

# After so many tables those of threads that have ended are added up.
_TABLES = 64


class _Mine:
    """Dies with its thread."""

    __slots__ = ("__weakref__",)


class _Here(Local):
    table: Table
    mine: _Mine


class Aggregate:
    """The tables of all threads. `unusable` counts what was no number, or none that can be added, and `rejected` what a
    condition has kept from being counted."""

    __slots__ = ("_known", "_lock", "_past", "_tables", "rejected", "unusable", "update")

    def __init__(self) -> None:
        self._lock = RLock()
        self.unusable, self.rejected = Count(), Count()
        self.reset()

    def reset(self) -> None:
        """Begin at zero, in a forked child too, where another thread of the parent may have held the lock."""
        self._lock = RLock()
        self._known: Dict[Key, None] = {}
        self._past: Table = {}
        self._tables: List[Tuple[Callable[[], Any], Table]] = []
        self.unusable.reset()
        self.rejected.reset()
        self.update = self._updating()

    def _updating(self) -> Callable[[Key, Any, Any], None]:
        here = _Here()
        # What these call may be the very target.
        begin, cell_of = guarded(self._begin_thread), guarded(self._new_cell)
        unusable, split = self.unusable.up, frexp
        whole, real = int, float

        def update(key: Key, value: Any, failed: Any) -> None:
            kind = type(value)
            if kind is not real and kind is not whole:
                unusable()
                return
            try:
                table = here.table
            except AttributeError:
                table = begin(here)
            try:
                cell = table[key]
            except KeyError:
                cell = cell_of(table, key)
            try:
                fraction, exponent = split(value)
                # As `bucket_of`.
                if fraction >= 0.5:
                    bucket = (exponent + 1100) * 32 + whole(fraction * 64)
                elif fraction <= -0.5:
                    bucket = -((exponent + 1100) * 32 + whole(fraction * -64))
                elif fraction == 0.0:
                    bucket = 0
                else:
                    unusable()
                    return
            except OverflowError:
                unusable()
                return
            # `min` and `max` take twice as long as all that. First of all, since a cell that has counted anything has both: who reads it
            # meanwhile sends it as JSON, which has no infinity.
            if value < cell[2]:  # noqa: PLR1730
                cell[2] = value
            if value > cell[3]:  # noqa: PLR1730
                cell[3] = value
            buckets = cell[4]
            try:
                buckets[bucket] += 1
            except KeyError:
                buckets[bucket] = 1
            cell[1] += value
            cell[0] += 1
            if failed is not None:
                cell[5] += 1

        return update

    def _begin_thread(self, here: _Here) -> Table:
        table: Table = {}
        here.mine = _Mine()
        with self._lock():
            self._tables.append((weakref.ref(here.mine), table))
            if len(self._tables) > _TABLES:
                self._bury()
        here.table = table
        return table

    def _new_cell(self, table: Table, key: Key) -> Cell:
        if key not in self._known:
            if len(self._known) >= MOST_KEYS:
                key = OTHER
            else:
                self._known[key] = None
        # Under `OTHER` there may be one.
        return table.setdefault(key, new_cell())

    def _bury(self) -> None:
        """Add what threads have counted that have ended. The lock is held."""
        alive: List[Tuple[Callable[[], Any], Table]] = []
        for one in self._tables:
            if one[0]() is None:
                merge(self._past, one[1])
            else:
                alive.append(one)
        self._tables = alive

    def total(self) -> Table:
        """A copy of all that was counted so far."""
        whole: Table = {}
        with self._lock():
            self._bury()
            for table in (self._past, *(table for _, table in self._tables)):
                merge(whole, table.copy())
        return whole

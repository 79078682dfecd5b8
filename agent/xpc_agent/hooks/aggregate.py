"""What a hook counts in this process: a table of cells for each thread, so that no count is lost and no thread waits.

Rules:
- A thread changes the cells of its own table only. Who reads copies them: the numbers of a cell whose thread is just counting may be one
  apart, and are exact when it has counted.
- A thread that ends leaves its table behind, which is added to the past by whoever looks next, unless another thread is just at it.
- The first keys that come are counted apart, up to `MOST_KEYS` in all threads; the others together, as `OTHER`.
- Counting is text (`counting`), which whoever counts puts into a function of its own, with `names()` for its globals: to call a function
  takes a sixth of all that it does. Nothing that it calls can be a target.
- Durations are appended to the list of their key, as which a cell then stands: first what was counted, then those that come. They are
  added up many at once, by C code, which takes a third of the time. That is one step for who reads: the list before, or after it.
- A key of one part is that part, and of numbers that are all the same only how many there were is counted: who reads makes the rest of it.
"""

from __future__ import annotations

import sys
import weakref
from array import array
from collections import Counter, deque
from math import frexp
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple, Union

from xpc_instrument.core.model.aggregate import BUCKETS, COUNT, ERRORS, MOST_KEYS, OTHER, Cell, Key, Table, bucket_of, merge, new_cell
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.unpatched import Brief, Local

from ..generated import compiled
from ..guard import guarded
from .count import Count

# So many durations wait in a cell, or fewer where there are many cells, until they are added up; and in all cells, as there are usually.
_LEAST_PENDING, _MOST_PENDING, _ALL_PENDING = 4, 128, 16_384
# Which half of four bytes is the upper, and what is between it and `bucket_of`: (e + 1100 - 126) * 32 + 32, where e is the exponent in it.
_UPPER = 1 if sys.byteorder == "little" else 0
_OF_HALVES = (1100 - 126) * 32 + 32

# As it was before it was wrapped, should it be a target: what names it asks for no guard.
_length = len

# After so many tables those of threads that have ended are added up.
_TABLES = 64


class _Mine:
    """Dies with its thread."""

    __slots__ = ("__weakref__",)


class _Here(Local):
    table: Table
    cell: List[Any]
    mine: _Mine


# `min` and `max` take twice as long as all that. They come first of all, since a cell that has counted anything has both: who reads it
# meanwhile sends it as JSON, which has no infinity.
_NUMBER = """if value < cell[2]:
        cell[2] = value
    if value > cell[3]:
        cell[3] = value
    buckets = cell[4]
    try:
        buckets[bucket] += 1
    except KeyError:
        buckets[bucket] = 1
    cell[1] += value
    """
_COUNTING = """
    {bucket}{admission}
    try:
        table = here.table
    except AttributeError:
        table = begin_thread()
    try:
        cell = table[key]
    except KeyError:
        cell = cell_of(table, key)
    {number}"""
_PENDING = """cell.append(value)
    if error is not None:
        cell[0][5] += 1
    if length(cell) > room[0]:
        fold(cell)
"""
_COUNTED = """cell[0] += 1
    if error is not None:
        cell[5] += 1
"""
_ADMISSION = """
    if not admitted():
        return"""
# As `bucket_of`.
_BUCKET = """
        fraction, exponent = frexp(value)
        if fraction >= 0.5:
            bucket = (exponent + 1100) * 32 + whole(fraction * 64)
        elif fraction <= -0.5:
            bucket = -((exponent + 1100) * 32 + whole(fraction * -64))
        elif fraction == 0.0:
            bucket = 0
        else:
            unusable()
            return
"""
_ANY = f"""kind = kind_of(value)
    if kind is not real and kind is not whole:
        unusable()
        return
    try:{_BUCKET}
    except OverflowError:
        unusable()
        return
"""
_UPDATE = f"""
def update(key, value, error):
    {_COUNTING.format(bucket=_ANY, admission="", number=_NUMBER + _COUNTED)}
"""


def counting(is_duration: bool, constant: bool, asks: bool = False) -> str:
    """The text that counts `value` under `key`, and under it too whether there was an `error`; `cell` is what it has changed then. With
    `asks` it asks `admitted` of what can be counted. Of durations it calls `fold`, which is to call `Aggregate.fold`."""
    bucket, number = ("", _PENDING) if is_duration else ("", _COUNTED) if constant else (_ANY, _NUMBER + _COUNTED)
    return _COUNTING.format(bucket=bucket, admission=_ADMISSION if asks else "", number=number)


def _folded(pending: List[Any]) -> Cell:
    """A new cell of what was counted, and of the durations behind it. Its buckets are `halves`: see `_of_halves`."""
    count, total, least, most, halves, errors = pending[0]
    values = pending[1:]
    if not values:
        return [*pending[0][:BUCKETS], Counter(halves), errors]
    halves = Counter(halves)
    halves.update(memoryview(array("f", values)).cast("B").cast("H")[_UPPER::2].tolist())
    return [count + len(values), total + sum(values), min(least, *values), max(most, *values), halves, errors]


def _of_halves(cell: Cell) -> Cell:
    """The same with buckets. A half is the upper one of a float of 32 bits: its exponent, and 7 bits of its fraction, of which a bucket has
    5; to make buckets of them takes longer than all else, and less where it is done of many at once."""
    buckets: Dict[int, int] = {}
    for half, number in cell[BUCKETS].items():
        bucket = (half >> 2) + _OF_HALVES if half else 0
        buckets[bucket] = buckets.get(bucket, 0) + number
    return [*cell[:BUCKETS], buckets, cell[ERRORS]]


class Aggregate:
    """The tables of all threads.

    `unusable` counts what was no number, or none that can be added, and `rejected` what a condition has kept from being counted. `single`
    says that keys are one part, `constant` what all numbers are, and `of_durations` that they are such, which `fold` adds up.
    """

    __slots__ = (
        "_cells",
        "_here",
        "_known",
        "_lock",
        "_past",
        "_room",
        "_tables",
        "constant",
        "of_durations",
        "rejected",
        "single",
        "unusable",
        "update",
    )

    update: Callable[[Key, Any, Any], None]
    """`update(key, value, error)` counts one, as `counting` does in a function of its own."""

    def __init__(self, single: bool = False) -> None:
        self.single = single
        self.constant: Optional[Union[int, float]] = None
        self.of_durations = False
        self.unusable, self.rejected = Count(), Count()
        self.reset()

    def reset(self) -> None:
        """Begin at zero, in a forked child too, where another thread of the parent may have held the lock; `names` are others then."""
        self._lock = Brief()
        self._known: Dict[Key, None] = {}
        self._past: Table = {}
        self._tables: Deque[Tuple[Callable[[], Any], Table]] = deque()
        self._here = _Here()
        self._cells, self._room = 0, [_MOST_PENDING]
        self.unusable.reset()
        self.rejected.besides = None
        self.rejected.reset()
        self.update = compiled(__name__, self.names(), _UPDATE)["update"]

    def names(self) -> Dict[str, Any]:
        """What the text of `counting` names."""
        return {
            # What these call may be the very target.
            "begin_thread": guarded(self._begin_thread),
            "cell_of": guarded(self._new_cell),
            "here": self._here,
            "kind_of": type,
            "length": _length,
            "room": self._room,
            "real": float,
            "frexp": frexp,
            "unusable": self.unusable.up,
            "whole": int,
        }

    def _begin_thread(self) -> Table:
        table: Table = {}
        here = self._here
        here.mine = _Mine()
        self._tables.append((weakref.ref(here.mine), table))
        if len(self._tables) > _TABLES:
            with self._lock() as held:
                if held:
                    self._bury()
        here.table = table
        return table

    def _new_cell(self, table: Table, key: Key) -> Cell:
        if key not in self._known:
            if len(self._known) >= MOST_KEYS:
                key = OTHER
            else:
                self._known[key] = None
        self._cells += 1
        self._room[0] = max(_LEAST_PENDING, min(_MOST_PENDING, _ALL_PENDING // self._cells))
        # Under `OTHER` there may be one.
        return table.setdefault(key, [new_cell()] if self.of_durations else new_cell())

    def names_of_one(self) -> Dict[str, Any]:
        """What counts durations of one key, the empty one, where `here.cell` is its cell: see `timed.py`."""
        return {"here": self._here, "cell_here": guarded(self._cell_here), "length": _length, "room": self._room}

    def _cell_here(self) -> List[Any]:
        here = self._here
        table = here.table if hasattr(here, "table") else self._begin_thread()
        cell = here.cell = table.get(()) or self._new_cell(table, ())
        return cell

    def fold(self, cell: List[Any]) -> int:
        """Add up what has come to a cell of durations, in its thread and as work of ours. Returns how many there were."""
        number = len(cell)
        made = _folded(cell[:number])
        # In one step, behind which there may be more.
        cell[:number] = [made]
        return number - 1

    def _plain(self, table: Table) -> Table:
        """A table of cells."""
        # Copied in one step, as its thread goes on.
        if not self.of_durations:
            return table.copy()
        return {key: _of_halves(_folded(cell[:])) for key, cell in table.copy().items()}

    def _bury(self) -> None:
        """Add what threads have counted that have ended. The lock is held."""
        for one in self._tables.copy():
            if one[0]() is None:
                try:
                    self._tables.remove(one)
                except ValueError as error:
                    raise_interrupt(error, of_values=True)
                    continue  # in this same thread, which a signal handler has interrupted
                merge(self._past, self._plain(one[1]))

    def total(self) -> Table:
        """A copy of all that was counted so far."""
        whole: Table = {}
        with self._lock() as held:
            if held:
                self._bury()
            merge(whole, self._past.copy())
            for _, table in self._tables.copy():
                merge(whole, self._plain(table))
        return {self._key_of(key): self._cell_of(cell) for key, cell in whole.items()}

    def _key_of(self, key: Any) -> Key:
        return (key,) if self.single and key != OTHER else key

    def _cell_of(self, cell: Cell) -> Cell:
        number, value = cell[COUNT], self.constant
        if value is None:
            return cell
        made = [number, number * value, value, value, {}, cell[ERRORS]]
        made[BUCKETS][bucket_of(value)] = number
        return made

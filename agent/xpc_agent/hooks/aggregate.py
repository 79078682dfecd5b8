"""What a hook counts in this process: a table of cells for each thread, so that no count is lost and no thread waits.

Rules:
- A thread changes the cells of its own table only. Who reads copies them: the numbers of a cell whose thread is just counting may be one
  apart, and are exact when it has counted.
- A thread that ends leaves its table behind, which is added to the past by whoever looks next, unless another thread is just at it.
- The first keys that come are counted apart, up to `MOST_KEYS` in all threads; the others together, as `OTHER`.
- Counting is text (`counting`), which whoever counts puts into a function of its own, with `names()` for its globals: to call a function
  takes a sixth of all that it does. Nothing that it calls can be a target.
- A key of one part is that part, and of numbers that are all the same only how many there were is counted: who reads makes the rest of it.
"""

from __future__ import annotations

import weakref
from collections import deque
from math import frexp
from typing import Any, Callable, Deque, Dict, Optional, Tuple, Union

from xpc_instrument.core.model.aggregate import BUCKETS, COUNT, ERRORS, MOST_KEYS, OTHER, Cell, Key, Table, bucket_of, merge, new_cell
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.unpatched import Brief, Local

from ..generated import compiled
from ..guard import guarded
from .count import Count

# After so many tables those of threads that have ended are added up.
_TABLES = 64


class _Mine:
    """Dies with its thread."""

    __slots__ = ("__weakref__",)


class _Here(Local):
    table: Table
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
    {number}cell[0] += 1
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
# Of what is no less than zero.
_DURATION = """fraction, exponent = frexp(value)
    bucket = (exponent + 1100) * 32 + whole(fraction * 64) if fraction else 0
"""
_UPDATE = f"""
def update(key, value, error):
    {_COUNTING.format(bucket=_ANY, admission="", number=_NUMBER)}
"""


def counting(is_duration: bool, constant: bool, asks: bool = False) -> str:
    """The text that counts `value` under `key`, and under it too whether there was an `error`; `cell` is what it has changed then. With
    `asks` it asks `admitted` of what can be counted."""
    bucket, number = ("", "") if constant else (_DURATION if is_duration else _ANY, _NUMBER)
    return _COUNTING.format(bucket=bucket, admission=_ADMISSION if asks else "", number=number)


class Aggregate:
    """The tables of all threads. `unusable` counts what was no number, or none that can be added, and `rejected` what a
    condition has kept from being counted. `single` says that keys are one part, and `constant` what all numbers are."""

    __slots__ = ("_here", "_known", "_lock", "_past", "_tables", "constant", "rejected", "single", "unusable", "update")

    update: Callable[[Key, Any, Any], None]
    """`update(key, value, error)` counts one, as `counting` does in a function of its own."""

    def __init__(self, single: bool = False) -> None:
        self.single = single
        self.constant: Optional[Union[int, float]] = None
        self.unusable, self.rejected = Count(), Count()
        self.reset()

    def reset(self) -> None:
        """Begin at zero, in a forked child too, where another thread of the parent may have held the lock; `names` are others then."""
        self._lock = Brief()
        self._known: Dict[Key, None] = {}
        self._past: Table = {}
        self._tables: Deque[Tuple[Callable[[], Any], Table]] = deque()
        self._here = _Here()
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
        # Under `OTHER` there may be one.
        return table.setdefault(key, new_cell())

    def _bury(self) -> None:
        """Add what threads have counted that have ended. The lock is held."""
        for one in self._tables.copy():
            if one[0]() is None:
                try:
                    self._tables.remove(one)
                except ValueError as error:
                    raise_interrupt(error, of_values=True)
                    continue  # in this same thread, which a signal handler has interrupted
                merge(self._past, one[1])

    def total(self) -> Table:
        """A copy of all that was counted so far."""
        whole: Table = {}
        with self._lock() as held:
            if held:
                self._bury()
            for table in (self._past, *(table for _, table in self._tables.copy())):
                merge(whole, table.copy())
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

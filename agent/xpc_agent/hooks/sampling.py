"""Chance: which invocations a hook with `sample` gets. And what is passed over by the row, by whatever condition.

Rules:
- Not each invocation throws a die: it is drawn how many pass before the next that is taken, which is the same to whoever looks, and to pass
  is one step of C code that counts too. What has passed is what is missing of the row.
- A row that is used up is drawn anew by one thread. Others that came to its end as well belong to the next row; while the one is at it,
  they have passed, and are counted apart. None waits.
"""

from __future__ import annotations

import sys
from itertools import repeat
from math import log, log1p
from operator import length_hint
from typing import Any, Callable, Dict, Tuple

from xpc_instrument.core.unpatched import Brief

from .count import Count

# By its own name: the builtin may be the very target, and no guard is up here.
_next = next


class Sampler:
    """`take()` is true for a part `sample` of the invocations, below 1, and then what `count()` gives; `chance()` is from 0 up to 1."""

    __slots__ = ("_apart", "_chance", "_count", "_lock", "_row", "_scale", "_state")

    def __init__(self, sample: float, chance: Callable[[], float], count: Callable[[], Any]) -> None:
        self._scale = log1p(-sample)
        self._chance = chance
        self._count = count
        self._lock = Brief(0.0)
        self._apart = Count()
        # How many have passed in earlier rows, the length of this one, and it.
        self._state: Tuple[int, int, Any]
        self._lay(0)

    def _lay(self, past: int) -> None:
        length = int(min(log(1.0 - self._chance()) / self._scale, sys.maxsize // 2))
        row = repeat(None, length)
        self._state = past, length, row
        self._row = row

    def take(self) -> Any:
        """Whether this invocation is taken."""
        if _next(self._row, 1) is None:
            return False
        return self._end_of_row()

    def _end_of_row(self) -> Any:
        with self._lock() as held:
            if not held:
                # Another thread is drawing.
                self._apart.up()
                return False
            if _next(self._row, 1) is None:
                # Another thread has drawn.
                return False
            past, length, _ = self._state
            self._lay(past + length)
        return self._count()

    @property
    def passed(self) -> int:
        """How many invocations were not taken."""
        past, length, row = self._state
        return past + length - length_hint(row) + self._apart.value


class Passed:
    """How many invocations were passed over by code that takes one step of the global `passed` for each, as `for _ in passed: return`.

    That is counted by C code, without a call. Who finds the row used up calls `one_more`. The globals are not kept
    here: what has counted is kept for longer than what it was counted by.
    """

    __slots__ = ("_apart", "_lock", "_row", "_state")

    def __init__(self) -> None:
        self._lock = Brief(0.0)
        self._apart = Count()
        self._row = repeat(None, 1)
        self._state = 0, 1, self._row

    def lay_for(self, names: Dict[str, Any]) -> None:
        """From now on the row is in these globals."""
        names["passed"] = self._row

    def one_more(self, names: Dict[str, Any], length_of_next: Callable[[], int]) -> None:
        """One is passed over that found the row in these globals used up; how many there are in the next is asked if it is laid now."""
        with self._lock() as held:
            if not held:
                # Another thread is at it.
                self._apart.up()
                return
            if _next(self._row, 1) is not None:
                past, length, _ = self._state
                past, length = past + length, max(1, length_of_next())
                self._row = repeat(None, length)
                self._state = past, length, self._row
                _next(self._row)
            # Also where another thread has laid a row: it may have put it into other globals.
            names["passed"] = self._row

    def count(self) -> int:
        """How many there were."""
        past, length, row = self._state
        return past + length - length_hint(row) + self._apart.value

"""Chance: which invocations a hook with `sample` gets. And what is passed over by the row, by whatever condition.

Rules:
- Not each invocation throws a die: it is drawn how many pass before the next that is taken, which is the same to whoever looks, and to pass
  is one step of C code that counts too. What has passed is what is missing of the row.
- A row that is used up is drawn anew by one thread. Others that came to its end as well belong to the next row.
"""

from __future__ import annotations

import sys
from itertools import repeat
from math import log, log1p
from operator import length_hint
from typing import Any, Callable, Dict

from xpc_instrument.core.unpatched import RLock

# By its own name: the builtin may be the very target, and no guard is up here.
_next = next


class Sampler:
    """`take()` is true for a part `sample` of the invocations, below 1, and then what `count()` gives; `chance()` is from 0 up to 1."""

    __slots__ = ("_chance", "_count", "_length", "_lock", "_past", "_row", "_scale")

    def __init__(self, sample: float, chance: Callable[[], float], count: Callable[[], Any]) -> None:
        self._scale = log1p(-sample)
        self._chance = chance
        self._count = count
        self._past = 0
        self._lock = RLock()
        self._length = self._drawn()
        self._row = repeat(None, self._length)

    def take(self) -> Any:
        """Whether this invocation is taken."""
        if _next(self._row, 1) is None:
            return False
        return self._end_of_row()

    def _end_of_row(self) -> Any:
        with self._lock():
            if _next(self._row, 1) is None:
                # Another thread has drawn.
                return False
            length = self._drawn()
            self._past, self._length, self._row = self._past + self._length, length, repeat(None, length)
        return self._count()

    def _drawn(self) -> int:
        return int(min(log(1.0 - self._chance()) / self._scale, sys.maxsize // 2))

    @property
    def passed(self) -> int:
        """How many invocations were not taken."""
        with self._lock():
            return self._past + self._length - length_hint(self._row)


class Passed:
    """How many invocations were passed over by code that takes one step of the global `passed` for each, as `for _ in passed: return`.

    That is counted by C code, without a call. Who finds the row used up calls `one_more`. `length()` says how many there are in the next.
    """

    __slots__ = ("_length", "_lock", "_names", "_next_length", "_past", "_row")

    def __init__(self, length: Callable[[], int]) -> None:
        self._next_length = length
        self._past = 0
        self._length = 1
        self._row = repeat(None, 1)
        self._names: Dict[str, Any] = {}
        self._lock = RLock()

    def lay_for(self, names: Dict[str, Any]) -> None:
        """From now on the row is in these globals."""
        with self._lock():
            self._names = names
            names["passed"] = self._row

    def one_more(self) -> None:
        """One is passed over that found the row used up."""
        with self._lock():
            if _next(self._row, 1) is None:
                # Another thread has laid a row.
                return
            length = max(1, self._next_length())
            self._past, self._length, self._row = self._past + self._length, length, repeat(None, length)
            _next(self._row)
            self._names["passed"] = self._row

    def count(self) -> int:
        """How many there were."""
        with self._lock():
            return self._past + self._length - length_hint(self._row)

"""A number that threads raise without a lock."""

from __future__ import annotations

import itertools
from typing import Callable, Iterator, Optional


class Count:
    """A number that any thread may raise at any time: `up()` is one step of C code, so that none is lost. `back()` takes one back."""

    __slots__ = ("_back", "_base", "_numbers", "back", "besides", "up")

    def __init__(self) -> None:
        # From 1 on: what `up` gives is true, which admission makes use of.
        self._base = 0
        self._numbers, self._back = itertools.count(1), itertools.count(1)
        self.up, self.back = self._numbers.__next__, self._back.__next__
        # What is counted elsewhere.
        self.besides: Optional[Callable[[], int]] = None

    @property
    def value(self) -> int:
        """How often `up` was called, less how often `back`, and what is counted besides."""
        return _next(self._numbers) - _next(self._back) - self._base + (self.besides() if self.besides is not None else 0)

    def reset(self) -> None:
        """Begin at zero; `up` stays the same function."""
        self._base += self.value


def _next(numbers: Iterator[int]) -> int:
    """The only way to look at it without taking a number."""
    return int(repr(numbers)[len("count(") : -1])

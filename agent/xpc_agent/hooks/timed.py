"""The token of a hook that records an invocation when it has ended, alone inside of the function's own code."""

from __future__ import annotations

from builtins import isinstance as _isinstance  # for where no guard is up: the builtin may be the very target
from time import perf_counter
from typing import Any, Callable, Optional, Tuple

from ..guard import guard
from .gate import Args, Gate

Record = Callable[[Optional[Args], Any, Optional[BaseException], float, float], None]
"""Called as `record(values, result, error, duration, ended)`: the values of all parameters in their order, the duration in seconds, and
when `perf_counter` says that it was over."""


class Timed:
    """Made without an `__init__`, which would take as long as all the rest: see `beginning`."""

    __slots__ = ("ends", "record", "started", "values")

    ends: Tuple[type, ...]
    record: Record
    started: float
    values: Args

    def leave(self, value: Any) -> Any:
        ended = perf_counter()
        if not guard.on:  # an iteration may end in the middle of our work
            self.record(self.values, value, None, ended - self.started, ended)
        return value

    def abandon(self) -> None:
        """Nobody waits."""

    def failed(self, error: BaseException) -> None:
        ended = perf_counter()
        if _isinstance(error, self.ends) and not guard.on:
            self.record(self.values, None, error if _isinstance(error, Exception) else None, ended - self.started, ended)


def beginning(record: Record) -> Callable[[Gate, Args], Tuple[None, Timed]]:
    """The `begin` of a way to a hook that records so."""
    made, clock = Timed, perf_counter

    def begin(gate: Gate, values: Args) -> Tuple[None, Timed]:
        token = made()
        token.ends = gate.ends
        token.record = record
        token.values = values
        token.started = clock()
        return None, token

    return begin

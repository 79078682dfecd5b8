"""The token of a hook that records an invocation when it has ended, alone inside of the function's own code."""

from __future__ import annotations

from builtins import isinstance as _isinstance  # for where no guard is up: the builtin may be the very target
from time import perf_counter
from typing import Any, Callable, Optional, Tuple

from ..guard import guard
from .gate import Args, Gate

Record = Callable[[Optional[Args], Any, Optional[BaseException], float], None]
"""Called as `record(values, result, error, duration)`: the values of all parameters in their order, and the duration in seconds."""


class Timed:
    """Made without an `__init__`, which would take as long as all the rest: see `beginning`."""

    __slots__ = ("ends", "record", "started", "values")

    ends: Tuple[type, ...]
    record: Record
    started: float
    values: Args

    def leave(self, value: Any) -> Any:
        duration = perf_counter() - self.started
        if not guard.on:  # an iteration may end in the middle of our work
            self.record(self.values, value, None, duration)
        return value

    def abandon(self) -> None:
        """Nobody waits."""

    def failed(self, error: BaseException) -> None:
        duration = perf_counter() - self.started
        if _isinstance(error, self.ends) and not guard.on:
            self.record(self.values, None, error if _isinstance(error, Exception) else None, duration)


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

"""A log that many may write to at once: a bounded number of lines of each kind, and a count of the others.

A kind has up to a few lines in a period; what comes on top is counted, and the count is logged at the end of the period, which grows
while that goes on.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Dict, Optional

# Lines of one kind within one period.
_LINES = 3

# A period, in seconds: this long at first, twice as long after each one that was too short for its lines, and so long at most.
_FIRST_PERIOD = 1.0

_LONGEST_PERIOD = 60.0

# Of what a peer sent that is quoted in a line, so many characters.
_LONGEST_LINE = 500


class _Kind:
    """The lines of one kind in their current period."""

    __slots__ = ("end", "lines", "more", "period")

    def __init__(self) -> None:
        self.period = _FIRST_PERIOD
        self.end = 0.0
        self.lines = 0
        self.more = 0


class LogThrottle:
    """Writes lines of several kinds to a log, a bounded number of each. For one thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._kinds: Dict[str, _Kind] = {}

    def log(self, kind: str, level: int, text: str, *args: Any) -> None:
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

    def log_counts(self, now: float, at_once: bool = False) -> None:
        """Log the counts whose period is over, or all."""
        for kind, state in self._kinds.items():
            if state.more and (at_once or now >= state.end):
                self._end(kind, state)
                state.end = now + state.period

    @property
    def due(self) -> Optional[float]:
        """When the next count is to be logged."""
        return min((state.end for state in self._kinds.values() if state.more), default=None)

    def _end(self, kind: str, state: _Kind) -> None:
        if state.more:
            self._logger.warning("%d more like that (%s) within %.0f s", state.more, kind, state.period)
            state.period = min(_LONGEST_PERIOD, state.period * 2)
        else:
            state.period = _FIRST_PERIOD
        state.lines = state.more = 0

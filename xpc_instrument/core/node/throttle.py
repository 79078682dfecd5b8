"""A log that many may write to at once: a bounded number of lines of each kind, and a count of the others.

A kind has up to a few lines in a period; what comes on top is counted, and the count is logged at the end of the period, which grows
while that goes on. A line is one line, whatever a peer has sent that is quoted in it (`one_line`).
"""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Tuple

from ..model.words import one_line
from ..unpatched import allocate_lock, monotonic

# Lines of one kind within one period.
_LINES = 3

# A period, in seconds: this long at first, twice as long after each one that was too short for its lines, and so long at most.
_FIRST_PERIOD = 1.0

_LONGEST_PERIOD = 60.0


class _Kind:
    """The lines of one kind in their current period."""

    __slots__ = ("end", "lines", "more", "period")

    def __init__(self) -> None:
        self.period = _FIRST_PERIOD
        self.end = 0.0
        self.lines = 0
        self.more = 0


class Rates:
    """Which lines may be logged: up to `lines` of a kind in a period, of few kinds. For one thread at a time."""

    def __init__(self, lines: int = _LINES) -> None:
        self._lines = lines
        self._kinds: Dict[str, _Kind] = {}

    def admit(self, kind: str, now: float) -> Tuple[bool, List[str]]:
        """Whether one more line of a kind may be logged, or is one more in the count; and a count that is to be logged before it."""
        state = self._kinds.setdefault(kind, _Kind())
        texts = []
        if now >= state.end:
            texts = _end(kind, state)
            state.end = now + state.period
        if state.lines >= self._lines:
            state.more += 1
            return False, texts
        state.lines += 1
        return True, texts

    def counts(self, now: float, at_once: bool = False) -> List[str]:
        """The counts that are to be logged, since their period is over, or `at_once`."""
        texts = []
        for kind, state in self._kinds.items():
            if state.more and (at_once or now >= state.end):
                texts += _end(kind, state)
                state.end = now + state.period
        return texts

    @property
    def due(self) -> Optional[float]:
        """When the next count is to be logged."""
        return min((state.end for state in self._kinds.values() if state.more), default=None)


def _end(kind: str, state: _Kind) -> List[str]:
    texts = []
    if state.more:
        texts.append(f"{state.more} more like that ({one_line(kind, 60)}) within {state.period:.0f} s")
        state.period = min(_LONGEST_PERIOD, state.period * 2)
    else:
        state.period = _FIRST_PERIOD
    state.lines = state.more = 0
    return texts


class LogThrottle:
    """Writes lines of several kinds to a log, a bounded number of each. For the threads of a host, but not for an application's: it has
    a lock."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rates = Rates()
        self._lock = allocate_lock()

    def log(self, kind: str, level: int, text: str, *args: Any, exc_info: Optional[BaseException] = None) -> None:
        """One line, or one more in the count. Of each text among `args`, which a peer may have sent, it shows the beginning."""
        if not self._logger.isEnabledFor(level):
            return
        with self._lock:
            admitted, counts = self._rates.admit(kind, monotonic())
        self._say(counts)
        if admitted:
            shown = [one if isinstance(one, (int, float)) else one_line(str(one)) for one in args]
            self._logger.log(level, text, *shown, exc_info=exc_info)

    def log_counts(self, now: float, at_once: bool = False) -> None:
        """Log the counts whose period is over, or all."""
        with self._lock:
            counts = self._rates.counts(now, at_once)
        self._say(counts)

    @property
    def due(self) -> Optional[float]:
        """When the next count is to be logged."""
        with self._lock:
            return self._rates.due

    def _say(self, counts: List[str]) -> None:
        for text in counts:
            self._logger.warning("%s", text)

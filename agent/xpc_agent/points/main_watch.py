"""Waiting for what the main program is still to define: nothing tells of a function that has come to be in a module that runs.

A thread looks, from the first hook on such a target until there is none left: at first each hundredth of a second, later twice a second.
Who imports a module meanwhile looks too: a program does that between its definitions.
"""

from __future__ import annotations

from typing import Callable

from xpc_instrument.core.node.threads import start_unseen
from xpc_instrument.core.unpatched import sleep

from ..guard import guard_thread

_AT_FIRST, _AT_MOST, _SLOWER = 0.01, 0.5, 1.02


class MainWatch:
    """`look` makes hookable what is there by now, and says whether something is still to come."""

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self.runs = False

    def begin(self) -> None:
        """Look from now on, in a thread of its own, if it does not yet."""
        if not self.runs:
            self.runs = True
            start_unseen(self._run)

    def end(self) -> None:
        """Look no more."""
        self.runs = False

    def _run(self) -> None:
        guard_thread()
        pause = _AT_FIRST
        while self.runs and self._look():
            sleep(pause)
            pause = min(pause * _SLOWER, _AT_MOST)
        self.runs = False

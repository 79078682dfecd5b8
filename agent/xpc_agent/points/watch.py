"""Waiting for what nothing tells of: what the main program is still to define, and modules that were being imported before anybody asked.

A thread looks, from the first hook on such a target until there is none left: at first each hundredth of a second, later twice a second.
Who imports a module meanwhile has it look at once, and waits for that: a program does so between its definitions. It does not look itself:
who imports may hold the lock of all imports, and what looks may need that of a module which a third thread imports, or the table's. It does
not wait for long either, for the same reason.
"""

from __future__ import annotations

import logging
from threading import get_ident
from typing import Any, Callable, List

from xpc_instrument.core.node.threads import PAUSE_TIMEOUT, Run, ServiceThread
from xpc_instrument.core.unpatched import allocate_lock, monotonic

from ..guard import guard_thread

log = logging.getLogger("xpc_agent")

_AT_FIRST, _AT_MOST, _SLOWER = 0.01, 0.5, 1.02
# How long who imports waits, in seconds, and for how long nobody waits any more if that was not enough.
_WAITED_FOR, _GIVEN_UP = 0.05, 2.0


class Watch:
    """`look` makes hookable what is there by now, and says whether something is still to come."""

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self.runs = False
        self._patience = _AT_FIRST
        self._held = False
        self._ident = 0
        # Of those that wait until it has looked.
        self._waiting: List[Any] = []
        self._given_up = 0.0
        # Released to end a pause.
        self._nap = allocate_lock()
        self._nap.acquire()
        self._thread = ServiceThread(self._run, self.rouse)

    def begin(self) -> None:
        """Look from now on, in a thread of its own, and often at first."""
        self._patience = _AT_FIRST
        self.runs = True
        self._start()

    def end(self) -> None:
        """Look no more."""
        self.runs = False

    def pause(self) -> None:
        """End the thread, for the moment of a fork."""
        self._held = True
        self._thread.end(PAUSE_TIMEOUT)

    def resume(self) -> None:
        """Go on after a pause."""
        self._held = False
        if self.runs:
            self._start()

    def anew(self) -> Watch:
        """In a forked child: another one, which goes on if this one did."""
        watch = Watch(self._look)
        if self.runs:
            watch.begin()
        return watch

    def _start(self) -> None:
        if self._held:
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            log.error("no thread can be started to wait for what a script hooks: it is looked at with the next import: %s", error)

    def look_now(self) -> None:
        """Have it look, and wait until it has, for a moment."""
        if not self._ident or self._ident == get_ident() or self._held or monotonic() < self._given_up:
            return
        looked = allocate_lock()
        looked.acquire()
        self._waiting.append(looked)
        self.rouse()
        if not looked.acquire(True, _WAITED_FOR):
            self._given_up = monotonic() + _GIVEN_UP

    def rouse(self) -> None:
        """Look at once; waits for nothing."""
        try:
            self._nap.release()
        except RuntimeError:
            pass  # it is not asleep, or another was faster

    def _run(self, run: Run) -> None:
        guard_thread()
        self._ident = get_ident()
        try:
            while run.due and self.runs:
                waiting, self._waiting = self._waiting, []
                try:
                    goes_on = self._look()
                finally:
                    for one in waiting:
                        one.release()
                if not goes_on:
                    # Before it is said: who begins it meanwhile starts another thread.
                    run.due = False
                    self.runs = False
                    return
                if not self._waiting:
                    self._nap.acquire(True, self._patience)
                self._patience = min(self._patience * _SLOWER, _AT_MOST)
        finally:
            self._ident = 0

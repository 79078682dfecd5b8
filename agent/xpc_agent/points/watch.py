"""Waiting for what nothing tells of: what the main program is still to define, and modules that were being imported before anybody asked.

A thread looks, from the first hook on such a target until there is none left: at first each hundredth of a second, later twice a second.
Who imports a module meanwhile has it look at once, and waits for that: a program does so between its definitions. It does not look itself:
who imports may hold the lock of all imports, and what looks may need that of a module which a third thread imports, or the table's. It does
not wait for long either, for the same reason.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, List

from xpc_instrument.core.node.threads import PAUSE_TIMEOUT, Run, ServiceThread
from xpc_instrument.core.unpatched import allocate_lock, monotonic

from ..guard import guard_thread

log = logging.getLogger("xpc_agent")

_AT_FIRST, _AT_MOST, _SLOWER = 0.01, 0.5, 1.02
# How long who imports waits, in seconds, and for how long nobody waits any more if that was not enough.
_WAITED_FOR, _GIVEN_UP = 0.05, 2.0
# The same of a program that has been started for this, between its definitions: it holds no lock.
_BEGINNING = 1.0


class Watch:
    """`look` makes hookable what is there by now, and says whether something is still to come."""

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self.runs = False
        self._patience = _AT_FIRST
        self._held = False
        # Who starts the thread: one at a time does.
        self._starter: Dict[str, object] = {}
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
        me = object()
        if self._starter.setdefault("is", me) is not me:
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            log.error("no thread can be started to wait for what a script hooks: it is looked at with the next import: %s", error)
        finally:
            # Twice, as up to Python 3.10 a signal handler may raise at the beginning of the first.
            try:
                self._starter.clear()
            except BaseException:
                self._starter.clear()
                raise

    def look_now(self) -> None:
        """Have it look, and wait until it has, for a moment."""
        if self._may_wait and monotonic() >= self._given_up and not self._wait(_WAITED_FOR):
            self._given_up = monotonic() + _GIVEN_UP

    def look_between(self) -> bool:
        """The same for the main program, between its definitions, though nothing may have seemed to come; whether it has looked."""
        if not self._thread.running:
            self.begin()
        return self._may_wait and self._wait(_BEGINNING)

    @property
    def _may_wait(self) -> bool:
        return self._thread.running and not self._thread.is_this_thread and not self._held

    def _wait(self, within: float) -> bool:
        looked = allocate_lock()
        looked.acquire()
        self._waiting.append(looked)
        self.rouse()
        return bool(looked.acquire(True, within))

    def rouse(self) -> None:
        """Look at once; waits for nothing."""
        try:
            self._nap.release()
        except RuntimeError:
            pass  # it is not asleep, or another was faster

    def _run(self, run: Run) -> None:
        guard_thread()
        try:
            while run.due and self.runs:
                waiting, self._waiting = self._waiting, []
                try:
                    goes_on = self._look()
                finally:
                    _release(waiting)
                if not goes_on:
                    # Before it is said: who begins it meanwhile starts another thread.
                    run.due = False
                    self.runs = False
                    return
                if not self._waiting:
                    self._nap.acquire(True, self._patience)
                self._patience = min(self._patience * _SLOWER, _AT_MOST)
        except Exception:
            run.due = self.runs = False
            log.exception("looking for what a script hooks failed; it is looked at with the next import")
        finally:
            _release(self._waiting)


def _release(waiting: List[Any]) -> None:
    while waiting:
        waiting.pop().release()

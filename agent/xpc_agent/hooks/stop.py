"""A hook of another process that has proceeded and waits for what comes of the original.

Rules:
- It holds a lane in the middle of a call. Whoever has it calls `tell`, or `abandon`. (No `__del__`: what interrupts it would be lost.)
- The time that passes until `tell` is the original's: it does not count against the deadline.
- What goes wrong from here on changes nothing: the outcome of the original stands.
"""

from __future__ import annotations

import sys
from typing import Any, Optional, Union

from xpc_instrument.core.calls.caller import Outgoing
from xpc_instrument.core.calls.outcome import Arguments, Outcome
from xpc_instrument.core.unpatched import get_ident, monotonic
from xpc_instrument.core.wire.wire import Wire

from ..guard import guard, guarded
from .failures import FailingOpen
from .gate import Proceeding


class Stop(Proceeding):
    """Where a call of a hook stands that has proceeded. `changed` are the arguments as the original gets them, if the hook changed them."""

    __slots__ = ("_deadline", "_hook", "_instance", "_lane", "_outgoing", "_since")

    def __init__(self, hook: FailingOpen, lane: Wire, outgoing: Outgoing, deadline: float, instance: Any, arguments: Arguments) -> None:
        self._hook = hook
        self._lane: Optional[Wire] = lane
        self._outgoing = outgoing
        outgoing.handled = sys.exc_info()[1]  # type: ignore[attr-defined]
        self._instance = instance
        lane.stopped_in = get_ident()
        self._halt(deadline, arguments)

    def _halt(self, deadline: float, arguments: Arguments) -> None:
        self._deadline = deadline
        if self._outgoing.is_own(arguments):
            self.changed = None
        elif self._instance is None:
            self.changed = arguments
        else:
            # The hook knows the arguments without it.
            self.changed = (self._instance, *arguments[0]), arguments[1]
        self._since = monotonic()

    def tell(self, outcome: Outcome) -> Union[Outcome, Stop]:
        """Say what came of the original; returns what the hook makes of it, or where it proceeds once more."""
        hook, outgoing, lane = self._hook, self._outgoing, self._lane
        try:
            guard.on = True
            assert lane is not None
            lane.stopped_in = 0
            deadline = self._deadline + (monotonic() - self._since)
            step = outgoing.until_it_proceeds(lane, outgoing.tell(lane, outcome, deadline), deadline, True)
            if isinstance(step, tuple):
                lane.stopped_in = get_ident()
                self._halt(deadline, step)
                return self
            self._lane = None
            hook.answered(lane)
            return step
        except Exception as error:
            self._lane = None
            return hook.after(error, lane, outgoing) or outcome
        except BaseException:
            self._lane = None
            hook.abandon(lane)
            raise
        finally:
            try:
                guard.on = False
            except BaseException:
                # Raised by a handler: the thread would call no hook ever again.
                guard.on = False
                raise

    @guarded
    def abandon(self) -> None:
        """The thread leaves without telling."""
        lane, self._lane = self._lane, None
        if lane is not None:
            self._hook.abandon(lane)

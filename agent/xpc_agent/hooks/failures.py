"""Failing open: what the application gets when a hook of another process fails, decided in one place for all ways of calling it.

Rules:
- Nothing that goes wrong here reaches the application, unless the probe point says `on-failure = "raise"` and the original has not run.
- If the hook fails before it proceeded, the rest of the chain runs as if the hook were not there; if it had proceeded, that outcome stands.
- Once the original has run, its outcome stands: an `after` hook that fails never raises. What a `before` hook itself raises is its own
  affair; with "raise" it keeps the original from running only if it could not be asked or did not answer.
- An exception that an `around` hook raises by mistake is such a failure (the script decides which is one), and so is any error of ours.
- An invocation that is under way while its hook is removed goes on without it; that is no failure.
- What interrupts a thread that is here, such as a time limit of the application, is the application's (`core.model.interrupts`).
- What goes wrong is counted by cause, and logged once per hook and cause (logger `xpc_agent`).
- A lane goes back to the others only after a whole answer. After anything else nobody knows what comes next on it, and it is closed.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Optional, Union

from xpc_instrument.core.calls.caller import Outgoing
from xpc_instrument.core.calls.outcome import Failed, NotFound, Outcome
from xpc_instrument.core.model.errors import ChannelError, DeadlineError, HookFailedError, HookTimeoutError, PayloadError
from xpc_instrument.core.model.interrupts import interrupt_in, raise_interrupt
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.model.words import one_line
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.wire.wire import Wire

from ..guard import guarded
from ..relay import RelayedPeer, RelayLanes
from .admission import Admission, SharedAdmission, SuspensionPolicy
from .counters import HookCounters
from .gate import Way

log = logging.getLogger("xpc_agent")

# The causes by which failures are counted; a subclass comes before its base. That of `Failed` is the script's word, one of a few; anything
# else that is raised is "internal".
_CAUSES = ((DeadlineError, "timeout"), (PayloadError, "payload"), (ChannelError, "channel"))


# What it comes to where a condition fails, as the log says it; and the causes by which failed expressions are counted.
NOT_MET = "that counts as not met"
EXPRESSIONS = ("expression", "condition", "too-much", "would-run-code")


class FailingOpen:
    """One registration of one session on one probe point, as far as it can fail: whose it is, what is counted of it, and its lanes."""

    def __init__(
        self,
        mode: Mode,
        target: str,
        peer: Union[Peer, RelayedPeer],
        number: int,
        *,
        timeout: float,
        on_failure: str,
        terms: Terms,
        suspension: SuspensionPolicy,
        pid: int,
        ended: Callable[[Any], None],
        admission: Optional[SharedAdmission] = None,
    ) -> None:
        self.mode = mode
        self.target = target
        self.session = peer.session
        self.peer = peer
        self.number = number
        # The script has taken it away, or this process leaves.
        self.removed = False
        self.orphan_since = 0.0
        # Where invocations get their lanes.
        self.lanes: Union[LanePool, RelayLanes] = peer.lanes
        self.pid = pid
        self.terms = terms
        self.counters = HookCounters()
        self._timeout = timeout
        self._on_failure = on_failure
        self._ended = ended
        self._logged: Dict[str, bool] = {}
        self._word = "stand-in" if terms.stands_in else f"{mode} hook"
        # Its `take` says whether an invocation calls the hook, counted if it does: admission's own function, without one of ours around it.
        self.way = Way()
        # What is to know that admission has changed.
        self.on_admission: Optional[Callable[[], None]] = None
        self.admission: Admission
        if admission is None:
            self.admission = Admission(terms, self.counters, suspension, install=self._install, ended=lambda: self._ended(self))
        else:
            # Of a registration that has hooks on several targets.
            self.admission = admission
            admission.join(self.counters, self._install)

    @guarded
    def note_condition_error(self, cause: str, text: str) -> None:
        """Its condition could not be evaluated for an invocation, which counts as not met."""
        self.counters.fail(cause)
        if cause not in self._logged:
            self._log_once(
                cause, "has a condition that fails (%s): %s; that counts as not met. Further ones are counted, not logged.", cause, text
            )
            self._notify("expression", message=text)

    @guarded
    def note_condition_rest(self, failures: int, pause: float) -> None:
        """Its condition has failed so often in a row that it is not asked for a while."""
        self.counters.suspend()
        self._log_once("when", "has a condition that failed %d times in a row: the hook rests for %g s, again and again.", failures, pause)
        self._notify("suspended", cause="condition", failures=failures, pause=pause)

    def _install(self, take: Callable[[], Any]) -> None:
        self.way.back = self.counters.calls.back
        self.way.take = take
        if self.on_admission is not None:
            self.on_admission()

    def goes_without(self) -> bool:
        """Whether an invocation that begins is not to be told of when it ends, since the hook is suspended; it is counted as skipped."""
        if not self.admission.resting():
            return False
        self.counters.skipped["suspended"].up()
        return True

    def adopt(self, pool: LanePool, now: float) -> None:
        """In a forked child: wait on `pool` until the session dials this process too."""
        self.lanes, self.orphan_since = pool, now

    def rejoin(self, peer: Union[Peer, RelayedPeer]) -> None:
        """The session has dialled in; its lanes are in `peer` from now on."""
        self.peer, self.lanes, self.orphan_since = peer, peer.lanes, 0.0

    def reset_after_fork(self, pid: int) -> None:
        """In a forked child: count anew."""
        self.pid = pid
        self.counters = HookCounters()
        self.admission.reset(self.counters, self._install)

    # how a call ends ---------------------------------------------------------------------------------------------------

    def answered(self, lane: Wire) -> None:
        """The hook has answered, and the answer could be used."""
        self.lanes.give(lane)
        if self.admission.failures:
            self._recovered()

    def _recovered(self) -> None:
        """It has answered after others of its calls have failed."""
        if self.admission.succeeded():
            self._notify("resumed")

    @guarded
    def after(self, error: Exception, lane: Optional[Wire], outgoing: Optional[Outgoing]) -> Optional[Outcome]:
        """After an error: the outcome that the application gets, or None if the original is still to run.

        What has interrupted the thread is raised on.
        """
        failed = self._failed(error, lane)
        if outgoing is not None:
            outgoing.faults = []
            if outgoing.proceeded is not None:
                return outgoing.proceeded
        if not failed or self._on_failure != "raise" or self.mode is Mode.AFTER:
            return None
        if self.mode is Mode.BEFORE and isinstance(error, Failed) and error.cause == "raised":
            return None
        kind = HookTimeoutError if isinstance(error, DeadlineError) else HookFailedError
        failure = kind(f"the {self._word} of {self.peer.who} on {self.target} failed: {error}")
        failure.__cause__ = error
        return Outcome(error=failure)

    def abandon(self, lane: Optional[Wire]) -> None:
        """The waiting thread is leaving (KeyboardInterrupt, a cancelled task): the lane is in the middle of a call."""
        self.counters.fail("interrupted")
        self.admission.abandoned()
        if lane is not None:
            self.lanes.drop(lane)

    def _failed(self, error: Exception, lane: Optional[Wire]) -> bool:
        """Count and log an error; False if it is none, because the hook was removed meanwhile."""
        if interrupt_in(error) is not None:
            self.abandon(lane)
            raise_interrupt(error)
        answered = isinstance(error, (Failed, NotFound))
        if lane is not None:
            (self.lanes.give if answered else self.lanes.drop)(lane)
        if isinstance(error, NotFound):
            # Removed while this invocation was under way, or used up by the calls of other processes.
            self._ended(self)
            return False
        if self.removed and isinstance(error, ChannelError) and not isinstance(error, DeadlineError):
            return False
        cause = error.cause if isinstance(error, Failed) else next((word for kind, word in _CAUSES if isinstance(error, kind)), "internal")
        self.counters.fail(cause)
        if cause == "timeout" and self.orphan_since:
            self._ended(self)
        if cause == "timeout" and lane is None:
            # Nor was there a lane to count what the thread has waited.
            self.counters.waited(self._timeout)
        raises = self._on_failure == "raise" and self.mode is not Mode.AFTER
        message = one_line(str(error)) or type(error).__name__
        if cause == "timeout" and self.terms.stands_in and cause not in self._logged:
            # The script knows of it only when the stand-in has ended, if it ever does.
            self._notify("given-up", message=message)
        self._log_once(
            cause,
            "failed (%s): %s; the application %s. Further failures of this kind are counted, not logged.",
            cause,
            message,
            "gets an error, unless the original has run" if raises else "goes on without it",
            exc_info=error if cause == "internal" else None,
        )
        if cause == "raised" and self.mode in (Mode.BEFORE, Mode.AFTER):
            # It has answered (`admission.py` says why that is no failure there).
            if self.admission.failures:
                self._recovered()
            return True
        pause = self.admission.failed(cause, self.counters)
        if pause is not None:
            failures = self.admission.failures
            self._log_once(
                "suspended",
                "failed %d times in a row (%s): it is suspended for %s s. Further suspensions are counted, not logged.",
                failures,
                cause,
                pause,
            )
            self._notify("suspended", cause=cause, failures=failures, pause=pause)
        return True

    # who is told -------------------------------------------------------------------------------------------------------

    def _log_once(self, cause: str, text: str, *args: Any, exc_info: Optional[BaseException] = None) -> None:
        """Log what happened to the hook, for the first time that it happens."""
        if cause in self._logged:
            return
        self._logged[cause] = True
        log.warning("the %s of %s on %s " + text, self._word, self.peer.who, self.target, *args, exc_info=exc_info)

    def _tell_expression(self, fault: Exception, outcome: str, cause: str = "expression") -> None:
        """An expression has failed: it is counted, and the first is told in the log and to the script."""
        self.counters.fail(cause)
        if "expression" not in self._logged:
            message = f"{type(fault).__name__}: {one_line(str(fault))}"
            self._log_once("expression", "%s", f"{message}; {outcome}")
            self._notify("expression", message=message)

    @guarded
    def _notify(self, kind: str, **data: Any) -> None:
        """Tell the script what became of its hook, without waiting for it."""
        try:
            self.peer.notify(kind, hook=self.number, target=self.target, pid=self.pid, **data)
        except (OSError, ChannelError) as error:
            raise_interrupt(error)
            # The connection to it is gone, which its owner acts upon.
            log.debug("the script (%s) cannot be told that a hook on %s is %s: %s", self.peer.who, self.target, kind, error)

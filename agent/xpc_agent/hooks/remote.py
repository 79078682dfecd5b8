"""Hooks that live in a probe script: each invocation crosses the channel, with a deadline, and fails open.

Rules:
- Nothing that goes wrong here reaches the application, unless the probe point says `on-failure = "raise"` and the original has not run.
- If the hook fails before it proceeded, the rest of the chain runs as if the hook were not there; if it had proceeded, that outcome stands.
- Once the original has run, its outcome stands: an `after` hook that fails never raises. What a `before` hook itself raises is its own
  affair; with "raise" it keeps the original from running only if it could not be asked or did not answer.
- An invocation that is under way while its hook is removed goes on without it; that is no failure.
- What a signal handler raises in a thread that waits here, such as a time limit of the application, is the application's.
- What goes wrong is counted by cause, and logged once per hook and cause (logger `xpc_agent`).
- Whether an invocation calls the hook at all is admission's affair (`admission.py`), which is told how calls end.
"""

from __future__ import annotations

import logging
import time
import types
from threading import get_ident
from typing import Any, Callable, Dict, List, Optional, Tuple, Type, Union, cast

from xpc_instrument.core.calls.caller import Outgoing
from xpc_instrument.core.calls.outcome import Failed, Meta, NotFound, Outcome
from xpc_instrument.core.model.errors import ChannelError, DeadlineError, HookFailedError, HookTimeoutError, PayloadError
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.protocol.codec import Bytes, Frame
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.values.exceptions import dump_exception
from xpc_instrument.core.values.pickling import Payload, load
from xpc_instrument.core.values.plain import dumper_of_small_calls
from xpc_instrument.core.values.references import Table, is_plain
from xpc_instrument.core.values.traits import PeerProfile
from xpc_instrument.core.wire.wire import Wire

from ..guard import guard, guarded, unguarded
from ..relay import RelayedPeer, RelayLanes, relay_name
from .admission import Admission, SuspensionPolicy
from .counters import HookCounters
from .dispatch import Args, Invocation, Kwargs, next_number, split
from .signal_handlers import raise_on, raised_by_handler

log = logging.getLogger("xpc_agent")

# By its own name: `time:monotonic` may be a target.
_now = time.monotonic

_dump_exception = guarded(dump_exception)


class _Guarded(Outgoing):
    """An outgoing call during whose own work (pickling, answering references) probe points pass through.

    For an `async def` target, whose thread does other things between the steps. A thread that waits is guarded as a whole.
    """

    payload = guarded(Outgoing.payload)
    step = guarded(Outgoing.step)
    answer = guarded(Outgoing.answer)


def _never_small(args: Args, kwargs: Kwargs, meta: Tuple[Any, ...], outcome: Any) -> Optional[bytes]:
    """For a call that goes by name, which has the name beside its record."""
    return None


def _bound(proceed: Callable[..., Any], instance: Any) -> Callable[..., Any]:
    """What a hook that knows the arguments without the instance proceeds to."""
    return proceed if instance is None else types.MethodType(proceed, instance)


class RemoteHook:
    """One registration of one session on one probe point."""

    def __init__(
        self,
        mode: Mode,
        target: str,
        peer: Union[Peer, RelayedPeer],
        number: int,
        style: str,
        traits: PeerProfile,
        *,
        timeout: float,
        on_failure: str,
        terms: Terms,
        suspension: SuspensionPolicy,
        pid: int,
        may_refer: bool,
        signature: Callable[[], Any],
        ended: Callable[[RemoteHook], None],
    ) -> None:
        self.mode = mode
        self.target = target
        self.session = peer.session
        self.peer = peer
        self.number = number
        self.style = style
        # The script has taken it away, or this process leaves.
        self.removed = False
        self.orphan_since = 0.0
        # Where invocations get their lanes.
        self.lanes: Union[LanePool, RelayLanes] = peer.lanes
        self._relayed = relay_name(peer.session, number) if isinstance(peer, RelayedPeer) else b""
        # The record of a call whose values are all plain and small, pickled; None of any other. Most calls are such.
        self._small = _never_small if self._relayed else dumper_of_small_calls(traits.limit)
        self._observing = mode in (Mode.BEFORE, Mode.AFTER)
        self._may_refer = may_refer
        self.pid = pid
        self._traits = traits
        self._timeout = timeout
        self._on_failure = on_failure
        self.terms = terms
        self.counters = HookCounters()
        self._signature = signature
        self._ended = ended
        self._logged: Dict[str, bool] = {}
        # Whether an invocation calls the hook, counted if it does. Admission's own function, without one of ours around it.
        self._take: Callable[[], Any]
        # What a plan of this hook alone calls; None if that is `call_replacing`, or `call_observer` as for an `after`.
        self.sole: Optional[Callable[..., Any]] = self._alone if mode is Mode.BEFORE else None
        self.admission = Admission(terms, self.counters, suspension, install=self._install, ended=lambda: self._ended(self))

    def _install(self, take: Callable[[], Any]) -> None:
        self._take = take

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
        self.admission.reset(self.counters)

    # sending ---------------------------------------------------------------------------------------------------------

    def _conversation(
        self,
        args: Args,
        kwargs: Kwargs,
        instance: Any,
        fixed: Tuple[Any, ...] = (),
        rest: Tuple[Any, ...] = (),
        kind_of: Type[Outgoing] = Outgoing,
    ) -> Outgoing:
        """What keeps the values of a call for as long as the hook may ask for them."""
        table = Table()
        if instance is not None:
            table.add(instance)
        return kind_of(
            self._traits,
            args,
            kwargs,
            fixed,
            rest,
            table=table,
            extras=self._extra,
            observing=self._observing,
            may_refer=self._may_refer,
        )

    def _meta(self, invocation: Invocation) -> Tuple[Any, ...]:
        number, thread, instance = invocation.number, invocation.thread, invocation.instance
        if self.mode is not Mode.AFTER:
            return Meta.at_start(number, self.pid, thread, instance)
        return Meta.at_end(number, self.pid, thread, instance, invocation.exception is not None, invocation.duration)

    def _observation(self, invocation: Invocation, kind_of: Type[Outgoing] = Outgoing) -> Outgoing:
        """The conversation about an invocation that an observer is told of."""
        meta, error = self._meta(invocation), invocation.exception
        args, kwargs, instance = invocation.args, invocation.kwargs, invocation.instance
        if error is None:
            return self._conversation(args, kwargs, instance, (meta,), (invocation.result,), kind_of)
        fixed = (meta, bytes(_dump_exception(error, self._traits)[0]))
        return self._conversation(args, kwargs, instance, fixed, (), kind_of)

    def _small_observation(self, invocation: Invocation) -> Optional[bytes]:
        """The record of an invocation, pickled, if it is small."""
        if invocation.exception is not None:
            return None
        return self._small(invocation.args, invocation.kwargs, self._meta(invocation), invocation.result)

    def _call(self, lane: Wire, payload: Payload) -> List[Bytes]:
        """The frame that calls the hook: by number, or through the host of the address, by name."""
        if lane.account is not self.counters:
            lane.charge(self.counters)
        body, buffers = payload
        if self._relayed:
            return lane.connection.send(Opcode.CALL_NAMED, 0, body, [self._relayed, *buffers])
        return lane.connection.send(Opcode.CALL, self.number, body, buffers)

    def _extra(self, name: str) -> Any:
        if name != "signature":
            raise PayloadError(f"unknown question {name!r:.40}")
        return self._signature()

    # observers -------------------------------------------------------------------------------------------------------

    def call_observer(self, invocation: Invocation) -> None:
        """Call a `before` or `after` hook; raises `HookFailedError` only from `before`, and only with `on-failure = "raise"`."""
        if self._take():
            self._tell(invocation)

    def _alone(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """All of an invocation whose one hook is this `before`: what admission keeps out costs no record of it."""
        if self._take():
            self._tell(Invocation(args, kwargs, bound))
        return original(*args, **kwargs)

    def _tell(self, invocation: Invocation) -> None:
        lane: Optional[Wire] = None
        try:
            # In here, and not just before: up to Python 3.10 a handler may raise between the two.
            guard.on = True
            deadline = _now() + self._timeout
            small = self._small_observation(invocation)
            if small is None:
                outgoing = self._observation(invocation)
                payload = outgoing.payload()
                lane = self.lanes.take(deadline)
                lane.transmit(self._call(lane, payload), deadline)
                frame = lane.recv_frame(deadline)
            else:
                lane = self.lanes.take(deadline)
                if lane.account is not self.counters:
                    lane.charge(self.counters)
                answer = lane.call(self.number, small, deadline)
                if type(answer) is bytes:
                    # What it holds is of no interest, and not loaded.
                    self.lanes.give(lane)
                    if self.admission.failures:
                        self._succeeded()
                    return
                frame = cast(Frame, answer)
                outgoing = self._observation(invocation)
            outgoing.serve(lane, frame, deadline)
            self.lanes.give(lane)
            if self.admission.failures:
                self._succeeded()
        except Exception as error:
            if self._failed(lane, error) and self._forbids(error):
                raise self._failure(error) from error
        except BaseException:
            self._abandon(lane)
            raise
        finally:
            try:
                guard.on = False
            finally:
                # A handler may have raised just before: the thread would call no hook ever again.
                guard.on = False

    async def call_observer_async(self, invocation: Invocation) -> None:
        """Like `call_observer`, on the running loop."""
        if not self._take():
            return
        lane: Optional[Wire] = None
        try:
            deadline = _now() + self._timeout
            # The lane first: what many tasks that wait for one pickle meanwhile would all be done in one turn of the loop.
            lane = self.lanes.take_in_turn() or await self.lanes.take_later(deadline)
            outgoing: Optional[Outgoing] = None
            before, guard.on = guard.on, True
            try:
                small = self._small_observation(invocation)
                if small is None:
                    outgoing = self._observation(invocation, _Guarded)
                    payload = outgoing.payload()
                else:
                    payload = small, ()
                rest = lane.transmit_at_once(self._call(lane, payload))
            finally:
                guard.on = before
            if rest:
                await lane.transmit_async(rest, deadline)
            frame = await lane.recv_frame_async(deadline)
            # What a RETURN holds is of no interest, and not loaded.
            if frame.opcode is not Opcode.RETURN:
                await (outgoing or self._observation(invocation, _Guarded)).serve_async(lane, frame, deadline)
            self.lanes.give(lane)
            if self.admission.failures:
                self._succeeded()
        except Exception as error:
            if self._failed(lane, error) and self._forbids(error):
                raise self._failure(error) from error
        except BaseException:
            self._abandon(lane)
            raise

    # around and instead ----------------------------------------------------------------------------------------------

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """Call an `around` or `instead` hook; returns or raises what the application gets."""
        if not self._take():
            return proceed(*args, **kwargs)
        lane: Optional[Wire] = None
        outgoing: Optional[Outgoing] = None
        outcome: Optional[Outcome]
        try:
            # In here, and not just before: up to Python 3.10 a handler may raise between the two.
            guard.on = True
            deadline = _now() + self._timeout
            instance, own = split(args, bound) if bound else (None, args)
            meta = Meta.at_start(number or next_number(), self.pid, get_ident(), instance)
            small = self._small(own, kwargs, meta, None)
            if small is None:
                outgoing = self._conversation(own, kwargs, instance, (meta,), (None,))
                payload = outgoing.payload()
                lane = self.lanes.take(deadline)
                lane.transmit(self._call(lane, payload), deadline)
                frame = lane.recv_frame(deadline)
            else:
                lane = self.lanes.take(deadline)
                if lane.account is not self.counters:
                    lane.charge(self.counters)
                answer = lane.call(self.number, small, deadline)
                if type(answer) is bytes and is_plain(answer):
                    value = load(answer, ())
                    self.lanes.give(lane)
                    if self.admission.failures:
                        self._succeeded()
                    return value
                frame = Frame(Opcode.RETURN, 0, answer) if type(answer) is bytes else cast(Frame, answer)
                outgoing = self._conversation(own, kwargs, instance, (meta,), (None,))
            outcome = outgoing.serve(lane, frame, deadline, unguarded(_bound(proceed, instance)))
            self.lanes.give(lane)
            if self.admission.failures:
                self._succeeded()
        except Exception as error:
            outcome = self._stands(outgoing, error, self._failed(lane, error))
        except BaseException:
            self._abandon(lane)
            raise
        finally:
            try:
                guard.on = False
            finally:
                # A handler may have raised just before: the thread would call no hook ever again.
                guard.on = False
        if outcome is None:
            return proceed(*args, **kwargs)
        return outcome.get()

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """Like `call_replacing`, on the running loop."""
        if not self._take():
            return await proceed(*args, **kwargs)
        lane: Optional[Wire] = None
        outgoing: Optional[Outgoing] = None
        try:
            deadline = _now() + self._timeout
            # The lane first; see `call_observer_async`.
            lane = self.lanes.take_in_turn() or await self.lanes.take_later(deadline)
            before, guard.on = guard.on, True
            try:
                instance, own = split(args, bound)
                meta = Meta.at_start(number or next_number(), self.pid, get_ident(), instance)
                small = self._small(own, kwargs, meta, None)
                if small is None:
                    outgoing = self._conversation(own, kwargs, instance, (meta,), (None,), _Guarded)
                    payload = outgoing.payload()
                else:
                    payload = small, ()
                rest = lane.transmit_at_once(self._call(lane, payload))
            finally:
                guard.on = before
            if rest:
                await lane.transmit_async(rest, deadline)
            frame = await lane.recv_frame_async(deadline)
            if outgoing is None:
                if frame.opcode is Opcode.RETURN and is_plain(frame.body):
                    before, guard.on = guard.on, True
                    try:
                        value = load(frame.body, frame.buffers)
                        self.lanes.give(lane)
                        if self.admission.failures:
                            self._succeeded()
                    finally:
                        guard.on = before
                    return value
                outgoing = self._conversation(own, kwargs, instance, (meta,), (None,), _Guarded)
            outcome = await outgoing.serve_async(lane, frame, deadline, _bound(proceed, instance))
            self.lanes.give(lane)
            if self.admission.failures:
                self._succeeded()
        except Exception as error:
            stood = self._stands(outgoing, error, self._failed(lane, error))
            if stood is None:
                return await proceed(*args, **kwargs)
            outcome = stood
        except BaseException:
            self._abandon(lane)
            raise
        return outcome.get()

    # failing open ----------------------------------------------------------------------------------------------------

    def _abandon(self, lane: Optional[Wire]) -> None:
        """The waiting thread is leaving (KeyboardInterrupt, a cancelled task): the lane is in the middle of a call."""
        self.counters.fail("interrupted")
        self.admission.abandoned()
        if lane is not None:
            self.lanes.drop(lane)

    def _stands(self, outgoing: Optional[Outgoing], error: Exception, failed: bool) -> Optional[Outcome]:
        """After an error: the outcome that the application gets, or None if the original is still to run."""
        if outgoing is not None and outgoing.proceeded is not None:
            return outgoing.proceeded
        if not failed or self._on_failure != "raise":
            return None
        failure = self._failure(error)
        failure.__cause__ = error
        return Outcome(error=failure)

    def _forbids(self, error: Exception) -> bool:
        """Whether an observer that failed so keeps the original from running."""
        if self._on_failure != "raise" or self.mode is not Mode.BEFORE:
            return False
        return not (isinstance(error, Failed) and error.cause == "raised")

    def _failure(self, error: Exception) -> HookFailedError:
        kind = HookTimeoutError if isinstance(error, DeadlineError) else HookFailedError
        return kind(f"the {self.mode} hook of pid {self.peer.pid} on {self.target} failed: {error}")

    def _failed(self, lane: Optional[Wire], error: Exception) -> bool:
        """Count and log an error; False if it is none, because the hook was removed meanwhile. Raises what a signal handler raised."""
        raised = raised_by_handler(error)
        if raised is not None:
            self._abandon(lane)
            try:
                raise_on(raised)
            finally:
                # Its traceback holds this frame.
                del raised, error
        if lane is not None:
            # After a whole answer the lane is good; after anything else nobody knows what comes next on it.
            if isinstance(error, (Failed, NotFound)):
                self.lanes.give(lane)
            else:
                self.lanes.drop(lane)
        if isinstance(error, NotFound):
            # Removed while this invocation was under way, or used up by the calls of other processes.
            self._ended(self)
            return False
        if self.removed and isinstance(error, ChannelError) and not isinstance(error, DeadlineError):
            return False
        if isinstance(error, Failed):
            cause = error.cause
        elif isinstance(error, DeadlineError):
            cause = "timeout"
        elif isinstance(error, PayloadError):
            cause = "payload"
        elif isinstance(error, ChannelError):
            cause = "channel"
        else:
            cause = "internal"
        self.counters.fail(cause)
        if self.orphan_since and cause == "timeout":
            self._ended(self)
        if lane is None and cause == "timeout":
            # Nor was there a lane to count what the thread has waited.
            self.counters.settle(0, 0, self._timeout, self._timeout)
        self._log_once(
            cause,
            "failed (%s): %s; the application goes on without it. Further failures of this kind are counted, not logged.",
            cause,
            str(error) or type(error).__name__,
            exc_info=error if cause == "internal" else None,
        )
        if cause == "raised":
            # It has answered (`admission.py` says why that is no failure there).
            if self.admission.failures:
                self._succeeded()
            return True
        pause = self.admission.failed(cause)
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

    def _succeeded(self) -> None:
        """A call ended well after others that did not."""
        if self.admission.succeeded():
            self._notify("resumed")

    @guarded
    def _log_once(self, cause: str, text: str, *args: Any, exc_info: Optional[BaseException] = None) -> None:
        """Log what happened to the hook, for the first time that it happens."""
        if cause in self._logged:
            return
        self._logged[cause] = True
        log.warning("the %s hook of pid %d on %s " + text, self.mode, self.peer.pid, self.target, *args, exc_info=exc_info)

    @guarded
    def _notify(self, kind: str, **data: Any) -> None:
        """Tell the script what became of its hook, without waiting for it."""
        try:
            self.peer.notify(kind, hook=self.number, target=self.target, pid=self.pid, **data)
        except (OSError, ChannelError) as error:
            # The connection to it is gone, which its owner acts upon.
            log.debug("the script (pid %d) cannot be told that a hook on %s is %s: %s", self.peer.pid, self.target, kind, error)

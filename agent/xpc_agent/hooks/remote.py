"""Hooks that live in a probe script: each invocation crosses the channel, with a deadline, and fails open.

Rules:
- What an invocation gets whose hook fails is decided in `failures.py`, and nowhere here.
- Whether an invocation calls the hook at all is decided by admission (`admission.py`), which is told how calls end.
- An observer is called as what nests is, with nothing to proceed to; what it answers is not looked at.
- There are two ways to cross, `cross` and `_cross_async`, of the same steps: get a lane, send the values, serve what the hook asks for,
  take its answer. `cross` leaves where the hook proceeds (`stop.py`), and the thread comes back with what came of it. They are not one
  generator of steps with two drivers: to drive one costs 0.7 µs (three steps, beside the same steps called directly), a tenth of what a
  call takes on a hot lane. The thread that waits has its values pickled before it takes a lane from others, and is guarded as a whole; a
  task takes its lane first, and is guarded only while it does not wait.
  `tests/unit/agent/hooks/test_remote.py` holds both against one table of outcomes.
"""

from __future__ import annotations

import sys
import types
from builtins import isinstance as _isinstance  # for where no guard is up: the builtin may be the very target
from threading import get_ident
from typing import Any, Callable, Coroutine, List, Optional, Tuple, Type, Union

from xpc_instrument.core.calls.caller import Outgoing
from xpc_instrument.core.calls.outcome import Arguments, AtEnd, AtStart, Failed, Meta, Outcome, run_original
from xpc_instrument.core.model.errors import PayloadError, XpcError
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import AS_PASSED, Terms
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.protocol.codec import Bytes, Frame
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.unpatched import monotonic
from xpc_instrument.core.values.exceptions import dump_looked_at, load_for_application
from xpc_instrument.core.values.fields import come_of, get_context, set_context
from xpc_instrument.core.values.names import describe
from xpc_instrument.core.values.pickling import Payload, load, load_plain
from xpc_instrument.core.values.plain import dumper_of_small_calls
from xpc_instrument.core.values.records import dumper_of_looked_at_calls
from xpc_instrument.core.values.references import Table, is_plain
from xpc_instrument.core.values.traits import PeerProfile
from xpc_instrument.core.wire.wire import Wire

from ..guard import guard, guarded
from ..relay import RelayedPeer, relay_name
from ..targets.resolve import Kind, Resolved
from .admission import SharedAdmission, SuspensionPolicy
from .alone import after, around
from .failures import FailingOpen
from .gate import ALWAYS, PASS, Args, Form, Gate, Kwargs, Proceeding, Way
from .invocation import Invocation, next_number, split
from .stop import Stop

# Up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_CALL, _CALL_NAMED, _RETURN = Opcode.CALL, Opcode.CALL_NAMED, Opcode.RETURN


_NOW = object()


class _HookCall(Outgoing):
    """An outgoing call that gives the application no error of ours, whoever registered the hook."""

    # What the application handles when it calls the function: of that, what the hook raises is a consequence. Within the function's own
    # code, when it has failed, it handles that.
    handled: Any = _NOW

    def raised(self, body: Bytes) -> Outcome:
        error = load_for_application(body, self.table, self.faults)
        if not any(error is one for one in self.faults):
            if isinstance(error, XpcError):
                raise Failed("raised", f"it raised an error of xpc-instrument, {describe(error)}")
            if self.handled is _NOW:
                come_of(error, sys.exc_info()[1])
            elif get_context(error) is None:
                set_context(error, self.handled)
            else:
                come_of(error, self.handled)
        return Outcome(error=error)


class _Guarded(_HookCall):
    """A hook's call during whose own work (pickling, answering references) probe points pass through.

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


def _finish(step: Any) -> None:
    """What comes of an observer: nothing, or what `on-failure = "raise"` has the application get."""
    if type(step) is Outcome:
        step.get()


async def _nothing_async(*_: Any, **__: Any) -> None:
    """What an observer proceeds to."""


class RemoteHook(FailingOpen):
    """One registration of one session on one probe point.

    One that has several targets has a hook on each, of the same `number`; they are told apart by their `key`, which no other hook of this
    process has, and each of their calls says whose it is.
    """

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
        ended: Callable[[RemoteHook], None],
        may_refer: bool,
        signature: Callable[[], Any],
        key: int = 0,
        admission: Optional[SharedAdmission] = None,
    ) -> None:
        super().__init__(
            mode,
            target,
            peer,
            number,
            timeout=timeout,
            on_failure=on_failure,
            terms=terms,
            suspension=suspension,
            pid=pid,
            ended=ended,
            admission=admission,
        )
        self.key = key or number
        # Stands in the chain in its place, if it has a condition (`conditional.py`).
        self.condition: Any = None
        self._at_start: AtStart = Meta.at_start
        self._at_end: AtEnd = Meta.at_end
        if self.key != number:
            self._at_start, self._at_end = Meta.of_target(target)
        self.style = style
        self._relayed = relay_name(peer.session, number) if isinstance(peer, RelayedPeer) else b""
        # The record of a call whose plain values are all small, pickled; None of any other. Most calls are such.
        self._refers = terms.refers(mode)
        dumper = dumper_of_looked_at_calls if self._refers else dumper_of_small_calls
        self._small = _never_small if self._relayed else dumper(traits.limit)
        self._observing = mode in (Mode.BEFORE, Mode.AFTER)
        self._may_refer = may_refer
        self._traits = traits
        self._signature = signature
        # What a chain of this hook alone calls; None if that is `call_replacing`, or `call_observer` as for an `after`.
        self.sole: Optional[Callable[..., Any]] = self._alone if mode is Mode.BEFORE else None
        # Where a gate leads to such a chain.
        self.alone: Optional[Way] = self.way
        if mode is Mode.AFTER:
            # By chance alone: that may as well be asked when the invocation begins.
            by_chance = self.admission.by_chance
            self.way.begin = after(self, by_chance)
            self.alone = self.way if by_chance else Way(ALWAYS, self.way.begin)
        else:
            self.way.begin = self._before_alone if mode is Mode.BEFORE else around(self)
        # A stand-in, and what a plain manager has registered, is called as the original was.
        self.as_passed = terms.form == AS_PASSED or style == "plain"
        # From the caller's form to the one that it is shown, where that may be another: see `shown_in`.
        self.form: Optional[Form] = None

    def shown_in(self, form: Optional[Form]) -> None:
        """`form` makes the canonical form of any; None where there is no such."""
        self.form = None if self.as_passed else form

    def placed(self, resolved: Resolved, code: Optional[types.CodeType]) -> None:
        """What it is on: the function, and the code that this has when it is not armed, if it is one of Python's. Before it is armed."""

    def not_placed(self, why: str) -> None:
        """Its target cannot be hooked, though the module has come: nobody waits for that answer any more."""
        self._notify("not-hooked", message=why)

    def has_come(self) -> None:
        """Its target has come with its module, and can be hooked."""
        self._notify("hooked", targets=[self.target], came=True)

    def taken_off(self) -> None:
        """It is not on its target any more; invocations may be under way that have begun before."""

    # what is sent ------------------------------------------------------------------------------------------------------

    def _meta(self, invocation: Invocation) -> Tuple[Any, ...]:
        number, thread, instance = invocation.number, invocation.thread, invocation.instance
        if self.mode is not Mode.AFTER:
            return self._at_start(number, self.pid, thread, instance)
        return self._at_end(number, self.pid, thread, instance, invocation.exception is not None, invocation.duration)

    def _conversation(
        self, kind_of: Type[Outgoing], args: Args, kwargs: Kwargs, meta: Tuple[Any, ...], instance: Any, invocation: Optional[Invocation]
    ) -> Outgoing:
        """What keeps the values of a call for as long as the hook may ask for them."""
        table = Table()
        if instance is not None:
            table.add(instance)
        fixed: Tuple[Any, ...] = (meta,)
        rest: Tuple[Any, ...] = (None,)
        if invocation is not None:
            rest = (invocation.result,)
            if invocation.exception is not None:
                fixed, rest = (meta, bytes(dump_looked_at(invocation.exception, self._traits, table)[0])), ()
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
            refers=self._refers,
        )

    def _call(self, lane: Wire, payload: Payload) -> List[Bytes]:
        """The frame that calls the hook: by number, or through the host of the address, by name."""
        if lane.account is not self.counters:
            lane.charge(self.counters)
        body, buffers = payload
        if self._relayed:
            return lane.connection.send(_CALL_NAMED, 0, body, [self._relayed, *buffers])
        return lane.connection.send(_CALL, self.number, body, buffers)

    def _extra(self, name: str) -> Any:
        if name != "signature":
            raise PayloadError(f"unknown question {name!r:.40}")
        return self._signature()

    # calling it --------------------------------------------------------------------------------------------------------

    def call_observer(self, invocation: Invocation) -> None:
        """Call a `before` or `after` hook; raises `HookFailedError` only from `before`, and only with `on-failure = "raise"`."""
        if self.way.take():
            self.observe(invocation)

    def observe(self, invocation: Invocation) -> None:
        """The same for an invocation that admission has let through."""
        args, kwargs = self._form_of(invocation)
        _finish(self.cross(args, kwargs, False, 0, invocation))

    def still_takes(self) -> bool:
        """Whether it is told of an invocation that admission let through at its beginning: not if it was suspended meanwhile."""
        admission = self.admission
        if not admission.suspended or admission.tried_here:
            return True
        self.counters.calls.back()
        self.counters.skipped["suspended"].up()
        return False

    def let_go(self) -> None:
        """An invocation that admission has let through comes to nothing."""
        self.admission.abandoned()

    def call_observer_async(self, invocation: Invocation) -> Coroutine[Any, Any, None]:
        """Like `call_observer`, on the running loop: to be awaited."""
        if self.way.take():
            args, kwargs = self._form_of(invocation)
            return self._cross_async(_nothing_async, args, kwargs, False, 0, invocation)
        return _nothing_async()

    def _form_of(self, invocation: Invocation) -> Tuple[Args, Kwargs]:
        """The arguments of an invocation, less the instance, in the form that this hook is shown."""
        args, kwargs, form = invocation.args, invocation.kwargs, self.form
        if form is None or invocation.canonical:
            return args, kwargs
        if invocation.instance is None:
            return form(args, kwargs)
        args, kwargs = form((invocation.instance, *args), kwargs)
        return args[1:], kwargs

    def _alone(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """All of an invocation whose one hook is this `before`, which needs no record of it."""
        if self.way.take():
            shown = (args, kwargs) if self.form is None else self.form(args, kwargs)
            _finish(self.cross(*shown, bound))
        return original(*args, **kwargs)

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any:
        """Call an `around` or `instead` hook; returns or raises what the application gets."""
        if not self.way.take():
            return proceed(*args, **kwargs)
        shown = (args, kwargs) if self.form is None else self.form(args, kwargs)
        step = self.cross(*shown, bound, number)
        while _isinstance(step, Proceeding):
            changed = step.changed
            outcome = run_original(proceed, args, kwargs) if changed is None else run_original(proceed, *changed)
            step = step.tell(outcome)
        if step is PASS:
            return proceed(*args, **kwargs)
        return step.get() if type(step) is Outcome else step

    def call_replacing_async(
        self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0
    ) -> Coroutine[Any, Any, Any]:
        """Like `call_replacing`, on the running loop: to be awaited."""
        if self.way.take():
            return self._cross_async(proceed, args, kwargs, bound, number)
        coroutine: Coroutine[Any, Any, Any] = proceed(*args, **kwargs)
        return coroutine

    # inside the function's own code ------------------------------------------------------------------------------------

    def goes_inside(self, kind: Kind) -> bool:
        """Whether it can be called from inside the code of a function of that kind, where no hook can be awaited.

        What stands in the original's place has no use for that; and what is shown the form of the call cannot, since nobody sees it there.
        """
        if self.mode is Mode.INSTEAD or self.as_passed:
            return False
        if kind is Kind.SYNC:
            return True
        # What `proceed` of a generator gives is the iterator, which inside its code nobody has.
        return self._observing if kind is Kind.GENERATOR else not self.terms.wait

    def _before_alone(self, gate: Gate, values: Args) -> None:
        args, kwargs = gate.split(values)
        _finish(self.cross(args, kwargs, gate.bound))

    # crossing ----------------------------------------------------------------------------------------------------------

    def cross(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0, invocation: Optional[Invocation] = None) -> Any:
        """Call the hook, which admission has let through, up to where it proceeds or answers.

        Returns a `Proceeding`; or the outcome, a plain value as it is and any other as an `Outcome`; or `PASS` if the rest is to run as if
        the hook were not there.
        """
        lane: Optional[Wire] = None
        outgoing: Optional[Outgoing] = None
        observing = self._observing
        try:
            # In here, and not just before: up to Python 3.10 a handler may raise between the two.
            guard.on = True
            deadline = monotonic() + self._timeout
            if invocation is None:
                instance, own = split(args, bound) if bound else (None, args)
                meta = self._at_start(number or next_number(), self.pid, get_ident(), instance)
                small = self._small(own, kwargs, meta, None)
            else:
                instance, own, meta = invocation.instance, args, self._meta(invocation)
                small = self._small(own, kwargs, meta, invocation.result) if invocation.exception is None else None
            if small is None:
                outgoing = self._conversation(_HookCall, own, kwargs, meta, instance, invocation)
                payload = outgoing.payload()
                lane = self.lanes.take(deadline)
                lane.transmit(self._call(lane, payload), deadline)
                frame = lane.recv_frame(deadline)
            else:
                lane = self.lanes.take(deadline)
                if lane.account is not self.counters:
                    lane.charge(self.counters)
                answer = lane.call(self.number, small, deadline)
                if type(answer) is bytes and (observing or is_plain(answer)):
                    # What an observer answers is of no interest, and not loaded.
                    value = None if observing else load_plain(answer)
                    # As `answered`, one call less.
                    self.lanes.give(lane)
                    if self.admission.failures:
                        self._recovered()
                    return value
                frame = answer if isinstance(answer, Frame) else Frame(_RETURN, 0, answer)
                outgoing = self._conversation(_HookCall, own, kwargs, meta, instance, invocation)
            step = outgoing.until_it_proceeds(lane, frame, deadline, not observing)
            if isinstance(step, tuple):
                return Stop(self, lane, outgoing, deadline, instance, step)
            self.answered(lane)
            return step
        except Exception as error:
            return self.after(error, lane, outgoing) or PASS
        except BaseException:
            self.abandon(lane)
            raise
        finally:
            try:
                guard.on = False
            except BaseException:
                # Raised by a handler: the thread would call no hook ever again.
                guard.on = False
                raise

    async def _cross_async(
        self,
        proceed: Callable[..., Any],
        args: Args,
        kwargs: Kwargs,
        bound: bool,
        number: int = 0,
        invocation: Optional[Invocation] = None,
    ) -> Any:
        lane: Optional[Wire] = None
        outgoing: Optional[Outgoing] = None
        outcome: Optional[Outcome]
        observing = self._observing
        instance: Any = None
        shown = (args, kwargs) if invocation is not None or self.form is None else self.form(args, kwargs)

        def original(changed: Optional[Arguments]) -> Any:
            return proceed(*args, **kwargs) if changed is None else _bound(proceed, instance)(*changed[0], **changed[1])

        try:
            deadline = monotonic() + self._timeout
            # The lane first: what many tasks that wait for one pickle meanwhile would all be done in one turn of the loop.
            lane = self.lanes.take_in_turn() or await self.lanes.take_later(deadline)
            before = guard.on
            try:
                guard.on = True
                own_kwargs = shown[1]
                if invocation is None:
                    instance, own = split(shown[0], bound)
                    meta = self._at_start(number or next_number(), self.pid, get_ident(), instance)
                    small = self._small(own, own_kwargs, meta, None)
                else:
                    instance, own, meta = invocation.instance, args, self._meta(invocation)
                    small = self._small(own, own_kwargs, meta, invocation.result) if invocation.exception is None else None
                if small is None:
                    outgoing = self._conversation(_Guarded, own, own_kwargs, meta, instance, invocation)
                    payload = outgoing.payload()
                else:
                    payload = small, ()
                rest = lane.transmit_at_once(self._call(lane, payload))
            finally:
                try:
                    guard.on = before
                except BaseException:
                    guard.on = before
                    raise
            if rest:
                await lane.transmit_async(rest, deadline)
            frame = await lane.recv_frame_async(deadline)
            if outgoing is None:
                if observing and frame.opcode is _RETURN:
                    self.lanes.give(lane)
                    if self.admission.failures:
                        self._recovered()
                    return None
                if frame.opcode is _RETURN and is_plain(frame.body):
                    before = guard.on
                    try:
                        guard.on = True
                        value = load(frame.body, frame.buffers) if frame.buffers else load_plain(frame.body)
                    finally:
                        try:
                            guard.on = before
                        except BaseException:
                            guard.on = before
                            raise
                    self.answered(lane)
                    return value
                outgoing = self._conversation(_Guarded, own, own_kwargs, meta, instance, invocation)
            outcome = await outgoing.serve_async(lane, frame, deadline, None if observing else original)
            self.answered(lane)
        except Exception as error:
            outcome = self.after(error, lane, outgoing)
        except BaseException:
            self.abandon(lane)
            raise
        if outcome is None:
            return await proceed(*args, **kwargs)
        return outcome.get()

"""The caller's end of one call over a lane.

Rules:
- What the callee asks while it works (to proceed, to read a reference) is served by the calling thread itself, between waits. The call's
  table of references lives as long as the call.
- Where the callee proceeds, a thread that waits leaves (`until_it_proceeds`), runs the original wherever that is, and comes back (`tell`).
- The time budget counts what the caller waits, not what the original takes inside `proceed`.
- An outcome of `proceed` that the callee hands back untouched comes back as a token, so that the caller gets its own object again.
"""

from __future__ import annotations

import json
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple, Union

from ..model.errors import PayloadError, RemoteProtocolError
from ..model.interrupts import raise_interrupt
from ..protocol.codec import Bytes, Frame
from ..protocol.messages import Opcode
from ..unpatched import monotonic
from ..values.exceptions import dump_looked_at, load_exception
from ..values.operations import perform, refusal
from ..values.pickling import RECORD_SLACK, Payload, beside, dump
from ..values.records import dump_record, dump_reference, dump_value
from ..values.references import Table, dump_or_refer, dump_result, load_with_table
from ..values.traits import PeerProfile
from ..wire.wire import Wire
from .outcome import A_REFERENCE, ITEMS, Arguments, Failed, NotFound, Outcome, load_small_json, run_original

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_FAULT, _PROCEED, _REFER, _RESULT, _RETURN = Opcode.FAULT, Opcode.PROCEED, Opcode.REFER, Opcode.RESULT, Opcode.RETURN


class Outgoing:
    """The caller's end of one call. It sends the record `(args, kwargs, *fixed, *rest)`; of that, arguments and parts of `rest` that cannot
    cross are sent as references, `fixed` is sent as it is.

    If it `refers`, so are all that are not plain (`values.records`); then `fixed` and `rest` are two values together.

    `extras` answers questions about the call that are not about an object ("signature", say): name -> JSON value. If the callee only
    observes (`observing`), nothing that it answers is loaded; if it `may_refer`, it may use references, with arguments that are.
    """

    def __init__(
        self,
        profile: PeerProfile,
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        fixed: Tuple[Any, ...] = (),
        rest: Tuple[Any, ...] = (),
        *,
        table: Optional[Table] = None,
        extras: Optional[Callable[[str], Any]] = None,
        observing: bool = False,
        may_refer: bool = True,
        refers: bool = False,
    ) -> None:
        self.profile = profile
        self.table = table or Table()
        self.proceeded: Optional[Outcome] = None
        # What the original has raised, each time that it ran; the callee names them by number. Forgotten at the end of the call: the
        # tracebacks hold the frames that hold this.
        self.faults: List[BaseException] = []
        self._args = args
        self._kwargs = kwargs
        self._fixed = fixed
        self._rest = rest
        self._extras = extras
        self._observing = observing
        self._may_refer = may_refer
        self._refers = refers
        if refers:
            # What the record names was not looked up in a table: most hooks ask for nothing.
            for value in (*args, *kwargs.values(), *rest):
                self.table.add(value)

    # what is sent ------------------------------------------------------------------------------------------------------

    def payload(self) -> Payload:
        """The record, pickled."""
        if self._refers:
            meta, outcome = (*self._fixed, *self._rest)
            return dump_record(self._args, self._kwargs, meta, outcome, not self._rest, self.profile)
        try:
            return dump((beside(self._args), self._kwargs, *self._fixed, *self._rest), self.profile)
        except PayloadError:
            return self._by_reference()

    def _by_reference(self) -> Payload:
        args = tuple(dump_or_refer(self._args, self.table, self.profile))
        values = dump_or_refer(list(self._kwargs.values()), self.table, self.profile)
        rest = dump_or_refer(self._rest, self.table, self.profile)
        try:
            return dump((args, dict(zip(self._kwargs, values)), *self._fixed, *rest), self.profile)
        except PayloadError:
            # Each fits, all together do not.
            refer = self.table.reference_to
            kwargs = {name: refer(value) for name, value in self._kwargs.items()}
            record = (tuple(map(refer, self._args)), kwargs, *self._fixed, *map(refer, self._rest))
            return dump(record, self.profile, RECORD_SLACK)

    def _separately(self) -> Payload:
        """Each part pickled on its own beside a reference to it, for a callee that cannot load all of them."""

        def part(value: Any) -> Tuple[Optional[bytes], Any]:
            reference = self.table.reference_to(value)
            try:
                payload = dump_value(value, self.profile) if self._refers else dump(value, self.profile)
            except PayloadError:
                payload = None  # then the reference alone
            if payload is None:
                return None, reference
            body, buffers = payload
            # What went out of band before goes by reference now: this is the rare way.
            return (None if buffers else bytes(body)), reference

        args = [part(value) for value in self._args]
        kwargs = {name: part(value) for name, value in self._kwargs.items()}
        rest = [part(value) for value in (*self._fixed, *self._rest)]
        return dump((args, kwargs, rest), self.profile, RECORD_SLACK)

    # what comes back -----------------------------------------------------------------------------------------------------

    def step(self, wire: Wire, frame: Frame, has_original: bool) -> Union[Outcome, Arguments, List[Bytes]]:
        """What the callee's frame means: the outcome of the call, the arguments to run the original with, or what answers a question.

        Raises `Failed`, `NotFound` or `PayloadError`.
        """
        opcode = frame.opcode
        if opcode is _REFER:
            return self._refer(wire, frame)
        if opcode is not _PROCEED:
            try:
                return self._end(frame)
            finally:
                self.faults = []
        if not has_original:
            raise RemoteProtocolError("PROCEED, but this call has no original")
        if not frame.body:
            return self._args, self._kwargs
        value = load_with_table(self.table, frame.body, frame.buffers)
        try:
            args, kwargs, kept = value
            return self._with_kept(tuple(args), dict(kwargs), kept)
        except (TypeError, ValueError, LookupError) as error:
            raise RemoteProtocolError("PROCEED without (args, kwargs, kept)") from error

    def _with_kept(self, args: Tuple[Any, ...], kwargs: Dict[str, Any], kept: Dict[int, int]) -> Arguments:
        """The arguments, each that the callee has `kept` as it came, by its place and the place that it came from, the object itself."""
        if not kept:
            return args, kwargs
        came = (*self._args, *self._kwargs.values())
        values = [*args, *kwargs.values()]
        for place, source in kept.items():
            values[place] = came[source]
        return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :]))

    def _refer(self, wire: Wire, frame: Frame) -> List[Bytes]:
        """Perform an operation on a reference; the answer to REFER."""
        try:
            request = load_small_json(frame.body, "REFER")
            op, number, name = request["op"], request["ref"], request["name"]
            if not (isinstance(op, str) and isinstance(number, int) and isinstance(name, str)):
                raise RemoteProtocolError("REFER with fields of the wrong types")
        except (KeyError, TypeError) as error:
            raise RemoteProtocolError("REFER without op, ref and name") from error
        if op == "separately":
            body, buffers = self._separately()
            return wire.connection.send(_RESULT, 0, body, buffers)
        if op == "extra":
            answer = run_original(self._extra, (name,), {})
            if answer.error is None:
                return wire.connection.send(_RESULT, 0, *dump(answer.value, self.profile, RECORD_SLACK))
            raise_interrupt(answer.error, of_values=True)
            return self.answer(wire, answer, refers=True)
        refused = refusal(self.table, op, number, bool(frame.buffers), observing=self._observing, may_refer=self._may_refer)
        if refused is not None:
            # Nothing that came with it has been loaded.
            return self.answer(wire, Outcome(error=PayloadError(refused)), refers=True)
        arguments: Arguments = ((), {})
        if frame.buffers:
            arguments = load_with_table(self.table, bytes(frame.buffers[0]), frame.buffers[1:])
        try:
            outcome = run_original(perform, (self.table, op, number, name, arguments), {})
        except (SystemExit, GeneratorExit) as error:
            # The hook asked, so the hook gets it.
            outcome = Outcome(error=error)
        if outcome.error is not None:
            raise_interrupt(outcome.error, of_values=True)
        elif op == "copy":
            return self._copy(wire, outcome.value)
        elif op == "next":
            taken = outcome.value
            record = dump_record(tuple(taken.items), {}, (taken.ended,), taken.value, False, self.profile, self.table)
            return wire.connection.send(_RESULT, ITEMS, *record)
        return self.answer(wire, outcome, refers=True)

    def _copy(self, wire: Wire, value: Any) -> List[Bytes]:
        """The answer that has a value itself, or says why it cannot cross."""
        try:
            payload = dump(value, self.profile)
        except PayloadError as error:
            raise_interrupt(error, of_values=True)
            return self.answer(wire, Outcome(error=error), refers=True)
        return wire.connection.send(_RESULT, 0, *payload)

    def _extra(self, name: str) -> Any:
        if self._extras is None:
            raise PayloadError(f"this call has no {name!r:.40}")
        return json.dumps(self._extras(name))

    def _proceeded(self, wire: Wire, outcome: Outcome) -> List[Bytes]:
        """The answer to PROCEED."""
        if outcome.error is not None:
            self.faults.append(outcome.error)
        return self.answer(wire, outcome, refers=self._refers)

    def answer(self, wire: Wire, outcome: Outcome, *, refers: bool) -> List[Bytes]:
        """The answer to PROCEED and REFER. If it `refers`, all that is not plain is referred to, not what cannot be pickled alone."""
        if outcome.error is None:
            if not refers:
                return wire.connection.send(_RESULT, 0, *dump_result(outcome.value, self.table, self.profile))
            payload = dump_value(outcome.value, self.profile)
            if payload is not None:
                return wire.connection.send(_RESULT, 0, *payload)
            return wire.connection.send(_RESULT, A_REFERENCE, dump_reference(outcome.value, self.table))
        body, buffers = dump_looked_at(outcome.error, self.profile, self.table)
        return wire.connection.send(_FAULT, 0, body, buffers)

    def _end(self, frame: Frame) -> Outcome:
        """The outcome in a final frame."""
        opcode = frame.opcode
        if opcode is _RETURN:
            return Outcome() if self._observing else Outcome(load_with_table(self.table, frame.body, frame.buffers))
        if opcode in (Opcode.RETURN_SAME, Opcode.RAISE_SAME):
            if self.proceeded is None:
                raise RemoteProtocolError(f"{opcode.name} although the original has not run")
            return self.proceeded
        if opcode is Opcode.RAISE:
            if self._observing:
                raise RemoteProtocolError("RAISE from an observer")
            return self.raised(frame.body)
        if opcode is Opcode.NOT_FOUND:
            raise NotFound("the other side has no such callback any more")
        info = load_small_json(frame.body, "FAILED")
        if not isinstance(info, dict):
            raise RemoteProtocolError("FAILED without an object")
        raise Failed(str(info.get("cause", "")), str(info.get("message", "")))

    def raised(self, body: Bytes) -> Outcome:
        """What comes of a callee that answers with an exception. May raise `Failed` or `PayloadError`."""
        return Outcome(error=load_exception(body, table=self.table))

    # the two ways to wait: the same steps, with and without an event loop ---------------------------------------------------

    def converse(self, wire: Wire, pieces: List[Bytes], deadline: Optional[float]) -> Outcome:
        """Send a call that has no original and serve it to its end in the calling thread."""
        wire.transmit(pieces, deadline)
        outcome = self.until_it_proceeds(wire, wire.recv_frame(deadline), deadline, False)
        assert isinstance(outcome, Outcome)
        return outcome

    def until_it_proceeds(self, wire: Wire, frame: Frame, deadline: Optional[float], has_original: bool) -> Union[Outcome, Arguments]:
        """From a frame of the callee's on: answer what it asks, until it proceeds (the arguments) or ends the call (the outcome)."""
        while True:
            step = self.step(wire, frame, has_original)
            if not isinstance(step, list):
                return step
            wire.transmit(step, deadline)
            frame = wire.recv_frame(deadline)

    def tell(self, wire: Wire, outcome: Outcome, deadline: Optional[float]) -> Frame:
        """Say what came of the original that the callee had proceeded to; the callee's next frame."""
        self.proceeded = outcome
        wire.transmit(self._proceeded(wire, outcome), deadline)
        return wire.recv_frame(deadline)

    def is_own(self, arguments: Arguments) -> bool:
        """Whether what the callee proceeds with is what it was called with, and not changed."""
        # Not the positional ones: where there are none, all are the same.
        return arguments[1] is self._kwargs

    async def serve_async(
        self,
        wire: Wire,
        frame: Frame,
        deadline: Optional[float],
        original: Optional[Callable[[Optional[Arguments]], Awaitable[Any]]] = None,
    ) -> Outcome:
        """From the callee's first frame on, for an `async def` original: awaits the lane and the original on the running loop.

        `original` gets the arguments that the callee has changed, or None where it proceeds with those that it was called with.
        """
        while True:
            step = self.step(wire, frame, original is not None)
            if isinstance(step, Outcome):
                return step
            if isinstance(step, tuple):
                assert original is not None
                started = monotonic()
                try:
                    self.proceeded = Outcome(await original(None if self.is_own(step) else step))
                except Exception as error:
                    self.proceeded = Outcome(error=error)
                if deadline is not None:
                    deadline += monotonic() - started
                step = self._proceeded(wire, self.proceeded)
            await wire.transmit_async(step, deadline)
            frame = await wire.recv_frame_async(deadline)

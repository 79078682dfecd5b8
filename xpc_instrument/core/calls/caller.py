"""One call over a lane, from both ends.

Rules:
- `Outgoing` is the caller's end. What the callee asks while it works (to proceed, to read a reference) is served by the calling
  thread itself, between waits. Its table of references lives as long as the call.
- `Incoming` is the callee's end. Any thread of the callee may ask through it, one at a time, until the call has been answered.
- The time budget counts what the caller waits, not what the original takes inside `proceed`.
- An outcome of `proceed` that the callee hands back untouched comes back as a token, so that the caller gets its own object again.
"""

from __future__ import annotations

import json
import threading
import time
import types
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..model.errors import LocalProtocolError, PayloadError, ReferenceExpiredError, RemoteProtocolError
from ..protocol.codec import Bytes, Frame, load_json
from ..protocol.messages import Opcode
from ..values.exceptions import dump_exception, load_exception
from ..values.pickling import RECORD_SLACK, Payload, Traits, beside, dump
from ..values.references import (
    Asker,
    Reference,
    Table,
    dump_or_refer,
    dump_result,
    dump_with_asker,
    is_unchanged,
    load_with_asker,
    load_with_table,
    perform,
)
from ..wire.wire import Wire

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_CALL_NAMED, _FAULT, _PROCEED, _REFER, _RESULT, _RETURN = (
    Opcode.CALL_NAMED,
    Opcode.FAULT,
    Opcode.PROCEED,
    Opcode.REFER,
    Opcode.RESULT,
    Opcode.RETURN,
)
# What is shorter goes with its header in one piece, in bytes.
_SMALL = 4096
# Nesting of the JSON on lanes: one object of plain values; and its bytes at most. FAILED has a message of 2,000 characters.
_FLAT = 1
_LONGEST_JSON = 64 * 1024

Arguments = Tuple[Tuple[Any, ...], Dict[str, Any]]


class Meta(NamedTuple):
    """What crosses with a call of a probe point beside its values. The instance, if any, is number 0 of the call's table."""

    number: int
    pid: int
    thread: int
    instance_type: str = ""
    instance_text: str = ""
    raised: bool = False
    duration: float = 0.0

    def instance(self, asker: Asker) -> Optional[Reference]:
        """A reference to the instance, or None where there is none."""
        if not self.instance_type:
            return None
        return Reference(asker, 0, self.instance_type, self.instance_text)


INSTANCE_TYPE = Meta._fields.index("instance_type")


def binds(callback: Any) -> bool:
    """Whether a stand-in for a method gets the instance first, as it would if it were assigned in the method's place."""
    return hasattr(type(callback), "__get__") and not isinstance(callback, types.MethodType)


class Failed(Exception):
    """The callee could not answer: `cause` is a word to count by, the message says what happened."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class NotFound(Exception):
    """The callee has no such callback any more."""


class Outcome:
    """What a call ended with: a value, or an exception to raise."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: Optional[BaseException] = None) -> None:
        self.value = value
        self.error = error

    def get(self) -> Any:
        """The value; raises the exception if there is one. To be asked once."""
        # Forgotten: the traceback holds the frames through which it is raised, which hold this.
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self.value


def run_original(original: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Outcome:
    """Call, and keep what comes of it. Only what ends the thread or the process goes straight through."""
    try:
        return Outcome(original(*args, **kwargs))
    except Exception as error:
        return Outcome(error=error)


def _load_small_json(body: Bytes, what: str) -> Any:
    """The JSON of a frame on a lane. Raises `RemoteProtocolError`, before it is parsed if it is longer than any honest side's."""
    if len(body) > _LONGEST_JSON:
        raise RemoteProtocolError(f"{what} of {len(body)} bytes; expected {_LONGEST_JSON} at most")
    return load_json(body, what, _FLAT)


class Outgoing:
    """The caller's end of one call. It sends the record `(args, kwargs, *fixed, *rest)`; of that, arguments and parts of `rest` that cannot
    cross are sent as references, `fixed` is sent as it is.

    `extras` answers questions about the call that are not about an object ("signature", say): name -> JSON value. If the callee only
    observes (`observing`), nothing that it answers is loaded; if it `may_refer`, it may use references, with arguments that are.
    """

    def __init__(
        self,
        traits: Traits,
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        fixed: Tuple[Any, ...] = (),
        rest: Tuple[Any, ...] = (),
        *,
        table: Optional[Table] = None,
        extras: Optional[Callable[[str], Any]] = None,
        observing: bool = False,
        may_refer: bool = True,
    ) -> None:
        self.traits = traits
        self.table = table or Table()
        self.proceeded: Optional[Outcome] = None
        self._args = args
        self._kwargs = kwargs
        self._fixed = fixed
        self._rest = rest
        self._extras = extras
        self._observing = observing
        self._may_refer = may_refer

    # what is sent ------------------------------------------------------------------------------------------------------

    def payload(self) -> Payload:
        """The record, pickled."""
        try:
            return dump((beside(self._args), self._kwargs, *self._fixed, *self._rest), self.traits)
        except PayloadError:
            return self._by_reference()

    def _by_reference(self) -> Payload:
        args = tuple(dump_or_refer(self._args, self.table, self.traits))
        values = dump_or_refer(list(self._kwargs.values()), self.table, self.traits)
        rest = dump_or_refer(self._rest, self.table, self.traits)
        try:
            return dump((args, dict(zip(self._kwargs, values)), *self._fixed, *rest), self.traits)
        except PayloadError:
            # Each fits, all together do not.
            handle = self.table.handle
            kwargs = {name: handle(value) for name, value in self._kwargs.items()}
            record = (tuple(map(handle, self._args)), kwargs, *self._fixed, *map(handle, self._rest))
            return dump(record, self.traits, RECORD_SLACK)

    def _separately(self) -> Payload:
        """Each part pickled on its own beside a handle to it, for a callee that cannot load all of them."""

        def part(value: Any) -> Tuple[Optional[bytes], Any]:
            handle = self.table.handle(value)
            try:
                body, buffers = dump(value, self.traits)
            except PayloadError:
                return None, handle
            # What went out of band before goes by reference now: this is the rare way.
            return (None if buffers else bytes(body)), handle

        args = [part(value) for value in self._args]
        kwargs = {name: part(value) for name, value in self._kwargs.items()}
        rest = [part(value) for value in (*self._fixed, *self._rest)]
        return dump((args, kwargs, rest), self.traits, RECORD_SLACK)

    # what comes back -----------------------------------------------------------------------------------------------------

    def wants_original(self, frame: Frame) -> Optional[Arguments]:
        """For PROCEED: the arguments to run the original with."""
        if frame.opcode is not _PROCEED:
            return None
        if not frame.body:
            return self._args, self._kwargs
        value = load_with_table(self.table, frame.body, frame.buffers)
        if not (isinstance(value, tuple) and len(value) == 2 and type(value[0]) is tuple and type(value[1]) is dict):
            raise RemoteProtocolError("PROCEED without (args, kwargs)")
        return value

    def after_original(self, wire: Wire, outcome: Outcome) -> List[Bytes]:
        """The answer to PROCEED."""
        self.proceeded = outcome
        return self._answer(wire, outcome)

    def after_refer(self, wire: Wire, frame: Frame) -> List[Bytes]:
        """Perform an operation on a reference; the answer to REFER."""
        try:
            request = _load_small_json(frame.body, "REFER")
            op, number, name = request["op"], request["ref"], request["name"]
            if not (isinstance(op, str) and isinstance(number, int) and isinstance(name, str)):
                raise RemoteProtocolError("REFER with fields of the wrong types")
        except (KeyError, TypeError):
            raise RemoteProtocolError("REFER without op, ref and name") from None
        if op == "separately":
            body, buffers = self._separately()
            return wire.connection.send(_RESULT, 0, body, buffers)
        if op == "extra":
            answer = run_original(self._extra, (name,), {})
            if answer.error is None:
                return wire.connection.send(_RESULT, 0, *dump(answer.value, self.traits, RECORD_SLACK))
            outcome = answer
        elif not self._may_refer:
            # Nothing that came with it has been loaded.
            outcome = Outcome(error=PayloadError("the config allows no more than to observe this target: its references cannot be used"))
        else:
            arguments: Arguments = ((), {})
            if frame.buffers:
                arguments = load_with_table(self.table, bytes(frame.buffers[0]), frame.buffers[1:])
            try:
                outcome = run_original(perform, (self.table, op, number, name, arguments), {})
            except (SystemExit, GeneratorExit) as error:
                # The hook asked, so the hook gets it.
                outcome = Outcome(error=error)
        return self._answer(wire, outcome)

    def _extra(self, name: str) -> Any:
        if self._extras is None:
            raise PayloadError(f"this call has no {name!r:.40}")
        return json.dumps(self._extras(name))

    def _answer(self, wire: Wire, outcome: Outcome) -> List[Bytes]:
        if outcome.error is None:
            body, buffers = dump_result(outcome.value, self.table, self.traits)
            return wire.connection.send(_RESULT, 0, body, buffers)
        body, buffers = dump_exception(outcome.error, self.traits)
        return wire.connection.send(_FAULT, 0, body, buffers)

    def end(self, frame: Frame) -> Outcome:
        """The outcome in a final frame. Raises `Failed`, `NotFound` or `PayloadError`."""
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
            return Outcome(error=load_exception(frame.body, table=self.table))
        if opcode is Opcode.NOT_FOUND:
            raise NotFound("the other side has no such callback any more")
        info = _load_small_json(frame.body, "FAILED")
        if not isinstance(info, dict):
            raise RemoteProtocolError("FAILED without an object")
        raise Failed(str(info.get("cause", "failed"))[:40], str(info.get("message", ""))[:2000])

    # the two ways to wait --------------------------------------------------------------------------------------------------

    def converse(
        self,
        wire: Wire,
        pieces: List[Bytes],
        deadline: Optional[float],
        original: Optional[Callable[..., Any]] = None,
    ) -> Outcome:
        """Send the call and serve it to its end in the calling thread."""
        wire.transmit(pieces, deadline)
        return self.serve(wire, wire.hear(deadline), deadline, original)

    def serve(self, wire: Wire, frame: Frame, deadline: Optional[float], original: Optional[Callable[..., Any]] = None) -> Outcome:
        """From the callee's first frame on: do what it asks for, to the end."""
        while True:
            if frame.opcode is _REFER:
                wire.transmit(self.after_refer(wire, frame), deadline)
                frame = wire.hear(deadline)
                continue
            if frame.opcode is _PROCEED and original is None:
                raise RemoteProtocolError("PROCEED, but this call has no original")
            arguments = self.wants_original(frame)
            if arguments is None:
                return self.end(frame)
            assert original is not None
            started = time.monotonic()
            outcome = run_original(original, *arguments)
            if deadline is not None:
                deadline += time.monotonic() - started
            self.proceeded = outcome
            wire.transmit(self.after_original(wire, outcome), deadline)
            frame = wire.hear(deadline)

    async def serve_async(
        self, wire: Wire, frame: Frame, deadline: Optional[float], original: Optional[Callable[..., Any]] = None
    ) -> Outcome:
        """Like `serve` for an `async def` original: awaits the lane and the original on the running loop."""
        while True:
            if frame.opcode is _REFER:
                await wire.transmit_async(self.after_refer(wire, frame), deadline)
                frame = await wire.hear_async(deadline)
                continue
            if frame.opcode is _PROCEED and original is None:
                raise RemoteProtocolError("PROCEED, but this call has no original")
            arguments = self.wants_original(frame)
            if arguments is None:
                return self.end(frame)
            assert original is not None
            started = time.monotonic()
            try:
                outcome = Outcome(await original(*arguments[0], **arguments[1]))
            except Exception as error:
                outcome = Outcome(error=error)
            if deadline is not None:
                deadline += time.monotonic() - started
            self.proceeded = outcome
            await wire.transmit_async(self.after_original(wire, outcome), deadline)
            frame = await wire.hear_async(deadline)


def _copied(buffers: Sequence[Bytes]) -> Sequence[Bytes]:
    """Copies of those that can be written: a hook may change in place what is loaded over them."""
    return [buffer if type(buffer) is bytes else bytearray(buffer) for buffer in buffers]


class Incoming:
    """The callee's end of one call."""

    # Most calls are answered before any of these is anything else.
    _answered = False
    _original: Optional[Frame] = None
    _original_value: Any = None

    def __init__(self, wire: Wire, frame: Frame, traits: Traits) -> None:
        self.traits = traits
        self._wire = wire
        self._frame = frame
        self._lock = threading.Lock()

    def record(self, apart: bool = False) -> Tuple[Any, ...]:
        """The caller's record `(args, kwargs, *rest)`; what cannot be loaded here is a `Reference`.

        With `apart` nothing in it lies in the frame itself, so that `has_as_it_came` can tell whether it was changed.
        """
        # For CALL_NAMED the first buffer is the name.
        buffers = self._frame.buffers[1:] if self._frame.opcode is _CALL_NAMED else self._frame.buffers
        try:
            value = load_with_asker(self, self._frame.body, _copied(buffers) if apart else buffers)
        except PayloadError:
            return self._load_separately()
        if not isinstance(value, tuple) or len(value) < 2:
            raise RemoteProtocolError("a call without (args, kwargs)")
        return value

    def _load_separately(self) -> Tuple[Any, ...]:
        frame = self._ask({"op": "separately", "ref": 0, "name": ""}, ())
        args, kwargs, rest = load_with_asker(self, frame.body, frame.buffers)

        def part(pair: Tuple[Optional[bytes], Any]) -> Any:
            body, reference = pair
            if body is None:
                return reference
            try:
                return load_with_asker(self, body, ())
            except PayloadError:
                return reference

        return (tuple(map(part, args)), {name: part(value) for name, value in kwargs.items()}, *map(part, rest))

    def plain_arguments(self, callback: Callable[..., Any], record: Tuple[Any, ...]) -> Arguments:
        """What to call a stand-in with: the caller's arguments, after the instance where the stand-in binds as a method."""
        if len(record) > 2 and len(record[2]) > INSTANCE_TYPE and binds(callback):
            instance = Meta(*record[2]).instance(self)
            if instance is not None:
                return (instance, *record[0]), record[1]
        return record[0], record[1]

    # asking back -----------------------------------------------------------------------------------------------------------

    def _ask(self, request: Dict[str, Any], buffers: Sequence[Bytes]) -> Frame:
        body = json.dumps(request).encode()
        return self._exchange(_REFER, body, buffers)

    def _exchange(self, opcode: Opcode, body: Bytes, buffers: Sequence[Bytes]) -> Frame:
        with self._lock:
            if self._answered:
                raise ReferenceExpiredError("the call has ended: read what you need of a reference while the hook runs")
            self._say(opcode, body, buffers)
            return self._wire.hear(None)

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        """One operation on a reference. Raises what the object raised over there."""
        buffers: List[Bytes] = []
        if payload is not None:
            inner, more = dump_with_asker(self, payload, self.traits)
            buffers = [inner, *more]
        frame = self._ask({"op": op, "ref": number, "name": name}, buffers)
        return self._result(frame)

    def extra(self, name: str) -> Any:
        """Something about the call that the caller knows, as JSON."""
        return json.loads(self._result(self._ask({"op": "extra", "ref": 0, "name": name}, ())))

    def proceed(self, arguments: Optional[Arguments]) -> Any:
        """Have the caller run the original, with its own arguments or these; returns or raises what the original did."""
        body: Bytes = b""
        buffers: Sequence[Bytes] = ()
        if arguments is not None:
            body, buffers = dump_with_asker(self, arguments, self.traits)
        frame = self._exchange(_PROCEED, body, buffers)
        self._original = frame
        try:
            self._original_value = self._result(frame, apart=True)
        except BaseException as error:
            self._original_value = error
            raise
        return self._original_value

    def _result(self, frame: Frame, apart: bool = False) -> Any:
        if frame.opcode is _FAULT:
            raise load_exception(frame.body, asker=self)
        return load_with_asker(self, frame.body, _copied(frame.buffers) if apart else frame.buffers)

    # answering ---------------------------------------------------------------------------------------------------------------

    def _finish(self, opcode: Opcode, body: Bytes = b"", buffers: Sequence[Bytes] = ()) -> None:
        with self._lock:
            if self._answered:
                raise LocalProtocolError("this call has been answered already")
            self._answered = True
            self._say(opcode, body, buffers)

    def _say(self, opcode: Opcode, body: Bytes, buffers: Sequence[Bytes]) -> None:
        if buffers or len(body) > _SMALL:
            self._wire.send(None, opcode, 0, body, buffers)
        else:
            self._wire.put(opcode, 0, body, None)

    def done(self) -> None:
        """Answer that an observer has observed."""
        self._finish(_RETURN, _NONE)

    def has_as_it_came(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> bool:
        """Whether the arguments that came with the call have not been changed in place: a fresh copy pickles to the same bytes."""
        try:
            return dump_with_asker(self, (args, kwargs), self.traits) == dump_with_asker(self, self.record(apart=True)[:2], self.traits)
        except PayloadError:
            return True  # what cannot go back cannot have been meant to

    def give(self, value: Any) -> None:
        """Answer with a value. Raises `PayloadError`, without having answered, if it cannot cross."""
        original = self._original
        if (
            original is not None
            and original.opcode is _RESULT
            and value is self._original_value
            and is_unchanged(self, value, original.body, _copied(original.buffers), self.traits)
        ):
            self._finish(Opcode.RETURN_SAME)
            return
        body, buffers = dump_with_asker(self, value, self.traits)
        self._finish(_RETURN, body, buffers)

    def throw(self, error: BaseException) -> None:
        """Answer with an exception, to be raised at the caller."""
        if self._original is not None and error is self._original_value:
            self._finish(Opcode.RAISE_SAME)
            return
        body, buffers = dump_exception(error, self.traits, self)
        self._finish(Opcode.RAISE, body, buffers)

    def fail(self, cause: str, message: str) -> None:
        """Answer that no answer can be given."""
        self._finish(Opcode.FAILED, json.dumps({"cause": cause, "message": message[:2000]}).encode())

    def cool(self) -> None:
        """Have what was said last be noticed, whatever this thread does next."""
        self._wire.cool()

    def not_found(self) -> None:
        """Answer that there is no such callback."""
        self._finish(Opcode.NOT_FOUND)


_NONE = dump(None, Traits("", "", 1024))[0]

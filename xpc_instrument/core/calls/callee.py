"""The callee's end of one call over a lane.

Rules:
- Any thread of the callee may ask back through it, one at a time, until the call has been answered.
- What `proceed` gave and the callee hands back untouched is answered with a token: the caller has the object.
- The time that the original takes in `proceed` puts off the instant at which the call counts as arrived (`Wire.arrived`).
"""

from __future__ import annotations

import json
import pickle
import threading
import types
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..model.errors import ChannelError, LocalProtocolError, PayloadError, ReferenceExpiredError, RemoteProtocolError
from ..protocol.codec import Bytes, Frame
from ..protocol.messages import Opcode
from ..unpatched import monotonic
from ..values.ancestry import Ancestry
from ..values.exceptions import dump_exception, load_exception
from ..values.pickling import load_plain
from ..values.plain import ATOMS, PROTOCOL, alike
from ..values.records import fill, load_reference
from ..values.references import Reference, dump_with_asker, is_plain, is_unchanged, load_with_asker
from ..values.traits import PeerProfile
from ..wire.wire import Wire
from .outcome import A_REFERENCE, INSTANCE_TYPE, ITEMS, Arguments, Meta

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_CALL_NAMED, _FAULT, _PROCEED, _REFER, _RESULT, _RETURN = (
    Opcode.CALL_NAMED,
    Opcode.FAULT,
    Opcode.PROCEED,
    Opcode.REFER,
    Opcode.RESULT,
    Opcode.RETURN,
)
# What need not be loaded again to see whether it was changed.
UNCHANGING = ATOMS | {Reference}
# A record of more parts has references.
WITHOUT_REFERENCES = 4
Changed = Tuple[Tuple[Any, ...], Dict[str, Any], Dict[int, int]]
"""Arguments, and which of them are as they came: their places now and then, each counted over `args` and then `kwargs`."""

_NONE = pickle.dumps(None, PROTOCOL)
_NOBODY_WAITS = "the application waits for this call no longer: past its deadline, or what called has been interrupted or has ended"


def binds(callback: Any) -> bool:
    """Whether a stand-in for a method gets the instance first, as it would if it were assigned in the method's place."""
    return hasattr(type(callback), "__get__") and not isinstance(callback, types.MethodType)


def _is_same(places: Tuple[int, int]) -> bool:
    return places[0] == places[1]


def _copied(buffers: Sequence[Bytes]) -> Sequence[Bytes]:
    """Copies of those that can be written: a hook may change in place what is loaded over them."""
    return [buffer if type(buffer) is bytes else bytearray(buffer) for buffer in buffers]


class Incoming:
    """The callee's end of one call."""

    # Most calls are answered before any of these is anything else.
    _answered = False
    _hook_over = False
    _original: Optional[Frame] = None
    _original_value: Any = None
    # All that the original has raised: it may have run more than once.
    _raised: Sequence[BaseException] = ()
    broken: Optional[ChannelError] = None
    """What was raised by asking back when the caller was gone already."""

    def __init__(self, wire: Wire, frame: Frame, profile: PeerProfile) -> None:
        self.profile = profile
        self._wire = wire
        self._frame = frame
        self._lock = threading.Lock()

    def record(self, apart: bool = False) -> Tuple[Any, ...]:
        """The caller's record `(args, kwargs, *rest)`; what cannot be loaded here is a `Reference`.

        With `apart` nothing in it lies in the frame itself, so that `changed` can tell whether it was changed in place.
        """
        frame = self._frame
        body, buffers = frame.body, frame.buffers
        if frame.opcode is _CALL_NAMED:
            # Its first buffer is the name.
            buffers = buffers[1:]
        try:
            if not buffers and is_plain(body):
                # As below, in most calls: one call fewer.
                value = load_plain(body)
            else:
                value = load_with_asker(self, body, _copied(buffers) if apart else buffers)
        except PayloadError:
            return self._load_separately()
        if not isinstance(value, tuple) or len(value) < 2:
            raise RemoteProtocolError("a call without (args, kwargs)")
        return value if len(value) <= WITHOUT_REFERENCES else fill(value, self)

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

    @property
    def ancestries(self) -> Dict[str, Ancestry]:
        """What is known of the caller's classes."""
        return self.profile.ancestries

    def no_more(self) -> None:
        """The callee has failed: to say so asks the caller nothing, whatever is in the exception."""
        self._hook_over = True

    # asking back -----------------------------------------------------------------------------------------------------------

    def _ask(self, request: Dict[str, Any], buffers: Sequence[Bytes]) -> Frame:
        body = json.dumps(request).encode()
        return self._exchange(_REFER, body, buffers)

    def _exchange(self, opcode: Opcode, body: Bytes, buffers: Sequence[Bytes]) -> Frame:
        with self._lock:
            if self._answered or self._hook_over:
                raise ReferenceExpiredError(
                    "the call has ended, and its references with it: read what you need, or ask .copy(), while the hook runs"
                )
            try:
                self._wire.send_frame(opcode, 0, body, None, buffers)
                return self._wire.recv_frame(None)
            except RemoteProtocolError as error:
                self.broken = error
                raise
            except ChannelError:
                self.broken = ChannelError(_NOBODY_WAITS)
            raise self.broken

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        """One operation on a reference. Raises what the object raised over there."""
        buffers: List[Bytes] = []
        if payload is not None:
            inner, more = dump_with_asker(self, payload, self.profile)
            buffers = [inner, *more]
        frame = self._ask({"op": op, "ref": number, "name": name}, buffers)
        return self._result(frame)

    def extra(self, name: str) -> Any:
        """Something about the call that the caller knows, as JSON."""
        return json.loads(self._result(self._ask({"op": "extra", "ref": 0, "name": name}, ())))

    def proceed(self, arguments: Optional[Changed]) -> Any:
        """Have the caller run the original, with its own arguments or those that are `changed`; returns or raises what the original did."""
        body: Bytes = b""
        buffers: Sequence[Bytes] = ()
        if arguments is not None:
            body, buffers = dump_with_asker(self, arguments, self.profile)
        frame = self._exchange(_PROCEED, body, buffers)
        self._wire.arrived += monotonic() - self._wire.since
        self._original = frame
        try:
            self._original_value = self._result(frame, apart=True)
        except BaseException as error:
            self._original_value = error
            if frame.opcode is _FAULT:
                self._raised = [*self._raised, error]
            raise
        return self._original_value

    def _result(self, frame: Frame, apart: bool = False) -> Any:
        if frame.opcode is _FAULT:
            raise load_exception(frame.body, asker=self)
        if frame.ident == A_REFERENCE:
            return load_reference(frame.body, self)
        if frame.ident == ITEMS:
            return fill(load_with_asker(self, frame.body, frame.buffers), self)
        return load_with_asker(self, frame.body, _copied(frame.buffers) if apart else frame.buffers)

    # answering ---------------------------------------------------------------------------------------------------------------

    def _finish(self, opcode: Opcode, body: Bytes = b"", buffers: Sequence[Bytes] = ()) -> None:
        if self._lock.locked():
            self.overtaken()
        with self._lock:
            if self._answered:
                raise LocalProtocolError("this call has been answered already")
            if self.broken is not None:
                raise self.broken
            self._answered = True
            self._wire.send_frame(opcode, 0, body, None, buffers)

    def overtaken(self) -> None:
        """An answer is there while another thread of the callee still asks back: it waits until that has ended."""

    def done(self) -> None:
        """Answer that an observer has observed."""
        self._finish(_RETURN, _NONE)

    def changed(self, came: Arguments, now: Arguments) -> Optional[Changed]:
        """The arguments now, and which of them are still as they came: None if all are, and so in their places.

        One counts as it came if it is equal in type and value, or if it is the object that came, wherever it stands now, and was not
        changed in place.
        """
        args, kwargs = came
        values = [*args, *kwargs.values()]
        places = {id(value): place for place, value in enumerate(values)}
        fresh: List[Any] = []

        def is_as_it_came(value: Any, place: int) -> bool:
            original = values[place]
            if type(original) in UNCHANGING:
                return value is original or alike(value, original)
            if not fresh:
                # Loaded once more: nothing of these was given to the hook.
                again = self.record(apart=True)
                fresh.extend([*again[0], *again[1].values()])
            return self._is_alike(value, original, fresh[place])

        # Where each stood if it was not moved; -1 for one that is new.
        own = {name: place for place, name in enumerate(kwargs, len(args))}
        before = [place if place < len(args) else -1 for place in range(len(now[0]))] + [own.get(name, -1) for name in now[1]]
        rest = [*now[0], *now[1].values()]
        kept: Dict[int, int] = {}
        for place, (value, stood) in enumerate(zip(tuple(rest), before)):
            source = stood if stood >= 0 and value is values[stood] else places.get(id(value), stood)
            if source >= 0 and is_as_it_came(value, source):
                kept[place] = source
                rest[place] = None
        count = len(now[0])
        if (
            len(kept) == len(rest) == len(values)
            and count == len(args)
            and list(now[1]) == list(kwargs)
            and all(map(_is_same, kept.items()))
        ):
            return None
        return tuple(rest[:count]), dict(zip(now[1], rest[count:])), kept

    def _is_alike(self, value: Any, original: Any, fresh: Any) -> bool:
        """Whether a value is as one that came, of which `fresh` is another copy."""
        if alike(value, fresh):
            return True
        if value is not original:
            return False
        try:
            return dump_with_asker(self, value, self.profile) == dump_with_asker(self, fresh, self.profile)
        except PayloadError:
            return True  # what cannot go back cannot have been meant to

    def _is_outcome_of_original(self, value: Any) -> bool:
        """Whether a value is what the original gave, and was not changed in place."""
        frame, given = self._original, self._original_value
        if frame is None or frame.opcode is not _RESULT or type(value) is not type(given):
            return False
        if type(given) in UNCHANGING:
            return value is given or alike(value, given)
        buffers = _copied(frame.buffers)
        if value is given and not alike(value, value):
            return is_unchanged(self, value, frame.body, buffers, self.profile)
        return alike(value, load_with_asker(self, frame.body, buffers))

    def give(self, value: Any) -> None:
        """Answer with a value. Raises `PayloadError`, without having answered, if it cannot cross."""
        if self._is_outcome_of_original(value):
            self._finish(Opcode.RETURN_SAME)
            return
        body, buffers = dump_with_asker(self, value, self.profile)
        self._finish(_RETURN, body, buffers)

    def has_raised(self, error: BaseException) -> bool:
        """Whether it is what the original has raised, now or before."""
        return any(one is error for one in self._raised)

    def throw(self, error: BaseException) -> None:
        """Answer with an exception, to be raised at the caller."""
        self.no_more()
        if self._original is not None and error is self._original_value:
            self._finish(Opcode.RAISE_SAME)
            return
        body, buffers = dump_exception(error, self.profile, self, self._raised)
        self._finish(Opcode.RAISE, body, buffers)

    def fail(self, cause: str, message: str) -> None:
        """Answer that no answer can be given."""
        self._finish(Opcode.FAILED, json.dumps({"cause": cause, "message": message[:2000]}).encode())

    def stop_polling(self) -> None:
        """Have what was said last be noticed, whatever this thread does next."""
        self._wire.stop_polling()

    def not_found(self) -> None:
        """Answer that there is no such callback."""
        self._finish(Opcode.NOT_FOUND)

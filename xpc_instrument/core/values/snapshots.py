"""Events, the invocations that nobody waits for, as plain data: packed in the application, unpacked in the probe script.

Rules:
- An event shows the values as they were at the call. What cannot be changed in place is its own snapshot; a small container of such values
  is copied; all else is pickled at once, by the thread that has it.
- What cannot be pickled, or is too large, crosses as its type and a text: the application has gone on, so nothing can refer to it.
- Each value is packed by itself, so that one that cannot be loaded takes no other with it.
- A batch holds plain data only, with the packed values as bytes in it: pickling it runs no code of the application.
"""

from __future__ import annotations

import pickle
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ..model.errors import PayloadError, ReferenceExpiredError, RemoteProtocolError
from ..protocol.codec import Bytes
from .pickling import PROTOCOL, Traits, class_name, dump, load, type_name
from .references import Reference, load_with_asker, safe_repr

# Kinds of packed values.
AS_IS = 0
PICKLED = 1
TOLD = 2

# A string up to this length weighs nothing worth counting; an integer up to this size neither.
SHORT = 512
BIG = 1 << 64
# A container with more items is pickled: looking at each would take longer.
_FEW = 32
# What an event weighs beside its values, in bytes, roughly.
_WEIGHT = 64

Packed = Tuple[Any, ...]
Event = Tuple[Any, ...]
"""As it crosses: (hook, number, thread, args, kwargs, instance, duration, outcome), or the first four or five where the rest says nothing.

With `args` a list, it and the values of `kwargs` are packed; a tuple holds the values. `instance` is None or its type and text. `outcome`
is None for a `before` hook, a packed result, or the bytes of an exception.
"""


def is_atom(value: Any) -> bool:
    """Whether a value is small, and cannot be changed in place. Asked by identity: a metaclass may have code of its own."""
    cls = type(value)
    if cls is int:
        return bool(-BIG < value < BIG)
    if cls is str or cls is bytes:
        return bool(len(value) <= SHORT)
    return cls is float or cls is bool or cls is complex or value is None


def pack(value: Any, traits: Traits) -> Tuple[Packed, int]:
    """A snapshot of a value, and its size in bytes, roughly. Runs code of the value where it has to be pickled."""
    if is_atom(value):
        return (AS_IS, value), _WEIGHT
    cls = type(value)
    if cls is str or cls is bytes:
        if len(value) * 4 <= traits.limit:
            return (AS_IS, value), len(value)
    elif cls is list or cls is tuple or cls is set or cls is frozenset:
        if len(value) <= _FEW:
            copy = cls(value)  # in one step, since another thread may be changing it
            if all(map(is_atom, copy)):
                return (AS_IS, copy), _WEIGHT * len(copy)
    elif cls is dict and len(value) <= _FEW:
        copy = value.copy()
        if all(map(is_atom, copy)) and all(map(is_atom, copy.values())):
            return (AS_IS, copy), _WEIGHT * len(copy)
    try:
        body, buffers = dump(value, traits)
    except PayloadError as error:
        return _told(value, str(error)), _WEIGHT
    if not buffers:
        return (PICKLED, bytes(body)), len(body)
    # The views are of the application's own memory, which is to change.
    copies = [bytes(buffer) for buffer in buffers]
    return (PICKLED, bytes(body), copies), len(body) + sum(map(len, copies))


def _told(value: Any, reason: str) -> Packed:
    return TOLD, type_name(value), safe_repr(value), reason


def pack_all(args: Sequence[Any], kwargs: Mapping[str, Any], traits: Traits) -> Tuple[List[Packed], Dict[str, Packed], int]:
    """Packed arguments, and their size together, which stays within the limit."""
    size = _WEIGHT
    packed = []
    for value in (*args, *kwargs.values()):
        one, weight = pack(value, traits)
        if size + weight > traits.limit and weight > _WEIGHT:
            one, weight = _told(value, f"the arguments together are larger than max-payload, {traits.limit} bytes"), _WEIGHT
        size += weight
        packed.append(one)
    return packed[: len(args)], dict(zip(kwargs, packed[len(args) :])), size


def instance_text(cls: type, ident: int) -> Tuple[str, str]:
    """The type and the text of an instance of which no more is known, as `type_name` and `safe_repr` give them."""
    name = class_name(cls)
    return name, f"{name} at {ident:#x}"


class Batch(NamedTuple):
    """What one EVENTS frame holds.

    `source` names the process, `number` the batch, so that one that comes twice counts once. `dropped` has, for each hook, how many events
    the process has dropped in all; `signatures` the parameters of the hooks' targets.
    """

    source: str
    pid: int
    number: int
    dropped: Dict[int, int]
    signatures: Dict[int, Any]
    events: List[Event]

    def dump(self) -> bytes:
        """The body of the frame."""
        return pickle.dumps(tuple(self), PROTOCOL)

    @classmethod
    def load(cls, body: Bytes) -> Batch:
        """The inverse. Raises `RemoteProtocolError` or `PayloadError`."""
        fields = load(body, ())
        if not isinstance(fields, tuple) or len(fields) != len(cls._fields):
            raise RemoteProtocolError("EVENTS without a batch")
        return cls(*fields)


class OutOfReach:
    """In the place of the call that a reference came with: the application has not waited."""

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        raise ReferenceExpiredError(
            "this hook was registered with wait=False: the application has gone on, and only the type and a text of the object have come; "
            "register it without wait=False to reach the object"
        )


OUT_OF_REACH = OutOfReach()


def unpack(packed: Packed, position: int) -> Any:
    """The value; what has not come, or cannot be loaded here, is a `Reference` that can be shown but not reached."""
    kind = packed[0]
    if kind == AS_IS:
        return packed[1]
    if kind == TOLD:
        return Reference(OUT_OF_REACH, position, packed[1], packed[2])
    try:
        # As `bytearray`, so that an array can be written to, as the application's can.
        return load_with_asker(OUT_OF_REACH, packed[1], [bytearray(one) for one in packed[2]] if len(packed) > 2 else ())
    except PayloadError as error:
        return Reference(OUT_OF_REACH, position, "object", f"a value: {error}")


def unpack_event(event: Event, pid: int) -> Tuple[Any, ...]:
    """The record of a call, as `Call` takes it: (args, kwargs, meta, outcome)."""
    _, number, thread, args = event[:4]
    kwargs = event[4] if len(event) > 4 else {}
    instance, duration, outcome = event[5:] or (None, 0.0, None)
    if type(args) is list:
        packed, args = args, tuple([unpack(value, place) for place, value in enumerate(args, 1)])
        kwargs = {name: unpack(value, place) for place, (name, value) in enumerate(kwargs.items(), len(packed) + 1)}
    raised = type(outcome) is bytes
    if outcome is not None and not raised:
        outcome = unpack(outcome, -1)
    kind, text = instance or ("", "")
    return args, kwargs, (number, pid, thread, kind, text, raised, duration), outcome

"""Events, the invocations that nobody waits for, in batches: dumped in the application, unpacked in the probe script.

A batch holds plain data only, with the packed values (`values.snapshots`) as bytes in it: pickling it runs no code of the application.
"""

from __future__ import annotations

import pickle
from typing import Any, Dict, List, NamedTuple, Tuple

from ..model.errors import PayloadError, ReferenceExpiredError, RemoteProtocolError
from ..protocol.codec import Bytes
from ..values.ancestry import Ancestry
from ..values.pickling import load
from ..values.plain import PROTOCOL
from ..values.references import Reference, load_with_asker
from ..values.snapshots import AS_IS, CAPTURED, TOLD, Packed

ARGS = 3
"""The place of the arguments in an event."""

# As many fields has an event of which nothing but its arguments is told.
_TOLD = 4

Event = Tuple[Any, ...]
"""As it crosses: (hook, number, thread, args, kwargs, instance, duration, outcome), or the first four or five where the rest says nothing.

With `args` a list, it and the values of `kwargs` are packed; a tuple holds the values. `instance` is None or its type and `id`. `outcome`
is None for a `before` hook, a packed result, or the bytes of an exception. What is shown of a call may be a row instead: see `rows.py`.
"""


class Batch(NamedTuple):
    """What one EVENTS frame holds.

    `source` names the process, `number` the batch, so that one that comes twice counts once. `dropped` has, for each hook, how many events
    the process has dropped in all; `signatures` the parameters of the hooks' targets. Hooks are named by their number. Where a hook has
    several targets, each goes by a number of its own, and `parts` has for each of these the hook's number and the target.
    """

    source: str
    pid: int
    number: int
    dropped: Dict[int, int]
    signatures: Dict[int, Any]
    events: List[Event]
    parts: Dict[int, Tuple[int, str]]

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

    ancestries: Dict[str, Ancestry] = {}  # noqa: RUF012 - nothing is known, nothing will be

    def refer(self, op: str, number: int, name: str, payload: Any) -> Any:
        if op == "hash":
            return hash((id(self), number))
        if op in ("eq", "ne"):
            # One event shows no object twice, and nothing is known of what an object is equal to.
            return op == "ne"
        raise ReferenceExpiredError(
            "this hook was registered with wait=False: the application has gone on, and only the type and a text of the object have come; "
            'register it without wait=False to reach the object, or with values="copy" for a copy of it'
        )


# That of all instances, which have their `id`; what else is in an event has the place where it stands in it.
OUT_OF_REACH = OutOfReach()


def unpack(packed: Packed, position: int, asker: OutOfReach = OUT_OF_REACH) -> Any:
    """The value; what has not come, or cannot be loaded here, is a `Reference` that can be shown but not reached, of that number."""
    kind = packed[0]
    if kind == AS_IS:
        return packed[1]
    if kind == CAPTURED:
        # Late: the application never needs it.
        from ..values.captured import revive

        return revive(packed[1])
    if kind == TOLD:
        return Reference(asker, position, packed[1], packed[2])
    try:
        # As `bytearray`, so that an array can be written to, as the application's can.
        return load_with_asker(asker, packed[1], [bytearray(one) for one in packed[2]] if len(packed) > 2 else ())
    except PayloadError as error:
        return Reference(asker, position, "object", f"a value: {error}")


def unpack_event(event: Event, pid: int) -> Tuple[Any, ...]:
    """The record of a call, as `Call` takes it: (args, kwargs, meta, outcome)."""
    _, number, thread, args = event[:4]
    if len(event) == _TOLD and type(args) is tuple:
        return args, {}, (number, pid, thread, "", 0, False, 0.0), None
    kwargs = event[4] if len(event) > 4 else {}
    instance, duration, outcome = event[5:] or (None, 0.0, None)
    asker = OutOfReach()
    if type(args) is list:
        packed, args = args, tuple([unpack(value, place, asker) for place, value in enumerate(args, 1)])
        kwargs = {name: unpack(value, place, asker) for place, (name, value) in enumerate(kwargs.items(), len(packed) + 1)}
    raised = type(outcome) is bytes
    if outcome is not None and not raised:
        outcome = unpack(outcome, -1, asker)
    kind, ident = instance or ("", 0)
    return args, kwargs, (number, pid, thread, kind, ident, raised, duration), outcome

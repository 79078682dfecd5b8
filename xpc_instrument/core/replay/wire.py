"""A recorded call that a script asks an application to make again, and what has come of it, as they cross the channel.

A call is a text of compressed JSON, since requests to an application are short; differences are a text of JSON, as values may lie within
each other deeper than what a message may hold.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any, Dict, Mapping, Sequence

from ..model.errors import TargetError
from .calls import RecordedCall, call_to_json
from .differing import NOTHING, Difference, Missing, PlainText
from .running import Replayed

MOST_ASKED = 16 * 1024 * 1024
"""Of a call that is asked for, in bytes of JSON."""


def asked_text(call: RecordedCall, inside: Sequence[str], ignore: Sequence[str], allow: Sequence[str]) -> str:
    """What a script sends."""
    asked = {"call": call_to_json(call), "inside": [*inside], "ignore": [*ignore], "allow": [*allow]}
    return base64.b64encode(zlib.compress(json.dumps(asked).encode())).decode()


def read_asked(text: str) -> Dict[str, Any]:
    """What was sent. Raises `TargetError`."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MOST_ASKED)
        asked = json.loads(data)
        if type(asked) is not dict:
            raise TypeError("expected an object")
    except (ValueError, TypeError, zlib.error, RecursionError) as error:
        raise TargetError(f"no call that can be read: {type(error).__name__}: {error}") from None
    return asked


def to_wire(done: Replayed) -> Dict[str, Any]:
    """What came of it, for a message."""
    told = [[one.target, one.path, _packed(one.was), _packed(one.now)] for one in done.differences]
    return {"skipped": done.skipped, "differences": json.dumps(told)}


def from_wire(call: RecordedCall, data: Mapping[str, Any]) -> Replayed:
    """The inverse."""
    told = json.loads(data["differences"])
    return Replayed(
        call, tuple(Difference(call.id, target, path, _unpacked(was), _unpacked(now)) for target, path, was, now in told), data["skipped"]
    )


def _packed(value: Any) -> Any:
    return [] if isinstance(value, Missing) else [str(value), ""] if isinstance(value, PlainText) else [value]


def _unpacked(packed: Any) -> Any:
    return NOTHING if not packed else PlainText(packed[0]) if len(packed) == 2 else packed[0]

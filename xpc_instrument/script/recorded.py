"""Recorded calls: their values as trees (`core/values/typed.py`), as the hook in the application tells them, and as lines of JSON."""

from __future__ import annotations

import marshal
from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Tuple

from ..core.model.record import Record
from ..core.values.typed import Tree
from .call import Call


class InnerCall(Record):
    """What was called inside of a recorded call."""

    target: str
    positional: int
    arguments: Mapping[str, Tree]
    raised: bool
    outcome: Tree


class RecordedCall(Record):
    """One call. ``arguments`` and ``outcome`` are trees of JSON; ``outcome`` is what it returned, or with ``raised`` the exception."""

    id: str
    time: float
    """When it ended, in seconds since 1970."""

    pid: int
    thread: int
    target: str
    positional: int
    """So many of the arguments, in their order, were positional; "self" is not counted, and stands in front."""

    arguments: Mapping[str, Tree]
    raised: bool
    outcome: Tree
    duration: float
    """In seconds."""

    inner: Tuple[InnerCall, ...] = ()
    """What was called inside of it, in the order of the begins."""

    left_out: int = 0
    """Inner calls that were not recorded, since there were too many."""


def recorded_call(call: Call) -> RecordedCall:
    """What the hook in the application has told. Raises `ValueError`, `TypeError`, `KeyError` or `EOFError` for anything else."""
    told = marshal.loads(call.args[0])  # noqa: S302 - it comes from whom we take pickles
    inner = tuple(
        InnerCall(target, positional, dict(pairs), raised, outcome) for target, positional, pairs, raised, outcome in told["inner"]
    )
    return RecordedCall(
        id=call.id,
        time=told["time"],
        pid=call.pid,
        thread=call.thread,
        target=call.target,
        positional=told["positional"],
        arguments=dict(told["arguments"]),
        raised=told["raised"],
        outcome=told["outcome"],
        duration=told["duration"],
        inner=inner,
        left_out=told["left-out"],
    )


def call_to_json(call: RecordedCall) -> Dict[str, Any]:
    """A call as an object for JSON."""
    told: Dict[str, Any] = {
        "type": "call",
        "time": datetime.fromtimestamp(call.time, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": call.id,
        "pid": call.pid,
        "thread": call.thread,
        "target": call.target,
        "positional": call.positional,
        "arguments": dict(call.arguments),
        "exception" if call.raised else "result": call.outcome,
        "duration": round(call.duration, 9),
    }
    if call.inner:
        told["inner"] = [
            {
                "target": one.target,
                "positional": one.positional,
                "arguments": dict(one.arguments),
                "exception" if one.raised else "result": one.outcome,
            }
            for one in call.inner
        ]
    if call.left_out:
        told["left-out"] = call.left_out
    return told


def text_of(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"expected a text, got {value!r:.80}")
    return value


def _arguments_of(data: Dict[str, Any]) -> Dict[str, Any]:
    arguments, positional = data["arguments"], data["positional"]
    if type(arguments) is not dict or type(positional) is not int:
        raise TypeError("expected arguments by name, and how many are positional")
    outcome = {"raised": True, "outcome": data["exception"]} if "exception" in data else {"raised": False, "outcome": data["result"]}
    return {"target": text_of(data["target"]), "arguments": arguments, "positional": positional, **outcome}


def call_of(data: Dict[str, Any]) -> RecordedCall:
    """The call that a line of JSON tells. Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for what is none."""
    return RecordedCall(
        id=text_of(data["id"]),
        time=datetime.fromisoformat(data["time"].replace("Z", "+00:00")).timestamp(),
        pid=int(data["pid"]),
        thread=int(data["thread"]),
        duration=float(data["duration"]),
        inner=tuple(InnerCall(**_arguments_of(one)) for one in data.get("inner", ())),
        left_out=int(data.get("left-out", 0)),
        **_arguments_of(data),
    )

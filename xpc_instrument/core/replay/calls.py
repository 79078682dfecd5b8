"""Recorded calls: their values as trees (`core/values/typed.py`), and as lines of JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Tuple

from ..model.errors import TargetError
from ..model.record import Record
from ..model.target import split_target
from ..values.typed import Tree
from .trees import check_tree

_LONGEST_TARGET = 1000


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


def target_of(value: Any) -> str:
    """The text of a target. Raises `ValueError` or `TypeError`."""
    text = text_of(value)
    if not text.isprintable() or len(text) > _LONGEST_TARGET:
        raise ValueError(f"{text!r:.80} is no target")
    try:
        split_target(text)
    except TargetError as error:
        raise ValueError(str(error)) from None
    return text


def _arguments_of(data: Dict[str, Any]) -> Dict[str, Any]:
    arguments, positional = data["arguments"], data["positional"]
    if type(arguments) is not dict or type(positional) is not int:
        raise TypeError("expected arguments by name, and how many are positional")
    raised = "exception" in data
    for tree in arguments.values():
        check_tree(tree)
    outcome = check_tree(data["exception" if raised else "result"])
    return {"target": target_of(data["target"]), "arguments": arguments, "positional": positional, "raised": raised, "outcome": outcome}


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

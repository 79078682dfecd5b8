"""What is shown of recorded calls, and of those that were run again; and the test that is written of a recording."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Sequence

from ..core.model.times import shown_seconds
from ..core.model.words import counted
from ..core.replay.calls import RecordedCall
from ..core.replay.differing import Missing, arguments_text, tree_text
from ..core.replay.running import Replayed, why_not
from .events import clock


def recorded_text(call: RecordedCall) -> str:
    """A recorded call in a line, and why it cannot be run again, if that is so."""
    outcome = f"!! {tree_text(call.outcome)}" if call.raised else f"-> {tree_text(call.outcome)}"
    head = f"{clock(call.time)} {call.pid} {arguments_text(call.target, call.arguments)} {outcome}  {shown_seconds(call.duration)}"
    if call.inner:
        head += f"  ({counted(len(call.inner), 'inner call')})"
    why = why_not(call)
    return f"{head}  cannot be replayed: {why}" if why else head


def replayed_text(done: Replayed) -> List[str]:
    """A line for each difference, and one for a call that was not run; nothing for one that is as it was."""
    call = done.call
    head = f"{call.id}  {arguments_text(call.target, call.arguments)}"
    if done.skipped:
        return [f"{head}   skipped: {done.skipped}"]
    return [f"{head}   {one}" for one in done.differences]


def replayed_json(done: Replayed) -> Dict[str, Any]:
    """The same for JSON."""
    told = "skipped" if done.skipped else "differs" if done.differences else "same"
    found: Dict[str, Any] = {"type": "replay", "id": done.call.id, "target": done.call.target, "outcome": told}
    if done.skipped:
        found["skipped"] = done.skipped
    if done.differences:
        found["differences"] = [{"path": one.path, "was": _json(one.was), "is": _json(one.now)} for one in done.differences]
    return found


def _json(tree: Any) -> Any:
    return {"type": "", "cut": "nothing"} if isinstance(tree, Missing) else str(tree) if isinstance(tree, str) else tree


# The names come from the file, and stand in the text of a program.
_NO_NAME = re.compile(r"[^\w.:,*<> -]").sub
WRITTEN = "Written by `xpc replay --pytest`"
_TEST = '''"""Calls of {targets} as they were recorded in {app}, run again. Written by `xpc replay --pytest`; the calls are in {data}."""

import sys
from pathlib import Path

import pytest

import xpc_instrument

# Where the modules are imported from, as when it was written.
sys.path.insert(0, str(Path(__file__).resolve().parent / {root!r}))
RECORDING = xpc_instrument.load(Path(__file__).with_name({data!r}))
IGNORE = {ignore!r}


@pytest.mark.parametrize("id", [call.id for call in RECORDING.calls])
def {name}(id):
    differences = RECORDING.replay(ids=[id], ignore=IGNORE{allow})
    assert not differences, "\\n".join(map(str, differences))
'''


def test_text(app: str, targets: Sequence[str], name: str, data: str, root: str, ignore: Sequence[str], allow: Sequence[str]) -> str:
    """The text of a test module with one test, whose parameters are the calls of the recording in the file `data` beside it; `root` is the
    folder of the modules, as seen from there."""
    also = f", allow={list(allow)!r}" if allow else ""
    shown = ", ".join(targets[:3]) + (" and others" if len(targets) > 3 else "")
    return _TEST.format(
        targets=_NO_NAME("?", shown), app=_NO_NAME("?", app), data=data, root=root, ignore=list(ignore), name=name, allow=also
    )

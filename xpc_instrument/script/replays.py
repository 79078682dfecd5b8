"""Recorded calls that an application makes again, one after the other, each when the script asks for it."""

from __future__ import annotations

import time
from typing import Any, Iterator, List, Mapping, Optional, Protocol, Sequence

from ..core.model.errors import ChannelError, TargetError
from ..core.protocol.codec import MAX_REQUEST
from ..core.replay.calls import RecordedCall
from ..core.replay.running import Replayed
from ..core.replay.wire import asked_text, from_wire

# When it is looked first whether a call has ended, and how long at most until it is looked again, in seconds.
_FIRST, _MOST = 0.001, 0.05
# What a request has beside the text of the call, in bytes.
_BESIDE = 1024


class Asking(Protocol):
    """A session."""

    app: str

    @property
    def pids(self) -> List[int]: ...

    def _ask(self, question: str, pid: Optional[int] = None) -> List[Mapping[str, Any]]: ...


def replayed_in(
    session: Asking, calls: Sequence[RecordedCall], inside: Sequence[str], ignore: Sequence[str], times: int, allow: Sequence[str]
) -> Iterator[Replayed]:
    """Each call, made again in the first process that has all that it needs. Raises `ChannelError` where none is left."""
    for call in calls:
        done = Replayed(call)
        for _ in range(times):
            done = _made_again(session, call, asked_text(call, inside, ignore, allow))
            if done.skipped or done.differences:
                break
        yield done


def _made_again(session: Asking, call: RecordedCall, text: str) -> Replayed:
    if len(text) > MAX_REQUEST - _BESIDE:
        return Replayed(call, (), "it is too large to be sent to the application")
    begun: Sequence[Mapping[str, Any]] = ()
    refused = ""
    for pid in session.pids:
        try:
            begun = session._ask(f"replay {text}", pid)
        except TargetError as error:
            # As a master process, which has not imported what its workers have.
            refused = str(error)
        if begun:
            break
    if not begun and refused:
        return Replayed(call, (), refused)
    pause = _FIRST
    while begun:
        answers = session._ask(f"replayed {begun[0]['replay']}", begun[0]["pid"])
        if not answers:
            break
        if answers[0]["done"]:
            failed = answers[0].get("failed")
            return Replayed(call, (), str(failed)) if failed else from_wire(call, answers[0])
        time.sleep(pause)
        pause = min(2 * pause, _MOST)
    raise ChannelError(f"{session.app}: the process has ended in which {call.target} was to be made again")

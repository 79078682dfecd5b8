"""What a test watches, replays and records: calls as they come, recorded calls, and a recording of what patches and spies saw."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union, overload

import pytest

from ..core.model.words import counted
from ..core.values.typed import Encoder, Tree, cut
from ..script.recorded import RecordedCall
from ..script.recording import Recording, load
from ..script.replaying import Replayed
from ..script.watching import CallEvent, Watch
from .seen import Seen, SeenCall

_MOST_NAME = 150


class Events(Sequence[CallEvent]):
    """The calls of a target that have come so far, a sequence that grows. They come a moment after they have ended: `xpc.wait(events)`."""

    def __init__(self, watch: Watch, target: str) -> None:
        self.target = target
        self.handle = watch.handle
        self._watch = watch
        self._events: List[CallEvent] = []

    def _drain(self, timeout: float = 0.0) -> List[CallEvent]:
        event = self._watch.take(timeout)
        while event is not None:
            self._events.append(event)
            event = self._watch.take(0.0)
        return self._events

    @overload
    def __getitem__(self, place: int) -> CallEvent: ...

    @overload
    def __getitem__(self, place: slice) -> List[CallEvent]: ...

    def __getitem__(self, place: Union[int, slice]) -> Union[CallEvent, List[CallEvent]]:
        return self._drain()[place]

    def __len__(self) -> int:
        return len(self._drain())

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'call')} of {self.target}>"

    def wait(self, calls: int, timeout: float, now: Any) -> bool:
        """Whether there are so many within so many seconds; `now` gives the time."""
        until = now() + timeout
        while len(self._drain(max(0.0, min(0.1, until - now())))) < calls:
            if now() >= until:
                return False
        return True

    def stop(self) -> None:
        """No more come."""
        self._watch.remove()
        self._drain()


def replay(path: Any, ids: Iterable[str], ignore: Iterable[str], allow: Iterable[str]) -> List[Replayed]:
    """Run recorded calls again in this process; fails the test if one differs, or none could be run."""
    __tracebackhide__ = True
    done = list(load(path).replayed(ids=ids, ignore=ignore, allow=allow))
    differ = [f"{one.call.id} {one.call.target}: {difference}" for one in done for difference in one.differences]
    skipped = [f"{one.call.id} {one.call.target} was skipped: {one.skipped}" for one in done if one.skipped]
    if differ or len(skipped) == len(done):
        what = f"{counted(len(done), 'recorded call')} of {path}: {counted(len(differ), 'difference')}, {len(skipped)} skipped"
        pytest.fail("\n".join([what, *differ, *skipped]))
    return done


# what patches and spies saw -------------------------------------------------------------------------------------------------


def write_seen(folder: str, nodeid: str, app: str, all_seen: Sequence[Seen]) -> Optional[Path]:
    """Write what the hooks of a test saw as a recording, named for the test; None if they saw nothing."""
    calls = [_recorded(seen, call) for seen in all_seen for call in list(seen.calls)]
    if not calls:
        return None
    name = re.sub(r"[^\w.-]+", "_", nodeid).strip("_")[-_MOST_NAME:]
    path = Path(folder) / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    Recording(app, list(dict.fromkeys(seen.target for seen in all_seen)), [], calls).save(path)
    return path


def _recorded(seen: Seen, call: SeenCall) -> RecordedCall:
    room = Encoder().room()
    arguments: Dict[str, Tree] = {"self": cut("instance that is in the application", "type")} if call.is_method else {}
    positional = 0
    given = _bound(seen.signature, call)
    if given is None:
        arguments.update({"*args": room.value(call.args), "**kwargs": room.value(call.kwargs)})
    else:
        for name, parameter in given.signature.parameters.items():
            if name not in given.arguments:
                continue
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
            positional += parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            arguments[stars + name] = room.named(name, given.arguments[name])
    return RecordedCall(
        id=call.id,
        time=call.time,
        pid=call.pid,
        thread=call.thread,
        target=seen.target,
        positional=positional,
        arguments=arguments,
        raised=call.exception is not None,
        outcome=room.value(call.result if call.exception is None else call.exception),
        duration=call.duration,
    )


def _bound(signature: Optional[inspect.Signature], call: SeenCall) -> Optional[inspect.BoundArguments]:
    try:
        return None if signature is None else signature.bind(*call.args, **call.kwargs)
    except TypeError:
        return None

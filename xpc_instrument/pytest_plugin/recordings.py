"""What a test watches, replays and records: calls as they come, recorded calls, and a recording of what patches and spies saw."""

from __future__ import annotations

import hashlib
import inspect
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Union, overload

import pytest

from ..core.model.words import counted
from ..core.replay.calls import RecordedCall
from ..core.replay.running import Replayed
from ..core.values.redaction import Redaction
from ..core.values.typed import Encoder, Tree, cut
from ..script.call import Call
from ..script.recording import Recording, load
from ..script.watching import CallEvent, Watch

Texts = Union[str, Iterable[str]]
"""One, or several."""

End = Callable[[Any, Optional[BaseException], float], None]

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


def replay(path: Any, ids: Texts, ignore: Texts, allow: Texts) -> List[Replayed]:
    """Run recorded calls again in this process; fails the test if one differs, or none could be run."""
    __tracebackhide__ = True
    recording = load(path)
    done = list(recording.replayed(ids=ids, ignore=ignore, allow=allow))
    differ = [f"{one.call.id} {one.call.target}: {difference}" for one in done for difference in one.differences]
    skipped = [f"{one.call.id} {one.call.target} was skipped: {one.skipped}" for one in done if one.skipped]
    differ += [f"ignore={place!r}: no value of the recording has that place" for place in recording.without_match(ignore) if differ]
    if differ or len(skipped) == len(done):
        what = f"{counted(len(done), 'recorded call')} of {path}: {counted(len(differ), 'difference')}, {len(skipped)} skipped"
        pytest.fail("\n".join([what, *differ, *skipped]))
    return done


# what patches and spies saw -------------------------------------------------------------------------------------------------


class Recorded:
    """The calls that the patches and spies of one scope see, in the order in which they ended. Any thread may use it."""

    def __init__(self, app: str, redaction: Redaction) -> None:
        self._app = app
        self._redaction = redaction
        self._encoder = Encoder(redaction)
        self._calls: List[RecordedCall] = []

    def begin(self, target: str, signature: Optional[inspect.Signature], call: Call) -> End:
        """Note the arguments of a call as they are now. What is returned is called once: with what it has returned, what it has raised, and
        how many seconds that took."""
        room = self._encoder.room()
        is_method = call.instance is not None
        arguments: Dict[str, Tree] = {"self": cut("instance that is in the application", "type")} if is_method else {}
        positional = 0
        given = _bound(signature, call)
        if given is None:
            arguments.update({"*args": room.value(call.args), "**kwargs": room.value(dict(call.kwargs))})
        else:
            for name, parameter in given.signature.parameters.items():
                if name in given.arguments:
                    stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
                    positional += parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
                    arguments[stars + name] = room.named(name, given.arguments[name])

        def end(result: Any, error: Optional[BaseException], duration: float) -> None:
            made = RecordedCall(
                id=call.id,
                time=time.time(),
                pid=call.pid,
                thread=call.thread,
                target=target,
                positional=positional,
                arguments=arguments,
                raised=error is not None,
                outcome=room.value(result if error is None else error),
                duration=duration,
            )
            self._calls.append(made)

        return end

    def write(self, folder: str, name: str) -> Optional[Path]:
        """Write them as a recording of that name; None if there are none."""
        calls = list(self._calls)
        if not calls:
            return None
        path = Path(folder) / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        Recording(self._app, dict.fromkeys(call.target for call in calls), [], calls, self._redaction).save(path)
        return path


def file_name(nodeid: str, worker: str = "") -> str:
    """What the recording of a test is called, or of a scope by the worker of xdist that has it: no other has that name."""
    plain = nodeid.replace("::", "_").replace("/", ".") or "session"
    name = re.sub(r"[^\w.-]+", "_", plain).strip("_")
    if name != plain or len(name) > _MOST_NAME:
        name = f"{name[:_MOST_NAME]}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"
    return f"{name}-{worker}" if worker else name


def _bound(signature: Optional[inspect.Signature], call: Call) -> Optional[inspect.BoundArguments]:
    try:
        return None if signature is None else signature.bind(*call.args, **call.kwargs)
    except TypeError:
        return None

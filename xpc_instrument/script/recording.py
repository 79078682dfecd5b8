"""Recordings: calls of an application with all that is needed to run them again, as lines of JSON.

Rules:
- The first line that says so is the head: the format, the application, the targets, and what is stood in for. Each call is a line; lines of
  other types are none of ours, such as those that a verb writes around them.
- Values are trees (`core/values/typed.py`). Nothing is made again when a file is read, and nothing is imported.
- A file is read as what a stranger may have written: what it lacks or has of another type is a `RecordingError` that names the line.
"""

from __future__ import annotations

import json
import marshal
import os
import platform
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from ..core.flag import Flag
from ..core.model.errors import XpcError
from ..core.node.threads import start_seen
from ..core.replay.calls import InnerCall, RecordedCall, call_of, call_to_json, text_of
from ..core.replay.differing import Difference, ignoring, places
from ..core.replay.running import Place, Replayed, replay_call
from ..core.unpatched import monotonic
from ..core.values.redaction import Redaction
from .call import Call
from .handle import Handle
from .replaying import ONE_AT_A_TIME, Here
from .watching import Stream

FORMAT = 1
"""Of the file; one that is newer is refused."""

# How long to sleep at most until it is looked whether there can be more, in seconds.
_LOOK_AGAIN = 0.1


class RecordingError(XpcError):
    """A file that is no recording, or one of a later format."""


class Recording:
    """Calls that can be run again. ``calls`` are in the order in which they ended."""

    def __init__(
        self,
        app: str,
        targets: Iterable[str],
        inside: Iterable[str],
        calls: Iterable[RecordedCall] = (),
        redaction: Optional[Redaction] = None,
    ) -> None:
        # What is hidden in the application is hidden of what is run again.
        self._redaction = redaction or Redaction()
        self.app = app
        self.targets: Sequence[str] = list(targets)
        self.inside: Sequence[str] = list(inside)
        self.calls: List[RecordedCall] = list(calls)

    def head(self) -> Dict[str, Any]:
        """The first line, as an object for JSON."""
        python = platform.python_version()
        told = {
            "type": "recording",
            "format": FORMAT,
            "app": self.app,
            "python": python,
            "targets": [*self.targets],
            "inside": [*self.inside],
        }
        names, types = self._redaction.more
        return {**told, "redact": {"names": names, "types": types}} if names or types else told

    def only(self, calls: Iterable[RecordedCall]) -> Recording:
        """The same recording, with these calls."""
        return Recording(self.app, self.targets, self.inside, calls, self._redaction)

    def save(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write it to a file that only its owner can read; one that is there is replaced as a whole."""
        # Made anew, so that nobody who could read an older file can read this one.
        before = f"{os.fspath(path)}.{os.getpid()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(before, flags, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                for event in (self.head(), *map(call_to_json, list(self.calls))):
                    print(json.dumps(event, ensure_ascii=True), file=file)
            os.replace(before, path)
        except BaseException:
            os.unlink(before)
            raise

    def replayed(
        self,
        *,
        ids: Union[str, Iterable[str]] = (),
        ignore: Union[str, Iterable[str]] = (),
        times: int = 1,
        allow: Union[str, Iterable[str]] = (),
    ) -> Iterator[Replayed]:
        """Run the calls again in this process, one after the other, and say of each what came of it.

        - ``ids``: only these calls. ``times``: how often each is run; the first run that differs is told.
        - ``ignore``: places that are not compared, such as ``"result.id"``; ``*`` stands for one name or index, ``**`` for any number.
        - ``allow``: packages of which types may be made, beside those that the targets are of.

        Only the modules of the targets are imported, and what is called inside of a call is stood in for by what was recorded, in all
        threads of this process. A call with a value that cannot be made again, or whose target is not to be called for a file, is not run:
        ``Replayed.skipped`` says why. Raises ``RecordingError`` for ids that there are not, and ``ValueError``.
        """
        return self._replayed(Here(), ids, ignore, times, allow)

    def _replayed(
        self, place: Place, ids: Union[str, Iterable[str]], ignore: Union[str, Iterable[str]], times: int, allow: Union[str, Iterable[str]]
    ) -> Iterator[Replayed]:
        check_times(times)
        inside, ignored, allowed = self.stood_in_for(), texts_of(ignore), texts_of(allow)
        for call in self.chosen(ids):
            with ONE_AT_A_TIME:
                done = replay_call(call, inside, place, ignore=ignored, times=times, allow=allowed, redaction=self._redaction)
            yield done

    def chosen(self, ids: Union[str, Iterable[str]] = ()) -> List[RecordedCall]:
        """The calls of these ids; without any, all. Raises ``RecordingError``."""
        wanted = set(texts_of(ids))
        missing = wanted - {call.id for call in self.calls}
        if missing:
            raise RecordingError(
                f"no call {', '.join(sorted(missing))} in the recording; there are {_some(call.id for call in self.calls)}"
            )
        return [call for call in list(self.calls) if not wanted or call.id in wanted]

    def stood_in_for(self) -> List[str]:
        """The targets that are stood in for, whatever a call has called: what is recorded by itself runs where it was no inner call."""
        return [one for one in self.inside if one not in self.targets]

    def without_match(self, ignore: Union[str, Iterable[str]]) -> List[str]:
        """Which of the places to be ignored no recorded value has: they may be misspelt."""
        return [one for one in texts_of(ignore) if not any(map(ignoring([one]), self._places()))]

    def _places(self) -> Iterator[str]:
        for call in self.calls:
            yield "outcome"
            yield from places(call.outcome, "exception" if call.raised else "result")
            for place, one in enumerate(call.inner):
                yield f"inner[{place}]"
                for name, tree in one.arguments.items():
                    yield from places(tree, f"inner[{place}].{name}")

    def replay(
        self,
        *,
        ids: Union[str, Iterable[str]] = (),
        ignore: Union[str, Iterable[str]] = (),
        times: int = 1,
        allow: Union[str, Iterable[str]] = (),
    ) -> List[Difference]:
        """The same as ``replayed``, and only what differs."""
        return [one for done in self.replayed(ids=ids, ignore=ignore, times=times, allow=allow) for one in done.differences]


def check_times(times: int) -> None:
    """Raise `ValueError` for what is no number of times."""
    if type(times) is not int or times < 1:
        raise ValueError(f"times={times!r:.80}: expected a number from 1 on")


def texts_of(value: Union[str, Iterable[str]]) -> Tuple[str, ...]:
    """One text, or several. Raises `TypeError`."""
    found = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(one, str) for one in found):
        raise TypeError(f"expected texts, got {found!r:.200}")
    return found


def _some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") if found else "none"


class Recorder(Recording, Stream[RecordedCall]):
    """A recording that still grows: ``calls`` are those so far; iterated it gives each as it comes, until it is over.

    Leaving it as a context manager ends it; so does the last of ``limit`` calls.
    """

    def __init__(self, app: str, limit: Optional[int], redaction: Redaction) -> None:
        Recording.__init__(self, app, (), (), (), redaction)
        Stream.__init__(self, recorded_call)
        self._limit = limit
        self.handles: List[Handle] = []
        # By those that wait for more calls.
        self._awaited: List[Flag] = []

    def __call__(self, call: Call) -> None:
        """The hook."""
        if self._limit is not None and len(self.calls) >= self._limit:
            return
        made = self._read(call)
        with self._putting:
            self.calls.append(made)
            self._events.append(made)
        self._tell()
        if self._limit is not None and len(self.calls) == self._limit:
            # Not here: who removes a hook waits for what it has told.
            start_seen(self.remove, name="recording ends")

    @property
    def over(self) -> str:
        """As `Stream.over`."""
        if self._limit is not None and len(self.calls) >= self._limit and not self._events:
            return "limit"
        return super().over

    def wait(self, calls: int = 1, timeout: float = 5.0) -> bool:
        """Whether there are so many calls within so many seconds."""
        until = monotonic() + timeout
        while len(self.calls) < calls:
            left = until - monotonic()
            if left <= 0 or self._closed:
                return False
            more = Flag()
            self._awaited.append(more)
            if len(self.calls) < calls:
                more.wait(min(left, _LOOK_AGAIN))
        return True

    def _tell(self) -> None:
        super()._tell()
        awaited, self._awaited = self._awaited, []
        for more in awaited:
            more.set()

    def remove(self) -> None:
        """End it; what has come until then stays."""
        for handle in self.handles:
            handle.remove()
        self._closed = True
        self._tell()


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


def load(path: Union[str, os.PathLike[str]]) -> Recording:
    """Read a recording; nothing of it is run or imported. Raises ``RecordingError`` for a file that is none, and ``OSError``."""
    recording: Optional[Recording] = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{os.fspath(path)}, line {number}"
            try:
                data = json.loads(line)
                kind = data["type"]
                if kind == "recording":
                    recording = _head_of(data, where)
                elif kind == "call":
                    if recording is None:
                        raise RecordingError(f"{where}: a call in front of the head of a recording; `xpc record` writes one")
                    recording.calls.append(call_of(data))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise RecordingError(f"{where}: no line of a recording: {type(error).__name__}: {error}") from error
    if recording is None:
        raise RecordingError(f"{os.fspath(path)}: no recording: expected a file that `xpc record` has written")
    return recording


def _head_of(data: Dict[str, Any], where: str) -> Recording:
    if data["format"] != FORMAT:
        raise RecordingError(f"{where}: a recording of the format {data['format']!r:.80}; this version reads {FORMAT}")
    hidden = data.get("redact", {})
    redaction = Redaction(map(text_of, hidden.get("names", ())), map(text_of, hidden.get("types", ())))
    return Recording(text_of(data["app"]), map(text_of, data["targets"]), map(text_of, data["inside"]), (), redaction)

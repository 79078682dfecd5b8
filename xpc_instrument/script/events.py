"""The script's end of hooks that nobody waits for: batches of events arrive on a lane, and are run one event after the other.

Rules:
- One batch of a process is run at a time; the answer, which says nothing, asks for the next. So the order is that of the application.
- Each event is either run or dropped, and counted once: a batch that comes again, since its lane broke, is answered but not run again.
- A hook that raises is reported, and the others go on.
- Rows that follow each other go to their stream in one step.
- After a hook is removed, what has arrived and not been run counts as dropped.
"""

from __future__ import annotations

import inspect
import threading
from itertools import groupby
from typing import Any, Callable, Dict, List, Mapping, MutableMapping, Optional, Protocol, Tuple

from ..core.calls.batch import OUT_OF_REACH, Batch, Event, unpack_event
from ..core.calls.rows import Row, is_row
from ..core.model.errors import PayloadError
from ..core.protocol.codec import Frame
from ..core.protocol.messages import Opcode
from ..core.wire.wire import Wire
from .call import Call, signature_from_spec
from .handle import Handle


class EventHook(Protocol):
    """A registered hook, as far as its events go."""

    handle: Handle
    callback: Callable[..., Any]

    def take_event(self, event: Any) -> bool:
        """Count one call; False if there is none left."""

    def take_some(self, count: int) -> int:
        """Count so many; gives how many of them were left."""


class _Source:
    """A process that sends events: the number of the last batch that was run."""

    __slots__ = ("last", "lock")

    def __init__(self) -> None:
        self.last = 0
        self.lock = threading.Lock()


class _Running(threading.local):
    events = False


class EventReader:
    """Runs the events of one session.

    `hooks` is the session's, by number; `finished` awaits what a hook returned; `report` takes failures.
    """

    def __init__(
        self,
        hooks: Mapping[int, Any],
        finished: Callable[[Any], Any],
        report: Callable[[Any, BaseException], None],
    ) -> None:
        self._hooks = hooks
        self._finished = finished
        self._report = report
        self._sources: Dict[str, _Source] = {}
        self._here = _Running()

    @property
    def running(self) -> bool:
        """Whether this thread is in an event's hook: the batch cannot end while it waits."""
        return self._here.events

    def serve(self, signatures: MutableMapping[str, Optional[inspect.Signature]], wire: Wire, frame: Frame) -> None:
        """Run the batch in an EVENTS frame, and answer it. `signatures` are those known of the process, by target."""
        try:
            batch = Batch.load(frame.body)
        except PayloadError:
            wire.send_frame(Opcode.NOT_FOUND, 0, b"", None)
            raise
        source = self._sources.setdefault(batch.source, _Source())
        self._here.events = True
        try:
            with source.lock:
                if batch.number > source.last:
                    self._run(batch, signatures)
                    source.last = batch.number
        finally:
            self._here.events = False
        wire.send_frame(Opcode.RETURN, 0, b"", None)

    def _run(self, batch: Batch, signatures: MutableMapping[str, Optional[inspect.Signature]]) -> None:
        self.note_dropped(batch.source, batch.dropped, batch.parts)
        arrived: Dict[int, int] = {}
        for event in batch.events:
            arrived[event[0]] = arrived.get(event[0], 0) + 1
        # Found once: a hook that is removed meanwhile keeps its count.
        found: Dict[int, Tuple[EventHook, str]] = {}
        for key, count in arrived.items():
            number, target = batch.parts.get(key, (key, ""))
            hook: Optional[EventHook] = self._hooks.get(number)
            if hook is not None:
                found[key] = hook, target or hook.handle.target
                hook.handle._note_arrived(count)
                if key in batch.signatures:
                    signatures[found[key][1]] = signature_from_spec(batch.signatures[key])
        for (key, rows), events in groupby(batch.events, _kind):
            if key in found:
                hook, target = found[key]
                if rows:
                    self._put(hook, target, [*events], batch.pid)
                    continue
                for event in events:
                    self._run_one(hook, target, event, batch.pid, signatures)

    def _put(self, hook: EventHook, target: str, rows: List[Row], pid: int) -> None:
        taken = hook.handle._begin_events(hook.take_some, len(rows))
        try:
            hook.callback.put_rows(pid, target, rows[:taken])  # type: ignore[attr-defined]
        except BaseException as error:
            self._report(hook, error)

    def _run_one(
        self, hook: EventHook, target: str, event: Any, pid: int, signatures: MutableMapping[str, Optional[inspect.Signature]]
    ) -> None:
        handle = hook.handle
        if not handle._begin_event(hook.take_event, event):
            return
        try:
            call = Call(OUT_OF_REACH, unpack_event(event, pid), target, handle.mode, signatures.get(target))
            self._finished(hook.callback(call))
        except BaseException as error:
            # What is no Exception must not end the lane, on which the others wait.
            self._report(hook, error)

    def note_dropped(self, source: str, dropped: Mapping[int, int], parts: Mapping[int, Tuple[int, str]]) -> None:
        """A process has said how many events it has dropped in all; keys and `parts` as in a batch."""
        for key, count in dropped.items():
            number = parts[key][0] if key in parts else key
            hook = self._hooks.get(number)
            if hook is not None:
                hook.handle._note_dropped(source, count, key)


def _kind(event: Event) -> Tuple[int, bool]:
    """Of which hook it is, and whether it is a row."""
    return event[0], is_row(event)

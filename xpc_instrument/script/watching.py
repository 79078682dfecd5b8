"""What a hook tells as it comes: an iterator, an async iterator and a context manager of events.

Rules:
- A lane's thread appends, and whoever iterates takes. What nobody takes is dropped from `ROOM` events on, and counted.
- A call that came as a row stays one until it is taken: then it is made an event, or a line is made of it (`verbs/rows.py`).
- An event holds the values as they were, and nothing that leads back into the application.
"""

from __future__ import annotations

import asyncio
import marshal
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, Generic, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ..core.calls.outcome import Meta
from ..core.calls.rows import DURATION, LAYOUT, NUMBER, THREAD, TIME, Layout, Row, named, tree_of
from ..core.model.expression.template import Template
from ..core.model.record import Record
from ..core.unpatched import monotonic
from ..core.values.captured import revive
from .call import Call
from .handle import Handle
from .removable import Removable

ROOM = 10_000
"""Events that wait to be taken."""

# Layouts of rows that are known: as many as there are processes and targets, if these do not come and go.
_MOST_LAYOUTS = 1000
# How long an iterator sleeps at most until it looks whether there can be more, in seconds: nobody tells it that a term is over.
_LOOK_AGAIN = 0.1

Event = TypeVar("Event", bound=Record)


class CallEvent(Record):
    """One call of a target. Values are as they were then: atoms as they are, all else captured, with attributes and items."""

    time: float
    """When it was told, in seconds since 1970: at the end of the call, or where only its begin is shown, then."""

    pid: int
    thread: int
    id: str
    """A text that no other call of the application has."""

    target: str
    file: str
    """Where the function begins, as tracebacks have it; empty of one that is not of Python, whose ``line`` is 0."""

    line: int
    arguments: Mapping[str, Any]
    """By the names of the parameters; ``args[0]`` and so on where the target does not tell them. Empty with ``show``."""

    result: Any
    exception: Any
    """What it raised, captured, or None."""

    duration: float
    """In seconds; 0 for an event of the begin of a call."""

    stack: Tuple[Tuple[str, int, str], ...]
    """With ``stack``: file, line and function of the callers, the innermost first."""

    shown: Mapping[str, Any]
    """With ``show``: the values of the expressions, by their texts."""

    rejected: bool
    """With ``rejected``: it does not meet ``when``."""

    frames: Tuple[Tuple[str, int, str, Optional[Mapping[str, Any]]], ...]
    """With ``locals``, of what it raised: file, line and function of each frame, the innermost last, and the local variables of those that
    are of the application's own code."""


class LineEvent(Record):
    """What ``log`` tells: that a statement of a line has begun, or that a call has ended. Values are as they were then."""

    time: float
    """In seconds since 1970."""

    pid: int
    thread: int
    id: str
    """A text that no other event of the application has."""

    target: str
    file: str
    """As tracebacks have it; of a call, where its function begins."""

    line: int
    text: str
    """The template with the values in it; empty without one."""

    locals: Mapping[str, Any]
    """With ``locals``: the local variables that had a value."""

    stack: Tuple[Tuple[str, int, str], ...]
    """With ``stack``: file, line and function of the callers, the innermost first."""


def line_event(call: Call, template: Template) -> LineEvent:
    """What the hook on a line has told. Raises as `call_event`."""
    now, file, line, _, stack, shown, variables = marshal.loads(call.args[0])  # noqa: S302 - as of a call
    values = {text: revive(tree) for text, tree in shown}
    return LineEvent(
        time=now,
        pid=call.pid,
        thread=call.thread,
        id=call.id,
        target=call.target,
        file=file,
        line=line,
        text=template.format([values[one.text] for one in template.expressions]),
        locals={name: revive(tree) for name, tree in variables},
        stack=tuple(zip(stack[::3], stack[1::3], stack[2::3])),
    )


def logged_call(event: CallEvent, template: Template) -> LineEvent:
    """The same of a call that has ended."""
    shown = [event.shown[one.text] for one in template.expressions]
    return LineEvent(
        time=event.time,
        pid=event.pid,
        thread=event.thread,
        id=event.id,
        target=event.target,
        file=event.file,
        line=event.line,
        text=template.format(shown),
        locals={},
        stack=event.stack,
    )


def call_event(call: Call) -> CallEvent:
    """What the hook in the application has told. Raises `ValueError`, `TypeError` or `EOFError` for what it cannot have told."""
    now, duration, arguments, result, error, stack, shown, frames, place = marshal.loads(call.args[0])  # noqa: S302 - it comes from whom we take pickles
    told = Meta(*call._fields)
    # By position, which takes a fifth of the time.
    return CallEvent(
        now,
        told.pid,
        told.thread,
        f"{told.pid}-{told.number}",
        call.target,
        place[0],
        place[1],
        {name: revive(tree) for name, tree in arguments},
        None if result is None else revive(result),
        None if error is None else revive(error),
        duration,
        tuple(zip(stack[::3], stack[1::3], stack[2::3])) if stack else (),
        {text: revive(tree) for text, tree in shown},
        len(call.args) > 1,
        tuple(
            (file, line, name, None if found is None else {key: revive(tree) for key, tree in found}) for file, line, name, found in frames
        )
        if frames
        else (),
    )


class CallRows:
    """What the rows of a target have in common that come from one process with one layout; `made` makes of a call what its stream gives."""

    __slots__ = ("_made", "layout", "pid", "target")

    def __init__(self, pid: int, target: str, layout: Layout, made: Callable[[CallEvent], Any]) -> None:
        self._made = made
        self.pid = pid
        self.target = target
        self.layout = layout

    def event(self, row: Row) -> Any:
        """What the stream gives for a row."""
        layout = self.layout
        values = {name: revive(tree) for name, tree in named(layout, row)}
        call = CallEvent(
            row[TIME],
            self.pid,
            row[THREAD],
            f"{self.pid}-{row[NUMBER]}",
            self.target,
            layout.file,
            layout.line,
            {} if layout.evaluated else values,
            revive(tree_of(row[-1])) if layout.result else None,
            None,
            row[DURATION],
            (),
            values if layout.evaluated else {},
            False,
            (),
        )
        return self._made(call)


def _itself(event: CallEvent) -> Any:
    return event


class Stream(Removable, Generic[Event]):
    """A stream of events. Leaving it as a context manager removes the hook; so does an iteration that has come to its end."""

    handle: Handle
    """The hook: its ``targets``, and why it is ``over``."""

    overflowed: int
    """Events that were dropped here, since nobody took them in time. ``dropped`` has those that the application dropped as well."""

    taken: int
    """Events that were taken from here, without those that do not meet the condition."""

    def __init__(self, read: Callable[[Call], Event], made: Callable[[CallEvent], Any] = _itself) -> None:
        self.overflowed = 0
        self.taken = 0
        self._read = read
        self._made = made
        # Events, and rows each with what they have in common.
        self._events: Deque[Any] = deque()
        self._rows: Dict[Tuple[Any, ...], CallRows] = {}
        # For lanes' threads alone. Whoever takes holds none that they wait for: Ctrl-C may come at any moment, and leave it held.
        self._putting = threading.Lock()
        # Held as long as there is no news.
        self._news = threading.Lock()
        self._news.acquire()
        self._closed = False

    def __call__(self, call: Call) -> None:
        """The hook."""
        event = self._read(call)
        with self._putting:
            if len(self._events) >= ROOM:
                self.overflowed += 1
                return
            self._events.append(event)
            if len(self._events) == 1:
                self._tell()

    def _tell(self) -> None:
        try:
            self._news.release()
        except RuntimeError:
            pass  # nobody has taken note of the last news yet

    def put_rows(self, pid: int, target: str, rows: Sequence[Row]) -> None:
        """Calls that came as rows."""
        layout: Any = None
        told: List[Tuple[CallRows, Row]] = []
        for row in rows:
            if row[LAYOUT] is not layout:
                layout = row[LAYOUT]
                common = self._common(pid, target, layout)
            told.append((common, row))
        with self._putting:
            room = max(0, ROOM - len(self._events))
            self.overflowed += max(0, len(told) - room)
            self._events.extend(told[:room])
            self._tell()

    def _common(self, pid: int, target: str, layout: Tuple[Any, ...]) -> CallRows:
        found = self._rows.get((pid, target, layout))
        if found is None:
            if len(self._rows) >= _MOST_LAYOUTS:
                self._rows.clear()
            found = self._rows[pid, target, layout] = CallRows(pid, target, Layout(*layout), self._made)
        return found

    def _counts(self, event: Event) -> bool:
        """Whether it is one of those that were asked for."""
        return True

    @property
    def dropped(self) -> int:
        """How many events were lost in all; what came beyond ``limit``, which counts for all processes together, is not."""
        return self.overflowed + self.handle.dropped - self.handle._beyond

    @property
    def over(self) -> str:
        """Why no more come, once all are taken: ``"removed"``, ``"limit"``, ``"expires"``, or ``""``."""
        if self._events:
            return ""
        return "removed" if self._closed else self.handle.over

    def take(self, timeout: float) -> Optional[Event]:
        """The next event; None if none comes within so many seconds."""
        deadline = 0.0
        while True:
            try:
                told = self._events.popleft()
            except IndexError:
                now = monotonic()
                deadline = deadline or now + timeout
                # What is told may have been taken before.
                if not self._news_until(deadline - now):
                    return None
                continue
            if self._events:
                # Another thread may wait.
                self._tell()
            event: Event = told[0].event(told[1]) if type(told) is tuple else told
            self.taken += self._counts(event)
            return event

    def show_all(self, timeout: float, show: Callable[[Any], None]) -> int:
        """Have `show` called with each event that there is, as soon as there is one, and taken then; gives how many there were.

        What came as a row is shown as that, behind the `CallRows` of which it is one. None came if the answer is 0, within so many
        seconds. What `show` has not come to the end of is still there. For one thread alone.
        """
        events = self._events
        deadline = monotonic() + timeout
        while not events:
            if not self._news_until(deadline - monotonic()):
                return 0
        count = len(events)
        for _ in range(count):
            told = events[0]
            show(told)
            events.popleft()
            self.taken += type(told) is tuple or self._counts(told)
        return count

    def _news_until(self, timeout: float) -> bool:
        return not self._closed and self._news.acquire(timeout=max(0.0, timeout))

    @property
    def waiting(self) -> int:
        """How many events can be taken at once."""
        return len(self._events)

    def remove(self) -> None:
        """Remove the hook; what has come until then can still be taken."""
        self.handle.remove()
        self._closed = True
        self._tell()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while True:
            event = self.take(_LOOK_AGAIN)
            if event is not None:
                return event
            if self.over:
                self.remove()
                raise StopIteration

    def __aiter__(self) -> Stream[Event]:
        return self

    async def __anext__(self) -> Event:
        loop = asyncio.get_running_loop()
        while True:
            # In a thread, which waits a moment only: the loop may end meanwhile.
            event = await loop.run_in_executor(None, self.take, _LOOK_AGAIN)
            if event is not None:
                return event
            if self.over:
                await self.aclose()
                raise StopAsyncIteration


class Watch(Stream[CallEvent]):
    """A stream of ``CallEvent``, as ``watch`` gives it."""

    def __init__(self) -> None:
        super().__init__(call_event)

    def _counts(self, event: CallEvent) -> bool:
        return not event.rejected


class Log(Stream[LineEvent]):
    """A stream of ``LineEvent``, as ``log`` gives it."""

    def __init__(self, template: Template, at_line: bool) -> None:
        def made(event: CallEvent) -> LineEvent:
            return logged_call(event, template)

        super().__init__((lambda call: line_event(call, template)) if at_line else (lambda call: made(call_event(call))), made)

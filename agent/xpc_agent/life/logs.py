"""The lines that the agent logs, which no thread of the application writes.

To write a line may block: a pipe that nobody reads, a handler of the application's that waits for something. What waits for a hook, serves
one or accepts a session only puts its line into a queue.

Rules:
- While the agent runs, all that is logged to its loggers goes into one bounded queue; what finds it full is counted, and the count is a
  line of its own later. A line is made where it is logged: its time, thread and place are those.
- A thread of its own writes the queue, in order: it is started by the first line and ends after the last. Whatever it waits for, nothing
  else of ours waits for it but a fork, and the end of the process, for a moment each.
- It does not write while what a line goes to has no room for it (`_has_room`). To be stuck in a write would be to hold the locks of a
  handler and of `sys.stderr`, for which Python itself waits when the process ends.
- Who logs takes no lock, those of `logging` included.
- Handlers, filters and record factories are the application's code: they run in this thread, as work of ours, and what they raise costs one
  line.
- No line is two lines: what is not printable is escaped, also in what an exception says, and tracebacks are indented. Of each kind of line
  there are a few in a second, and then a count (`Rates`), since scripts can cause them.
- `logging` asks `threading` for the name of the thread, and `threading` makes a dummy for each thread that it has not started, which the
  application would find among its own. Ours are such threads: no dummy outlives its line.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from xpc_instrument.core.model.words import one_line
from xpc_instrument.core.node.threads import Run, ServiceThread
from xpc_instrument.core.node.throttle import Rates
from xpc_instrument.core.unpatched import POLLOUT, allocate_lock, monotonic, poll, wall_clock
from xpc_instrument.core.values.names import FAULTS

from ..guard import guard_thread
from ..hooks.count import Count

LOGGERS = ("xpc_agent", "xpc_instrument")

# Lines that wait. Each has so many characters at most, and of the traceback of each exception so many of the last frames: some hundred
# kilobytes together, and a few megabytes if all are tracebacks.
_LINES = 500
_LONGEST = 800
_FRAMES = 12
# With its traceback a line has so many characters: less than PIPE_BUF (4096 bytes), what a pipe takes at once if it takes anything.
_LONGEST_TRACE = 2000
# Lines of one kind in a second.
_RATE = 10
# How often it is looked whether there is room again, in seconds: at first, and at most.
_FIRST_LOOK, _LAST_LOOK = 0.01, 0.5
# How long a fork waits for the line that is being written, in seconds; and how long the process does when it ends.
_PAUSE_TIMEOUT = 0.1
FLUSH_TIMEOUT = 0.2

_INDENT = "    "


class _Line:
    """What is to be logged: as `logging` has it at the moment of the call, all of it text and numbers."""

    __slots__ = ("at", "created", "kind", "level", "name", "place", "text", "thread", "thread_name", "trace")

    def __init__(self, name: str, level: int, place: Tuple[str, int, Optional[str]], kind: str, text: str) -> None:
        self.created = wall_clock()
        self.at = monotonic()
        self.name = name
        self.level = level
        self.place = place
        self.kind = kind
        self.text = one_line(text, _LONGEST)
        self.thread = threading.get_ident()
        # Looked up here, and not asked for, which would make a dummy.
        known = threading._active.get(self.thread)  # type: ignore[attr-defined]
        self.thread_name = "xpc-instrument" if known is None else str(known.name)
        self.trace: Optional[traceback.TracebackException] = None

    def record(self, logger: logging.Logger, make: Callable[..., logging.LogRecord]) -> logging.LogRecord:
        """The record that `logger` would have made of it then."""
        file, number, function = self.place
        record = make(self.name, self.level, file, number, self.text, (), None, function)
        late = record.created - self.created
        record.created -= late
        record.relativeCreated -= late * 1000
        record.msecs = int(self.created % 1 * 1000) + 0.0
        record.thread, record.threadName = self.thread, self.thread_name
        if self.trace is not None:
            text = "".join(self.trace.format())
            cut = text if len(text) <= _LONGEST_TRACE else f"[...]{text[-_LONGEST_TRACE:]}"
            record.exc_text = "\n".join(_INDENT + one_line(line, _LONGEST) for line in cut.splitlines())
        return record


class _Tap:
    """Takes what is logged to one logger, for as long as it is `on`."""

    def __init__(self, logger: logging.Logger, put: Callable[[_Line], None]) -> None:
        self.logger = logger
        self._put = put
        # What was there before: the class's, or something of the application's.
        self._before: Dict[str, Any] = {}
        self._make: Callable[..., logging.LogRecord]
        self._handle: Callable[[logging.LogRecord], None]
        self._own: Dict[str, Any] = {}

    def open(self) -> None:
        logger = self.logger
        self._make, self._handle = logger.makeRecord, logger.handle
        self._own = {"makeRecord": self._taken, "handle": self._queued}
        if type(logger).isEnabledFor is logging.Logger.isEnabledFor and "isEnabledFor" not in logger.__dict__:
            self._own["isEnabledFor"] = self._is_enabled
        self._before = {name: logger.__dict__[name] for name in self._own if name in logger.__dict__}
        logger.__dict__.update(self._own)

    def close(self) -> None:
        """As it was, unless somebody has put something of theirs in our place."""
        for name, own in self._own.items():
            if self.logger.__dict__.get(name) is own:
                del self.logger.__dict__[name]
        self.logger.__dict__.update(self._before)

    def _is_enabled(self, level: int) -> bool:
        """In place of `Logger.isEnabledFor`, which takes the lock of `logging` for what it has not been asked since a level was set."""
        logger = self.logger
        return not logger.disabled and logger.manager.disable < level and level >= logger.getEffectiveLevel()

    def _taken(
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: Optional[str] = None,
        extra: Any = None,
        sinfo: Optional[str] = None,
    ) -> Any:
        """In place of `Logger.makeRecord`."""
        text = str(msg)
        line = _Line(name, level, (fn, lno, func), text, text % args if args else text)
        if exc_info and exc_info[1] is not None:
            # Without the frames, and with the lines of source read when it is written.
            line.trace = traceback.TracebackException(*exc_info, limit=-_FRAMES, lookup_lines=False)
        return line

    def _queued(self, record: Any) -> None:
        """In place of `Logger.handle`. A record that the application hands on, of another process, is its own affair."""
        if isinstance(record, _Line):
            self._put(record)
        else:
            self._handle(record)

    def write(self, line: _Line) -> None:
        """Have the handlers write it."""
        self._handle(line.record(self.logger, self._make))


class LineQueue:
    """The lines of this process: from `open` to `close` they are written by a thread of ours."""

    def __init__(self) -> None:
        self._taps = {name: _Tap(logging.getLogger(name), self._put) for name in LOGGERS}
        self._lines: Deque[_Line] = deque()
        self._dropped = Count()
        self._told = 0
        self._rates = Rates(_RATE)
        self._finishing = False
        self._begin()

    def _begin(self) -> None:
        # Nothing is written, for the moment of a fork or for good.
        self._held = False
        # The thread did not end when it should have: it is in a handler.
        self._stuck = False
        self._writing = allocate_lock()
        # Released to end a nap.
        self._nap = allocate_lock()
        self._nap.acquire()
        self._napping = False
        self._thread = ServiceThread(self._write_all, self._rouse)

    def open(self) -> None:
        """Take what is logged from now on."""
        for tap in self._taps.values():
            tap.open()

    def close(self) -> None:
        """Write what is left, for a moment at most; what is logged from now on is written by whoever logs it."""
        self.finish()
        for tap in self._taps.values():
            tap.close()

    # in any thread -----------------------------------------------------------------------------------------------------

    def _put(self, line: _Line) -> None:
        if len(self._lines) >= _LINES:
            self._dropped.up()
        else:
            self._lines.append(line)
        if not self._thread.running:
            self._start()
        elif self._napping:
            self._rouse()

    def _start(self) -> None:
        if self._held or (self._stuck and not self._thread.join(0.0)):
            return
        self._stuck = False
        try:
            self._thread.start()
        except RuntimeError:
            pass  # the process has no room for a thread: the next line tries again

    def _rouse(self) -> None:
        try:
            self._nap.release()
        except RuntimeError:
            pass  # somebody else was faster

    # the thread --------------------------------------------------------------------------------------------------------

    def _write_all(self, run: Run) -> None:
        guard_thread()
        # Two threads may have been started by two lines at once.
        with self._writing:
            while not self._held:
                if self._lines:
                    self._write_next()
                elif not self._rest():
                    # Before the last look: whoever appends after it starts another thread.
                    run.due = False
                    if not self._lines:
                        break
                    run.due = True

    def _write_next(self) -> None:
        look = _FIRST_LOOK
        while not self._has_room(self._lines[0]):
            self._nap.acquire(True, look)
            if self._held:
                return
            look = min(2 * look, _LAST_LOOK)
        line = self._lines.popleft()
        if line.kind:
            admitted, counts = self._rates.admit(line.kind, line.at)
            self._say(counts)
            if not admitted:
                return
        self._write(line)

    def _rest(self) -> bool:
        """All is written: say what is missing; wait until there is more to say. False if there will be nothing."""
        missing = self._dropped.value - self._told
        if missing:
            self._told += missing
            self._say([f"{missing} lines of the agent's are missing here: there was no room for them, or they could not be written"])
        self._say(self._rates.counts(monotonic(), self._finishing))
        due = self._rates.due
        if due is None or self._lines:
            return bool(self._lines)
        self._napping = True
        # Else whoever appended has not seen that.
        if not self._lines and not self._held and not self._finishing:
            self._nap.acquire(True, max(0.0, due - monotonic()))
        self._napping = False
        return True

    def _say(self, texts: List[str]) -> None:
        """Lines of this thread's own, at the end of the queue; of no kind, since they are few."""
        for text in texts:
            if self._taps["xpc_agent"].logger.isEnabledFor(logging.WARNING):
                self._lines.append(_Line("xpc_agent", logging.WARNING, (__file__, 0, None), "", text))

    def _has_room(self, line: _Line) -> bool:
        """Whether no file that the line goes to would block now; what is no file is taken to."""
        if poll is None:
            return True
        poller, files = poll(), set()
        for handler in _handlers(self._taps[line.name].logger):
            try:
                if handler.level <= line.level:
                    file = handler.stream.fileno()  # type: ignore[attr-defined]
                    poller.register(file, POLLOUT)
                    files.add(file)
            except FAULTS:
                pass  # it has none, or it is closed
        return len(poller.poll(0)) == len(files)

    def _write(self, line: _Line) -> None:
        ident = threading.get_ident()
        try:
            self._taps[line.name].write(line)
        except FAULTS:
            self._dropped.up()
        finally:
            threading._active.pop(ident, None)  # type: ignore[attr-defined]

    # forks, and the end ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """End the thread but keep what is queued; for the moment of a fork."""
        self._held = True
        # If it was stuck at the last fork, nothing is to be expected.
        self._stuck = not self._thread.end(0.0 if self._stuck else _PAUSE_TIMEOUT)

    def resume(self) -> None:
        """After a pause: go on."""
        self._held = False
        if self._lines:
            self._start()

    def reset_after_fork(self) -> None:
        """In a forked child: what is queued is the parent's to write."""
        self._lines.clear()
        self._told = self._dropped.value
        self._rates = Rates(_RATE)
        self._finishing = False
        self._begin()

    def finish(self) -> None:
        """Write what is left, for a moment at most. Nothing is written afterwards."""
        self._finishing = True
        if self._lines or self._dropped.value > self._told or self._rates.due is not None:
            if not self._thread.running:
                self._start()
            self._rouse()
            self._thread.join(FLUSH_TIMEOUT)
        self.pause()
        if self._stuck:
            # At exit `logging` takes the lock of each handler: the one that this thread may hold for good is replaced, as after a fork.
            for tap in self._taps.values():
                for handler in _handlers(tap.logger):
                    handler.createLock()


def _handlers(logger: logging.Logger) -> List[logging.Handler]:
    """Those that a line of the logger goes to, as `Logger.callHandlers` finds them."""
    found: List[logging.Handler] = []
    seen: Optional[logging.Logger] = logger
    while seen is not None:
        found += seen.handlers
        seen = seen.parent if seen.propagate else None
    return found or [handler for handler in (logging.lastResort,) if handler is not None]

"""What the verbs that look on have in common: their flags, the session, what they print, and how they end.

Rules:
- Events go to standard output, one in a line; what is said about the verb itself goes to standard error: the first line says what was hit
  and how it ends, the last what was seen and what was not. With `--json` both are events too.
- A verb ends with `-n` or `--for`, with Ctrl-C, or when the application has ended. All it did ends with it, also when it is killed.
- With `-- COMMAND` the application is started for the verb, which ends when the command does; Ctrl-C ends both.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import stat
import sys
import time
from contextlib import contextmanager
from socket import gethostname
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, TextIO, TypeVar, Union

from ..core.calls.rows import Row
from ..core.discovery.doorbell import bell_name
from ..core.model.loopback import is_loopback
from ..core.model.times import shown_seconds
from ..core.model.words import counted
from ..core.node.address import parse_address
from ..script.connect import connect
from ..script.handle import Handle
from ..script.session import Session
from ..script.watching import CallEvent, CallRows
from ..verbs.events import json_line, utc
from ..verbs.rows import json_of, text_of
from .flags import split_words
from .output import printable
from .starting import Started

# How long no process of the application may be there until it counts as ended, in seconds: one that restarts has others at once.
_GONE = 0.5
# Lines that are held at most: what costs is a write for each.
_MOST_HELD = 256
GRACE = 5.0
"""For so many seconds more a hook stays that the application would end by itself, so that what it has left out can be asked for."""


def _json_text(event: Mapping[str, Any]) -> str:
    try:
        text = json_line(event)
    except ValueError:
        # JSON has no infinity, as the sum of numbers may be, and what is no number: they are texts.
        event = json.loads(json.dumps(event), parse_constant=str)
        text = json_line(event)
    return text if _can_be_written(text) else json.dumps(event, separators=(", ", ": "))


def _can_be_written(text: str) -> bool:
    """Not a surrogate alone, as in names of files in another encoding, nor what a terminal does not know."""
    if text.isascii():
        return True
    try:
        text.encode()
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


_T = TypeVar("_T")
# Something, or what makes it.
Made = Union[_T, Callable[[], _T]]


class Output:
    """Where events go. Closing it closes the file of `-o`."""

    def __init__(self, options: argparse.Namespace) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        self.json: bool = options.json
        # Of the application, once there is one.
        self.app = self.host = ""
        # None where it is closed, as a daemon's may be.
        terminal = sys.stdout is not None and sys.stdout.isatty()
        self.colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.width = shutil.get_terminal_size().columns if terminal else 0
        # Lines that wait for more to go with them, for standard output and for the file.
        self._holds = False
        self._printed: List[str] = []
        self._filed: List[str] = []
        self._file: Optional[TextIO] = None
        # What was in the file stays until there is something to write: the application may not be there, or the target misspelt.
        self._replaces = False
        if options.output is not None:
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
            descriptor = os.open(options.output, flags, 0o600)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                # One that was there already may be for all to read.
                os.fchmod(descriptor, 0o600)
                self._replaces = True
            self._file = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def event(self, event: Made[Mapping[str, Any]], lines: Made[Sequence[str]] = (), style: str = "") -> None:
        """Print an event: its lines for people, or as JSON; there it says when, of which application and where, if it does not yet.

        A function in the place of one is called if that is printed.
        """
        if self.json or self._file is not None:
            told = event() if callable(event) else event
            whole = {"type": told["type"], "time": told.get("time") or utc(time.time()), "app": self.app, "host": self.host, **told}
            text = f"{_json_text(whole if self.app else told)}\n"
            if self._file is not None:
                self._filed.append(text)
            if self.json:
                self._printed.append(text)
        if not self.json:
            for line in lines() if callable(lines) else lines:
                shown = printable(line)
                self._printed.append(f"\x1b[{style}m{shown}\x1b[0m\n" if style and self.colour else f"{shown}\n")
        if not self._holds or len(self._printed) + len(self._filed) >= _MOST_HELD:
            self.flush()

    def rows(self, rows: CallRows, began: bool, show: Callable[[CallEvent], None]) -> Callable[[Row], None]:
        """What prints a call that came as one of these rows, as `event` would; `show` does it for what JSON has no number for."""
        line, told = text_of(rows, began), json_of(rows, self.app, self.host, began)
        shows, files = self.json, self._file is not None

        def write(row: Row) -> None:
            if shows or files:
                try:
                    text = told(row)
                except ValueError:
                    text = ""
                if not text or not _can_be_written(text):
                    show(rows.event(row))
                    return
                if files:
                    self._filed.append(f"{text}\n")
                if shows:
                    self._printed.append(f"{text}\n")
            if not shows:
                self._printed.append(f"{printable(line(row))}\n")
            if not self._holds or len(self._printed) + len(self._filed) >= _MOST_HELD:
                self.flush()

        return write

    @contextmanager
    def held(self) -> Iterator[None]:
        """In it events are written when there are many of them, with `flush`, or at the end."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
            self.flush()

    def flush(self) -> None:
        """Write what is held, in whole lines: whoever reads them may do so at any time, and the verb may be killed at any time."""
        filed, self._filed = self._filed, []
        printed, self._printed = self._printed, []
        if filed and self._file is not None:
            if self._replaces:
                self._file.truncate(0)
                self._replaces = False
            self._file.write("".join(filed))
            self._file.flush()
        if printed and sys.stdout is not None:
            sys.stdout.write("".join(printed))
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """What is no event, for people."""
        print(printable(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing more comes."""
        if self._file is not None:
            self._file.close()


class Run:
    """One verb at work on one application."""

    def __init__(self, session: Session, output: Output, targets: List[str], options: argparse.Namespace) -> None:
        self.session = session
        self.output = output
        self.targets = targets
        self.options = options
        self.started: Optional[Started] = None
        self.began = time.monotonic()
        self._alone_since = 0.0

    @property
    def limit(self) -> Optional[int]:
        """`-n`, if there is one."""
        return self.options.limit or None

    @property
    def rate(self) -> Optional[float]:
        """`--rate`, if there is one."""
        return self.options.rate or None

    def armed(self, handle: Handle, noun: str, warning: str = "") -> None:
        """The first line; a `warning` stands in front."""
        pids = self.session.pids
        waiting = len(set(handle.waiting) & set(pids))
        targets, processes = handle.targets, len(pids) - waiting
        took = shown_seconds(time.monotonic() - self.began)
        app = self.session.app if self.started is None else self.started.text
        where = f"in {counted(processes or waiting, 'process', 'processes')} of {app}"
        what = targets[0] if len(targets) == 1 else f"{len(targets)} targets of {handle.target}"
        flag = "-n, in each process" if handle._apart and len(pids) > 1 else "-n"
        ends = [f"after {counted(self.limit, noun)} ({flag})"] if self.limit else []
        ends.append(f"after {shown_span(self.options.expires)} (--for)")
        how = f"ends {' or '.join(ends)}, or Ctrl-C"
        if targets and processes:
            waits = f" ({waiting} more {'has' if waiting == 1 else 'have'} not imported it)" if waiting else ""
            self.output.say(f"{warning}armed {what} {where}{waits} in {took}; {how}")
        else:
            yet = "no module that is imported has it" if self.started is None else "it has yet to be imported"
            if self.started is not None and all(one.startswith("__main__:") for one in handle.target.split(",")):
                yet = "the program has yet to define it"
            self.output.say(f"{warning}waiting for {handle.target} {where}: {yet}; {how}")
        event = {"type": "armed", "app": self.session.app, "pids": self.session.pids, "targets": targets, "target": handle.target}
        self.output.event(event)
        if self.started is not None and not self.started.release():
            self.output.say("the program has begun before that, and its first calls may be missing: it waits for 10 seconds at most")

    @property
    def has_ended(self) -> bool:
        """Whether no process of the application is left, and none has come for a moment."""
        if self.session.pids:
            self._alone_since = 0.0
            return False
        if self.started is not None and self.started.status is not None:
            return True
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        return now - self._alone_since > _GONE

    def interrupted(self) -> str:
        """Ctrl-C has been pressed: what comes next begins a line of its own, behind the `^C` that a terminal shows. Why it is over."""
        if sys.stderr.isatty():
            self.output.say("")
        return "interrupted"

    def has_rest(self, handle: Handle) -> bool:
        """Whether a hook has ended in all processes that there are, since it cost too much."""
        return handle.over_budget.keys() >= set(self.session.pids or [0])

    def status(self, handle: Handle, over: str, seen: int) -> int:
        """The exit status, at the end: 1 where nothing was seen until `--for`, or since a target has not come, with its module or before
        the application has ended (`over` is "")."""
        return int(not seen and (over == "expires" or bool(handle._not_hooked) or (not over and bool(handle._never_came()))))

    def end(self, handle: Handle, gone: bool) -> str:
        """How the last line says that it is over; says first what has never come, if all has ended."""
        if not gone and self.session.pids:
            return f"disarmed in {counted(len(self.session.pids), 'process', 'processes')}"
        for target in handle._never_came():
            module = target.partition(":")[0]
            how = "defined" if module == "__main__" else "imported"
            what = target if module == "__main__" else module
            self.output.say(f"nothing of {target} was ever {how}" if "*" in target else f"{what} was never {how}")
        status = None if self.started is None else self.started.last_status()
        if not status:
            return "the application has ended"
        return f"the application has ended with {status}" if status > 0 else f"the application was ended by {signal_name(-status)}"

    def _unreached(self, seen: int) -> int:
        """How many processes had ended too early; where `-n` is reached, nothing of them is missing."""
        follower = self.session._follower
        return 0 if follower is None or seen == self.limit else follower.unreached()

    def unreached(self, seen: int) -> str:
        """What the last line ends with where processes have ended too early."""
        count = self._unreached(seen)
        return (
            f"; {counted(count, 'process', 'processes')} had ended before the verb could reach {'it' if count == 1 else 'them'}"
            if count
            else ""
        )

    def ended(self, seen: int, gone: bool) -> Dict[str, int]:
        """What the `summary` has of a command that has ended, and of processes that have too early."""
        status = self.started.status if gone and self.started is not None else None
        count = self._unreached(seen)
        return {**({} if status is None else {"status": status}), **({"unreached": count} if count else {})}

    def failures(self, handle: Handle, errors: int) -> str:
        """What the last line ends with where expressions have failed, in so many calls as far as that is known."""
        if not errors and not handle.expression_error:
            return ""
        count = f" in {counted(errors, 'call')}" if errors else ""
        why = f": {handle.expression_error}" if handle.expression_error else ""
        return f"; an expression failed{count}{why}"

    def tell_rest(self, handle: Handle) -> None:
        """Behind the last line: where the hook has ended since it cost too much."""
        for pid, used in handle.over_budget.items():
            self.output.say(
                f"observing took {used} of the processor's time in {pid} and has ended there: at most 2 % may be spent; use --sample"
            )

    def skipped(self, handle: Handle) -> Optional[Dict[str, int]]:
        """How many calls the terms of a hook have left out so far, by reason, and by `"expression"` how often one has failed.

        None where no process has the hook any more.
        """
        found: Optional[Dict[str, int]] = None
        name = bell_name(self.session._id)
        for probe in self.session.stats():
            for hook in probe.hooks:
                if hook.session == name and hook.number == handle.number:
                    found = found or {}
                    for why, count in (*hook.skipped.items(), ("expression", hook.failures.get("expression", 0))):
                        found[why] = found.get(why, 0) + count
        return found

    def summary(
        self,
        handle: Handle,
        shown: int,
        noun: str,
        left_out: Mapping[str, int],
        *,
        events: int,
        gone: bool,
        verb: str = "shown",
        whole: bool = True,
        note: str = "",
        errors: int = 0,
    ) -> None:
        """The last line, with a `note` at its end. `left_out` has what was not shown, in words; `whole`: that is all there was."""
        calls = shown + sum(left_out.values()) if whole else 0
        of = f" of {calls}" if whole else ""
        parts = ", ".join(f"{count} {why}" for why, count in left_out.items())
        self.output.say(f"{counted(shown, noun)} {verb}{of}: {parts}; {self.end(handle, gone)}{note}{self.unreached(events)}")
        words = {"did not meet --when": "rejected", "over --rate": "rate", "dropped": "dropped"}
        told = {words[why]: count for why, count in left_out.items() if why in words}
        zero = {"rejected": 0, "rate": 0, "dropped": 0, "errors": errors}
        self.output.event({"type": "summary", "events": events, "calls": calls or events, **zero, **told, **self.ended(events, gone)})


def signal_name(number: int) -> str:
    """`SIGKILL`; or its number, of one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def shown_span(span: float) -> str:
    """A time that somebody typed: `30m`, and not `30m 0s`."""
    for unit, size in (("h", 3600), ("m", 60)):
        if span >= size and span % size == 0:
            return f"{span / size:.0f}{unit}"
    return shown_seconds(span)


@contextmanager
def running(options: argparse.Namespace, least: int = 1) -> Iterator[Run]:
    """The session of a verb; of an application that is started for it, until that has ended."""
    app, targets = split_words(options, least)
    output = Output(options)
    started: Optional[Started] = None
    try:
        if app is None:
            started = Started(options, targets)
            session = started.connected()
        else:
            session = connected(_attached(app, output) if options.attach else app, options)
        with session:
            output.app, output.host = session.app, _host_of(session)
            run = Run(session, output, targets, options)
            run.started = started
            yield run
    finally:
        output.close()
        if started is not None:
            started.end()


def _host_of(session: Session) -> str:
    """The name of the machine on which the application runs; as it was typed, if that is another one."""
    for address in session._processes:
        where = parse_address(address)
        if where.host not in ("", "localhost") and not is_loopback(where.host):
            return where.host
    return gethostname()


def _attached(app: str, output: Output) -> Union[int, str]:
    """What to connect to, with the agent in it. Raises `SystemExit` where it is no pid, and what `attach_process` raises."""
    if not app.isdigit():
        print(f"xpc: --attach takes a pid, and {app} is none", file=sys.stderr)
        raise SystemExit(2)
    # Late: it loads what the stub is made of, which no other verb needs.
    from ..attaching.attach import attach_process, reached_at

    one = attach_process(int(app))
    if not one.already:
        output.say(f"attached to {one.pid} as {one.app} in {shown_seconds(one.seconds)}; `xpc detach {one.app}` takes the agent out")
    return reached_at(one)


def connected(app: Union[int, str], options: argparse.Namespace) -> Session:
    """The session with an application. Raises what `connect` raises."""
    from pathlib import Path

    from ..core.config.schema import ManagerConfig
    from ..core.wire.tls import TLS

    key = ManagerConfig(authkey_file=Path(options.authkey_file)).read_authkey() if options.authkey_file else None
    tls = TLS.from_folder(options.tls_dir) if options.tls_dir else None
    return connect(app, key, tls=tls, plaintext_beyond_loopback=options.plaintext_beyond_loopback)

"""The processes of the soak, spoken to by lines."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Dict, List, Optional, Sequence

# How long a process may take to answer a line, in seconds: far more than any deadline.
PATIENCE = 20.0

# Warnings are errors in all of them. That Python warns of each fork of a process with threads is no affair of what is tested here.
PYTHON = (sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning")

# What no process has to print, wherever it writes: what its hooks raise is counted and not shown.
FORBIDDEN = ("Traceback", "Fatal Python error", "Exception ignored", "Warning:")

# The smallest pipe that there is, in bytes: soon full where nobody reads it.
_NARROW = 4096
# By its number in Linux: Python has its name from 3.10 on.
_SET_PIPE_SIZE = 1031


class Violation(Exception):
    """Something is not as it must be."""


class Process:
    """One process; what it prints is kept, and a violation that it tells of is raised where it is next spoken to.

    Nobody reads the standard error of one that is `deaf`.
    """

    def __init__(self, words: Sequence[str], folder: Path, deaf: bool, **environment: str) -> None:
        self.process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
        )
        self.pid = self.process.pid
        self.deaf = deaf
        self.text: List[str] = []
        self.violations: List[str] = []
        self._lines: queue.Queue[Optional[str]] = queue.Queue()
        assert self.process.stdout is not None and self.process.stderr is not None
        if deaf:
            fcntl.fcntl(self.process.stderr, getattr(fcntl, "F_SETPIPE_SZ", _SET_PIPE_SIZE), _NARROW)
        self._readers = [threading.Thread(target=self._read, args=(self.process.stdout, True), daemon=True)]
        if not deaf:
            self._readers.append(threading.Thread(target=self._read, args=(self.process.stderr, False), daemon=True))
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], answers: bool) -> None:
        for line in stream:
            if answers and line.startswith('@{"violation"'):
                self.violations.append(json.loads(line[1:])["violation"])
            elif answers:
                self._lines.put(line.rstrip("\n"))
            if not line.startswith("@"):
                self.text = [*self.text[-200:], line]
            if any(word in line for word in FORBIDDEN):
                self.violations.append(f"it printed: {line.strip()}")
        if answers:
            self._lines.put(None)

    def check(self) -> None:
        """Raise the first violation that it has told of."""
        if self.violations:
            raise Violation(f"{self}: {self.violations[0]}\n{''.join(self.text[-40:])}")

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {self.pid}{' (nobody reads its log)' if self.deaf else ''}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def send(self, word: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone, which `line` tells

    def line(self) -> Optional[str]:
        """The next line, or None if it has ended. Raises `Violation` if it does neither."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise Violation(f"{self} said nothing for {PATIENCE} s; its last lines: {self._stacks()}") from None
        if line is None:
            self._lines.put(None)
        return line

    def wait(self) -> int:
        """Its exit status. Raises `Violation` if it does not end, or has printed what it must not."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Violation(f"{self} does not end; its last lines: {self._stacks()}") from None
        finally:
            self._done()
        self.check()
        return status

    def _stacks(self) -> str:
        """The stacks of all its threads, by faulthandler, of which it dies; behind what it printed before."""
        self.signal(signal.SIGABRT)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass  # its last lines say what there is
        self._readers[-1].join(1.0)
        return "".join(self.text[-150:])

    def _done(self) -> None:
        if not self.alive:
            for reader in self._readers:
                reader.join(5.0)
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                assert stream is not None
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # nobody reads what was still to be written

    def force(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._done()


class Application(Process):
    """An application of the soak, under `xpc-instrument run`. Its number is that of its book."""

    def __init__(self, folder: Path, number: int, deaf: bool) -> None:
        words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--", *PYTHON, "application.py", str(number)]
        super().__init__(words, folder, deaf)
        self.number = number
        # What it may keep and have grown to.
        self.baseline: Dict[str, Any] = {}
        # What has been taken in of its reports: they count from its beginning.
        self.counted: Dict[str, int] = {}
        self.failed: Dict[str, int] = {}
        self.events: Dict[str, int] = {}
        self.frames = 0
        self._answer()

    def _answer(self) -> Dict[str, Any]:
        line = self.line()
        self.check()
        if line is None:
            raise Violation(f"{self} ended by itself, status {self.process.poll()}: {''.join(self.text[-20:])}")
        if not line.startswith("@"):
            raise Violation(f"{self} printed: {line}")
        found: Dict[str, Any] = json.loads(line[1:])
        return found

    def ask(self, word: str) -> Dict[str, Any]:
        """Have it do something; returns its report."""
        self.send(word)
        return self._answer()

    def signalled(self) -> Dict[str, Any]:
        """Send it a signal that it waits for with `sigwait`; returns its report."""
        self.signal(signal.SIGUSR1)
        return self._answer()

    def settled(self) -> Dict[str, Any]:
        """Its report when its threads have stopped and the ends of scripts have been noticed."""
        found = self.ask("stop")
        deadline = time.monotonic() + PATIENCE / 2
        while time.monotonic() < deadline:
            good = self.baseline or found
            if not found["hooks"] and all(found[name] <= good[name] for name in ("fds", "threads", "memories")):
                return found
            time.sleep(0.05)
            # What it found worst is in the first report.
            found = {**self.ask("report"), "late": found["late"], "overslept": found["overslept"]}
        return found

    def end(self, way: str) -> float:
        """Have it leave; returns after how many seconds it was gone."""
        begun = time.monotonic()
        if way == "kill":
            self.process.kill()
        elif way == "term":
            self.signal(signal.SIGTERM)
        else:
            self.send(way)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass  # said below
        took = time.monotonic() - begun
        # To the end of its output, which a child of it may have open a little longer.
        status = self.wait()
        if status != (-9 if way == "kill" else 0):
            raise Violation(f"{self} ended with status {status} ({way}): {''.join(self.text[-20:])}")
        return took


class Script(Process):
    """A probe script of the soak. Whose log nobody reads writes one line and more of each failure of its hooks."""

    def __init__(self, folder: Path, seed: int, timeout: float, seat: int, deaf: bool = False, wait: bool = True, *more: str) -> None:
        words = [*PYTHON, "script.py", str(seed), str(timeout), str(seat), *more]
        super().__init__(words, folder, deaf, **({"SOAK_DEAF": "1"} if deaf else {}))
        self.seat = seat
        if wait:
            self._reply("did", "refused")

    def _reply(self, *words: str) -> str:
        while True:
            line = self.line()
            self.check()
            if line is None:
                # It died of what one of its own hooks did, or of an application that was not there any more.
                return "it has died"
            if line.startswith(words):
                return line

    def ask(self, word: str) -> str:
        """Have it do something; returns what came of it."""
        self.send(word)
        return self._reply("did", "refused")

    def signalled(self) -> str:
        """Send it a signal that it waits for with `sigwait`; returns what came of it."""
        self.signal(signal.SIGUSR1)
        return self._reply("took")

    def depart(self, way: str) -> None:
        """Have it leave by itself, in one of the words that it knows."""
        if way == "run" and self.alive:
            self.ask("run")
            self.signal(signal.SIGINT)
        else:
            self.send(way)
        self.ended()

    def ended(self) -> None:
        """Wait for its end. Raises `Violation` if that is not one that it was told."""
        status = self.wait()
        # Some hooks kill their script.
        if status not in (0, -signal.SIGKILL):
            raise Violation(f"{self} ended with status {status}: {''.join(self.text[-20:])}")

"""Real programs for the tests: started as processes, spoken to by lines, waited for by signals, never by sleeping.

A thread of its own reads each program's output, so that a program that prints a lot never stands still at a full pipe while the test
looks elsewhere; waiting for a line is waiting on a queue, with a deadline.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set

PATIENCE = 30.0

# Pids that were ended by force during the running test: only they may leave files in the runtime directory.
killed: Set[int] = set()

# Programs that outlive the test that started them, for those that come after it.
kept: Set[Program] = set()


class Program:
    """A running program. `read_until("ready")` waits for a line; `output` has all lines read so far, standard error included."""

    def __init__(
        self,
        path: Path,
        *args: str,
        command: Optional[Sequence[str]] = None,
        env: Optional[Dict[str, str]] = None,
        cwd: Optional[Path] = None,
    ) -> None:
        words = [str(word) for word in command] if command is not None else [sys.executable, str(path)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        self.process = subprocess.Popen(
            [*words, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=str(cwd or (path if path.is_dir() else path.parent)),
            start_new_session=True,
        )
        self.output: List[str] = []
        self._lines: queue.Queue[Optional[str]] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @property
    def pid(self) -> int:
        """Its process id. A program under `xpc-instrument run` keeps it: the command becomes the application."""
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def read_line(self, timeout: float = PATIENCE) -> str:
        """The next line; fails the test with all output if there is none within `timeout` seconds, or the program has ended."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no line within {timeout} s; so far:\n{self.text}") from None
        if line is None:
            self._lines.put(None)
            raise AssertionError(f"the program has ended; its output:\n{self.text}")
        self.output.append(line)
        return line

    def read_until(self, word: str, timeout: float = PATIENCE) -> str:
        """The first line, from here on, that contains `word`."""
        deadline = time.monotonic() + timeout
        while True:
            line = self.read_line(max(0.01, deadline - time.monotonic()))
            if word in line:
                return line

    def find_line(self, word: str, timeout: float = PATIENCE) -> str:
        """The first line that contains `word`, of all: what another thread prints may come before an answer that has been read."""
        seen = next((line for line in self.output if word in line), None)
        return self.read_until(word, timeout) if seen is None else seen

    def send_line(self, text: str = "") -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        os.kill(self.pid, number)

    def kill(self) -> int:
        """End this process alone by SIGKILL, as a crash would, and wait; returns its exit status."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, negative for a signal; drains its output. Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        status = self.process.wait(timeout)
        if status < 0:
            killed.add(self.pid)
        self._drain()
        return status

    @property
    def text(self) -> str:
        """All lines read so far, as one text."""
        return "\n".join(self.output)

    def _drain(self) -> None:
        self.reader.join(5.0)
        while True:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return
            if line is None:
                self._lines.put(None)  # so that reading on fails at once instead of at its deadline
                return
            self.output.append(line)

    def end(self) -> None:
        """Kill it and all that it started (its process group), and wait. The fixture calls this."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
                killed.add(self.pid)
            except (ProcessLookupError, PermissionError):
                break  # it ended by itself
        if self.process.wait(PATIENCE) < 0:
            killed.add(self.pid)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # what was still to be written has no reader any more
        # To the end of the output first: closed under its reader, the stream would be an error there.
        self.reader.join(5.0)
        self.process.stdout.close()


def kill(pid: int) -> None:
    """End any process of the test by SIGKILL, such as a worker that an application forked; what it leaves behind is then expected."""
    killed.add(pid)
    os.kill(pid, signal.SIGKILL)


def children(pid: int) -> List[int]:
    """The living child processes of a process; [] where there is no /proc."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def wait_for(condition: threading.Event, timeout: float = PATIENCE) -> None:
    """Wait for an event; fails the test if it does not come."""
    assert condition.wait(timeout), f"it did not happen within {timeout} s"


def wait_for_exit(pid: int, timeout: float = PATIENCE) -> bool:
    """Wait until a process that need not be ours has ended; False if it still runs after `timeout` seconds. Linux only."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)

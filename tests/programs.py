"""Real programs for the tests: started as processes, spoken to by lines, waited for by signals, never by sleeping."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

PATIENCE = 30.0


class Program:
    """A running program. `read_until("ready")` waits for a line; `output` has all lines so far, standard error included."""

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
        self._lines: "queue.Queue[Optional[str]]" = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def read_line(self, timeout: float = PATIENCE) -> str:
        """The next line; fails the test with all output if there is none in time."""
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

    def send_line(self, text: str = "") -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status; drains its output."""
        status = self.process.wait(timeout)
        self._drain()
        return status

    @property
    def text(self) -> str:
        return "\n".join(self.output)

    def _drain(self) -> None:
        self._reader.join(5.0)
        while True:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return
            if line is None:
                return
            self.output.append(line)

    def end(self) -> None:
        """Kill it and all that it started, and wait."""
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                break  # it ended by itself
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # what was still to be written has no reader any more
        self._reader.join(5.0)


def children(pid: int) -> List[int]:
    """The living child processes of a process; [] where there is no /proc."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def wait_for(condition: "threading.Event", timeout: float = PATIENCE) -> None:
    """Wait for an event; fails the test if it does not come."""
    assert condition.wait(timeout), f"it did not happen within {timeout} s"

"""The processes of the soak, spoken to by lines."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

# How long a process may take to answer a line, in seconds: far more than any deadline.
PATIENCE = 20.0


class Violation(Exception):
    """Something is not as it must be."""


class Process:
    """One process; what it prints is kept, and a violation that it tells of is raised where it is next spoken to."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self.process = subprocess.Popen(
            words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.pid = self.process.pid
        self.text: List[str] = []
        self.violations: List[str] = []
        self._lines: queue.Queue[Optional[str]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('@{"violation"'):
                self.violations.append(json.loads(line[1:])["violation"])
            elif line.startswith("@") or isinstance(self, Script):
                self._lines.put(line.rstrip("\n"))
            self.text = [*self.text[-200:], line]
            if "Traceback" in line or "Fatal Python error" in line:
                self._traceback(line)
        self._lines.put(None)

    def _traceback(self, line: str) -> None:
        """An application prints none: what its hooks raise is counted, not shown."""

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
            raise Violation(f"process {self.pid} said nothing for {PATIENCE} s; its last lines: {''.join(self.text[-20:])}") from None
        if line is None:
            self._lines.put(None)
        return line

    def wait(self) -> int:
        """Its exit status. Raises `Violation` if it does not end."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Violation(f"process {self.pid} does not end; its last lines: {''.join(self.text[-20:])}") from None
        finally:
            self._done()

    def _done(self) -> None:
        if not self.alive:
            self._reader.join(5.0)
            for stream in (self.process.stdin, self.process.stdout):
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
    """An application of the soak, under `xpc-instrument run`."""

    def __init__(self, folder: Path, seed: int) -> None:
        words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--", sys.executable, "application.py", str(seed)]
        super().__init__(words, folder)
        self.baseline: Dict[str, Any] = {}
        self.counted: Dict[str, int] = {}
        self.failed: Dict[str, int] = {}
        self.frames = 0
        self._answer()

    def _traceback(self, line: str) -> None:
        self.violations.append(f"it printed a traceback: {''.join(self.text[-5:])}")

    def _answer(self) -> Dict[str, Any]:
        line = self.line()
        self.check()
        if line is None:
            raise Violation(f"application {self.pid} ended by itself: {''.join(self.text[-20:])}")
        found: Dict[str, Any] = json.loads(line[1:])
        return found

    def check(self) -> None:
        """Raise the first violation that it has told of."""
        if self.violations:
            raise Violation(f"application {self.pid}: {self.violations[0]}\n{''.join(self.text[-30:])}")

    def ask(self, word: str) -> Dict[str, Any]:
        """Have it do something; returns its report."""
        self.send(word)
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
            found = self.ask("report")
        return found

    def end(self, way: str) -> float:
        """Have it leave; returns after how many seconds it was gone."""
        begun = time.monotonic()
        if way == "kill":
            self.process.kill()
        else:
            self.send(way)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass  # said below
        took = time.monotonic() - begun
        # To the end of its output, which a child of it may have open a little longer.
        status = self.wait()
        self.check()
        if status != (-9 if way == "kill" else 0):
            raise Violation(f"application {self.pid} ended with status {status}: {''.join(self.text[-20:])}")
        return took


class Script(Process):
    """A probe script of the soak."""

    def __init__(self, folder: Path, seed: int, timeout: float, wait: bool = True) -> None:
        super().__init__([sys.executable, "script.py", str(seed), str(timeout)], folder)
        if wait:
            self._reply("coming")

    def _reply(self, word: str) -> str:
        while True:
            line = self.line()
            if line is None:
                # It died of what one of its own hooks did, or of an application that was not there any more.
                return "it has died"
            if line.startswith(("ready", "did", "refused")):
                return line

    def ask(self, word: str) -> str:
        """Have it do something; returns what came of it."""
        self.send(word)
        return self._reply(word)

    def close(self) -> None:
        """Have it leave by itself."""
        self.send("close")
        self.wait()

"""The other processes of a benchmark: started with this interpreter, spoken to in lines, gone when their context ends."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Optional, Sequence, Type

from ..measure.timing import pinned

ROOT = Path(__file__).resolve().parents[2]

# Seconds that a peer may take for one answer, or to leave when its standard input has ended.
_PATIENCE = 30.0


class PeerError(Exception):
    """A process of the benchmark could not do its part; what it wrote to standard error was passed on."""


class Peer:
    """`python -m MODULE ARGS`, which says "ready", then answers each line with one line and ends with its standard input.

    `pin` holds it on one processor, `prefix` is a command that runs it, `options` are the interpreter's, in place of `-m MODULE`.
    """

    def __init__(
        self,
        module: str,
        *args: str,
        runtime_dir: Path,
        pass_fds: Sequence[int] = (),
        pin: bool = False,
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.name = module
        with pinned(pin):
            self._process = subprocess.Popen(
                [*prefix, sys.executable, *(options or ("-m", module)), *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, "XPC_INSTRUMENT_RUNTIME_DIR": str(runtime_dir)},
                pass_fds=pass_fds,
                text=True,
                bufsize=1,
            )
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str) -> str:
        """Send a line and wait for the answer. Raises `PeerError`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
        except BrokenPipeError:
            raise PeerError(f"{self.name} has ended") from None
        return self._answer()

    def _answer(self) -> str:
        output = self._process.stdout
        assert output is not None
        # One line is asked for at a time, so none can wait in the buffer where select does not see it.
        if not select.select([output], [], [], _PATIENCE)[0]:
            raise PeerError(f"{self.name} did not answer within {_PATIENCE} s")
        line = output.readline().strip()
        if not line:
            raise PeerError(f"{self.name} has ended")
        return line

    def __enter__(self) -> Peer:
        try:
            answer = self._answer()
            if answer != "ready":
                raise PeerError(f"{self.name} said {answer!r}; expected 'ready'")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self._end()

    def _end(self) -> None:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            process.stdout.close()

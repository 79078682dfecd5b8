"""The application that a verb starts for itself, with `-- COMMAND`.

Rules:
- It has the agent in it, as with `run`, and its first process waits with the program until the verb is armed: nothing of that is missed.
- It waits at a pipe, 10 seconds at most (`xpc_agent/bootstrap/sitecustomize.py`). If the verb ends, so does the wait.
- It ends with the verb.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from typing import List, Optional

from ..core.discovery import entry as discovery
from ..core.model.errors import ApplicationNotFoundError
from ..core.model.target import is_line
from ..script.connect import connect
from ..script.session import Session

HOLD_VARIABLE = "XPC_INSTRUMENT_HOLD"
# How long a command that is started may take until it can be found, in seconds.
_STARTING = 30.0
# How long one whose processes have all left may take to end, in seconds.
_ENDING = 2.0
# How much of a command is shown.
_SHOWN = 60


class Started:
    """The command as a process, held until `release`."""

    def __init__(self, options: argparse.Namespace, targets: List[str]) -> None:
        command = shlex.join(options.started)
        self.text = command if len(command) <= _SHOWN else f"{command[:_SHOWN]}..."
        self._name = options.started[0]
        # Whose a line is will be known when its module has run.
        wanted = ["**" if is_line(one) else one if ":" in one or "*" in one else f"{one}:**" for one in targets]
        patterns = [word for one in wanted for word in ("--on-demand", one)]
        self.app = f"xpc-{os.getpid()}"
        run = [sys.executable, "-m", "xpc_instrument.cli", "run", "--app", self.app, *(patterns or ["--on-demand", "**"]), "--"]
        held, self._gate = os.pipe()
        try:
            environment = {**os.environ, HOLD_VARIABLE: f"{held} {os.fstat(held).st_ino}"}
            self._child = subprocess.Popen([*run, *options.started], env=environment, pass_fds=(held,))  # noqa: S603 - what was typed
        except BaseException:
            self._open_gate()
            raise
        finally:
            os.close(held)

    def connected(self) -> Session:
        """The session with it. Raises `SystemExit` where it ends before."""
        deadline = time.monotonic() + _STARTING
        while True:
            try:
                return connect(self.app, root=self._child.pid, timeout=0.2)
            except ApplicationNotFoundError:
                status = self._child.poll()
                if status is not None:
                    print(f"xpc: {self._name} ended with {status} before anything could be seen of it", file=sys.stderr)
                    raise SystemExit(status if status > 0 else 1) from None
                if time.monotonic() > deadline:
                    raise

    @property
    def status(self) -> Optional[int]:
        """The exit status of the command, below 0 for the signal that has ended it; None while it runs."""
        return self._child.poll()

    def last_status(self) -> Optional[int]:
        """The same of one that has left the verb, and may take a moment more to end."""
        try:
            return self._child.wait(_ENDING)
        except subprocess.TimeoutExpired:
            return None

    def release(self) -> bool:
        """Have the program begin; False if it has not waited for that."""
        try:
            return self._gate < 0 or os.write(self._gate, b"x") == 1
        except BrokenPipeError:
            return False
        finally:
            self._open_gate()

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, -1
        if gate >= 0:
            os.close(gate)

    def end(self) -> None:
        """The verb is over, and the command ends with it. Its files are removed by whoever looks, if it could not do that."""
        self._open_gate()
        if self.status is None:
            self._child.terminate()
            try:
                self._child.wait(10.0)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        discovery.processes()

"""Who looks on at a server: `python -m benchmarks.processes.onlooker APP PID HANDLER TARGET`. A line on its standard input names what is to
be from then on, and is answered once it is so, with the pid of who looks on: `plain`, without the agent; `none`, with the agent and no
hook; `monitor` or `stat` on the handler and the target; or `watch` on the handler, which is the command, in a process of its own. `whole`
is answered with why not all is seen any more, or `yes`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import Any

import xpc_instrument
from xpc_instrument.attaching.attach import attach_tree

_NOTHING_LOST = re.compile(r" 0 dropped\b")
# Seconds that the verb may take to end.
_PATIENCE = 10.0


class Verb:
    """`xpc watch -n 0 --rate 0`, whose lines go to nowhere."""

    def __init__(self, app: str, target: str) -> None:
        words = [sys.executable, "-m", "xpc_instrument.cli", "watch", app, target, "-n", "0", "--rate", "0"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        assert self._process.stderr is not None
        first = self._process.stderr.readline()
        if not first.startswith("armed"):
            raise RuntimeError(f"the verb said {first!r}; expected that it is armed")

    def remove(self) -> None:
        """End it, as Ctrl-C does. Raises `RuntimeError` if it has missed a call."""
        self._process.send_signal(signal.SIGINT)
        _, said = self._process.communicate(timeout=_PATIENCE)
        if not _NOTHING_LOST.search(said):
            raise RuntimeError(f"the verb said {said!r}; expected that nothing was dropped")


class Onlooker:
    """What there is now: a session if the agent is there, and what looks on."""

    def __init__(self, app: str, pid: int, handler: str, target: str) -> None:
        self._app, self._pid, self._handler, self._target = app, pid, handler, target
        self._session: Any = None
        self._looking: Any = None

    def be(self, state: str) -> int:
        """Have it so; gives the pid of who looks on."""
        if self._looking is not None:
            self._looking.remove()
        self._looking = None
        if state == "plain":
            self.leave()
            return os.getpid()
        if self._session is None:
            attach_tree(self._pid, app=self._app)
            self._session = xpc_instrument.connect(self._app)
        if state in ("monitor", "stat"):
            self._looking = getattr(self._session, state)([self._handler, self._target])
        elif state == "watch":
            verb = self._looking = Verb(self._app, self._handler)
            return verb.pid
        return os.getpid()

    def whole(self) -> str:
        """Whether all is seen: "yes", or why not."""
        if self._looking is None:
            return "yes"
        hooks = [hook for probe in self._session.stats() for hook in probe.hooks]
        if not hooks:
            return "no hook is there any more"
        lost = sum(hook.dropped + sum(hook.skipped.values()) for hook in hooks)
        return f"{lost} calls were not seen" if lost else "yes"

    def leave(self) -> None:
        """Take the agent out."""
        session, self._session = self._session, None
        if session is not None:
            session.detach()


def main() -> None:
    app, pid, handler, target = sys.argv[1:]
    onlooker = Onlooker(app, int(pid), handler, target)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "whole":
            print(onlooker.whole(), flush=True)
        else:
            print(onlooker.be(line.strip()), flush=True)
    onlooker.be("plain")


if __name__ == "__main__":
    main()

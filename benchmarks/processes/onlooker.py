"""Who looks on at a server: `python -m benchmarks.processes.onlooker APP PID HANDLER TARGET`. A line on its standard input names what is to
be from then on, and is answered once it is so: `plain`, without the agent; `none`, with the agent and no hook; or `monitor`, `stat` or
`watch`, on the handler, or on the handler and the target. `whole` is answered with why not all is seen any more, or `yes`."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Optional

import xpc_instrument
from xpc_instrument.attaching.attach import attach_tree
from xpc_instrument.verbs.events import call_text


def _write(stream: Any) -> None:
    """What the verb does with each call, but that nobody reads it."""
    with open(os.devnull, "w") as nowhere:
        for event in stream:
            print(*call_text(event, False), file=nowhere)


class Onlooker:
    """What there is now: a session if the agent is there, and what looks on."""

    def __init__(self, app: str, pid: int, handler: str, target: str) -> None:
        self._app, self._pid, self._handler, self._target = app, pid, handler, target
        self._session: Any = None
        self._looking: Any = None
        self._writer: Optional[threading.Thread] = None

    def be(self, state: str) -> None:
        """Have it so."""
        if self._looking is not None:
            self._looking.remove()
        if self._writer is not None:
            self._writer.join()
        self._looking = self._writer = None
        if state == "plain":
            self.leave()
            return
        if self._session is None:
            attach_tree(self._pid, app=self._app)
            self._session = xpc_instrument.connect(self._app)
        if state in ("monitor", "stat"):
            self._looking = getattr(self._session, state)([self._handler, self._target])
        elif state == "watch":
            self._looking = self._session.watch(self._handler, rate=None)
            self._writer = threading.Thread(target=_write, args=(self._looking,))
            self._writer.start()

    def whole(self) -> str:
        """Whether all is seen: "yes", or why not."""
        handle = getattr(self._looking, "handle", None)
        if handle is None:
            return "yes"
        return "yes" if not handle.over_budget and not handle.dropped else f"over budget {handle.over_budget}, {handle.dropped} dropped"

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
            onlooker.be(line.strip())
            print("done", flush=True)
    onlooker.be("plain")


if __name__ == "__main__":
    main()

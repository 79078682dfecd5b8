"""What looking on costs a web application: processor time for a request, in one tree of processes that is attached to and left again.

Requests per second of two servers beside each other, or of one in two moments, differ by more than what looking on takes. The time of the
processors that a request takes differs by less, and least in the same processes, in windows that follow each other.
"""

from __future__ import annotations

import functools
import os
import resource
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Set

from ..measure.timing import Comparison, Group, Line, Measured, Plot, TimeFunction
from ..processes import catalogue, wrk
from ..processes.pair import runtime_dir
from ..processes.peers import Peer, PeerError
from ..processes.reached import FOLDER_VARIABLE, UNBOUNDED_VARIABLE
from .web import SERVERS, Running, Server, free_ports, missing

# Seconds of one window, and of the requests before it, which warm up what has just been changed.
_WINDOW = 1.0
_WARMING_UP = 0.2
_CONNECTIONS = 4
# How long a server may take to have all its workers, in seconds.
_STARTING = 20.0
# What is the case -> as who looks on is told.
STATES = {"plain": "plain", "0 hooks": "none", "`monitor`": "monitor", "`stat`": "stat", "`watch -n 0 --rate 0`": "watch"}
# The share of the requests that is expected to be left: of the workers, and of all processes together.
_OF_WORKERS = {"`monitor`": 0.97, "`stat`": 0.97}
_OF_ALL = {"`watch -n 0 --rate 0`": 0.93}
_WORKERS, _ALL = "workers", "all"


class Tree:
    """A server that was started without the agent, and who looks on at it."""

    def __init__(self, folder: Path, server: Server, port: int) -> None:
        self._running = Running(folder, server, None, port)
        self._server = server
        self._port = port
        self._folder = folder
        self._state = ""
        self._pid = 0
        self._workers: List[int] = []
        # Who looks on, and the process that starts those.
        self._others: Set[int] = set()

    def start(self, keeper: Peer) -> None:
        """Have it started; it is not ready yet."""
        self._folder.mkdir(mode=0o700)
        words = [sys.executable, "-m", *(word.format(port=self._port) for word in self._server.words), f"{self._server.module}:app"]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XPC_INSTRUMENT_")},
            "PYTHONPATH": str(self._folder.parent),
            "XPC_INSTRUMENT_RUNTIME_DIR": str(self._folder),
            FOLDER_VARIABLE: str(self._folder),
            UNBOUNDED_VARIABLE: "1",
        }
        self._pid = int(keeper.ask(repr((words, environment, str(self._folder / "log")))))

    def look(self, stack: ExitStack) -> None:
        """Wait until it answers, and have somebody who looks on. Raises `PeerError`."""
        self._running.wait()
        until = time.monotonic() + _STARTING
        self._workers = [self._pid]
        while self._server.workers > 1:
            # The first that is there answers.
            self._workers = _children(self._pid)
            if len(self._workers) == self._server.workers or time.monotonic() > until:
                break
            time.sleep(0.05)
        if len(self._workers) != self._server.workers:
            raise PeerError(f"{self._server.module} has {len(self._workers)} workers; expected {self._server.workers}")
        names = (f"looked-at-{self._pid}", str(self._pid), f"{self._server.module}:show", self._server.target)
        self._onlooker = stack.enter_context(Peer("benchmarks.processes.onlooker", *names, runtime_dir=self._folder))

    def window(self, state: str, loops: int) -> Measured:
        """The time of the processors for a request, in a state."""
        url = f"http://127.0.0.1:{self._port}/"
        if self._state != state:
            self._others = {self._onlooker.pid, int(self._onlooker.ask(STATES[state]))}
            self._state = state
            wrk.burst(url, _WARMING_UP, _CONNECTIONS)
        workers, other = sum(map(_used, self._workers)), sum(map(_used, self._others)) + _by_children()
        load = wrk.burst(url, _WINDOW, _CONNECTIONS)
        workers, other = sum(map(_used, self._workers)) - workers, sum(map(_used, self._others)) + _by_children() - other
        seen = self._onlooker.ask("whole")
        if seen != "yes":
            raise PeerError(f"{self._server.module}, {state}: not all is seen: {seen}")
        return {_WORKERS: workers / load.requests, _ALL: (workers + other) / load.requests}


def _children(pid: int) -> List[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _used(pid: int) -> float:
    """Seconds of the processors that the threads of a process have had, to the nanosecond."""
    used = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            used += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue  # it has just ended
    return used / 1e9


def _by_children() -> float:
    """The same of what this process has started and waited for: wrk."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _trees() -> Iterator[Mapping[str, TimeFunction]]:
    wanted = {name: server for name, server in SERVERS.items() if not missing(server)}
    with runtime_dir() as folder, ExitStack() as stack:
        catalogue.write(folder, 1)
        keeper = stack.enter_context(Peer("benchmarks.processes.keeper", runtime_dir=folder))
        trees: Dict[str, Tree] = {}
        for number, ((name, server), port) in enumerate(zip(wanted.items(), free_ports(len(wanted)))):
            trees[name] = Tree(folder / str(number), server, port)
            trees[name].start(keeper)
        for tree in trees.values():
            tree.look(stack)
        yield {f"{name}, {state}": functools.partial(tree.window, state) for name, tree in trees.items() for state in STATES}


def _rows() -> Iterator[Comparison]:
    for name, server in SERVERS.items():
        for figure, text, shares in ((_WORKERS, "of the workers", _OF_WORKERS), (_ALL, "of workers, script and wrk", _OF_ALL)):
            for state in list(STATES)[1:]:
                for base in ("plain", "0 hooks") if state != "0 hooks" else ("plain",):
                    yield Comparison(
                        f"{name}: requests for a processor's second {text}, {state}, over {base}",
                        f"{name}, {state}, {figure}",
                        f"{name}, {base}, {figure}",
                        above=shares.get(state),
                        rate=True,
                        needs=missing(server),
                    )


OBSERVED = Group(
    "observed",
    _trees,
    tuple(_rows()),
    loops=1,
    part=0.2,
    title="Web applications that are looked at, in processor time",
    about=f"""\
The same servers, each one tree of processes that was started without the agent. Before each window of {_WINDOW:g} s under `wrk` it is made
what the row says: "plain", with the agent taken out (`detach`); "0 hooks", with the agent in (`attach --tree`); with `monitor` or `stat` on
the handler and the function; and with `xpc watch -n 0 --rate 0` on the handler, whose lines are written to nowhere. What is measured is the
processor time that the workers, with all their threads, take for a request; and the same with the script, which for `watch` is the command,
and wrk. The bound of what looking on may cost is taken
off.""",
    why="""\
What a machine answers in a second when all of its processors are busy follows from this, without the noise of who was given a processor
when. These applications do nothing else for a request, so that what looking on takes is the largest part of it that it can be; most of
what a `watch` takes is the picture of the result, between other work of the processor.""",
    plots=(
        Plot(
            "observed",
            "Processor time of the workers for a request",
            tuple(
                Line(f"{name}, {state}", ((0, f"{name}, {state}, {_WORKERS}"),), state != "plain") for name in SERVERS for state in STATES
            ),
            y="processor time for one request",
        ),
    ),
)

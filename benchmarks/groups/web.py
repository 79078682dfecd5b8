"""Real web applications under the load of a real generator, with the agent and hooks and without, over the plain application."""

from __future__ import annotations

import functools
import http.client
import importlib.util
import json
import os
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..measure.timing import Comparison, Group, Line, Measured, Plot, TimeFunction
from ..processes import catalogue, wrk
from ..processes.pair import runtime_dir
from ..processes.peers import Peer, PeerError
from ..processes.reached import FOLDER_VARIABLE, UNBOUNDED_VARIABLE, total

_APP = "shop"
_POINTS = 100
# Seconds of one burst of requests, and of the first one, which warms up; the connections that they come over.
_BURST = 0.5
_WARMING_UP = 0.2
_CONNECTIONS = 4
# Seconds that a server may take to be ready, and what it has begun to be heard of by its script.
_PATIENCE = 30.0
_SETTLING = 5.0
_LOOK_AGAIN = 0.005


class Server(NamedTuple):
    """One kind of server: the module of its application, the target in it, the modules that it needs, and its command for a port."""

    module: str
    target: str
    needs: Sequence[str]
    words: Sequence[str]
    workers: int


SERVERS: Dict[str, Server] = {
    "gunicorn, Flask": Server(
        "benchmarks.processes.web_flask",
        "benchmarks.processes.web_shop:price",
        ("flask", "gunicorn"),
        ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--log-level", "warning"),
        2,
    ),
    "uvicorn, FastAPI": Server(
        "benchmarks.processes.web_fastapi",
        "benchmarks.processes.web_shop:price_async",
        ("fastapi", "uvicorn"),
        ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", "--no-access-log"),
        1,
    ),
}
# One more server that is the same as the plain one: their ratio is the noise floor.
_AGAIN = "plain again"
# Variant -> the hook of its script, if the agent is there; "none": a hook is armed nowhere.
VARIANTS: Dict[str, Optional[str]] = {
    "plain": None,
    _AGAIN: None,
    "0 hooks": "none",
    "`before`": "before",
    "`after`": "after",
    "`around`": "around",
    "`instead`": "instead",
    "`before` that nobody waits for": "unwaited",
    "`monitor`": "monitor",
    "`stat`": "stat",
    "`watch -n 0 --rate 0`": "watch",
}
# What looks on; what of the requests is to be left by it, the group `observed` measures, in processor time and with less noise.
_LOOKING = ("`monitor`", "`stat`", "`watch -n 0 --rate 0`")


def missing(server: Server) -> str:
    """What is needed and not here; empty if nothing is."""
    modules = [name for name in server.needs if importlib.util.find_spec(name) is None]
    if modules:
        return " and ".join(modules)
    return "" if wrk.here() else wrk.NEEDS


def free_ports(count: int) -> List[int]:
    """Different ports that nobody has at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Running:
    """A server that was started, and later its script."""

    def __init__(self, folder: Path, server: Server, hook: Optional[str], port: int) -> None:
        self.folder = folder
        self.server = server
        self.hook = hook
        self.port = port
        self.script: Optional[Peer] = None
        # The requests that came before the script was there.
        self._before = 0
        self._warm = False

    def start(self, keeper: Peer) -> None:
        """Have it started; it is not ready yet."""
        self.folder.mkdir(mode=0o700)
        words = [sys.executable, "-m", *(word.format(port=self.port) for word in self.server.words), f"{self.server.module}:app"]
        if self.hook is not None:
            config = self.folder / "shop.toml"
            others = catalogue.probes(0, _POINTS - 1)
            on_demand = f'on-demand = ["{self.server.module}:*", "{self.server.target.partition(":")[0]}:*"]'
            probe = f'[[probe]]\ntarget = "{self.server.target}"\n'
            config.write_text(f'app = "{_APP}"\n{on_demand}\n[defaults]\ntimeout = 10\n{probe}{others}')
            words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--config", str(config), "--", *words]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XPC_INSTRUMENT_")}
        environment = {
            **kept,
            "PYTHONPATH": str(self.folder.parent),
            "XPC_INSTRUMENT_RUNTIME_DIR": str(self.folder),
            FOLDER_VARIABLE: str(self.folder),
            **({UNBOUNDED_VARIABLE: "1"} if self.hook in ("monitor", "stat", "watch") else {}),
        }
        keeper.ask(repr((words, environment, str(self.folder / "log"))))

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-1000:]

    def get(self) -> Dict[str, str]:
        """The answer to one request. Raises `PeerError` if it is not one of success, `ConnectionRefusedError` if nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise PeerError(f"{self.server.module} answered {answer.status} {body!r:.200}; expected 200. Its log: {self._log()}")
        found: Dict[str, str] = json.loads(body)
        return found

    def wait(self) -> None:
        """Until it answers. Raises `PeerError`."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.get()
                return
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise PeerError(f"{self.server.module} does not listen after {_PATIENCE} s. Its log: {self._log()}") from None
            time.sleep(_LOOK_AGAIN)

    def connect(self, stack: ExitStack) -> None:
        """Start its script, if it has one, and look that everything is as it should be. Raises `PeerError`."""
        if self.hook is None:
            return
        with ExitStack() as own:
            handler = f"{self.server.module}:show"
            script = Peer("benchmarks.processes.web_script", _APP, self.server.target, handler, self.hook, runtime_dir=self.folder)
            own.enter_context(script)
            self._await_points(script)
            if self.hook != "none":
                self._before = total(self.folder)
                self.script = script
                stack.push(own.pop_all())
        if self.script is not None:
            expected = "the script" if self.hook == "instead" else "the original"
            found = self.get()["from"]
            if found != expected:
                raise PeerError(f"{self.server.module} with the hook {self.hook!r} gives what comes from {found}; expected {expected}")
            self.check()

    def _await_points(self, script: Peer) -> None:
        expected = _POINTS * self.server.workers
        deadline = time.monotonic() + _PATIENCE
        while (found := int(script.ask("ready"))) < expected:
            if time.monotonic() > deadline:
                raise PeerError(f"{self.server.module} has {found} hookable probe points; expected {expected}. Its log: {self._log()}")
            time.sleep(_LOOK_AGAIN)

    def check(self) -> None:
        """Raises `PeerError` unless the script has heard of each request that came to the function: one that failed open is fast."""
        if self.script is None:
            return
        deadline = time.monotonic() + _SETTLING
        while True:
            heard = int(self.script.ask("heard"))
            reached = total(self.folder) - self._before
            if heard == reached:
                return
            if time.monotonic() > deadline:
                problem = f"the hook {self.hook!r} was called {heard} times, and {reached} requests came to the function; expected as many"
                raise PeerError(f"{self.server.module}: {problem}. Its log: {self._log()}")
            time.sleep(_LOOK_AGAIN)

    def load(self, loops: int) -> Measured:
        """One burst."""
        load = wrk.burst(f"http://127.0.0.1:{self.port}/", _BURST if self._warm else _WARMING_UP, _CONNECTIONS)
        self._warm = True
        self.check()
        return {"request": load.seconds / load.requests, **{f"p{part}": load.latency[part] for part in wrk.PERCENTILES}}


@contextmanager
def _applications() -> Iterator[Mapping[str, TimeFunction]]:
    wanted = [
        (name, server, variant, hook) for name, server in SERVERS.items() if not missing(server) for variant, hook in VARIANTS.items()
    ]
    with runtime_dir() as folder, ExitStack() as stack:
        catalogue.write(folder, _POINTS - 1)
        keeper = stack.enter_context(Peer("benchmarks.processes.keeper", runtime_dir=folder))
        running: Dict[str, Running] = {}
        for number, ((name, server, variant, hook), port) in enumerate(zip(wanted, free_ports(len(wanted)))):
            one = running[f"{name}, {variant}"] = Running(folder / str(number), server, hook, port)
            one.start(keeper)
        for one in running.values():
            one.wait()
        for one in running.values():
            one.connect(stack)
        yield {way: functools.partial(Running.load, one) for way, one in running.items()}


def _rows() -> Iterator[Comparison]:
    for name, server in SERVERS.items():
        needs = missing(server)
        for figure, rate, text in (
            ("request", True, "requests per second"),
            *((f"p{part}", False, f"p{part}") for part in wrk.PERCENTILES),
        ):
            for variant in list(VARIANTS)[1:]:
                yield Comparison(
                    f"{name}: {text}, {variant}",
                    f"{name}, {variant}, {figure}",
                    f"{name}, {'0 hooks' if variant in _LOOKING else 'plain'}, {figure}",
                    rate=rate,
                    needs=needs,
                )


def _bars() -> Tuple[Line, ...]:
    ways = [(f"{name}, {variant}", hook is not None) for name in SERVERS for variant, hook in VARIANTS.items() if variant != _AGAIN]
    return tuple(Line(way, ((0, f"{way}, request"),), ours) for way, ours in ways)


def _latency(name: str) -> Plot:
    lines = [
        Line(variant, tuple((part, f"{name}, {variant}, p{part}") for part in wrk.PERCENTILES), ours=hook is not None)
        for variant, hook in VARIANTS.items()
        if variant != _AGAIN
    ]
    short = name.split(",", maxsplit=1)[0]
    return Plot(
        f"applications-latency-{short}", f"Latency of a request: {name}", tuple(lines), x="percentile", y="time for one request", log_y=True
    )


APPLICATIONS = Group(
    "applications",
    _applications,
    tuple(_rows()),
    loops=1,
    part=0.08,
    title="Web applications under load",
    about=f"""\
gunicorn with Flask (two sync workers) and uvicorn with FastAPI (one worker), on loopback, under `wrk` with {_CONNECTIONS} connections
that each send the next request when the last one is answered, in bursts of {_BURST:g} s. Each request calls one function once, which
does next to nothing: `def` in Flask, `async def` in FastAPI. All servers of all rows are up at once, and are under load one after the
other, so the ratios are within a round.

"plain" is without the agent, and "plain again" another server like it, whose ratio is the noise; "0 hooks" is under `xpc-instrument
run` with {_POINTS} probe points and no script; in the others one hook is armed, in a script that counts, in the mode that the row
names, or a verb counts or shows the calls: `monitor` and `stat` those of the handler and of the function, `watch` those of the handler,
each of them; these are held against "0 hooks", and the bound of what looking on may cost, 2 % of the processor's time, is taken off for
them. Every answer must be 200, and the script must have heard of every request that came to the function, or nothing is measured. The
percentiles are what `wrk --latency` says. Server, script and wrk share the processors of the machine.""",
    why="""\
With no hook armed the application runs its own code, so that row should be noise. With a hook that is waited for, each request makes a
crossing, which the worker waits for, and an `around` two; these applications do nothing else, so it is the largest part of a request
that it can be. The script also takes processor time that the server and wrk had for themselves before, which weighs most where all
processors are busy already: a machine with as many processors as busy processes would show less. A hook that nobody waits for costs the
worker the packing of the call.""",
    plots=(
        Plot("applications-requests", "Requests per second", _bars(), y="requests per second", rate=True),
        *(_latency(name) for name in SERVERS),
    ),
)

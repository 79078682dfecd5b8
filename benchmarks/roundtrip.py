"""What an invocation with a hook in another process costs: an application with the agent, a probe script, and a socket between them.

Each is a process of its own. The application times its own calls. When a run ends, the script says how often its hooks were called: the
application fails open, so a broken hook would otherwise look like a very fast one.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence

from xpc_instrument import find_free_port

from . import targets
from .baselines import per_call, ping_pong
from .measure import Comparison, Group, TimeFunction, seconds_of
from .peers import Peer, PeerError

_PACKAGE = __package__ or "benchmarks"
# Long enough that nothing fails open because another program had the processor.
_TIMEOUT = 10


def _config(folder: Path, tcp: bool) -> Sequence[str]:
    """Write a config file; returns its path, and where the script connects to."""
    app = "tcp-benchmark" if tcp else "benchmark"
    manager, where = "", [app]
    if tcp:
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_text("the key of the benchmark")
        address = f"tcp:127.0.0.1:{find_free_port('127.0.0.1')}"
        manager = f'[manager]\naddress = "{address}"\nauthkey-file = "{key.name}"\n'
        where = [address, key.read_text()]
    probes = "".join(f'[[probe]]\ntarget = "{targets.__name__}:{mode}"\n' for mode in targets.MODES)
    path = folder / f"{app}.toml"
    path.write_text(f'app = "{app}"\n{manager}[defaults]\ntimeout = {_TIMEOUT}\n{probes}')
    return [str(path), *where]


class _Hooked:
    """An application and a probe script; `calls` is what the application was asked for, by mode."""

    def __init__(self, application: Peer, script: Peer) -> None:
        self._application = application
        self._script = script
        self.calls = dict.fromkeys(targets.MODES, 0)

    def time(self, mode: str, loops: int) -> float:
        seconds, result = json.loads(self._application.ask(f"{mode} {loops}"))
        self.calls[mode] += loops + 1
        expected = targets.STAND_IN if mode == "instead" else targets.ORIGINAL
        if result != expected:
            raise PeerError(f"the target hooked in the mode {mode} gave {result}; expected {expected}")
        return float(seconds)

    def check(self) -> None:
        counts = json.loads(self._script.ask("counts"))
        if counts != self.calls:
            raise PeerError(f"the hooks were called {counts} times; expected {self.calls}")


@contextmanager
def _hooked(runtime_dir: Path, *, tcp: bool = False) -> Iterator[_Hooked]:
    config, *where = _config(runtime_dir, tcp)
    with ExitStack() as stack:
        application = stack.enter_context(Peer(f"{_PACKAGE}.application", config, runtime_dir=runtime_dir))
        script = stack.enter_context(Peer(f"{_PACKAGE}.probe_script", *where, runtime_dir=runtime_dir))
        hooked = _Hooked(application, script)
        yield hooked
        hooked.check()


def _timed(call: Callable[..., Any]) -> TimeFunction:
    assert call(12, currency="USD") == targets.STAND_IN
    return functools.partial(seconds_of, call)


@contextmanager
def _runtime_dir() -> Iterator[Path]:
    # The path of a unix socket has room for about a hundred bytes, and some systems' temporary folders use half of them.
    with tempfile.TemporaryDirectory(prefix="xpcb", dir="/tmp" if os.path.isdir("/tmp") else None) as folder:
        yield Path(folder)


@contextmanager
def _roundtrip(*, tcp: bool) -> Iterator[Mapping[str, TimeFunction]]:
    with _runtime_dir() as folder, ExitStack() as stack:
        hooked = stack.enter_context(_hooked(folder, tcp=tcp))
        bare = stack.enter_context(ping_pong(folder, tcp=tcp))
        ways: Dict[str, TimeFunction] = {"bare": _timed(bare)}
        for mode in ("instead",) if tcp else targets.MODES:
            ways[mode] = functools.partial(hooked.time, mode)
        yield ways


@contextmanager
def _seed() -> Iterator[Mapping[str, TimeFunction]]:
    with _runtime_dir() as folder, ExitStack() as stack:
        hooked = stack.enter_context(_hooked(folder))
        yield {
            "instead": functools.partial(hooked.time, "instead"),
            "per call": _timed(stack.enter_context(per_call(folder))),
        }


ROUNDTRIP = Group(
    "roundtrip",
    functools.partial(_roundtrip, tcp=False),
    (
        Comparison("`instead`, unix socket", "instead", "bare", below=3),
        Comparison("`before`, unix socket", "before", "bare"),
        Comparison("`around` that proceeds, unix socket", "around", "bare"),
    ),
)

TCP = Group(
    "tcp",
    functools.partial(_roundtrip, tcp=True),
    (Comparison("`instead`, TCP loopback", "instead", "bare"),),
)

SEED = Group(
    "seed",
    _seed,
    (Comparison("a connection for each call (the seed's way)", "per call", "instead", above=5),),
)

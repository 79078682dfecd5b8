"""An application with the agent and a probe script that hooks it, each a process of its own, with a socket between them.

When a run ends, the script says how often its hooks were called: the application fails open, so a broken hook would otherwise look like a
very fast one.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

from xpc_instrument import find_free_port

from ..measure.timing import Measured, TimeFunction
from . import targets
from .peers import Peer, PeerError

_PACKAGE = __package__ or "benchmarks"
# Long enough that nothing fails open because another program had the processor.
_TIMEOUT = 10
# What a target gives whose hook stands in for it.
_REPLACED = ("instead", "awaited", "replaced", "sized")
# Settings of a config file that has no lane be hot.
PLAIN = "[limits]\nhot-lanes = false\n"


@contextmanager
def runtime_dir() -> Iterator[Path]:
    """A temporary folder for what the processes need."""
    # The path of a unix socket has room for about a hundred bytes, and some systems' temporary folders use half of them.
    with tempfile.TemporaryDirectory(prefix="xpcb", dir="/tmp" if os.path.isdir("/tmp") else None) as folder:
        yield Path(folder)


def _config(folder: Path, names: Sequence[str], tcp: bool, settings: str) -> Sequence[str]:
    """Write a config file; returns its path, and where the script connects to."""
    app = "tcp-benchmark" if tcp else "benchmark"
    manager, where = "", [app]
    if tcp:
        key = folder / "key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text("the key of the benchmark")
        address = f"tcp:127.0.0.1:{find_free_port('127.0.0.1')}"
        manager = f'[manager]\naddress = "{address}"\nauthkey-file = "{key.name}"\n'
        where = [address, key.read_text()]
    probes = "".join(f'[[probe]]\ntarget = "{targets.__name__}:{name}"\n' for name in names)
    path = folder / f"{app}.toml"
    path.write_text(f'app = "{app}"\n{manager}{settings}[defaults]\ntimeout = {_TIMEOUT}\n{probes}')
    return [str(path), *where]


class Hooked:
    """An application and a probe script; `calls` is what the application made of calls, by target. `app` is its name, `folder` theirs."""

    def __init__(self, application: Peer, script: Peer, names: Sequence[str], app: str = "", folder: Path = Path()) -> None:
        self.app = app
        self.folder = folder
        self.application = application
        self.script = script
        self.calls = dict.fromkeys(names, 0)

    def ask(self, name: str, command: str) -> Measured:
        """Have the application call the target `name`; what it measured. Raises `PeerError`."""
        answer = json.loads(self.application.ask(command))
        self.calls[name] = self.calls.get(name, 0) + answer["calls"]
        expected = targets.STAND_IN if name in _REPLACED else targets.ORIGINAL
        if answer["result"] != expected:
            raise PeerError(f"the target {name} gave {answer['result']}; expected {expected}")
        measured: Measured = answer["measured"]
        return measured

    def way(self, command: str, name: str, *words: str) -> TimeFunction:
        """A way that has the application do so with the target and its hook, given the loops as the last word."""
        return functools.partial(self._run, command, name, words)

    def _run(self, command: str, name: str, words: Sequence[str], loops: int) -> Measured:
        return self.ask(name, " ".join([command, *words, str(loops)]))

    def check(self) -> None:
        """Raises `PeerError` unless the script has heard of every call."""
        counts: Dict[str, Any] = json.loads(self.script.ask("counts"))
        expected = {name: self.calls[name] for name in counts}
        if counts != expected:
            raise PeerError(f"the hooks were called {counts} times; expected {expected}")


@contextmanager
def hooked(
    folder: Path,
    names: Sequence[str] = targets.MODES,
    *,
    tcp: bool = False,
    pin: bool = False,
    settings: str = "",
    tracers: Sequence[Sequence[str]] = ((), ()),
) -> Iterator[Hooked]:
    """Start both. `pin` holds them on one processor, `settings` are sections of the config file, `tracers` are commands that run each."""
    # Each has a folder of its own, since an application is found by its name.
    own = Path(tempfile.mkdtemp(dir=folder))
    config, *where = _config(own, names, tcp, settings)
    with ExitStack() as stack:
        application = Peer(f"{_PACKAGE}.application", config, runtime_dir=own, pin=pin, prefix=tracers[0])
        stack.enter_context(application)
        script = Peer(f"{_PACKAGE}.probe_script", ",".join(names), *where, runtime_dir=own, pin=pin, prefix=tracers[1])
        stack.enter_context(script)
        pair = Hooked(application, script, names, where[0], own)
        yield pair
        pair.check()

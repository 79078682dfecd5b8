"""What large arguments of a `before` hook cost, over sending the same bytes with `sendall` into a fresh buffer."""

from __future__ import annotations

import functools
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping

from .baselines import sink
from .measure import Comparison, Group, TimeFunction
from .pair import hooked, runtime_dir
from .sizes import ARRAYS, SIZES, data_of, has_numpy

_WHERE = {False: "unix socket", True: "TCP loopback"}
_SETTINGS = "[limits]\nmax-payload = 100000000\n"


def _timed(send: Callable[[Any], None], data: Any, loops: int) -> float:
    started = time.perf_counter()
    for _ in range(loops):
        send(data)
    return time.perf_counter() - started


@contextmanager
def _large() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for tcp, where in _WHERE.items():
            pair = stack.enter_context(hooked(folder, ["large"], tcp=tcp, settings=_SETTINGS))
            for kind, size in SIZES.items():
                if kind in ARRAYS and not has_numpy():
                    continue
                send = stack.enter_context(sink(folder, size, tcp=tcp))
                data = data_of(kind)
                ways[f"sendall of {kind}, {where}"] = functools.partial(_timed, send, data)
                ways[f"{kind}, {where}"] = pair.way("large", "large", kind)
        yield ways


def _rows() -> Iterator[Comparison]:
    for where in _WHERE.values():
        for kind in SIZES:
            what = "a numpy array" if kind in ARRAYS else "`bytes`"
            size = f"{kind[:-2]} {kind[-2:]}"
            needs = "" if kind not in ARRAYS or has_numpy() else "numpy"
            name = f"{size} as {what}, `before`, {where}"
            yield Comparison(name, f"{kind}, {where}", f"sendall of {kind}, {where}", below=1.3, needs=needs)


LARGE = Group("large", _large, tuple(_rows()), rounds=6)

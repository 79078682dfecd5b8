"""What large arguments of a `before` hook cost, over sending the same bytes with `sendall` into a fresh buffer."""

from __future__ import annotations

import functools
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping

from ..measure.sizes import ARRAYS, SIZES, data_of, has_numpy
from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction
from ..processes.baselines import sink
from ..processes.pair import hooked, runtime_dir

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


def _lines() -> Iterator[Line]:
    kinds = [kind for kind in SIZES if kind not in ARRAYS or has_numpy()]
    for where in _WHERE.values():
        for label, before in ((f"ours, {where}", ""), (f"sendall, {where}", "sendall of ")):
            points = tuple((float(SIZES[kind]), f"{before}{kind}, {where}") for kind in kinds)
            yield Line(label, points, ours=not before)


LARGE = Group(
    "large",
    _large,
    tuple(_rows()),
    rounds=6,
    title="Large arguments",
    about="""\
A large argument of a `before` hook, over `sendall` of the same bytes to a process that takes them with `recv_into` into a fresh buffer
and answers one byte: what anybody has to copy who sends them, and no more. "64 KB" is 65,536 bytes and "1 MB" 1,048,576; an array has
80,000,000. The fresh buffer is a `bytearray`, which Python fills with zeros, as it does ours. The argument is made once, so that its
pages are there.""",
    why="""\
Of `bytes` ours makes one copy more than the bare sending: out of the buffer that the kernel filled into a new object. An array is used
where it arrived. The rest is the invocation itself, which is nearly all of the difference for the smallest, and smaller pieces on the
way, between which the deadline is kept.""",
    plots=(Plot("large", "One large argument of a `before` hook", tuple(_lines()), x="bytes of the argument", log_x=True, log_y=True),),
)

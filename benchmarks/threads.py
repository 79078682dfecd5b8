"""How many calls a second several threads of one application make that all hook at once, over as many that do the bare ping-pong."""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import Dict, Iterator, Mapping

from .baselines import ping_pongs
from .measure import Comparison, Group, TimeFunction, seconds_of_threads
from .pair import hooked, runtime_dir

# By whether the socket is TCP.
_COUNTS = {False: (1, 2, 8), True: (8,)}
_WHERE = {False: "unix socket", True: "TCP loopback"}


@contextmanager
def _threads() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for tcp, counts in _COUNTS.items():
            pair = stack.enter_context(hooked(folder, ["instead"], tcp=tcp))
            for count in counts:
                calls = stack.enter_context(ping_pongs(folder, count, tcp=tcp))
                ways[_bare(count, tcp)] = functools.partial(seconds_of_threads, calls)
                ways[_ours(count, tcp)] = pair.way("threads", "instead", "instead", str(count))
        yield ways


def _bare(count: int, tcp: bool) -> str:
    return f"bare, {count} thread{'s' if count > 1 else ''}{', TCP' if tcp else ''}"


def _ours(count: int, tcp: bool) -> str:
    return f"instead, {count} threads{', TCP' if tcp else ''}"


def _rows() -> Iterator[Comparison]:
    for tcp, counts in _COUNTS.items():
        for count in counts:
            name = f"calls per second: `instead`, {_WHERE[tcp]}, {count} thread{'s' if count > 1 else ''}"
            yield Comparison(name, _ours(count, tcp), _bare(count, tcp), above=0.6 if count == 8 else None, rate=True)


THREADS = Group("threads", _threads, tuple(_rows()), rounds=8)

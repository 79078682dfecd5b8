"""How many calls a second several threads of one application make that all hook at once, over as many that do the bare ping-pong."""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, Mapping, Tuple

from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction, seconds_of_threads
from ..processes.baselines import ping_pongs
from ..processes.pair import PLAIN, hooked, runtime_dir

_COUNTS = (1, 2, 4, 8, 16)
# How ours is set up, what a row calls it, and the bare one that it is over.
_OURS: Mapping[str, Tuple[Mapping[str, Any], str, str]] = {
    "instead": ({}, "unix socket", "bare"),
    "instead, plain lanes": ({"settings": PLAIN}, "plain lanes", "bare"),
    "instead, TCP": ({"tcp": True}, "TCP loopback", "bare, TCP"),
}
_BARE = {"bare": False, "bare, TCP": True}
_LABELS = {"instead": "ours, hot lanes", "instead, plain lanes": "ours, plain lanes", "instead, TCP": "ours, TCP"}


@contextmanager
def _threads() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        pairs = {who: stack.enter_context(hooked(folder, ["instead"], **how)) for who, (how, _, _) in _OURS.items()}
        # As many connections as the most threads need; fewer use the first ones.
        bare = {who: stack.enter_context(ping_pongs(folder, max(_COUNTS), tcp=tcp)) for who, tcp in _BARE.items()}
        ways: Dict[str, TimeFunction] = {}
        # All with one number of threads in turn, so that they share what the machine does meanwhile.
        for count in _COUNTS:
            for who, calls in bare.items():
                ways[_way(who, count)] = functools.partial(seconds_of_threads, calls[:count])
            for who, pair in pairs.items():
                ways[_way(who, count)] = pair.way("threads", "instead", "instead", str(count))
        yield ways


def _way(who: str, count: int) -> str:
    return f"{who}, {_threads_of(count)}"


def _threads_of(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _rows() -> Iterator[Comparison]:
    for who, (_, where, bare) in _OURS.items():
        for count in _COUNTS:
            name = f"calls per second: `instead`, {where}, {_threads_of(count)}"
            yield Comparison(name, _way(who, count), _way(bare, count), above=0.6 if count == 8 else None, rate=True)


def _lines() -> Iterator[Line]:
    for who in (*_OURS, *_BARE):
        yield Line(_LABELS.get(who, who), tuple((float(count), _way(who, count)) for count in _COUNTS), ours=who in _OURS)


THREADS = Group(
    "threads",
    _threads,
    tuple(_rows()),
    share=0.5,
    rounds=6,
    title="Several threads that hook at once",
    about="""\
Threads of one application call the same hooked function (`instead`) as fast as they can, each over a lane of its own, and one probe
script answers them all. Beside it as many threads of one process do the bare ping-pong, each with a connection of its own and a thread
for it in the one other process. The ratio is that of calls per second, and a time is wall time by the calls of all threads together.""",
    why="""\
One interpreter runs one thread's Python code at a time, in the application and in the script, and ours has more of it in each call than
the bare ping-pong, so with many threads the ratio is that of the code, not of the changes between processes. Each answer also has to wait
until its thread gets the interpreter's lock. Of several hot lanes only one at a time looks into its memory, in each process; the others
sleep as plain ones do.""",
    plots=(
        Plot("threads", "Threads that hook at once", tuple(_lines()), x="threads", y="calls per second", log_x=True, log_y=True, rate=True),
    ),
)

"""One small call from a process to another and back: ours over each kind of lane, beside what else one would use, over a bare ping-pong.

The calls are timed one by one, so that a row is the median call; see `others` for how each of the others is set up.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import ExitStack, contextmanager
from typing import Any, Awaitable, Callable, Dict, Iterator, List, Mapping

from ..measure.timing import TAIL, Comparison, Group, Line, Plot, TimeFunction, seconds_of_each, seconds_of_each_awaited
from ..processes import targets
from ..processes.baselines import per_call, ping_pong, streams
from ..processes.others import OTHERS
from ..processes.pair import PLAIN, hooked, runtime_dir

HOT, UNHOT, TCP = "ours, hot lane", "ours, plain lane", "ours, TCP"
_ASYNC, _ASYNC_HOOK, _STREAMS = "ours, async def", "ours, async def and hook", "bare, asyncio's streams"
_PER_CALL = "per call"


def _timed(call: Callable[..., Any]) -> TimeFunction:
    assert call(12, currency="USD") == targets.STAND_IN
    return functools.partial(seconds_of_each, call)


def _awaited(loop: asyncio.AbstractEventLoop, call: Callable[..., Awaitable[Any]]) -> TimeFunction:
    assert loop.run_until_complete(call(12, currency="USD")) == targets.STAND_IN

    def way(loops: int) -> List[float]:
        return loop.run_until_complete(seconds_of_each_awaited(call, loops))

    return way


@contextmanager
def _peers() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {"bare": _timed(stack.enter_context(ping_pong(folder)))}
        hot = stack.enter_context(hooked(folder, ["instead", "replaced", "awaited"]))
        ways[HOT] = hot.way("each", "instead", "instead")
        ways[_ASYNC] = hot.way("awaited", "replaced", "replaced")
        ways[_ASYNC_HOOK] = hot.way("awaited", "awaited", "awaited")
        ways[UNHOT] = stack.enter_context(hooked(folder, ["instead"], settings=PLAIN)).way("each", "instead", "instead")
        ways[TCP] = stack.enter_context(hooked(folder, ["instead"], tcp=True)).way("each", "instead", "instead")
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        ways[_STREAMS] = _awaited(loop, stack.enter_context(streams(folder, loop, 1)))
        for other in OTHERS:
            if not other.needs:
                ways[other.name] = _timed(stack.enter_context(other.connect(folder)))
        ways[_PER_CALL] = _timed(stack.enter_context(per_call(folder)))
        yield ways


def _rows() -> Iterator[Comparison]:
    yield Comparison("`instead` over a hot lane", HOT, "bare")
    yield Comparison("`instead` over a plain lane, unix socket", UNHOT, "bare")
    yield Comparison("`instead` over TCP loopback", TCP, "bare")
    yield Comparison("`instead` on an `async def`, awaited", _ASYNC, "bare")
    yield Comparison("`instead` on an `async def`, by a hook that is one too", _ASYNC_HOOK, "bare")
    yield Comparison("bare ping-pong over asyncio's streams", _STREAMS, "bare")
    for other in OTHERS:
        yield Comparison(other.name, other.name, "bare", needs=other.needs)
    yield Comparison("a connection for each call (the seed's way)", _PER_CALL, HOT, above=5)


def _bars(tail: str = "") -> Iterator[Line]:
    for way in (HOT, UNHOT, TCP, _ASYNC, _ASYNC_HOOK):
        yield Line(way, ((0, way + tail),), ours=True)
    yield Line("bare ping-pong", ((0, "bare" + tail),))
    yield Line(_STREAMS, ((0, _STREAMS + tail),))
    for other in OTHERS:
        yield Line(other.name, ((0, other.name + tail),))
    yield Line("a connection each call", ((0, _PER_CALL + tail),))


_LIST = "\n".join(f"- {other.name}: {other.about};" for other in OTHERS)

PEERS = Group(
    "peers",
    _peers,
    tuple(_rows()),
    share=0.4,
    title="One call to another process and back, beside what else one would use",
    about=f"""\
A function is called with a number and a keyword and gives a small dict, which another process makes. Ours is an `instead` hook: over a
hot lane (memory that both processes share), over a plain lane (a unix socket, `hot-lanes = false`), over TCP loopback with a key, and on
an `async def` that is awaited, by a plain hook and by one that is an `async def` itself. All is held against a bare ping-pong: two
processes that send each other the same pickles over a socket pair and do nothing else. Each of the others has a process of its own, and
is set up as its documentation would have it for two processes of one machine:

{_LIST}
- a connection for each call: a connection, a challenge both ways, and a thread over there, as the seed of this project does it.

Each call is timed by itself, and the figure is the median.""",
    why="""\
The bare ping-pong has no frames, no deadline, no choice of a function, and no state: what ours takes longer than it, where it does, is
Python code that looks whether the hook still stands, keeps the deadline, lets nothing of its own be hooked, and knows what to do when the
other side dies. The others have some of that, and a caller that means to call another process; ours is in the way of a function that does
not know of it. Where the kernel keeps the two ends of a blocking ping-pong on one processor, a change of process is cheap, and a hot
lane, which needs two processors that look at the same memory, gains less; on a machine that is busy with other things it has to sleep as
all others do. A plain lane that the kernel spreads over two processors pays for waking each. An `async def` is awaited, never waited for:
each answer is a turn of the event loop, which the bare streams of asyncio pay as well; and a hook that is an `async def` itself runs on
an event loop that has a thread of its own, so there the script changes threads twice for each call.""",
    plots=(
        Plot("peers", "One call to another process and back, median", tuple(_bars()), log_y=True),
        Plot("peers-tail", "One call to another process and back, 99th percentile", tuple(_bars(TAIL)), log_y=True),
    ),
)

"""How long an event loop is blocked by a thousand tasks that each await a hook in another process, beyond what bare ping-pongs block it.

The tasks start all at once. Each takes its first step in one and the same turn of the loop, so whatever it does before it first waits is
done a thousand times in that turn; afterwards as many go on in one turn as answers have arrived. So the two are told apart.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping

from ..measure.loops import OwnLoop
from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction
from ..processes import targets
from ..processes.baselines import streams
from ..processes.pair import hooked, runtime_dir

TASKS = 1000
# As many connections as an application has lanes to one script, if the config does not say otherwise.
_CONNECTIONS = 32


@contextmanager
def _in_flight() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        pair = stack.enter_context(hooked(folder, ["awaited"]))
        own = OwnLoop()
        stack.callback(own.close)
        call = stack.enter_context(streams(folder, own.loop, _CONNECTIONS))
        yield {
            "streams": _bare(own, call),
            "unarmed": pair.way("tasks", "unarmed", "unarmed"),
            "async": pair.way("tasks", "awaited", "awaited"),
        }


def _bare(own: OwnLoop, call: Callable[..., Any]) -> TimeFunction:
    def way(loops: int) -> Dict[str, float]:
        figures, results = own.blocked_by(call, loops)
        assert results == [targets.STAND_IN] * loops
        return figures

    return way


ASYNC = Group(
    "async",
    _in_flight,
    (
        Comparison("1,000 tasks: the loop's turn of all first steps", "async, first turn", "streams, first turn", more=0.001),
        Comparison("1,000 tasks: the loop's longest turn after that", "async, later turns", "streams, later turns", more=0.001),
        Comparison("1,000 tasks: the latest of a heartbeat", "async, heartbeat", "streams, heartbeat", more=0.001),
        Comparison("1,000 tasks: the latest of a heartbeat", "async, heartbeat", "unarmed, heartbeat"),
    ),
    loops=TASKS,
    rounds=8,
    title="An event loop with a thousand tasks that each await a hook",
    about="""\
How long an event loop is blocked by a thousand tasks that start at once and each await a hook in another process, beyond what it is by a
thousand that share as many bare ping-pongs over asyncio's streams as ours has lanes, or that await the same function with no hook. The
loop is watched from its selector: what passes between the end of one `select` and the beginning of the next is a turn, in which nothing
else runs. In one turn all tasks take their first step, up to where they wait; "after that" is the longest of the other turns. The
heartbeat is a callback that asks to be called each millisecond, and how late it came at most: epoll rounds up to whole milliseconds, so
it is up to one late on an idle loop too. The column `expected` holds the difference within a round against a millisecond.""",
    why="""\
A thousand first steps in one turn take their time whatever they do, and ours do more than write to a stream: each looks whether its hook
stands, pickles its call with a record, and waits in a queue for a lane. An application that starts its tasks as requests come in does not
have that turn.""",
    plots=(
        Plot(
            "async",
            "How long a thousand tasks block the loop, at most",
            tuple(
                Line(f"{label}, {what}", ((0, f"{way}, {what}"),), ours=way == "async")
                for what in ("first turn", "later turns", "heartbeat")
                for way, label in (("async", "ours"), ("streams", "bare streams"), ("unarmed", "no hook"))
            ),
            y="time",
        ),
    ),
)

"""What a hook that nobody waits for (`wait=False`) costs the thread that calls its target, over a tenth of a bare ping-pong.

In bursts that the queue has room for, each a block, with the next one sent when all of it has arrived; and at a steady pace, which
the bare ping-pong of that row has too. Beside that, how many events a second arrive at the script where a thread calls without a pause: it
is faster than any script, so what finds no room in the queue is dropped, and counted by nobody here but the script.
"""

from __future__ import annotations

import functools
import json
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, Mapping, Tuple

from xpc_instrument.script.handle import Handle

from ..measure.timing import Comparison, Group, Line, Measured, Plot, TimeFunction, Unavailable, seconds_at_a_pace, seconds_of
from ..processes.baselines import ping_pong
from ..processes.pair import Hooked, hooked, runtime_dir
from ..processes.peers import PeerError

# Calls in one burst, and in one block of the steady load.
_BURST = 500
# Calls without a pause: some times what the queue has room for.
_FLOOD = 30_000


@contextmanager
def _unwaited() -> Iterator[Mapping[str, TimeFunction]]:
    if not hasattr(Handle, "dropped"):
        raise Unavailable("this xpc_instrument registers no hooks with wait=False")
    with runtime_dir() as folder, ExitStack() as stack:
        pair = stack.enter_context(hooked(folder, ["unwaited"]))
        pair.calls["unwaited"] = 0
        watch = _Watch(pair)
        call = stack.enter_context(ping_pong(folder))
        yield {
            "a tenth of bare": functools.partial(_tenth, call),
            "a tenth of bare, steady": functools.partial(_tenth_at_a_pace, call),
            "burst": functools.partial(watch.settled, "block"),
            "steady": functools.partial(watch.settled, "steady"),
            "bare": functools.partial(seconds_of, call),
            "arriving": watch.flood,
        }


def _tenth(call: Callable[..., Any], loops: int) -> float:
    return seconds_of(call, loops) / 10


def _tenth_at_a_pace(call: Callable[..., Any], loops: int) -> float:
    return seconds_at_a_pace(call, loops) / 10


class _Watch:
    """What becomes of the calls, by what the script has heard."""

    def __init__(self, pair: Hooked) -> None:
        self._pair = pair
        self._delivered = self._dropped = 0

    def settled(self, command: str, loops: int) -> Measured:
        """A block; then wait until the script has heard of all its calls. Raises `PeerError` if some were dropped or lost."""
        measured = self._pair.ask("unwaited", f"{command} unwaited {loops}")
        delivered, dropped = self._heard()
        if dropped:
            raise PeerError(
                f"of {loops} invocations that nobody waits for {dropped} were dropped; expected all {delivered + dropped} to be delivered"
            )
        return measured

    def flood(self, loops: int) -> float:
        """Seconds that so many events take to arrive, of more that are called without a pause."""
        started = time.perf_counter()
        self._pair.ask("unwaited", f"block unwaited {_FLOOD}")
        delivered, _ = self._heard()
        return (time.perf_counter() - started) * loops / delivered

    def _heard(self) -> Tuple[int, int]:
        """How many were delivered and dropped since the last time, once all are one or the other. Raises `PeerError` if some are lost."""
        heard = json.loads(self._pair.script.ask(f"settled {self._pair.calls['unwaited']}"))
        if heard["delivered"] + heard["dropped"] != self._pair.calls["unwaited"]:
            raise PeerError(
                f"of {self._pair.calls['unwaited']} invocations that nobody waits for the script has heard {heard}; expected all"
            )
        since = heard["delivered"] - self._delivered, heard["dropped"] - self._dropped
        self._delivered, self._dropped = heard["delivered"], heard["dropped"]
        return since


UNWAITED = Group(
    "unwaited",
    _unwaited,
    (
        Comparison("`before` that nobody waits for, a burst of 500", "burst", "a tenth of bare", below=1),
        Comparison("`before` that nobody waits for, steady", "steady", "a tenth of bare, steady", below=1),
        Comparison("events per second that arrive, called without a pause", "arriving", "bare", rate=True),
    ),
    loops=_BURST,
    rounds=8,
    title="Hooks that nobody waits for",
    about="""\
With `wait=False` the application's thread puts the invocation into a queue and goes on; another thread sends many at once. The first two
rows say what that costs the thread that calls, over a tenth of a bare ping-pong: a burst is 500 calls in a row, which the queue has room
for, and the next begins when the script has heard of all; "steady" is a call each tenth of a millisecond or so, with a sleep between, and
the ping-pong that it is over has the same pace. If one of these events is dropped or lost, nothing is measured. The last row is what
arrives: a thread calls without a pause, which fills the queue, and the events that the script was handed are divided by the time until it
has heard of all; what found no room was dropped. It is held against bare ping-pongs per second.""",
    why="""\
A thread that slept finds its code and data no longer in the caches of the processor, and the thread that sends may have to be woken, so a
call at a steady pace takes longer than one of a burst, by more than the ping-pong that slept as well. Events that arrive are packed,
sent, unpacked and handed to the hook one by one in Python, and while the application calls without a pause, the thread that sends has to
wait for the interpreter's lock.""",
    plots=(
        Plot(
            "unwaited",
            "What a hook costs the thread that calls, where nobody waits for it",
            (
                Line("ours, a burst", ((0, "burst"),), ours=True),
                Line("ours, steady", ((0, "steady"),), ours=True),
                Line("bare ping-pong", ((0, "bare"),)),
            ),
            log_y=True,
        ),
        Plot(
            "unwaited-rate",
            "Events that arrive where nobody waits, beside ping-pongs",
            (Line("ours", ((0, "arriving"),), ours=True), Line("bare ping-pong", ((0, "bare"),))),
            y="per second",
            rate=True,
        ),
    ),
)

"""Hot lanes over plain ones, and over a bare ping-pong: where they are meant to gain, and where looking again and again could cost.

Two applications, each with its script, differ in `hot-lanes` alone. Those whose threads compete, or that run beside busy loops, have
applications of their own, so that what the lanes have learned from it does not show in the other rows.

`python -m benchmarks.groups.hot` is a process that keeps a processor busy between the lines "begin" and "end".
"""

from __future__ import annotations

import functools
import sys
import threading
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence

from xpc_instrument.core.wire.memory import why_plain

from ..measure.sizes import SMALL
from ..measure.timing import MEAN, TAIL, Comparison, Group, Line, Measured, Plot, TimeFunction, Unavailable, pinned, seconds_of_each
from ..processes import targets
from ..processes.baselines import exchange, ping_pong
from ..processes.pair import Hooked, hooked, runtime_dir
from ..processes.peers import Peer

_SETTINGS = {"hot": "", "plain": "[limits]\nhot-lanes = false\n"}
# Calls of a block: enough that those with which a lane gets hot are less than one in a hundred.
_CALLS = 1000
# What takes longer has a part of them: large arguments, tasks, and calls with a pause between.
_LARGE_PART, _APART_PART = 5, 100
# Seconds between two calls that are far apart.
_GAP = 0.01
_THREADS = 8
_BUSY_LOOPS = (2, 4, 6)


@contextmanager
def _hot() -> Iterator[Mapping[str, TimeFunction]]:
    reason = why_plain()
    if reason:
        raise Unavailable(f"no lane can be hot here: {reason}")
    with runtime_dir() as folder, ExitStack() as stack:
        busy = [stack.enter_context(Peer(__name__, runtime_dir=folder)) for _ in range(max(_BUSY_LOOPS))]
        ways: Dict[str, TimeFunction] = {}
        for name, apart in {"bare": False, "bare, two processors": True}.items():
            call = stack.enter_context(ping_pong(folder, pin=apart))
            assert call(12, currency="USD") == targets.STAND_IN
            ways[name] = functools.partial(_bare, call, apart)
        with pinned():
            call, looking = stack.enter_context(exchange(folder))
        assert _exchanged(call, looking, 1)
        ways["memory"] = functools.partial(_exchanged, call, looking)
        pairs = {kind: _pair(stack, folder / kind, ["instead", "large", "replaced"], kind) for kind in _SETTINGS}
        crowds = {kind: _pair(stack, folder / f"{kind}-threads", ["instead"], kind) for kind in _SETTINGS}
        crowded = {kind: _pair(stack, folder / f"{kind}-busy", ["instead"], kind) for kind in _SETTINGS}
        # Those of one row follow each other.
        for kind, pair in pairs.items():
            ways[kind] = pair.way("each", "instead", "instead")
        for kind, pair in pairs.items():
            rarely = pair.way("apart", "instead", "instead", str(_GAP), str(pair.script.pid))
            ways[f"{kind}, apart"] = functools.partial(_part, rarely, _APART_PART)
        for size in SMALL:
            for kind, pair in pairs.items():
                ways[f"{kind}, {size}"] = functools.partial(_part, pair.way("large", "large", size), _LARGE_PART)
        for kind, pair in pairs.items():
            ways[f"{kind}, async"] = functools.partial(_part, pair.way("each-awaited", "replaced", "replaced"), _LARGE_PART)
        for kind, pair in crowds.items():
            ways[f"{kind}, threads"] = pair.way("threads", "instead", "instead", str(_THREADS))
        for count in _BUSY_LOOPS:
            for kind, pair in crowded.items():
                ways[f"{kind}, {count} busy"] = functools.partial(_beside, busy[:count], pair.way("each", "instead", "instead"))
        yield ways


def _bare(call: Callable[..., Any], apart: bool, loops: int) -> List[float]:
    with pinned(apart, apart=True):
        return seconds_of_each(call, loops)


def _exchanged(call: Callable[..., Any], looking: Callable[[], AbstractContextManager[None]], loops: int) -> List[float]:
    with pinned(apart=True), looking():
        return seconds_of_each(call, loops)


def _pair(stack: ExitStack, folder: Path, names: Sequence[str], kind: str) -> Hooked:
    folder.mkdir(mode=0o700)
    return stack.enter_context(hooked(folder, names, settings=_SETTINGS[kind]))


def _part(way: TimeFunction, part: int, loops: int) -> Measured:
    """A block with fewer calls. Figures of a block stay as they are, and seconds are those of all calls."""
    measured = way(max(1, loops // part))
    return measured * loops / max(1, loops // part) if isinstance(measured, float) else measured


def _beside(busy: Sequence[Peer], way: TimeFunction, loops: int) -> Measured:
    """A block beside processes that keep processors busy."""
    for peer in busy:
        peer.ask("begin")
    try:
        return way(loops)
    finally:
        for peer in busy:
            peer.ask("end")


def _rows() -> Iterator[Comparison]:
    back = "`instead`, back to back, hot lane"
    yield Comparison(back, "hot", "bare", below=0.35)
    yield Comparison(back + TAIL, "hot" + TAIL, "bare" + TAIL)
    yield Comparison(back, "hot", "bare, two processors", below=0.35)
    yield Comparison(back + TAIL, "hot" + TAIL, "bare, two processors" + TAIL)
    yield Comparison(back, "hot", "memory", below=3.3)
    yield Comparison(back, "hot", "plain", below=1)
    yield Comparison(back + TAIL, "hot" + TAIL, "plain" + TAIL)
    apart = "`instead`, 10 ms apart, hot lane"
    yield Comparison(apart, "hot, apart, median", "plain, apart, median", below=1.1)
    yield Comparison(f"{apart}: processor time of both", "hot, apart, processor", "plain, apart, processor", below=1.1)
    yield Comparison("calls per second: 8 threads, hot lanes", "hot, threads", "plain, threads", above=1, rate=True)
    for size in SMALL:
        yield Comparison(f"{size[:-2]} KB as `bytes`, `before`, hot lane", f"hot, {size}", f"plain, {size}", below=1.1)
    for count in _BUSY_LOOPS:
        beside, hot, plain = f"`instead`, back to back beside {count} busy loops, hot lane", f"hot, {count} busy", f"plain, {count} busy"
        yield Comparison(beside, hot, plain)
        yield Comparison(beside + MEAN, hot + MEAN, plain + MEAN, below=1.1)
        yield Comparison(beside + TAIL, hot + TAIL, plain + TAIL, below=1.5)
    yield Comparison("`async def` target, `instead`, back to back, lane that can be hot", "hot, async", "plain, async", below=1.1)


def _size_line(kind: str) -> Line:
    return Line(f"{kind} lane", tuple((number / 1024, f"{kind}, {size}") for size, number in SMALL.items()), ours=kind == "hot")


def _bars() -> Sequence[Line]:
    names = {"bare": "bare ping-pong", "bare, two processors": "bare ping-pong, two processors", "plain": "plain lane", "hot": "hot lane"}
    return [Line(label, ((0.0, way),), ours=way == "hot") for way, label in names.items()]


_ABOUT = """\
A lane over a unix socket is *hot* while calls follow each other closely: small frames then go through memory that both processes
share, and neither sleeps. Here the same calls go over lanes that may be hot and over lanes that may not (`hot-lanes = false`), in the
same rounds, in two applications that differ in nothing else, and back to back also over a bare ping-pong with the same pickles: once
where the kernel puts its two ends, which tends to be one processor, and once with each end held on a processor of its own, as those of
a hot lane are, so that each has to be woken by the other. The least that two processes can do that exchange pickles through memory has
its ends on processors of their own too: both look at one byte without pause, and have nothing else. Nothing else is pinned.

"10 ms apart" has a sleep before each call, and the processor time is that of all threads of both processes, sleeps included. Eight
threads of one application hook at once. The busy loops are processes that do nothing else, the fewest of them as many as a small machine
has processors; the mean is that of all calls, those included that wait for a processor for a slice of time. A task of an event loop never
looks into the memory, so its lane is used like a plain one."""

_WHY = """\
What is left of a call over a hot lane is Python code, half of it in each process (see "Where each microsecond goes"), where the bare
ping-pong has nothing but its pickles and the kernel's change from one process to the other: the ratio to it depends on how long such
a change takes on the machine. An argument of 64 KB is above what goes through memory together with its pickle, and so are all larger
ones; they use the socket."""

HOT = Group(
    "hot",
    _hot,
    tuple(_rows()),
    loops=_CALLS,
    rounds=8,
    title="Hot lanes",
    about=_ABOUT,
    why=_WHY,
    plots=(
        Plot("hot-back-to-back", "`instead`, back to back", tuple(_bars())),
        Plot("hot-sizes", "`before` with an argument of so many KB", (_size_line("plain"), _size_line("hot")), x="KB", log_x=True),
    ),
)


def _keep_busy() -> None:
    """Answer each line when what it asks for has begun."""
    going = threading.Event()
    done = threading.Event()

    def run() -> None:
        while going.wait() and not done.is_set():
            while going.is_set():
                pass

    thread = threading.Thread(target=run)
    thread.start()
    commands: Dict[str, Callable[[], Any]] = {"begin": going.set, "end": going.clear}
    print("ready", flush=True)
    for line in sys.stdin:
        commands[line.strip()]()
        print("did", flush=True)
    done.set()
    going.set()
    going.clear()
    thread.join()


if __name__ == "__main__":
    _keep_busy()

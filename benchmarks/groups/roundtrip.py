"""What an invocation with a hook in another process costs, call by call, over a bare ping-pong between two processes.

The kernel tends to keep the two ends of the bare ping-pong on one processor, and to spread ours over two, so each is measured once more
with all processes held on one.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping

from ..measure.timing import TAIL, Comparison, Group, Line, Plot, TimeFunction, can_pin, pinned, seconds_of_each
from ..processes import targets
from ..processes.baselines import ping_pong
from ..processes.pair import hooked, runtime_dir

_PINNED = ", one processor"
# Short blocks, so that the ways take turns often; each is some hundreds of calls at least.
_SHARE = 0.4
_MODES = {False: targets.MODES, True: ("before", "instead")}


def _timed(call: Callable[..., Any], pin: bool = False) -> TimeFunction:
    assert call(12, currency="USD") == targets.STAND_IN

    def way(loops: int) -> List[float]:
        with pinned(pin):
            return seconds_of_each(call, loops)

    return way


@contextmanager
def _roundtrip(*, tcp: bool) -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for pin in (False, True) if can_pin() else (False,):
            pair = stack.enter_context(hooked(folder, tcp=tcp, pin=pin))
            bare = stack.enter_context(ping_pong(folder, tcp=tcp, pin=pin))
            suffix = _PINNED if pin else ""
            ways["bare" + suffix] = _timed(bare, pin)
            for mode in _MODES[tcp or pin]:
                ways[mode + suffix] = pair.way("each", mode, mode)
        yield ways


def _rows(where: str, tcp: bool) -> Iterator[Comparison]:
    for suffix in ("", _PINNED) if can_pin() else ("",):
        for mode in _MODES[bool(tcp or suffix)][::-1]:
            name = f"`{mode}`{' that proceeds' if mode == 'around' else ''}, {where}{suffix}"
            # An `around` crosses twice.
            below = None if mode == "around" else 1.5
            yield Comparison(name, mode + suffix, "bare" + suffix, below=below)
            if mode != "around":
                yield Comparison(name + TAIL, mode + suffix + TAIL, "bare" + suffix + TAIL, below=1.8)


def _plot(name: str, where: str, tcp: bool) -> Iterator[Plot]:
    for suffix in ("", _PINNED) if can_pin() else ("",):
        for tail in ("", TAIL):
            ours = (Line(mode, ((0, mode + suffix + tail),), ours=True) for mode in _MODES[bool(tcp or suffix)])
            file = f"{name}{'-pinned' if suffix else ''}{'-tail' if tail else ''}"
            title = f"One invocation, {where}{suffix}{tail or ', median'}"
            yield Plot(file, title, (*ours, Line("bare ping-pong", ((0, "bare" + suffix + tail),))))


_HOW = """\
A hook in a real second process, over a bare ping-pong: two processes that send each other the same pickled arguments and result, each in
its turn, over {what}. Every call is timed by itself, in short blocks in turn; a figure is the median call, and the 99th percentile is
that of all calls of a run, over that of the bare ones. An `around` that proceeds crosses twice, so nothing is expected of its ratio.

The kernel tends to keep the two ends of the bare ping-pong on one processor and to spread ours over two, or to do now the one and now the
other. So both are measured once more with all processes held on one processor.
"""
_WHY = """\
The bare ping-pong is the floor: it has the pickles and the kernel's change from one process to the other, and nothing else. Ours is that,
and Python code in both processes: the patched function, what decides whether a hook is called, the deadline, a frame with a number, the
state of the lane, and the call of the hook. {more}

Tails are worse than medians: what interrupts a processor now and then, such as the tick of a virtual machine's timer, is in the hundredth
call as soon as calls are long enough, and not where they are short. With all processes on one processor nobody can wait by looking, so a
hot lane is a plain one there.
"""


ROUNDTRIP = Group(
    "roundtrip",
    functools.partial(_roundtrip, tcp=False),
    tuple(_rows("unix socket", False)),
    share=_SHARE,
    title="One invocation with a hook in another process",
    about=_HOW.format(what="a socket pair"),
    why=_WHY.format(
        more="On a hot lane the two processes exchange frames through memory that both see, without a system call for each, which "
        "takes less than the kernel's change where two processors are free; where they are not, the lane sleeps and is woken, "
        "as the bare one is."
    ),
    plots=tuple(_plot("roundtrip", "unix socket", False)),
)

TCP = Group(
    "tcp",
    functools.partial(_roundtrip, tcp=True),
    tuple(_rows("TCP loopback", True)),
    share=_SHARE,
    title="The same over TCP",
    about=_HOW.format(what="TCP loopback, which in ours is opened with a key"),
    why=_WHY.format(more="There are no hot lanes over TCP, and each half of a crossing may have to wake a processor that sleeps."),
    plots=tuple(_plot("tcp", "TCP loopback", True)),
)

"""One call to another process and back with more and more bytes as its argument: ours beside what else one would use.

The bytes are noise, and the answer is small.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping, Tuple

from ..measure.sizes import noise
from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction, seconds_of_sized
from ..processes import targets
from ..processes.baselines import framed
from ..processes.others import OTHERS
from ..processes.pair import PLAIN, hooked, runtime_dir
from .crossings import HOT, TCP, UNHOT

_KB = 1024
SIZES: Mapping[str, int] = {
    "nothing": 0,
    "1 KB": _KB,
    "4 KB": 4 * _KB,
    "16 KB": 16 * _KB,
    "64 KB": 64 * _KB,
    "1 MB": _KB * _KB,
    "10 MB": 10 * _KB * _KB,
}
_BARE = "bare"
_OURS: Mapping[str, Mapping[str, Any]] = {HOT: {}, UNHOT: {"settings": PLAIN}, TCP: {"tcp": True}}


def _way(who: str, size: str) -> str:
    return f"{who}, {size}"


def _timed(call: Callable[..., Any], size: int) -> TimeFunction:
    arguments: Tuple[bytes, ...] = (noise(size),) if size else ()
    assert call(*arguments) == targets.STAND_IN
    return functools.partial(seconds_of_sized, call, arguments)


@contextmanager
def _sizes() -> Iterator[Mapping[str, TimeFunction]]:
    with runtime_dir() as folder, ExitStack() as stack:
        pairs = {who: stack.enter_context(hooked(folder, ["sized"], **how)) for who, how in _OURS.items()}
        calls = {_BARE: stack.enter_context(framed(folder))}
        calls.update({other.name: stack.enter_context(other.connect(folder)) for other in OTHERS if not other.needs})
        ways: Dict[str, TimeFunction] = {}
        # All of one size in turn, so that they share what the machine does meanwhile.
        for name, size in SIZES.items():
            for who, pair in pairs.items():
                ways[_way(who, name)] = pair.way("sized", "sized", str(size))
            for who, call in calls.items():
                ways[_way(who, name)] = _timed(call, size)
        yield ways


def _rows() -> Iterator[Comparison]:
    for size in SIZES:
        for who in _OURS:
            yield Comparison(f"{size}: {who}", _way(who, size), _way(_BARE, size))
        for other in OTHERS:
            yield Comparison(f"{size}: {other.name}", _way(other.name, size), _way(_BARE, size), needs=other.needs)


def _lines() -> Iterator[Line]:
    for who in (*_OURS, _BARE, *(other.name for other in OTHERS)):
        # A logarithmic axis has no nought: no argument at all stands at one byte.
        yield Line(who, tuple((float(max(1, size)), _way(who, name)) for name, size in SIZES.items()), ours=who in _OURS)


PAYLOADS = Group(
    "sizes",
    _sizes,
    tuple(_rows()),
    share=0.25,
    runs=6,
    rounds=6,
    title="Arguments from nothing to ten megabytes",
    about="""\
The same call with `bytes` of some size as its argument, or with no argument; the answer is a small dict, and both processes are as in the
comparison of one small call. The bytes are noise, so that nobody gains by compressing them. The bare ping-pong sends a pickle's length
before the pickle, and reads a large one into a buffer of that size. In the picture, a call without an argument stands at one byte.""",
    why="""\
Large bytes are copied into a pickle, sent, copied out of it again, and that is most of the time for everyone. What does not fit into the
memory of a hot lane goes through its socket, so from some size on a hot lane is a plain one. Ours takes what arrives into buffers of its
own in pieces, while it keeps the deadline and can be interrupted between them; the serializers that write `bytes` straight behind a
length (marshal and execnet's) save a copy that a pickle needs.""",
    plots=(Plot("sizes", "One call with an argument of some size", tuple(_lines()), x="bytes of the argument", log_x=True, log_y=True),),
)

"""What an invocation with a hook in another process costs, call by call, over a bare ping-pong between two processes.

The kernel tends to keep the two ends of the bare ping-pong on one processor, and to spread ours over two, so each is measured once more
with all processes held on one.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping

from . import targets
from .baselines import ping_pong
from .measure import TAIL, Comparison, Group, TimeFunction, can_pin, pinned, seconds_of_each
from .pair import hooked, runtime_dir

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


ROUNDTRIP = Group("roundtrip", functools.partial(_roundtrip, tcp=False), tuple(_rows("unix socket", False)), share=_SHARE)

TCP = Group("tcp", functools.partial(_roundtrip, tcp=True), tuple(_rows("TCP loopback", True)), share=_SHARE)

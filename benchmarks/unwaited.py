"""What a hook that nobody waits for (`wait=False`) costs the thread that calls its target, over a tenth of a bare ping-pong.

In bursts that the queue has room for, each a block, with the next one sent when all of it has arrived; and at a steady pace, which
the bare ping-pong of that row has too.
"""

from __future__ import annotations

import functools
import json
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, Mapping

from xpc_instrument.hooks import Handle

from .baselines import ping_pong
from .measure import Comparison, Group, Measured, TimeFunction, Unavailable, seconds_at_a_pace, seconds_of
from .pair import Hooked, hooked, runtime_dir
from .peers import PeerError

# Calls in one burst, and in one block of the steady load.
_BURST = 500


@contextmanager
def _unwaited() -> Iterator[Mapping[str, TimeFunction]]:
    if not hasattr(Handle, "dropped"):
        raise Unavailable("this xpc_instrument registers no hooks with wait=False")
    with runtime_dir() as folder, ExitStack() as stack:
        pair = stack.enter_context(hooked(folder, ["unwaited"]))
        pair.calls["unwaited"] = 0
        call = stack.enter_context(ping_pong(folder))
        yield {
            "a tenth of bare": functools.partial(_tenth, call),
            "a tenth of bare, steady": functools.partial(_tenth_at_a_pace, call),
            "burst": functools.partial(_settled, pair, "block"),
            "steady": functools.partial(_settled, pair, "steady"),
        }


def _tenth(call: Callable[..., Any], loops: int) -> float:
    return seconds_of(call, loops) / 10


def _tenth_at_a_pace(call: Callable[..., Any], loops: int) -> float:
    return seconds_at_a_pace(call, loops) / 10


def _settled(pair: Hooked, command: str, loops: int) -> Measured:
    """A block; then wait until the script has heard of all its calls. Raises `PeerError` if some were dropped or lost."""
    measured = pair.ask("unwaited", f"{command} unwaited {loops}")
    heard = json.loads(pair.script.ask(f"settled {pair.calls['unwaited']}"))
    if heard != {"delivered": pair.calls["unwaited"], "dropped": 0}:
        raise PeerError(f"of {pair.calls['unwaited']} invocations that nobody waits for, {heard}; expected all to be delivered")
    return measured


UNWAITED = Group(
    "unwaited",
    _unwaited,
    (
        Comparison("`before` that nobody waits for, a burst of 500", "burst", "a tenth of bare", below=1),
        Comparison("`before` that nobody waits for, steady", "steady", "a tenth of bare, steady", below=1),
    ),
    loops=_BURST,
)

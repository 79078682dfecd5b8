"""The verbs that print tables again and again: what they wait for, and how they end."""

from __future__ import annotations

import time
from typing import Any, Callable

from ..core.model.words import counted
from ..script.counted import Counted
from .observing import Run

# How long to wait until it is looked whether the verb is over, in seconds.
_LOOK_AGAIN = 0.2
# How often at least the processes are asked, in seconds.
_PULLED = 1.0


def follow(one: Run, table: Counted[Any], every: float, show: Callable[[], None], *, last: bool) -> int:
    """Have `show` called every so many seconds, and at the end once more, if anything was counted since, or with `last`
    if it has not been called yet; says the last line, and gives the exit code."""
    gone = False
    # The calls that were shown last.
    shown = -1 if last else 0
    over = ""
    due = time.monotonic() + every
    pull = 0.0
    try:
        while True:
            time.sleep(max(0.0, min(_LOOK_AGAIN, due - time.monotonic())))
            gone = one.has_ended
            if not gone and time.monotonic() >= due:
                due += every
                show()
                shown = table.calls
                over = table.over
            else:
                over = table.handle.over
            if not gone and not over and (one.limit is not None or time.monotonic() >= pull):
                # Of a process that is killed, the last second at most is missing.
                pull = time.monotonic() + _PULLED
                table.pull()
                over = table.over
            if over or gone or one.has_rest(table.handle):
                break
    except KeyboardInterrupt:
        over = one.interrupted()
    table.remove()
    if table.calls != shown:
        show()
    calls = table.calls
    left_out = {"did not meet --when": table.rejected, "not counted": table.unusable}
    left_out.update({f"over --{why}" if why == "rate" else f"not in --{why}": count for why, count in table.skipped.items()})
    note = one.failures(table.handle, table.failed)
    # Of what is not counted the rest, in which no expression failed.
    without = table.errors - table.failed
    note += f"; --of was no number in {counted(without, 'call')}" if without > 0 else ""
    one.summary(table.handle, calls, "call", left_out, events=calls, gone=gone, verb="counted", note=note, errors=table.errors)
    one.tell_rest(table.handle)
    return one.status(table.handle, over, calls)

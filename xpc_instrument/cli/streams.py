"""The verbs that print events as they come: what they wait for, and how they end."""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping

from ..script.watching import Stream
from .observing import Run

# How long to wait for the next event until it is looked whether there can be one, in seconds.
_LOOK_AGAIN = 0.2


def follow_stream(
    one: Run, stream: Stream[Any], noun: str, show: Callable[[Any], None], also: Mapping[str, str] = {}, note: Callable[[], str] = str
) -> int:
    """Have `show` called with each event until the end; says the first line and the last, and gives the exit code.

    `also` are reasons for which the hook leaves out calls, as it counts them, with the words for each; `note` gives what is said
    at the end of the last line.
    """
    options = one.options
    one.armed(stream.handle, noun)
    gone = False
    over = ""
    until = one.began + options.expires
    with one.output.held():
        try:
            while True:
                left = until - time.monotonic()
                event = stream.take(max(0.0, min(_LOOK_AGAIN, left)))
                if event is not None:
                    show(event)
                if not stream.waiting:
                    one.output.flush()
                over, gone = ("expires" if left <= 0 else stream.over), event is None and one.has_ended
                if over or gone or (event is None and one.has_rest(stream.handle)):
                    break
        except KeyboardInterrupt:
            over = "interrupted"
        counts = None if gone else one.skipped(stream.handle)
        skipped = counts or {}
        stream.remove()
        event = stream.take(0)
        while event is not None:
            show(event)
            event = stream.take(0)
    errors = skipped.get("expression", 0)
    left_out = {"did not meet --when": skipped.get("when", 0)} if options.when else {}
    left_out.update({"over --rate": skipped.get("rate", 0), "dropped": stream.dropped})
    if options.sample is not None:
        left_out["not in --sample"] = skipped.get("sample", 0)
    left_out.update({words: skipped[why] for why, words in also.items() if why in skipped})
    whole, said = counts is not None, note()
    one.summary(
        stream.taken,
        noun,
        left_out,
        events=stream.taken,
        gone=gone,
        whole=whole,
        note=f"{said and f'; {said}'}{one.failures(stream.handle, errors)}",
        errors=errors,
    )
    one.tell_rest(stream.handle)
    return one.status(stream.handle, over, stream.taken)

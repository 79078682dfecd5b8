"""The verbs that print events as they come: what they wait for, and how they end."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Mapping, Optional

from ..core.calls.rows import Row
from ..script.watching import CallRows, Stream
from .observing import Run

# How long to wait for the next event until it is looked whether there can be one, in seconds.
_LOOK_AGAIN = 0.2
# Kinds of rows of which it is known how they are shown.
_MOST_KNOWN = 1000


def follow_stream(
    one: Run,
    stream: Stream[Any],
    noun: str,
    show: Callable[[Any], None],
    also: Mapping[str, str] = {},
    note: Callable[[], str] = str,
    rows: Optional[Callable[[CallRows], Callable[[Row], None]]] = None,
) -> int:
    """Have `show` called with each event until the end; says the first line and the last, and gives the exit code.

    What came as a row goes to what `rows` gives for those of its kind, where there is that. `also` are reasons for which the hook leaves
    out calls, as it counts them, with the words for each; `note` gives what is said at the end of the last line.
    """
    options = one.options
    one.armed(stream.handle, noun)
    gone = False
    over = ""
    until = one.began + options.expires
    show_told = _shower(show, rows)
    with one.output.held():
        try:
            while True:
                left = until - time.monotonic()
                is_quiet = not stream.show_all(max(0.0, min(_LOOK_AGAIN, left)), show_told)
                one.output.flush()
                over, gone = ("expires" if left <= 0 else stream.over), is_quiet and one.has_ended
                if over or gone or (is_quiet and one.has_rest(stream.handle)):
                    break
        except KeyboardInterrupt:
            over = one.interrupted()
        counts = None if gone else one.skipped(stream.handle)
        skipped = counts or {}
        stream.remove()
        stream.show_all(0, show_told)
    errors = skipped.get("expression", 0)
    left_out = {"did not meet --when": skipped.get("when", 0)} if options.when else {}
    left_out.update({"over --rate": skipped.get("rate", 0), "dropped": stream.dropped})
    if options.sample is not None:
        left_out["not in --sample"] = skipped.get("sample", 0)
    left_out.update({words: skipped[why] for why, words in also.items() if why in skipped})
    whole, said = counts is not None, note()
    one.summary(
        stream.handle,
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


def _shower(show: Callable[[Any], None], rows: Optional[Callable[[CallRows], Callable[[Row], None]]]) -> Callable[[Any], None]:
    """What shows an event, or a row behind what it has in common with others."""
    known: Dict[CallRows, Callable[[Row], None]] = {}

    def show_told(told: Any) -> None:
        if type(told) is not tuple:
            show(told)
            return
        common, row = told
        write = known.get(common)
        if write is None:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            write = known[common] = _as_event(common, show) if rows is None else rows(common)
        write(row)

    return show_told


def _as_event(rows: CallRows, show: Callable[[Any], None]) -> Callable[[Row], None]:
    return lambda row: show(rows.event(row))

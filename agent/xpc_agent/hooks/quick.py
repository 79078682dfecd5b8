"""The quick way of a watch: calls of which all that is shown is plain and small are queued as they are, and made an event by the sender.

Rules:
- `recording` makes one function of what a hook shows. Every name in it is a local one or its own, and nothing that it calls runs code of
  the application or can be a target: no guard is up.
- What is not plain, a call that raises, and one that a condition has let fall where those are shown too, go to the hook (`Watching`).
- The condition is asked before the terms; what costs time is timed for one call in `SAMPLED`.
- A queued event has six fields: hook, number, thread, what makes it of the next, (time, duration, value, ...), and None. The sender makes
  of it the four that cross (`events/queue.py`).
"""

from __future__ import annotations

import marshal
from threading import get_ident
from time import perf_counter, time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol, Tuple

from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.values.captures import BIG, DEFAULT_CAPTURE, REDACTED, SHORT

from ..events.queue import EventQueue
from ..generated import compiled
from ..guard import guarded
from .budget import SAMPLED, Budget
from .gate import Args
from .invocation import next_number
from .timed import Record

MARSHAL = 4
"""The version of `marshal` that all supported Pythons read."""

MOST_VALUES = 16
"""With more values an event may weigh more than its share of the queue."""

# A text as a capture has it, where the queue has room for so many of them in an event.
_TEXT, _ROOM = DEFAULT_CAPTURE.text + 1, 4096


class Watching(Protocol):
    """A hook as its quick way sees it."""

    key: int
    queue: EventQueue
    take_late: Callable[[], Any]
    """What of the terms is asked when an invocation has ended."""

    def tell(self, values: Optional[Args], result: Any, error: Optional[BaseException], duration: float, ended: float) -> None:
        """All of it: the condition, the terms, the capture."""

    def tell_met(self, values: Optional[Args], result: Any, duration: float) -> None:
        """The capture of what has met the condition and the terms."""

    def not_met(self, fault: Optional[Exception]) -> None:
        """Count what does not meet the condition."""

    def drop_one(self) -> None:
        """Count an event that was dropped."""

    def spent(self, seconds: float) -> None:
        """What one in `SAMPLED` has cost."""


class Value(NamedTuple):
    """One of what is shown: its `name`, the `text` that evaluates it ("" for what is redacted), and whether it is an argument."""

    name: str
    text: str
    is_argument: bool


class Shown(NamedTuple):
    """What a hook shows of a call: the text of its condition or "", what it shows by name, and whether the result too."""

    when: str
    values: Tuple[Value, ...]
    result: bool
    raising: bool
    """Only calls that raise."""

    rejected: bool
    """What does not meet the condition is shown, too."""

    place: Tuple[str, int]
    """File and line of the function."""


_RECORD = """
def record(values, result, error, duration, ended):
    {raising}
    if error is not None or values is None:
        tell(values, result, error, duration, ended)
        return
    {condition}
    try:
        if not take():
            return
        try:
            {evaluations}
        except any_error as fault:
            interrupt(fault)
            tell_met(values, result, duration)
            return
        if not ({plain}):
            tell_met(values, result, duration)
            return
        if length(items) >= limit:
            lose()
            return
        append((key, numbered(), ident(), event_of, (now(), duration, {values}), None))
    except any_exception:
        lose()
        raise
    if queue.sleeping:
        queue.wake()
    if not tick() % sampled:
        spent(clock() - ended)
"""
_CONDITION = """try:
        if not {when}:
            {not_met}
            return
    except any_error as fault:
        not_met(fault)
        return"""
_NOT_MET = """not_met(None)
            if not tick() % sampled:
                spent(clock() - ended)"""
_PLAIN = (
    "(kind := kind_of({0})) is text and length({0}) < short or kind is whole and -big < {0} < big"
    " or kind is real or {0} is none or kind is truth"
)


def recording(hook: Watching, shown: Shown, names: Dict[str, Any], budget: Budget) -> Record:
    """What is done with an invocation that has ended; `names` are those in the texts of what it shows."""
    tell = hook.tell
    named: List[Tuple[str, str]] = [(f"s{place}", value.text) for place, value in enumerate(shown.values) if value.text]
    if shown.result:
        named.append(("result", ""))
    if len(named) > MOST_VALUES or (shown.rejected and shown.when):
        return tell
    namespace = {
        **names,
        "any_error": Exception,
        "any_exception": BaseException,
        "append": hook.queue.items.append,
        "big": BIG,
        "clock": perf_counter,
        "event_of": _maker_of_events(shown),
        "ident": get_ident,
        "interrupt": raise_interrupt,
        "items": hook.queue.items,
        "key": hook.key,
        "kind_of": type,
        "length": len,
        "limit": hook.queue.limit,
        "lose": hook.drop_one,
        "none": None,
        "not_met": hook.not_met,
        "now": time,
        "numbered": next_number,
        "queue": hook.queue,
        "real": float,
        "sampled": SAMPLED,
        "short": _TEXT if hook.queue.share >= _ROOM else SHORT,
        "spent": guarded(hook.spent),
        "tell": tell,
        "tell_met": hook.tell_met,
        "text": str,
        "take": hook.take_late,
        "tick": budget.tick,
        "truth": bool,
        "whole": int,
    }
    text = _RECORD.format(
        raising="if error is None:\n        return" if shown.raising else "",
        condition=_CONDITION.format(when=shown.when, not_met=_NOT_MET) if shown.when else "",
        evaluations="\n            ".join(f"{name} = {text}" for name, text in named if text) or "pass",
        plain=" and ".join(f"({_PLAIN.format(name)})" for name, _ in named) or "True",
        values="".join(f"{name}, " for name, _ in named),
    )
    record: Record = compiled(f"{__name__} {shown!r}", namespace, text, kept=False)["record"]
    return record


def _maker_of_events(shown: Shown) -> Callable[[Tuple[Any, ...]], bytes]:
    """What gives the record of `(time, duration, value, ...)`, as `watch.py` makes it."""

    def event_of(queued: Tuple[Any, ...]) -> bytes:
        values = iter(queued[2:])
        trees = [(one.name, next(values) if one.text else REDACTED) for one in shown.values]
        arguments = [tree for tree, one in zip(trees, shown.values) if one.is_argument]
        others = [tree for tree, one in zip(trees, shown.values) if not one.is_argument]
        return marshal.dumps((queued[0], queued[1], arguments, next(values, None), None, (), others, (), shown.place), MARSHAL)

    return event_of

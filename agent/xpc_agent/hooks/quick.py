"""The quick way of a watch: calls of which all that is shown is plain and small are queued as they are (`core/calls/rows.py`).

Rules:
- `recording` makes one function of what a hook shows. Every name in it is a local one or its own, and nothing that it calls runs code of
  the application or can be a target: no guard is up.
- What is not plain is captured by another function, with the guard up: between other work each function more that is called costs some
  times what it costs in a loop.
- A call that raises, one that a condition has let fall where those are shown too, and an expression that fails, go to the hook
  (`Watching`).
- The condition is asked before the terms; what costs time is timed for one call in `SAMPLED`.
- Of a dict, list or tuple of a few atoms a copy is queued, unless a name in it hides a value: then it is captured, as all else.
"""

from __future__ import annotations

import marshal
from threading import get_ident
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol, Tuple

from xpc_instrument.core.calls.rows import Layout
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.unpatched import wall_clock
from xpc_instrument.core.values.captures import BIG, DEFAULT_CAPTURE, REDACTED, SHORT, Tree
from xpc_instrument.core.values.redaction import Redaction

from ..events.queue import EventQueue
from ..generated import compiled
from ..guard import guard, guarded
from .budget import SAMPLED, Budget, used_here
from .gate import Args
from .invocation import next_number
from .shown import MOST_BYTES
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

    redaction: Redaction
    depth: int
    """Levels that are shown of a value."""

    @property
    def capture(self) -> Callable[[Any], Tree]:
        """Gives the tree of a value."""

    def tell(self, values: Optional[Args], result: Any, error: Optional[BaseException], duration: float, ended: float) -> None:
        """All of it: the condition, the terms, the capture."""

    def tell_met(self, values: Optional[Args], result: Any, duration: float) -> None:
        """The capture of what has met the condition and the terms."""

    def not_met(self, fault: Optional[Exception]) -> None:
        """Count what does not meet the condition."""

    def cut(self, values: Optional[Args], result: Any, error: Optional[BaseException], duration: float) -> bytes:
        """A record that is no larger than one may be."""

    def put(self, number: int, blob: bytes, met: bool) -> None:
        """Queue a record, or drop it."""

    def drop_for(self, fault: Exception) -> None:
        """An event could not be made."""

    def drop_one(self) -> None:
        """Count an event that was dropped."""

    def spent(self, seconds: float, calls: int = SAMPLED) -> None:
        """So many calls have cost so much each."""

    def end(self, began: float) -> None:
        """As `Budget.end`."""


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
    turn = tick() % sampled
    began = 0.0 if turn else used()
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
        if {plain}:
            row = key, numbered(), ident(), now(), duration, layout, {values}
        else:
            copies = copied(({values}))
            if copies is None:
                captured(values, result, duration{found})
                return
            row = key, numbered(), ident(), now(), duration, layout, *copies
        if length(items) >= limit:
            lose()
            return
        append(row)
    except any_exception:
        lose()
        raise
    if queue.sleeping:
        queue.wake()
    if not turn:
        spent(used() - began)
"""
_COPIED = """
def copied(values):
    copies = []
    for value in values:
        kind = kind_of(value)
        if {value}:
            copies.append(value)
            continue
        if not (kind is mapping or kind is array or kind is fixed) or length(value) > most:
            return None
        try:
            if kind is mapping:
                # Before it is copied: that may compare keys of a class of their own.
                for name in value:
                    if kind_of(name) is not text or known(name) is not False:
                        return None
                copy = value.copy()
                for name in copy:
                    if kind_of(name) is not text or known(name) is not False:
                        return None
                inside = copy.values()
            else:
                copy = inside = value[:]
                if length(copy) == 2 and kind_of(copy[0]) is text and known(copy[0]) is not False:
                    # A name and its value, as headers are kept.
                    return None
        except changed:
            return None
        for one in inside:
            kind = kind_of(one)
            if not ({one}):
                return None
        if length(copy) > most:
            return None
        copies.append(copy)
    return copies
"""
_CAPTURED = """
def captured(values, result, duration{found}):
    try:
        try:
            guard.on = True
            began = begin()
            blob = dumps((now(), duration, [{arguments}], {outcome}, None, (), [{others}], (), place), version)
            if length(blob) > most:
                blob = cut(values, result, None, duration)
            put(numbered(), blob, True)
            end(began)
        finally:
            try:
                guard.on = False
            except any_exception:
                guard.on = False
                raise
    except any_error as fault:
        lost(fault)
"""
_CONDITION = """try:
        if not {when}:
            {not_met}
            return
    except any_error as fault:
        not_met(fault)
        return"""
_NOT_MET = """not_met(None)
            if not turn:
                spent(used() - began)"""
_ATOM = "kind is text and length({0}) < short or kind is whole and -big < {0} < big or kind is real or {0} is none or kind is truth"
_PLAIN = f"(kind := kind_of({{0}})) is text{_ATOM[len('kind is text') :]}"


def recording(hook: Watching, shown: Shown, names: Dict[str, Any], budget: Budget) -> Record:
    """What is done with an invocation that has ended; `names` are those in the texts of what it shows."""
    tell = hook.tell
    named: List[Tuple[str, str]] = [(f"s{place}", value.text) for place, value in enumerate(shown.values) if value.text]
    found = "".join(f", {name}" for name, _ in named)
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
        "captured": _capturing(hook, shown, found, budget),
        "copied": _copying(hook, max(1, MOST_VALUES // max(1, len(named)))),
        "ident": get_ident,
        "interrupt": raise_interrupt,
        "items": hook.queue.items,
        "key": hook.key,
        "layout": _layout(shown),
        "kind_of": type,
        "length": len,
        "limit": hook.queue.limit,
        "lose": hook.drop_one,
        "none": None,
        "not_met": hook.not_met,
        "now": wall_clock,
        "numbered": next_number,
        "queue": hook.queue,
        "real": float,
        "sampled": SAMPLED,
        "short": _short(hook.queue),
        "spent": guarded(hook.spent),
        "tell": tell,
        "tell_met": hook.tell_met,
        "text": str,
        "take": hook.take_late,
        "tick": budget.tick,
        "used": used_here,
        "truth": bool,
        "whole": int,
    }
    text = _RECORD.format(
        raising="if error is None:\n        return" if shown.raising else "",
        condition=_CONDITION.format(when=shown.when, not_met=_NOT_MET) if shown.when else "",
        evaluations="\n            ".join(f"{name} = {text}" for name, text in named if text) or "pass",
        plain=" and ".join(f"({_PLAIN.format(name)})" for name, _ in named) or "True",
        values="".join(f"{name}, " for name, _ in named),
        found=found,
    )
    record: Record = compiled(f"{__name__} {shown!r}", namespace, text, kept=False)["record"]
    return record


def _capturing(hook: Watching, shown: Shown, found: str, budget: Budget) -> Callable[..., None]:
    """What captures the values that are `found`, and queues them."""
    trees = [f"({one.name!r}, {f'capture(s{place})' if one.text else 'redacted'})" for place, one in enumerate(shown.values)]
    namespace = {
        "any_error": Exception,
        "any_exception": BaseException,
        "capture": hook.capture,
        "begin": budget.begin,
        "cut": hook.cut,
        "dumps": marshal.dumps,
        "end": hook.end,
        "guard": guard,
        "length": len,
        "lost": hook.drop_for,
        "most": MOST_BYTES,
        "now": wall_clock,
        "numbered": next_number,
        "place": shown.place,
        "put": hook.put,
        "redacted": REDACTED,
        "version": MARSHAL,
    }
    text = _CAPTURED.format(
        found=found,
        arguments=", ".join(tree for tree, one in zip(trees, shown.values) if one.is_argument),
        others=", ".join(tree for tree, one in zip(trees, shown.values) if not one.is_argument),
        outcome="capture(result)" if shown.result else "None",
    )
    captured: Callable[..., None] = compiled(f"{__name__} captured {shown!r}", namespace, text, kept=False)["captured"]
    return captured


def _copying(hook: Watching, most: int) -> Callable[[Tuple[Any, ...]], Optional[List[Any]]]:
    """What gives plain values and copies of containers of up to `most` of them; None where one of the values is anything else."""
    redaction = hook.redaction
    mapping, array, fixed = (kind if hook.depth and not redaction.hides_type(kind) else None for kind in (dict, list, tuple))
    namespace = {
        "array": array,
        "big": BIG,
        "changed": RuntimeError,
        "fixed": fixed,
        "kind_of": type,
        "known": redaction.known.get,
        "length": len,
        "mapping": mapping,
        "most": most,
        "none": None,
        "real": float,
        "short": _short(hook.queue),
        "text": str,
        "truth": bool,
        "whole": int,
    }
    text = _COPIED.format(value=_ATOM.format("value"), one=_ATOM.format("one"))
    copied: Callable[[Tuple[Any, ...]], Optional[List[Any]]] = compiled(f"{__name__} copied", namespace, text, kept=False)["copied"]
    return copied


def _short(queue: EventQueue) -> int:
    """How long a text may not be any more."""
    return _TEXT if queue.share >= _ROOM else SHORT


def _layout(shown: Shown) -> Tuple[Any, ...]:
    """What the values of a row are."""
    names, seen = tuple(one.name for one in shown.values), tuple(bool(one.text) for one in shown.values)
    return tuple(Layout(names, seen, any(not one.is_argument for one in shown.values), shown.result, *shown.place))

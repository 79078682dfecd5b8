"""Hooks that record an invocation, alone inside of the function's code: at an entrance, or by a token; most of them when it has ended.

A condition that may be asked when it begins (`early.py`) is asked first of all: of what is rejected there is nothing else.
"""

from __future__ import annotations

from builtins import isinstance as _isinstance  # for where no guard is up: the builtin may be the very target
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from xpc_instrument.core.unpatched import perf_counter

from ..guard import guard
from .early import Early
from .entrance import Entrance
from .gate import ALWAYS, Args, Gate, Way

Record = Callable[[Optional[Args], Any, Optional[BaseException], float, float], None]
"""Called as `record(values, result, error, duration, ended)`: the values of all parameters in their order, the duration in seconds, and
when `perf_counter` says that it was over."""


# Of a way only `take`, `back`, `admit` and `record` are looked at, which may be exchanged.
_TAKE = """
take = lead0.take
if take is not always and not take():
    return None
if guard.on:
    lead0.back()
    return None
"""
# With a condition that has been asked.
_ADMIT = """
if guard.on:
    return None
admit = lead0.admit
if admit is not always and not admit():
    return None
"""
_BEGIN = "return None, (gate, <values>, now())"
_TELL_BEGIN = "lead0.record(<values>, None, None, 0.0, now())\nreturn None"
_KEPT = "gate, values, began, "
_TELL = "lead{number}.record(values, {outcome}, ended - began, ended)"
_LAST = """
ended = now()
if not <at work>:
    {tell}
"""
# Of one that only counts durations, without the call of `record`, which costs several times as much between other work as in a loop.
_COUNT = """
ended = now()
if not <at work>:
    if measuring:
        lead0.record(values, value, None, ended - began, ended)
    else:
        try:
            cell = here.cell
        except no_attribute:
            cell = cell_here()
        cell.append(ended - began)
        if length(cell) > room[0]:
            fold(cell)
"""
_WRONG = """
ended = now()
if is_a(error, gate.ends) and not <at work>:
    shown = error if is_a(error, any_error) else None
    {tell}
"""
# Of several, each has its own say whether it is told.
_FIRST_OF_ALL = """
if guard.on:
    return None
values = <values>
{take}
if not ({any}):
    return None
return None, (gate, values, ({taken}), now())
"""
_KEPT_OF_ALL = "gate, values, ({taken}), began, "


class Timed:
    """Made without an `__init__`, which would take as long as all the rest: see `beginning`."""

    __slots__ = ("ends", "record", "started", "values")

    ends: Tuple[type, ...]
    record: Record
    started: float
    values: Args

    def leave(self, value: Any) -> Any:
        ended = perf_counter()
        if not guard.on:  # an iteration may end in the middle of our work
            self.record(self.values, value, None, ended - self.started, ended)
        return value

    def abandon(self) -> None:
        """Nobody waits."""

    def failed(self, error: BaseException) -> None:
        ended = perf_counter()
        if _isinstance(error, self.ends) and not guard.on:
            self.record(self.values, None, error if _isinstance(error, Exception) else None, ended - self.started, ended)


def beginning(way: Way) -> Callable[[Gate, Args], Optional[Tuple[None, Timed]]]:
    """The `begin` of a way that leads to a hook which records so."""
    made, clock, copied = Timed, perf_counter, dict
    early = way.early

    def begin(gate: Gate, values: Args) -> Optional[Tuple[None, Timed]]:
        if early is not None and not (early.asks(values) and way.admit()):
            return None
        token = made()
        token.ends = gate.ends
        token.record = way.record
        token.values = (*values[:-1], copied(values[-1])) if gate.has_dict else values
        token.started = clock()
        return None, token

    return begin


def at_once(way: Way) -> Callable[[Gate, Args], None]:
    """The same of one that is told when the invocation begins."""
    early = way.early

    def begin(gate: Gate, values: Args) -> None:
        if early is None or (early.asks(values) and way.admit()):
            way.record(values, None, None, 0.0, perf_counter())

    return begin


def lead(way: Way, record: Record, early: Optional[Early] = None, ends: bool = True, durations: Optional[Dict[str, Any]] = None) -> None:
    """Have the way lead to a hook that records so, from now on; without `ends`, it is told when the invocation begins. `durations` are the
    names of `_COUNT`, for one that only counts what takes how long; `measuring` among them says that `record` is to be called."""
    if early is not None and not early.asking:
        early = None
    before, way.record, way.early = way.early, record, early
    way.begin = beginning(way) if ends else at_once(way)
    if way.entrance is not None and before is early and (early is None or way.entrance.names is early.names):
        way.entrance.names.update(durations or {})
        return
    # What is rejected is counted in the names of the condition.
    names, first = ({}, _TAKE) if early is None else (early.names, early.asking + _ADMIT)
    names.update({**_names([way]), **(durations or {})})
    token, last, wrong = (_KEPT, *_ends([_TELL.format(number=0, outcome="{outcome}")])) if ends else ("", "", "")
    if durations is not None:
        last = _COUNT
    way.entrance = Entrance(f"a recording hook {first}{ends}", names, first + (_BEGIN if ends else _TELL_BEGIN), token, last, wrong)


def entrance_of_all(ways: Sequence[Way]) -> Entrance:
    """Of ways that all lead to hooks that record so, in the order in which they are told."""
    taken = "".join(f"t{number}, " for number in range(len(ways)))
    takes = [
        f"lead{number}.take()" if way.early is None else f"early{number}.asks(values) and lead{number}.admit()"
        for number, way in enumerate(ways)
    ]
    first = _FIRST_OF_ALL.format(
        take="\n".join(f"t{number} = {take}" for number, take in enumerate(takes)),
        any=" or ".join(f"t{number}" for number in range(len(ways))),
        taken=taken,
    )
    tell = [f"if t{number}: {_TELL.format(number=number, outcome='{outcome}')}" for number in range(len(ways))]
    return Entrance(f"{len(ways)} recording hooks", _names(ways), first, _KEPT_OF_ALL.format(taken=taken), *_ends(tell))


def _names(ways: Sequence[Way]) -> Dict[str, Any]:
    names: Dict[str, Any] = {
        "always": ALWAYS,
        "any_error": Exception,
        "is_a": _isinstance,
        "no_attribute": AttributeError,
        "now": perf_counter,
    }
    names.update((f"lead{number}", way) for number, way in enumerate(ways))
    names.update((f"early{number}", way.early) for number, way in enumerate(ways))
    return names


def _ends(tell: Sequence[str]) -> Tuple[str, str]:
    text = "\n    ".join(tell)
    return _LAST.format(tell=text.format(outcome="value, None")), _WRONG.format(tell=text.format(outcome="None, shown"))

"""What hooks have counted that live in this process, as their scripts ask for it."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from xpc_instrument.core.model.local import LINE, RECORD, TREE, WATCH

from ..points.table import ProbeTable


def counting(table: ProbeTable, session: str, number: int) -> List[Any]:
    """The hooks of a registration that count here."""
    return [hook for hook in _of(table, session) if hook.number == number]


def totals(hooks: List[Any]) -> List[Any]:
    """What they have counted, each on its target."""
    return [hook.totals() for hook in hooks]


def all_totals(table: ProbeTable, session: str) -> Dict[int, List[Any]]:
    """Of all registrations of a session, by number."""
    return {number: totals(counting(table, session, number)) for number in {hook.number for hook in _of(table, session)}}


def owes(table: ProbeTable, has_events: Callable[[str], bool]) -> bool:
    """Whether a hook that was inherited over a fork has something to tell, and its session has not come yet."""
    sessions = {hook.session for point in list(table.points.values()) for hook in point.hooks if hook.orphan_since}
    return any(has_events(one) or any(told["table"] for told in totals(_of(table, one))) for one in sessions)


def _of(table: ProbeTable, session: str) -> List[Any]:
    hooks = [hook for point in list(table.points.values()) for hook in point.hooks if hook.session == session]
    return [hook for hook in hooks if hook.terms.local is not None and hook.terms.local["kind"] not in (LINE, RECORD, TREE, WATCH)]

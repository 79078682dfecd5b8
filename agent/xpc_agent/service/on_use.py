"""What is loaded when a script first asks for it, a hook of that kind or a report: it would cost a start-up milliseconds."""

from __future__ import annotations

import functools
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, List, Mapping, Tuple

from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.local import INJECT, LINE, RECORD, TREE, WATCH
from xpc_instrument.core.values.redaction import Redaction

from ..events.sender import Sender
from ..patching.code_swap import ArmedFunction, layers
from ..points.table import ProbeTable


def condition_of(hook: Any, when: str, level: str) -> Any:
    """What stands in the chain for a hook with a condition (`hooks/conditional.py`). Raises `ExpressionError`."""
    from ..hooks.conditional import Conditional

    return Conditional(hook, when, level)


def capturer_of(redaction: Redaction) -> Any:
    """What captures values for the events of one hook, a `Capturer`."""
    from xpc_instrument.core.values.captures import Capturer

    return Capturer(redaction=redaction)


def maker_of(
    target: str, local: Mapping[str, Any], level: str, sender: Sender, redaction: Redaction, table: ProbeTable
) -> Callable[..., Any]:
    """What makes a hook that lives here as data. Raises `TargetError` for expressions that are not allowed, and where there can be none."""
    if local["kind"] == INJECT:
        from ..hooks.fault import FaultHook

        return FaultHook
    from ..hooks.local import LocalHook, check_expressions

    check_expressions(target, local, level)
    if local["kind"] == LINE:
        from ..hooks.line import LineHook

        return functools.partial(LineHook, sender=sender, redaction=redaction, level=level)
    if local["kind"] == WATCH:
        from ..hooks.watch import WatchHook

        return functools.partial(WatchHook, sender=sender, redaction=redaction, level=level)
    if local["kind"] == RECORD:
        from ..hooks.record import RecordHook

        return functools.partial(RecordHook, sender=sender, redaction=redaction, level=level)
    if local["kind"] == TREE:
        from ..hooks.trace import TraceHook

        TraceHook.check()
        armed = functools.partial(_armed_codes, table)
        return functools.partial(TraceHook, sender=sender, capturer=capturer_of(redaction), armed=armed, level=level)
    return functools.partial(LocalHook, level=level, hides=redaction.hides)


def _armed_codes(table: ProbeTable) -> List[Tuple[CodeType, str, bool]]:
    """The code of functions that have hooks, of each layer: with the target, and whether it is a trampoline."""
    found: List[Tuple[CodeType, str, bool]] = []
    for target, point in list(table.points.items()):
        function = None if point.resolved is None or not point.hooks else point.resolved.function
        if type(function) is FunctionType:
            found += [(holder.__code__, target, isinstance(layer, ArmedFunction)) for holder, layer in layers(function)]
    return found


def replays_of(config: Config, table: ProbeTable, redaction: Redaction) -> Any:
    """As `replays.Replays`."""
    from .replays import Replays

    return Replays(config, table, redaction)


def search(text: str, table: ProbeTable) -> Dict[str, Any]:
    """As `search.search`."""
    from .search import search

    return search(text, table)


def stacks() -> List[Dict[str, Any]]:
    """As `stacks.stacks`."""
    from .stacks import stacks

    return stacks()

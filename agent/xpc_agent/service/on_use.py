"""What is loaded when a script first asks for it, a hook of that kind or a report: it would cost a start-up milliseconds.

Rules:
- It is loaded in the service thread, for which a fork waits: a child never has half a module. What a thread of the application may need
  first, as it imports a module with a target, is loaded with the agent.
"""

from __future__ import annotations

import functools
import sys
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple

from xpc_instrument.core.config.schema import Config, ProbeConfig
from xpc_instrument.core.model.local import INJECT, LINE, RECORD, TREE, WATCH
from xpc_instrument.core.model.terms import Terms

from ..events.sender import Sender
from ..points.table import ProbeTable

if TYPE_CHECKING:
    from xpc_instrument.core.values.redaction import Redaction

    from ..hooks.admission import SharedAdmission, SuspensionPolicy


def suspension(config: ProbeConfig, timeout: float, terms: Terms) -> SuspensionPolicy:
    """When a hook on the probe point is suspended; one that stands in never is.

    An invocation that tries it is given up when it should have timed out long ago.
    """
    from ..hooks.admission import SuspensionPolicy

    after = 0 if terms.stands_in else config.suspend_after
    return SuspensionPolicy(after, config.suspend_for, config.suspend_at_most, timeout + config.suspend_at_most)


def shared_admission(terms: Terms, config: ProbeConfig, timeout: float, ended: Callable[[], None]) -> SharedAdmission:
    """Of a registration that has several targets."""
    from ..hooks.admission import SharedAdmission

    return SharedAdmission(terms, suspension(config, timeout, terms), ended=ended)


def condition_of(hook: Any, when: str, level: str) -> Any:
    """What stands in the chain for a hook with a condition (`hooks/conditional.py`). Raises `ExpressionError`."""
    from ..hooks.conditional import Conditional

    return Conditional(hook, when, level)


def capturer_of(redaction: Redaction) -> Any:
    """What captures values for the events of one hook, a `Capturer`."""
    from xpc_instrument.core.values.captures import Capturer

    return Capturer(redaction=redaction)


def maker_of(target: str, terms: Terms, level: str, sender: Sender, redaction: Redaction, table: ProbeTable) -> Callable[..., Any]:
    """What makes the hook that the terms mean. Raises `TargetError` for expressions that are not allowed, and where there can be none."""
    local = terms.local
    if local is None and terms.wait:
        from ..hooks.remote import RemoteHook

        return RemoteHook
    if local is None:
        from ..hooks.unwaited import UnwaitedHook

        return functools.partial(UnwaitedHook, sender=sender, capturer=capturer_of(redaction))
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
    from ..patching.code_swap import ArmedFunction, layers

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


def stacks() -> Dict[str, Any]:
    """As `stacks.told`."""
    from .stacks import told

    return told()


def reset_loaded() -> None:
    """In a forked child: chance is to differ from the parent's, and the tool id of `sys.monitoring` is the child's own."""
    loaded = sys.modules
    if "xpc_agent.hooks.admission" in loaded:
        from ..hooks.admission import reseed

        reseed()
    if "xpc_agent.monitoring" in loaded:
        from ..monitoring import monitoring

        monitoring.reset_after_fork()

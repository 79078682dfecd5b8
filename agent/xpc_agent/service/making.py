"""What the hooks of one registration are made of.

Rules:
- All that they need is loaded when a `Making` is made, in the service thread, while no lock is held. What comes later has the table's lock,
  and is done in threads of the application too, such as hooks on functions of modules that it imports then: so it imports nothing.
"""

from __future__ import annotations

import functools
from types import CodeType, FunctionType
from typing import Any, Callable, List, Tuple

from xpc_instrument.core.config.schema import ProbeConfig
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.local import INJECT, LINE, RECORD, TREE, WATCH
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.by_value import prepare as prepare_values
from xpc_instrument.core.values.redaction import Redaction

from ..events.sender import Sender
from ..hooks.admission import SharedAdmission, SuspensionPolicy
from ..hooks.remote import RemoteHook
from ..patching.code_swap import ArmedFunction, layers
from ..patching.inside import prepare
from ..points.of_probe import load
from ..points.point import ProbePoint
from ..points.table import ProbeTable


class Making:
    """Of the hooks that the terms mean."""

    def __init__(self, terms: Terms, sender: Sender, redaction: Redaction, table: ProbeTable) -> None:
        self.terms = terms
        self._sender = sender
        self._redaction = redaction
        self._table = table
        load()
        prepare()
        self._hook: Any = _hook_of(terms)
        if terms.local is None and terms.wait:
            prepare_values()
        self._conditional: Any = None
        if terms.when is not None:
            from ..hooks.conditional import Conditional

            self._conditional = Conditional
        self._capturer: Any = None
        self._check_expressions: Any = None
        if terms.local is not None or not terms.wait:
            from xpc_instrument.core.values.captures import Capturer

            self._capturer = Capturer
        if terms.local is not None:
            from ..hooks.local import check_expressions

            self._check_expressions = check_expressions

    def maker(self, point: ProbePoint, mode: Mode) -> Callable[..., Any]:
        """What makes one on a point. Raises `TargetError` for expressions that are not allowed there, and where there can be none."""
        local, target, level = self.terms.local, point.target, point.config.expressions
        if point.is_line != (local is not None and local["kind"] == LINE):
            raise TargetError(
                f"{target}: expected a function" if not point.is_line else f"{target} is a line, which only `log` and `watch` look at"
            )
        # What the config allows goes by the mode.
        if local is not None and (local["kind"] == INJECT) != (mode is Mode.INSTEAD):
            raise TargetError(f"{target}: a hook of the kind {local['kind']!r} in the mode {mode.value!r}: it has none of its own there")
        sender, redaction = self._sender, self._redaction
        if local is None:
            if self.terms.wait:
                return RemoteHook
            return functools.partial(self._hook, sender=sender, capturer=self._capturer(redaction=redaction))
        kind = local["kind"]
        if kind == INJECT:
            made: Callable[..., Any] = self._hook
            return made
        self._check_expressions(target, local, level)
        if kind in (LINE, WATCH, RECORD):
            return functools.partial(self._hook, sender=sender, redaction=redaction, level=level)
        if kind == TREE:
            self._hook.check()
            capturer, armed = self._capturer(redaction=redaction), functools.partial(_armed_codes, self._table)
            return functools.partial(self._hook, sender=sender, capturer=capturer, armed=armed, level=level)
        return functools.partial(self._hook, level=level, hides=redaction.hides)

    def suspension(self, config: ProbeConfig, timeout: float) -> SuspensionPolicy:
        """When a hook on the probe point is suspended; one that stands in never is.

        An invocation that tries it is given up when it should have timed out long ago.
        """
        after = 0 if self.terms.stands_in else config.suspend_after
        return SuspensionPolicy(after, config.suspend_for, config.suspend_at_most, timeout + config.suspend_at_most)

    def shared_admission(self, config: ProbeConfig, timeout: float, ended: Callable[[], None]) -> SharedAdmission:
        """Of a registration that has several targets."""
        return SharedAdmission(self.terms, self.suspension(config, timeout), ended=ended)

    def condition(self, hook: Any, level: str) -> Any:
        """What stands in the chain for a hook with a condition (`hooks/conditional.py`); else None. Raises `ExpressionError`."""
        return None if self._conditional is None else self._conditional(hook, self.terms.when, level)


def _hook_of(terms: Terms) -> Any:
    """The class of the hooks, loaded now."""
    if terms.local is None:
        if terms.wait:
            return RemoteHook
        from ..hooks.unwaited import UnwaitedHook

        return UnwaitedHook
    kind = terms.local["kind"]
    if kind == INJECT:
        from ..hooks.fault import FaultHook

        return FaultHook
    if kind == LINE:
        from ..hooks.line import LineHook

        return LineHook
    if kind == WATCH:
        from ..hooks.watch import WatchHook

        return WatchHook
    if kind == RECORD:
        from ..hooks.record import RecordHook

        return RecordHook
    if kind == TREE:
        from ..hooks.trace import TraceHook

        return TraceHook
    from ..hooks.local import LocalHook

    return LocalHook


def _armed_codes(table: ProbeTable) -> List[Tuple[CodeType, str, bool]]:
    """The code of functions that have hooks, of each layer: with the target, and whether it is a trampoline."""
    found: List[Tuple[CodeType, str, bool]] = []
    for target, point in table.points.copy().items():
        function = None if point.resolved is None or not point.hooks else point.resolved.function
        if type(function) is FunctionType:
            found += [(holder.__code__, target, isinstance(layer, ArmedFunction)) for holder, layer in layers(function)]
    return found

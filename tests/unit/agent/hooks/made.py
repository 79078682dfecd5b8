"""Hooks of a session that there is not, on functions of the tests, to be called as the function's own code calls them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Callable

from xpc_agent.hooks.admission import SuspensionPolicy
from xpc_agent.targets.resolve import resolve
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.traits import PeerProfile


def unplaced(cls: Callable[..., Any], mode: Mode, target: str, terms: Terms, **more: Any) -> Any:
    """A hook that is on no target yet; there is nobody whom it could be told to."""
    nobody: Any = SimpleNamespace(session="session", who="", pid=0, python="", lanes=None, notify=lambda *_, **__: None)
    settings = {"suspension": SuspensionPolicy(), "ended": lambda hook: None, **more}
    return cls(
        mode,
        target,
        nobody,
        1,
        "call",
        PeerProfile("", "", Limits().max_payload),
        timeout=1.0,
        on_failure="original",
        terms=terms,
        pid=7,
        may_refer=False,
        signature=lambda: None,
        **settings,
    )


def made(cls: Callable[..., Any], mode: Mode, target: str, terms: Terms, **more: Any) -> Any:
    """A hook on its target."""
    hook = unplaced(cls, mode, target, terms, **more)
    resolved: Any = resolve(target)
    hook.placed(resolved, resolved.function.__code__)
    return hook


def call(hook: Any, *values: Any, result: Any = None, error: Any = None) -> None:
    """An invocation, as the function's own code tells of it."""
    gate: Any = SimpleNamespace(ends=(Exception,), has_dict=False)
    way = hook.alone
    entered = way.begin(gate, values) if way.take() else None
    if entered is None:
        return
    token = entered[1]
    if error is not None:
        token.failed(error)
    else:
        token.leave(result)

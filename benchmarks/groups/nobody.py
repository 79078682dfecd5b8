"""Hooks of the agent, as it makes them, for a script that does not exist."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Callable, Dict

from xpc_agent.hooks.admission import SuspensionPolicy
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.traits import PeerProfile

_AGES = 1e9
# By the first failure, and never tried again.
AT_ONCE = SuspensionPolicy(after=1, first=_AGES, most=_AGES)


def hook_of_nobody(cls: Callable[..., Any], mode: Mode, target: str, terms: Terms, **more: Any) -> Any:
    """A hook of a class of the agent's. What it would send has no lane to go through, so its first call fails, and is counted."""
    settings: Dict[str, Any] = {
        "timeout": 1.0,
        "on_failure": "original",
        "suspension": SuspensionPolicy(),
        "pid": 0,
        "may_refer": False,
        "signature": lambda: None,
        "ended": lambda hook: None,
    }
    nobody = SimpleNamespace(session="none", who="nobody", pid=0, python="", lanes=None, notify=lambda *_, **__: None)
    return cls(mode, target, nobody, 1, "call", PeerProfile("", "", Limits().max_payload), terms=terms, **{**settings, **more})

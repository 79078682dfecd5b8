"""Parts of hooks whose modules are loaded for the first hook that needs them, when it is registered: they cost a start-up milliseconds."""

from __future__ import annotations

from typing import Any

from xpc_instrument.core.values.redaction import Redaction


def condition_of(hook: Any, when: str, level: str) -> Any:
    """What stands in the chain for a hook with a condition (`hooks/conditional.py`). Raises `ExpressionError`."""
    from ..hooks.conditional import Conditional

    return Conditional(hook, when, level)


def capturer_of(redaction: Redaction) -> Any:
    """What captures values for the events of one hook, a `Capturer`."""
    from xpc_instrument.core.values.captures import Capturer

    return Capturer(redaction=redaction)

"""Limits that all processes of a registration share: from where this one takes what they count."""

from __future__ import annotations

import logging
from typing import Any, Collection, Dict, Tuple

from xpc_instrument.core.model.errors import ChannelError
from xpc_instrument.core.wire.tokens import Purse

log = logging.getLogger("xpc_agent")

Key = Tuple[str, int]


class SharedLimits:
    """By registration: its session and number. A forked child has those of its parent, with the hooks."""

    def __init__(self) -> None:
        self._purses: Dict[Key, Purse] = {}

    def share(self, hook: Any) -> None:
        """Have a new hook take what its limit counts from the tokens of its registration. Where it cannot, it counts for itself, and its
        script is told."""
        name, key = hook.terms.tokens, (hook.session, hook.number)
        if name is None:
            return
        if key not in self._purses:
            try:
                self._purses[key] = Purse(name)
            except ChannelError as error:
                log.debug("%s: the limit holds for this process alone: %s", hook.target, error)
                hook._notify("apart")
                return
        hook.admission.share(self._purses[key])

    def keep(self, keys: Collection[Key]) -> None:
        """Let go of those of all other registrations."""
        for key in [one for one in self._purses if one not in keys]:
            self._purses.pop(key).close()

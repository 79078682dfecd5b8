"""What a registration may ask for."""

from __future__ import annotations

from xpc_instrument.core.config.schema import ProbeConfig
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms


def check_mode(target: str, mode: Mode, terms: Terms) -> None:
    if not terms.wait and mode not in (Mode.BEFORE, Mode.AFTER):
        raise TargetError(f"{target}: a hook in the mode {mode.value!r} has to be waited for; only before and after take wait=False")


def timeout_of(target: str, terms: Terms, config: ProbeConfig) -> float:
    """The deadline of a hook in seconds. Raises `TargetError` if it asks for more than the config grants."""
    longest = max(config.max_timeout, config.timeout)
    if terms.timeout is None:
        return longest if terms.stands_in else config.timeout
    if terms.timeout > longest:
        raise TargetError(
            f"{target}: timeout={terms.timeout:g} is longer than the config allows a hook here, {longest:g} s (max-timeout): "
            "ask for less, or raise max-timeout in the config"
        )
    return float(terms.timeout)

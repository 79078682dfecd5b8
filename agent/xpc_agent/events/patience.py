"""How long scripts may have what is queued delivered."""

from __future__ import annotations

# After a script has removed its hook, in seconds; ours asks for 8 at most.
_LONGEST_WITHIN = 60.0


def bounded(within: float) -> float:
    """The time that a script gives to what is queued; from outside comes any number, and no clock can wait for some of them."""
    return min(max(within, 0.0), _LONGEST_WITHIN)

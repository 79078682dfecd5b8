"""The agent: the part of xpc-instrument that lives inside the application.

`start()` makes this process hookable, `stop()` undoes it. Under `xpc-instrument run` neither is needed. `stats()` tells what was counted,
`lanes()` which lanes there are.
"""

from __future__ import annotations

from .life.agent import lanes, start, stats, stop

__all__ = ["lanes", "start", "stats", "stop"]

"""The agent: the part of xpc-instrument that lives inside the application.

`start()` makes this process hookable, `stop()` undoes it. Under `xpc-instrument run` neither is needed.
"""

from __future__ import annotations

from .lifecycle import start, stop

__all__ = ["start", "stop"]

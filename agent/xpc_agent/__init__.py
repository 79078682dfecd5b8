"""The agent: the part of xpc-instrument that lives inside the application.

`start()` makes this process hookable, `stop()` undoes it. Under `xpc-instrument run` neither is needed. `stats()` tells what was counted,
`lanes()` which lanes there are. What they need is imported when one of them is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .life.control import lanes, start, stats, stop

__all__ = ["lanes", "start", "stats", "stop"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .life import control

    return getattr(control, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Hook functions of a running Python application from another process.

Names are loaded on first use: importing this package inside an application loads neither the session nor the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .channel.tls import TLS
    from .errors import (
        AddressInUseError,
        ApplicationNotFoundError,
        AuthenticationError,
        ChannelError,
        ConfigError,
        HookFailedError,
        HookTimeoutError,
        PayloadError,
        PlaintextError,
        ReferenceExpiredError,
        RemoteError,
        RemoteTraceback,
        TargetError,
        XpcError,
    )
    from .hooks import Call, Handle
    from .manager import Manager, find_free_port
    from .modes import Mode
    from .references import Reference
    from .session import Session, connect
    from .stats import Figures, HookStats, LaneStats, ProbeStats

_HOMES = {
    "AddressInUseError": "errors",
    "ApplicationNotFoundError": "errors",
    "AuthenticationError": "errors",
    "Call": "hooks",
    "ChannelError": "errors",
    "ConfigError": "errors",
    "Figures": "stats",
    "Handle": "hooks",
    "HookFailedError": "errors",
    "HookStats": "stats",
    "LaneStats": "stats",
    "HookTimeoutError": "errors",
    "Manager": "manager",
    "Mode": "modes",
    "PayloadError": "errors",
    "PlaintextError": "errors",
    "ProbeStats": "stats",
    "Reference": "references",
    "ReferenceExpiredError": "errors",
    "RemoteError": "errors",
    "RemoteTraceback": "errors",
    "Session": "session",
    "TLS": "channel.tls",
    "TargetError": "errors",
    "XpcError": "errors",
    "connect": "session",
    "find_free_port": "manager",
}

__all__ = [
    "TLS",
    "AddressInUseError",
    "ApplicationNotFoundError",
    "AuthenticationError",
    "Call",
    "ChannelError",
    "ConfigError",
    "Figures",
    "Handle",
    "HookFailedError",
    "HookStats",
    "HookTimeoutError",
    "LaneStats",
    "Manager",
    "Mode",
    "PayloadError",
    "PlaintextError",
    "ProbeStats",
    "Reference",
    "ReferenceExpiredError",
    "RemoteError",
    "RemoteTraceback",
    "Session",
    "TargetError",
    "XpcError",
    "__version__",
    "connect",
    "find_free_port",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Hook functions of a running Python application from another process.

Names are loaded on first use: importing this package inside an application loads neither the session nor the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.version import __version__

if TYPE_CHECKING:
    from .attaching.attach import attach
    from .core.model.errors import (
        AddressInUseError,
        AmbiguousApplicationError,
        ApplicationNotFoundError,
        AttachError,
        AuthenticationError,
        ChannelError,
        ConfigError,
        ExpressionError,
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
    from .core.model.fault import FaultError
    from .core.model.limits import Limits
    from .core.model.stats import Figures, HookStats, LaneStats, ProbeStats
    from .core.model.target import Mode
    from .core.replay.calls import InnerCall, RecordedCall
    from .core.replay.differing import Difference
    from .core.replay.running import Replayed
    from .core.values.references import Reference, attribute_of, copy_of
    from .core.wire.tls import TLS
    from .script.call import Call
    from .script.connect import connect
    from .script.counted import FaultRow, Injected, Monitor, MonitorRow, StackRow, Stacks, Stat, StatRow
    from .script.handle import Handle
    from .script.manager import Manager, find_free_port
    from .script.recording import Recorder, Recording, RecordingError, load
    from .script.session import Session
    from .script.stacks import Stack
    from .script.targets import Described
    from .script.trees import Trace, Tree, TreeNode
    from .script.watching import CallEvent, LineEvent, Log, Watch

_HOMES = {
    "AddressInUseError": "core.model.errors",
    "AmbiguousApplicationError": "core.model.errors",
    "ApplicationNotFoundError": "core.model.errors",
    "AttachError": "core.model.errors",
    "AuthenticationError": "core.model.errors",
    "Call": "script.call",
    "ChannelError": "core.model.errors",
    "ConfigError": "core.model.errors",
    "ExpressionError": "core.model.errors",
    "Figures": "core.model.stats",
    "Handle": "script.handle",
    "HookFailedError": "core.model.errors",
    "HookStats": "core.model.stats",
    "LaneStats": "core.model.stats",
    "Limits": "core.model.limits",
    "HookTimeoutError": "core.model.errors",
    "Manager": "script.manager",
    "Mode": "core.model.target",
    "PayloadError": "core.model.errors",
    "PlaintextError": "core.model.errors",
    "ProbeStats": "core.model.stats",
    "Reference": "core.values.references",
    "ReferenceExpiredError": "core.model.errors",
    "RemoteError": "core.model.errors",
    "RemoteTraceback": "core.model.errors",
    "Session": "script.session",
    "TLS": "core.wire.tls",
    "TargetError": "core.model.errors",
    "XpcError": "core.model.errors",
    "attach": "attaching.attach",
    "CallEvent": "script.watching",
    "LineEvent": "script.watching",
    "Log": "script.watching",
    "Trace": "script.trees",
    "Tree": "script.trees",
    "TreeNode": "script.trees",
    "Watch": "script.watching",
    "Stat": "script.counted",
    "StatRow": "script.counted",
    "Monitor": "script.counted",
    "MonitorRow": "script.counted",
    "Stacks": "script.counted",
    "FaultError": "core.model.fault",
    "FaultRow": "script.counted",
    "Injected": "script.counted",
    "StackRow": "script.counted",
    "Stack": "script.stacks",
    "Difference": "core.replay.differing",
    "InnerCall": "core.replay.calls",
    "RecordedCall": "core.replay.calls",
    "Recorder": "script.recording",
    "Recording": "script.recording",
    "RecordingError": "script.recording",
    "Replayed": "core.replay.running",
    "load": "script.recording",
    "Described": "script.targets",
    "attribute_of": "core.values.references",
    "connect": "script.connect",
    "copy_of": "core.values.references",
    "find_free_port": "script.manager",
}

__all__ = [
    "TLS",
    "AddressInUseError",
    "AmbiguousApplicationError",
    "ApplicationNotFoundError",
    "AttachError",
    "AuthenticationError",
    "Call",
    "CallEvent",
    "ChannelError",
    "ConfigError",
    "Described",
    "Difference",
    "ExpressionError",
    "FaultError",
    "FaultRow",
    "Figures",
    "Handle",
    "HookFailedError",
    "HookStats",
    "HookTimeoutError",
    "Injected",
    "InnerCall",
    "LaneStats",
    "Limits",
    "LineEvent",
    "Log",
    "Manager",
    "Mode",
    "Monitor",
    "MonitorRow",
    "PayloadError",
    "PlaintextError",
    "ProbeStats",
    "RecordedCall",
    "Recorder",
    "Recording",
    "RecordingError",
    "Reference",
    "ReferenceExpiredError",
    "RemoteError",
    "RemoteTraceback",
    "Replayed",
    "Session",
    "Stack",
    "StackRow",
    "Stacks",
    "Stat",
    "StatRow",
    "TargetError",
    "Trace",
    "Tree",
    "TreeNode",
    "Watch",
    "XpcError",
    "__version__",
    "attach",
    "attribute_of",
    "connect",
    "copy_of",
    "find_free_port",
    "load",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The numbers that bound the channel, in one record."""

from __future__ import annotations

import sys
from dataclasses import dataclass

SOCKET_PATH_LIMIT = 107 if sys.platform.startswith("linux") else 103
"""Bytes in the path of a unix socket: `sun_path` less its NUL; 108 on Linux (unix(7)), 104 on macOS and the BSDs."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one node. Sizes are in bytes, times in seconds."""

    # The payload of one CALL or RETURN; what is larger crosses as a reference.
    max_payload: int = 64 * 1024 * 1024
    # Lanes of one session to one process: each is a thread there and a descriptor on both sides.
    max_lanes: int = 32
    # Sessions joined to one process.
    max_sessions: int = 64
    # Connections that have not yet proved the key; the oldest gives way to a new one.
    max_unauthenticated: int = 16
    # Containers within containers in one JSON message.
    max_nesting: int = 32
    # From the first byte of a connection to the end of its handshake.
    handshake_timeout: float = 2.0
    # How long connecting may take where the caller names no time.
    connect_timeout: float = 10.0
    # A joined node says PING this often, ...
    heartbeat: float = 5.0
    # ... and a node from which nothing was heard for this long is gone. Long enough for a process that holds the GIL in C code.
    silence: float = 30.0
    # Control messages that wait for a peer that does not read, before the peer counts as gone.
    max_backlog: int = 4 * 1024 * 1024
    # Whether small frames may go through memory that both processes share, while calls follow each other closely (see hot.py), ...
    hot_lanes: bool = True
    # ... for how long a side looks there again and again before it sleeps, ...
    hot_spin: float = 0.0001
    # ... and below what a wait counts as short.
    hot_short: float = 0.0001

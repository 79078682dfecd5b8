"""Every bound that there is, once: its name, its default, its unit and what else it may be.

The table `[limits]` of the config, what is refused there and with which words, and what a process hands to its children follow from
`Limits`: a new limit is one line here, and one in docs/config.md.
"""

from __future__ import annotations

import sys
from typing import Any, Dict

from .record import Default, Record

SOCKET_PATH_LIMIT = 107 if sys.platform.startswith("linux") else 103
"""Bytes in the path of a unix socket: `sun_path` less its NUL; 108 on Linux (unix(7)), 104 on macOS and the BSDs."""

LARGEST_SIZE = 1 << 30
"""Bytes; a payload is held in memory whole, on both sides."""

LONGEST_WAIT = 86_400.0
"""Seconds; socket time-outs overflow a C timeval at some larger number that differs by system."""

SIGN_OF_LIFE = 5.0
"""Seconds between the signs of life of a probe script, which does not read the application's config."""


class Bound(Default):
    """The default of a limit, and what else it may be: of a `kind`, above `above`, at most `most`; `why` is for whoever wants more."""

    __slots__ = ("above", "kind", "most", "why")

    def __init__(self, kind: str, default: Any, above: float, most: float, why: str = "") -> None:
        super().__init__(lambda: default)
        self.kind = kind
        self.above = above
        self.most = most
        self.why = why


def _size(default: int) -> Any:
    return Bound("size", default, 0, LARGEST_SIZE)


def _count(default: int, *, most: int) -> Any:
    return Bound("count", default, 0, most)


def _seconds(default: float, *, above: float = 0.0, most: float = LONGEST_WAIT, why: str = "") -> Any:
    return Bound("seconds", default, above, most, why)


def _flag(default: bool) -> Any:
    return Bound("flag", default, 0, 1)


class Limits(Record):
    """What one node grants to all that connect to it. Sizes are in bytes, times in seconds."""

    max_payload: int = _size(64 << 20)
    """One pickled payload, in either direction; a larger argument crosses as a reference."""

    max_lanes: int = _count(32, most=1_000)
    """Lanes of one session to one process, that is, how many invocations of its hooks may be under way at once. Each is a thread in the
    script and a descriptor on both sides. It may have as many again on which it calls."""

    max_hooks: int = _count(16, most=1_000)
    """Hooks registered on one probe point, over all sessions."""

    max_targets: int = _count(200, most=100_000)
    """Targets that are no probe points of the config, but allowed on demand, on which one session has hooks at a time."""

    max_sessions: int = _count(64, most=10_000)
    """Sessions connected to one process."""

    max_unauthenticated: int = _count(16, most=10_000)
    """Connections to one process that have not proved the key yet; when there are more, one is closed."""

    max_nesting: int = _count(32, most=200)  # the interpreter's own recursion limit has to stay out of reach
    """Containers within containers in one JSON message."""

    max_queue: int = _count(10_000, most=1_000_000)
    """Events that wait to be sent to one session whose hooks nobody waits for (`wait=False`); what comes beyond that is dropped."""

    max_queue_bytes: int = _size(64 << 20)
    """What these events may weigh together, roughly."""

    handshake_timeout: float = _seconds(2.0)
    """From an accepted connection to its proof of the key."""

    connect_timeout: float = _seconds(10.0)
    """What connecting may take, and the answer to a request, where the caller names no time."""

    heartbeat: float = _seconds(5.0)
    """Between the signs of life that a process sends to the one that hosts the fixed address; below `silence`."""

    silence: float = _seconds(30.0, above=SIGN_OF_LIFE, why="a probe script says that often that it is alive, and would be taken for gone")
    """Without a sign of life for so long, a session, or the process that hosts the fixed address, is gone. Long enough for a process that
    holds the GIL in C code."""

    max_backlog: int = _size(4 << 20)
    """Control messages that wait for a session that does not read, before it is closed."""

    hot_lanes: bool = _flag(True)
    """Whether small frames may go through memory that is shared with the script, while calls follow each other closely."""

    # To look for longer keeps a processor busy for longer than any sleep costs.
    hot_spin: float = _seconds(0.0001, most=0.001, why="hot-lanes = false is for no looking at all")
    """For how long a thread that waits looks into that memory again and again, before it sleeps."""

    hot_short: float = _seconds(0.0001, most=1.0)
    """Below what a wait counts as short; a few short waits in a row make a lane hot."""


DEFAULT_LIMITS = Limits()


def bounds() -> Dict[str, Bound]:
    """The limits by their keys in the config."""
    return {name.replace("_", "-"): bound for name, bound in Limits._defaults.items()}

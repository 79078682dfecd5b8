"""Which hosts are this machine alone: beyond them, what crosses needs TLS."""

from __future__ import annotations

import socket
from typing import Optional


def is_loopback(host: str) -> bool:
    """Whether a numeric address is reached from this machine alone; False for a name, and for "" and 0.0.0.0, which mean all addresses."""
    packed = _packed(host)
    return packed is not None and (packed[0] == 127 if len(packed) == 4 else packed == b"\0" * 15 + b"\x01")


def is_beyond_loopback(host: str) -> bool:
    """Whether a numeric address is reached from other machines; False for a name, which has to be resolved first."""
    return _packed(host) is not None and not is_loopback(host)


def _packed(host: str) -> Optional[bytes]:
    """The bytes of a numeric address, 4 of them for an IPv4 address in IPv6; None for anything else."""
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host.partition("%")[0])
    except OSError:
        return None
    return packed[12:] if packed[:12] == b"\0" * 10 + b"\xff\xff" else packed

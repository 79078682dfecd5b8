"""Addresses of nodes, and who may be reached there and how.

Rules:
- TCP needs a key, and beyond loopback TLS, on the side that listens and on the side that dials. What counts is the address that a name
  resolves to.
- On unix sockets the peer's uid is the kernel's word, not the peer's; its pid is the peer's own word, and shown as such unless the kernel
  says the same.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Optional, Tuple, Union

from ..model.errors import AuthenticationError, ChannelError, PlaintextError
from ..model.limits import SOCKET_PATH_LIMIT
from ..model.loopback import is_loopback
from ..model.record import Record
from ..protocol.connection import Connection
from ..wire.wire import Wire

if TYPE_CHECKING:
    from ..wire.tls import TLS, TlsWire


class Address(Record):
    """Where a node listens: a unix socket (`path`) or TCP (`host`, `port`)."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


class Protection(Record):
    """What protects a node's TCP connections from who is on the way: TLS, or the word of its owner that none is needed."""

    tls: Optional[TLS] = None
    plaintext_beyond_loopback: bool = False

    @property
    def allows_plaintext(self) -> bool:
        """Whether any address will do."""
        return self.tls is not None or self.plaintext_beyond_loopback

    def wire(self, sock: socket.socket, connection: Connection, *, listening: bool) -> Union[Wire, TlsWire]:
        """A wire on a connected socket. Raises `ConfigError` if the certificates cannot be loaded."""
        if self.tls is None or sock.family == getattr(socket, "AF_UNIX", None):
            return Wire(sock, connection)
        return self.tls.wire(sock, connection, listening=listening)


NO_PROTECTION = Protection()


AddressLike = Union[str, bytes, os.PathLike[str], Tuple[str, int], Address]


def parse_address(value: AddressLike) -> Address:
    """An `Address` from `(host, port)`, `"tcp:HOST:PORT"`, `"unix:PATH"` or the path of a unix socket.

    Raises `ValueError` that says what was seen and which forms there are.
    """
    if isinstance(value, Address):
        return value
    if isinstance(value, (tuple, list)):
        if len(value) == 2 and isinstance(value[0], str) and _is_port(value[1]):
            return Address(host=value[0], port=int(value[1]))
        raise ValueError(f"address {value!r}: expected (host, port) with a port from 1 to 65535")
    text = os.fsdecode(value)
    if text.startswith("tcp:"):
        host, _, port = text[4:].rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not host or not port.isascii() or not port.isdigit() or not _is_port(int(port)):
            raise ValueError(f"address {text!r}: expected tcp:HOST:PORT with a port from 1 to 65535")
        return Address(host=host, port=int(port))
    path = text[5:] if text.startswith("unix:") else text
    if not path or "\0" in path:
        raise ValueError(f"address {text!r}: expected (host, port), 'tcp:HOST:PORT', 'unix:PATH' or a path")
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise ValueError(f"address {path!r}: the path of a unix socket holds {SOCKET_PATH_LIMIT} bytes at most; choose a shorter folder")
    return Address(path=path)


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def require_unix() -> None:
    """Raises `ChannelError` where Python has no unix sockets."""
    if not hasattr(socket, "AF_UNIX"):
        raise ChannelError("this system has no unix sockets in Python: use an address tcp:HOST:PORT with an authkey")


def require_key(address: Address, key: bytes) -> None:
    """Raises `AuthenticationError` for a TCP address without a key."""
    if not key:
        raise AuthenticationError(
            f"{address} needs a key, since every user of every host that reaches it could run code: pass authkey=..., on the command line "
            "--authkey-file, in the config authkey-file"
        )


def refuse_plaintext(address: Address, resolved: str, protection: Protection) -> None:
    """Raises `PlaintextError` if `address`, which is `resolved`, is beyond loopback and nothing protects what crosses."""
    if protection.allows_plaintext or is_loopback(resolved):
        return
    seen = f"{address} is {resolved}," if resolved and resolved != address.host else f"{address} is"
    raise PlaintextError(
        f"{seen} beyond loopback, where everybody on the way could read and change what crosses: use TLS (tls=TLS(...), in the config "
        "tls-certificate, tls-key and tls-ca; `xpc-instrument certificates` makes them), a tunnel to a loopback address, or say "
        "plaintext_beyond_loopback=True (in the config plaintext-beyond-loopback = true)"
    )


def check_peer(sock: socket.socket) -> None:
    """On a unix socket, refuse a peer of another user. Raises `AuthenticationError`."""
    if sock.family != getattr(socket, "AF_UNIX", None):
        return
    uid = _credentials(sock)[1]
    if uid not in (os.getuid(), 0):
        seen = f"the peer belongs to the user {uid}, this process to {os.getuid()}"
        # Not root either: what comes from there can run code here.
        raise AuthenticationError(f"{seen}: do this as that user: sudo -u '#{uid}' ..." if os.getuid() == 0 else seen)


def named(sock: socket.socket, pid: int) -> str:
    """How a peer is called that says it is `pid`: by that number alone only if the kernel says so too.

    It does not over TCP, nor of a process in another pid namespace, which has its number there.
    """
    if sock.family == getattr(socket, "AF_UNIX", None) and _credentials(sock)[0] == pid:
        return f"pid {pid}"
    return f"a process that says it is pid {pid}"


def _credentials(sock: socket.socket) -> Tuple[int, int]:
    """The pid of whoever has connected a unix socket, 0 if it is not known, and the uid."""
    if hasattr(socket, "SO_PEERCRED"):
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        return pid, uid
    # struct xucred of the BSDs and macOS (LOCAL_PEERCRED is 1 at level 0): version, uid, number of groups, groups.
    credentials = sock.getsockopt(0, 1, 76)
    return 0, int(struct.unpack_from("II", credentials)[1])

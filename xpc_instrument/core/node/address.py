"""Sockets: addresses, listening, and dialling up to a wire that is open.

Rules:
- A deadline is a `time.monotonic()` instant in seconds, or None for none.
- An unauthenticated peer is bounded in bytes (codec), in time (deadline) and in number (host).
- On unix sockets the peer's uid is the kernel's word, not the peer's.
- TCP needs a key, and beyond loopback TLS, on the side that listens and on the side that dials. What counts is the address that a name
  resolves to, and the one that was looked at is the one that is used.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

from ..model.errors import (
    AddressInUseError,
    AuthenticationError,
    ChannelError,
    ConnectTimeoutError,
    CrowdedError,
    DeadlineError,
    NobodyListensError,
    PlaintextError,
    RemoteProtocolError,
)
from ..model.limits import Limits
from ..protocol.codec import Bytes
from ..protocol.connection import Connection
from ..protocol.messages import Hello, Welcome
from ..unpatched import Socket
from ..wire.memory import OpeningWire
from ..wire.wire import Wire

if TYPE_CHECKING:
    from ..wire.tls import TLS, TlsWire

# sun_path holds 108 bytes on Linux and 104 on macOS, with a zero at the end.
MAX_UNIX_PATH = 107 if sys.platform.startswith("linux") else 103
_BACKLOG = 128


@dataclass(frozen=True)
class Address:
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


@dataclass(frozen=True)
class Protection:
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


def parse_address(value: Union[str, bytes, os.PathLike[str], Tuple[str, int], Address]) -> Address:
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
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise ValueError(f"address {path!r}: the path of a unix socket holds {MAX_UNIX_PATH} bytes at most; choose a shorter folder")
    return Address(path=path)


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def _require_unix() -> None:
    if not hasattr(socket, "AF_UNIX"):
        raise ChannelError("this system has no unix sockets in Python: use an address tcp:HOST:PORT with an authkey")


# listening ---------------------------------------------------------------------------------------------------------------


def listen(address: Address, key: bytes = b"", protection: Protection = NO_PROTECTION) -> socket.socket:
    """A non-blocking listening socket. A unix socket is made with mode 0600, and a dead one in its place is replaced.

    Raises `AddressInUseError` if a live process listens there, `AuthenticationError` for TCP without a key, `PlaintextError` for TCP
    beyond loopback without TLS, `ConfigError` for certificates that cannot be loaded, `ChannelError` for any other reason.
    """
    if address.is_unix:
        return _listen_unix(address)
    _require_key(address, key)
    if protection.tls is not None:
        protection.tls.load()
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    where: Tuple[Any, ...] = (address.host, address.port)
    if address.host:
        # Resolved here and not by `bind`, so that what is looked at is what is bound.
        try:
            where = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)[0][4]
        except OSError as error:
            raise _cannot_listen(address, error) from error
    _refuse_plaintext(address, str(where[0]), protection)
    sock = Socket(family, socket.SOCK_STREAM)
    try:
        # Lets a node that was shut down start again at once; two live listeners are still refused on POSIX.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _cannot_listen(address, error) from error
    return sock


def _listen_unix(address: Address) -> socket.socket:
    _require_unix()
    path = address.path
    for attempt in (1, 2):
        sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Bound under a name of its own, made private, then given its real name: nobody can connect before the mode is
        # right, no umask is changed, and of two nodes that start at once exactly one gets the name.
        temporary = f"{path[: MAX_UNIX_PATH - 9]}.{os.urandom(4).hex()}"
        try:
            sock.bind(temporary)
            try:
                os.chmod(temporary, stat.S_IRUSR | stat.S_IWUSR)
                sock.listen(_BACKLOG)
                os.link(temporary, path)
            finally:
                os.unlink(temporary)
            sock.setblocking(False)
            return sock
        except FileExistsError as error:
            sock.close()
            if attempt == 2 or not _remove_dead_socket(path):
                raise _cannot_listen(address, OSError(errno.EADDRINUSE, "Address already in use")) from error
        except OSError as error:
            sock.close()
            raise _cannot_listen(address, error) from error
    raise AssertionError("unreachable")


def _cannot_listen(address: Address, error: OSError) -> ChannelError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUseError(f"{address} is in use by a live process: connect to it, or shut it down, or choose another address")
    return ChannelError(f"cannot listen at {address}: {error.strerror or error}")


def _remove_dead_socket(path: str) -> bool:
    """Unlink a unix socket that nobody listens on any more; False if it is alive or no socket at all."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return True
    if socket_is_alive(path):
        return False
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def socket_is_alive(path: str) -> bool:
    """Whether a process listens on the unix socket at `path`."""
    _require_unix()
    probe = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(path)
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        # A full backlog (EAGAIN) or a socket of another user: somebody is there.
        return True
    finally:
        probe.close()
    return True


def is_loopback(host: str) -> bool:
    """Whether a numeric address is reached from this machine alone; False for a name, and for "" and 0.0.0.0, which mean all addresses."""
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host.partition("%")[0])
    except OSError:
        return False
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        packed = packed[12:]
    return packed[0] == 127 if len(packed) == 4 else packed == b"\0" * 15 + b"\x01"


def _require_key(address: Address, key: bytes) -> None:
    if not key:
        raise AuthenticationError(
            f"{address} needs a key, since every user of every host that reaches it could run code: pass authkey=..., on the command line "
            "--authkey-file, in the config authkey-file"
        )


def _refuse_plaintext(address: Address, resolved: str, protection: Protection) -> None:
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
    uid = _peer_uid(sock)
    if uid not in (os.getuid(), 0):
        raise AuthenticationError(f"the peer belongs to the user {uid}, this process to {os.getuid()}")


def _peer_uid(sock: socket.socket) -> int:
    if hasattr(socket, "SO_PEERCRED"):
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    # struct xucred of the BSDs and macOS (LOCAL_PEERCRED is 1 at level 0): version, uid, number of groups, groups.
    credentials = sock.getsockopt(0, 1, 76)
    return int(struct.unpack_from("II", credentials)[1])


# dialling ----------------------------------------------------------------------------------------------------------------


def dial(
    address: Address, key: bytes, hello: Hello, deadline: float, limits: Limits, protection: Protection = NO_PROTECTION
) -> Union[Wire, TlsWire]:
    """Connect and shake hands; returns a wire that is open. Where too many stand in the door, it comes again until `deadline`.

    Raises `NobodyListensError`, `ConnectTimeoutError`, `AuthenticationError`, `PlaintextError`, `ConfigError` or `ChannelError`, all
    before `deadline`.
    """
    if not address.is_unix:
        _require_key(address, key)
    pause = _FIRST_PAUSE
    while True:
        try:
            return _dial_once(address, key, hello, deadline, limits, protection)
        except CrowdedError:
            if time.monotonic() + pause >= deadline:
                raise
        # Of those who were turned away together, not all should come back together.
        time.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _dial_once(address: Address, key: bytes, hello: Hello, deadline: float, limits: Limits, protection: Protection) -> Union[Wire, TlsWire]:
    sock = _connect(address, deadline, protection)
    connection = Connection(dialling=True, key=key, max_payload=limits.max_payload, max_nesting=limits.max_nesting)
    try:
        wire = OpeningWire(sock, connection) if hello.hot else protection.wire(sock, connection, listening=False)
    except BaseException:
        sock.close()
        raise
    try:
        check_peer(sock)
        wire.shake_hands(deadline)
        nobody = Welcome("", 0, "", "", 0)
        pieces = wire.connection.start(hello)
        while not wire.connection.open:
            if pieces:
                _transmit_or_hear_why(wire, pieces, deadline)
            pieces = wire.connection.shake(wire.receive(deadline), nobody)
    except DeadlineError:
        wire.close()
        raise ConnectTimeoutError(
            f"{address} accepts connections but did not finish the handshake in time: is it an xpc-instrument process, and is it running?"
        ) from None
    except (AuthenticationError, RemoteProtocolError) as error:
        wire.close()
        hint = "; it seems to speak TLS: pass tls=..." if protection.tls is None and _ALERT.search(str(error)) else ""
        raise type(error)(f"{address}: {error}{hint}") from None
    except ChannelError as error:
        wire.close()
        # An alert is lost where the other side closes before it has read all; TLS 1.3 refuses certificates as late as this.
        hint = "" if address.is_unix else ": is TLS configured on both sides, with certificates of one CA? The log of the other says why"
        raise ChannelError(f"{address}: {error} during the handshake{hint}") from error
    except BaseException:
        wire.close()
        raise
    return wire.opened(limits) if isinstance(wire, OpeningWire) else wire


def _transmit_or_hear_why(wire: Wire, pieces: Sequence[Bytes], deadline: float) -> None:
    """Send a part of the handshake; if the other side has closed the connection, raise the reason that it sent before, if it did."""
    try:
        wire.transmit(pieces, deadline)
    except DeadlineError:
        raise
    except ChannelError:
        wire.connection.shake(wire.receive(deadline), Welcome("", 0, "", "", 0))
        raise


# Between two attempts where too many stand in the door, in seconds: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25

# How an alert of TLS begins, as the message of a frame reader shows it.
_ALERT = re.compile("begins with the bytes 150[0-9]")


def _in_order(candidates: List[Tuple[int, Any]]) -> List[Tuple[int, Any]]:
    """IPv4 first, as whoever listens at a name does; and of two loopback addresses that alone.

    Where "localhost" is `::1` too, that port is free while an application listens at 127.0.0.1. Another user who listens there could pass
    on a handshake to the application, and change what crosses afterwards.
    """
    first = [one for one in candidates if one[0] == socket.AF_INET]
    rest = [one for one in candidates if one[0] != socket.AF_INET and not (first and is_loopback(str(one[1][0])))]
    return first + rest


def _connect(address: Address, deadline: float, protection: Protection) -> socket.socket:
    if address.is_unix:
        _require_unix()
        candidates: List[Tuple[int, Any]] = [(socket.AF_UNIX, address.path)]
    else:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ChannelError(f"{address}: the host name cannot be resolved: {error}") from error
        for *_, where in found:
            _refuse_plaintext(address, str(where[0]), protection)
        candidates = _in_order([(int(family), where) for family, _, _, _, where in found])
    failure: Optional[OSError] = None
    for family, where in candidates:
        sock = Socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.connect(where)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    assert failure is not None
    if isinstance(failure, (ConnectionRefusedError, FileNotFoundError)):
        raise NobodyListensError(f"nothing listens at {address}: is the process that should host it running?") from failure
    # A unix socket whose backlog is full answers EAGAIN at once.
    if isinstance(failure, (TimeoutError, socket.timeout, BlockingIOError)):
        raise ConnectTimeoutError(f"{address} did not accept the connection in time") from failure
    raise ChannelError(f"cannot connect to {address}: {failure}") from failure

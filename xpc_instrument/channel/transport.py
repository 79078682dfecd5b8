"""Sockets: addresses, listening, and dialling up to a wire that is open.

Rules:
- A deadline is a `time.monotonic()` instant in seconds, or None for none.
- An unauthenticated peer is bounded in bytes (codec), in time (deadline) and in number (host).
- On unix sockets the peer's uid is the kernel's word, not the peer's.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Union

from ..errors import (
    AddressInUseError,
    AuthenticationError,
    ChannelError,
    ConnectTimeoutError,
    DeadlineError,
    NobodyListensError,
    RemoteProtocolError,
)
from .connection import Connection
from .hot import OpeningWire
from .limits import Limits
from .messages import Hello, Welcome
from .wire import Wire

if TYPE_CHECKING:
    pass

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


def listen(address: Address) -> socket.socket:
    """A non-blocking listening socket. A unix socket is made with mode 0600, and a dead one in its place is replaced.

    Raises `AddressInUseError` if a live process listens there, `ChannelError` for any other reason.
    """
    if address.is_unix:
        return _listen_unix(address)
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Lets a node that was shut down start again at once; two live listeners are still refused on POSIX.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
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
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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


def dial(address: Address, key: bytes, hello: Hello, deadline: float, limits: Limits) -> Wire:
    """Connect and shake hands; returns a wire that is open.

    Raises `NobodyListensError`, `ConnectTimeoutError`, `AuthenticationError` or `ChannelError`, all before `deadline`.
    """
    sock = _connect(address, deadline)
    connection = Connection(dialling=True, key=key, max_payload=limits.max_payload, max_nesting=limits.max_nesting)
    wire = OpeningWire(sock, connection) if hello.hot else Wire(sock, connection)
    try:
        check_peer(sock)
        nobody = Welcome("", 0, "", "", 0)
        wire.transmit(wire.connection.start(hello), deadline)
        while not wire.connection.open:
            pieces = wire.connection.shake(wire.receive(deadline), nobody)
            if pieces:
                wire.transmit(pieces, deadline)
    except DeadlineError:
        wire.close()
        raise ConnectTimeoutError(
            f"{address} accepts connections but did not finish the handshake in time: is it an xpc-instrument process, and is it running?"
        ) from None
    except (AuthenticationError, RemoteProtocolError) as error:
        wire.close()
        raise type(error)(f"{address}: {error}") from None
    except ChannelError as error:
        wire.close()
        raise ChannelError(f"{address}: {error} during the handshake") from error
    except BaseException:
        wire.close()
        raise
    return wire.opened(limits) if isinstance(wire, OpeningWire) else wire


def _connect(address: Address, deadline: float) -> socket.socket:
    if address.is_unix:
        _require_unix()
        candidates: List[Tuple[int, Any]] = [(socket.AF_UNIX, address.path)]
    else:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ChannelError(f"{address}: the host name cannot be resolved: {error}") from error
        candidates = [(int(family), where) for family, _, _, _, where in found]
    failure: Optional[OSError] = None
    for family, where in candidates:
        sock = socket.socket(family, socket.SOCK_STREAM)
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

"""Listening sockets, unix and TCP.

Rules:
- A unix socket is private (0600) before anybody can connect to it; of two processes that start at once, exactly one gets the name.
- A dead socket in the way is replaced, a live one never.
- What a host name resolves to is looked at once, and that is what is bound.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Any, Iterator, Tuple

from ..discovery.folder import answers
from ..model.errors import AddressInUseError, ChannelError
from ..model.limits import SOCKET_PATH_LIMIT
from ..unpatched import Socket, close, monotonic, open_file, sleep
from .address import NO_PROTECTION, Address, Protection, refuse_plaintext, require_key, require_unix

_BACKLOG = 128
# How long to wait for another process that replaces a dead socket in the same folder, in seconds; it takes it some hundred microseconds.
_LONGEST_REPLACING = 1.0


def listen(address: Address, key: bytes = b"", protection: Protection = NO_PROTECTION) -> socket.socket:
    """A non-blocking listening socket. A unix socket is made with mode 0600, and a dead one in its place is replaced.

    Raises `AddressInUseError` if a live process listens there, `AuthenticationError` for TCP without a key, `PlaintextError` for TCP
    beyond loopback without TLS, `ConfigError` for certificates that cannot be loaded, `ChannelError` for any other reason.
    """
    if address.is_unix:
        return _listen_unix(address)
    require_key(address, key)
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
    refuse_plaintext(address, str(where[0]), protection)
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


def adopt(descriptor: int) -> socket.socket:
    """The unix socket that listens already, non-blocking; nothing else of this process uses the descriptor any more."""
    return Socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)


def _listen_unix(address: Address) -> socket.socket:
    require_unix()
    path = address.path
    sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound under a name of its own, made private, then given its real name: nobody can connect before the mode is
    # right, no umask is changed, and of two nodes that start at once exactly one gets the name.
    temporary = f"{path[: SOCKET_PATH_LIMIT - 9]}.{os.urandom(4).hex()}"
    try:
        sock.bind(temporary)
        try:
            os.chmod(temporary, stat.S_IRUSR | stat.S_IWUSR)
            sock.listen(_BACKLOG)
            try:
                os.link(temporary, path)
            except FileExistsError:
                with _replacing(os.path.dirname(path)):
                    if not _remove_dead_socket(path):
                        raise
                    os.link(temporary, path)
        finally:
            os.unlink(temporary)
        sock.setblocking(False)
        return sock
    except FileExistsError as error:
        sock.close()
        raise _cannot_listen(address, OSError(errno.EADDRINUSE, "Address already in use")) from error
    except OSError as error:
        sock.close()
        raise _cannot_listen(address, error) from error


@contextlib.contextmanager
def _replacing(folder: str) -> Iterator[None]:
    """Alone among those who remove dead sockets in a folder: another would remove, for a dead one, what has just taken its place.

    Waits at most `_LONGEST_REPLACING` for that, since whoever holds the lock may have been stopped.
    """
    try:
        descriptor = open_file(folder or ".", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield  # a folder that can be written to but not read
        return
    try:
        deadline = monotonic() + _LONGEST_REPLACING
        while not _lock(descriptor, "LOCK_EX") and monotonic() < deadline:
            sleep(0.005)
        try:
            yield
        finally:
            # Not left to `close`: a child that was forked meanwhile would hold the lock.
            _lock(descriptor, "LOCK_UN")
    finally:
        close(descriptor)


def _lock(descriptor: int, what: str) -> bool:
    """False if another holds it now. Not every file system has locks, and then there is none to wait for."""
    import fcntl  # nowhere but on systems with unix sockets

    try:
        fcntl.flock(descriptor, getattr(fcntl, what) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR)
    return True


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
    if answers(path):
        return False
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True

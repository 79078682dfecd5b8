"""Sockets: addresses, listening, dialling, and the wire that moves the frames of one connection. The only I/O of the channel.

Rules:
- Whoever waits does so in the thread that needs the answer, with a deadline: first in `recv` itself, for `_PATIENCE` at most, which
  spares a system call and lets the kernel keep both sides on one processor; then in `poll`. All else that touches a socket says
  MSG_DONTWAIT.
- A deadline is a `time.monotonic()` instant in seconds, or None for none.
- An unauthenticated peer is bounded in bytes (codec), in time (deadline) and in number (host).
- A wire whose thread (or task) waits is shut down by `close`, which wakes the waiter; the descriptor is closed by the waiter. Closed
  under it, the number would soon mean another file, and the waiter would wait for that one.
- On unix sockets the peer's uid is the kernel's word, not the peer's.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

from ..errors import (
    AddressInUseError,
    AuthenticationError,
    ChannelError,
    ConnectTimeoutError,
    DeadlineError,
    NobodyListensError,
    RemoteProtocolError,
)
from .codec import Bytes, Frame
from .connection import Connection
from .limits import Limits
from .messages import Hello, Message, Opcode, Welcome

if TYPE_CHECKING:
    import asyncio

_CLOSED = "the connection was closed"
# sun_path holds 108 bytes on Linux and 104 on macOS, with a zero at the end.
MAX_UNIX_PATH = 107 if sys.platform.startswith("linux") else 103
# One read takes this much at most; what is larger goes straight into the frame's own storage.
_CHUNK = 16 * 1024
_BACKLOG = 128
# A peer that sends without pause must not keep the thread that serves all of them.
_FRAMES_AT_ONCE = 64
# An application that restored the default action of SIGPIPE must not die of a probe script that went away.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_AT_ONCE = _NO_SIGNAL | _DONT_WAIT
# How long `recv` waits at most, in seconds: longer than most answers take, shorter than any wait that has to end in time.
_PATIENCE = 0.04
_TIMEVAL = struct.pack("ll", 0, int(_PATIENCE * 1_000_000))


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


# the wire ----------------------------------------------------------------------------------------------------------------


class Wire:
    """One connection: a socket and its state machine. One thread (or task) at a time uses it, but any may close it."""

    __slots__ = ("_pollers", "_waiting", "closed", "connection", "peer", "sock")

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        # Blocking for the kernel, with a bound; not for Python, which would poll before each call if it knew of a time-out.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
        if hasattr(socket, "SO_NOSIGPIPE"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_NOSIGPIPE, 1)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # A lane is one small question and one small answer: waiting to fill a segment would cost 40 ms each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.connection = connection
        self.closed = False
        self.peer: Any = None
        # By direction, since one thread may send while another receives.
        self._pollers: List[Any] = [None, None]
        self._waiting = [False, False]

    def fileno(self) -> int:
        return self.sock.fileno()

    # waiting in the calling thread -----------------------------------------------------------------------------------

    def _wait(self, writing: bool, deadline: Optional[float]) -> None:
        poller = self._pollers[writing]
        if poller is None:
            poller = select.poll()
            poller.register(self.sock.fileno(), select.POLLOUT if writing else select.POLLIN)
            self._pollers[writing] = poller
        remaining = None if deadline is None else deadline - time.monotonic()
        self._waiting[writing] = True
        try:
            # Looked at after `_waiting` is set, as `close` looks at `_waiting` after it has set `closed`: one of the two sees the other.
            if self.closed:
                raise ChannelError(_CLOSED)
            # poll() rounds up to milliseconds, so an empty answer means that the deadline has passed.
            if remaining is None:
                poller.poll()
            elif remaining <= 0 or not poller.poll(remaining * 1000):
                raise DeadlineError("the other side did not answer in time")
        finally:
            self._waited(writing)

    def _waited(self, writing: bool) -> None:
        self._waiting[writing] = False
        if self.closed and not any(self._waiting):
            self.sock.close()

    def transmit(self, pieces: Sequence[Bytes], deadline: Optional[float]) -> None:
        """Send all pieces. Raises `DeadlineError` or `ChannelError`; the wire is then unusable."""
        try:
            rest = self._transmit_some(pieces)
            while rest:
                self._wait(True, deadline)
                rest = self._transmit_some(rest)
        except (OSError, ValueError) as error:
            raise _broken(error) from error

    def _transmit_some(self, pieces: Sequence[Bytes]) -> List[Bytes]:
        """Send what fits now; returns what is left."""
        try:
            if len(pieces) == 1:
                sent = self.sock.send(pieces[0], _AT_ONCE)
                if sent == len(pieces[0]):
                    return []
            else:
                sent = self.sock.sendmsg(pieces, (), _AT_ONCE)
        except BlockingIOError:
            return list(pieces)
        rest: List[Bytes] = []
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
            else:
                rest.append(memoryview(piece)[sent:] if sent else piece)
                sent = 0
        return rest

    def _read_some(self, flags: int = _DONT_WAIT) -> Optional[Frame]:
        """Take what has arrived. Raises `BlockingIOError` if nothing has, `ChannelError` at the end of the stream."""
        reader = self.connection.reader
        missing = reader.missing()
        if missing is None or len(missing) <= _CHUNK:
            data = self.sock.recv(_CHUNK, flags)
            if not data:
                raise ChannelError("the other side closed the connection")
            return reader.feed(data)
        count = self.sock.recv_into(missing, 0, flags)
        if not count:
            raise ChannelError("the other side closed the connection")
        return reader.advance(count)

    def receive(self, deadline: Optional[float]) -> Frame:
        """The next frame. Raises `DeadlineError`, `RemoteProtocolError` or `ChannelError`; the wire is then unusable."""
        reader = self.connection.reader
        try:
            frame = None if reader.idle else reader.next_frame()
            if frame is None and (deadline is None or deadline - time.monotonic() > _PATIENCE):
                frame = self._read_patiently()
            while frame is None:
                self._wait(False, deadline)
                try:
                    frame = self._read_some()
                except BlockingIOError:
                    continue
        except (OSError, ValueError) as error:
            raise _broken(error) from error
        return frame

    def _read_patiently(self) -> Optional[Frame]:
        """Wait in `recv` itself, which spares a system call where the answer comes soon; None if more is needed."""
        self._waiting[False] = True
        try:
            if self.closed:
                raise ChannelError(_CLOSED)
            return self._read_some(0)
        except BlockingIOError:
            return None
        finally:
            self._waited(False)

    # waiting on an event loop ------------------------------------------------------------------------------------------

    async def _wait_async(self, writing: bool, deadline: Optional[float]) -> None:
        # Importing asyncio costs 40 ms; whoever comes here has paid that already.
        from asyncio import get_running_loop

        loop = get_running_loop()
        ready = loop.create_future()
        self._waiting[writing] = True
        try:
            fd = self.sock.fileno()
            if self.closed or fd < 0:
                raise ChannelError(_CLOSED)
            (loop.add_writer if writing else loop.add_reader)(fd, _settle, ready)
            timer = None
            if deadline is not None:
                remaining = max(0.0, deadline - time.monotonic())
                timer = loop.call_later(remaining, _expire, ready)
            try:
                await ready
            finally:
                (loop.remove_writer if writing else loop.remove_reader)(fd)
                if timer is not None:
                    timer.cancel()
        finally:
            self._waited(writing)

    async def transmit_async(self, pieces: Sequence[Bytes], deadline: Optional[float]) -> None:
        """Like `transmit`, without blocking the running loop."""
        try:
            rest = self._transmit_some(pieces)
            while rest:
                await self._wait_async(True, deadline)
                rest = self._transmit_some(rest)
        except (OSError, ValueError) as error:
            raise _broken(error) from error

    async def receive_async(self, deadline: Optional[float]) -> Frame:
        """Like `receive`, without blocking the running loop."""
        reader = self.connection.reader
        try:
            frame = None if reader.idle else reader.next_frame()
            while frame is None:
                await self._wait_async(False, deadline)
                try:
                    frame = self._read_some()
                except BlockingIOError:
                    continue
        except (OSError, ValueError) as error:
            raise _broken(error) from error
        return frame

    # never waiting: for a thread that serves many wires ----------------------------------------------------------------

    def drain(self) -> List[Frame]:
        """All frames that have arrived. Raises `ChannelError` at the end of the stream and for what is no frame."""
        reader = self.connection.reader
        frames: List[Frame] = []
        try:
            while True:
                frame = self._read_some()
                while frame is not None:
                    frames.append(frame)
                    frame = None if reader.idle else reader.next_frame()
                if len(frames) >= _FRAMES_AT_ONCE:
                    return frames
        except BlockingIOError:
            return frames
        except OSError as error:
            if frames:
                # What came before the end still counts; the next call meets the end again.
                return frames
            raise _broken(error) from error

    # conversation ------------------------------------------------------------------------------------------------------

    def send(
        self,
        deadline: Optional[float],
        opcode: Opcode,
        ident: int = 0,
        body: Bytes = b"",
        buffers: Sequence[Bytes] = (),
    ) -> None:
        """Transmit one frame of a lane."""
        self.transmit(self.connection.send(opcode, ident, body, buffers), deadline)

    def say(self, message: Message, deadline: Optional[float]) -> None:
        """Transmit one control message."""
        self.transmit(self.connection.say(message), deadline)

    def hear(self, deadline: Optional[float]) -> Frame:
        """Receive one frame that the state allows."""
        return self.connection.accept(self.receive(deadline))

    def close(self) -> None:
        """Close the connection: the other side, and a thread of ours that waits on it, see its end."""
        if self.closed:
            return
        self.closed = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Not connected any more: closing is all that is left to do.
            pass
        if not any(self._waiting):
            self.sock.close()

    def abandon(self) -> None:
        """Close this process's descriptor only: after a fork the connection belongs to the parent."""
        self.closed = True
        self.sock.close()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(DeadlineError("the other side did not answer in time"))


def _broken(error: Exception) -> Exception:
    if isinstance(error, ChannelError):
        return error
    return ChannelError(f"the connection broke: {error}")


# dialling ----------------------------------------------------------------------------------------------------------------


def dial(address: Address, key: bytes, hello: Hello, deadline: float, limits: Limits) -> Wire:
    """Connect and shake hands; returns a wire that is open.

    Raises `NobodyListensError`, `ConnectTimeoutError`, `AuthenticationError` or `ChannelError`, all before `deadline`.
    """
    sock = _connect(address, deadline)
    wire = Wire(sock, Connection(dialling=True, key=key, max_payload=limits.max_payload, max_nesting=limits.max_nesting))
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
    return wire


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

"""The wire, which moves the frames of one connection over its socket.

Rules:
- Whoever waits does so in the thread that needs the answer, with a deadline: first in `recv` itself, for `_PATIENCE` at most, which
  spares a system call and lets the kernel keep both sides on one processor; then in `poll`. All else that touches a socket says
  MSG_DONTWAIT.
- A deadline is a `time.monotonic()` instant in seconds, or None for none.
- A wire whose thread (or task) waits is shut down by `close`, which wakes the waiter; the descriptor is closed by the waiter. Closed
  under it, the number would soon mean another file, and the waiter would wait for that one.
"""

from __future__ import annotations

import select
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from ..errors import ChannelError, DeadlineError
from .codec import HEADER, Bytes, Frame
from .connection import Connection
from .messages import Message, Opcode

if TYPE_CHECKING:
    import asyncio

_CLOSED = "the connection was closed"
# One read takes this much at most; what is larger goes straight into the frame's own storage.
_CHUNK = 16 * 1024
# A peer that sends without pause must not keep the thread that serves all of them.
_FRAMES_AT_ONCE = 64
# An application that restored the default action of SIGPIPE must not die of a probe script that went away.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_AT_ONCE = _NO_SIGNAL | _DONT_WAIT
# How long `recv` waits at most, in seconds: longer than most answers take, shorter than any wait that has to end in time.
_PATIENCE = 0.04
_TIMEVAL = struct.pack("ll", 0, int(_PATIENCE * 1_000_000))


class Wire:
    """One connection: a socket and its state machine. One thread (or task) at a time uses it, but any may close it."""

    __slots__ = ("_pollers", "_waiting", "closed", "connection", "peer", "plain", "sock")

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
        # Why it is no hot lane, if somebody asked whether it could be one.
        self.plain = ""
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
        remaining = None if deadline is None else deadline - monotonic()
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

    def put(self, opcode: Opcode, ident: int, body: Bytes, deadline: Optional[float]) -> None:
        """Transmit a small frame of a lane: what `send` does, in fewer steps."""
        connection = self.connection
        try:
            # What `sending` does, one call less.
            connection.state = connection.state.sends[opcode]
        except KeyError:
            connection.sending(opcode)
        self._push(HEADER.pack(opcode, 0, 0, ident, len(body)) + body, deadline)

    def _push(self, data: Bytes, deadline: Optional[float]) -> None:
        """Transmit what fits into the empty buffer of a socket, as a rule in one step."""
        try:
            sent = self.sock.send(data, _AT_ONCE)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _broken(error) from error
        if sent != len(data):
            self.transmit([memoryview(data)[sent:]], deadline)

    def transmit(self, pieces: Sequence[Bytes], deadline: Optional[float]) -> None:
        """Send all pieces. Raises `DeadlineError` or `ChannelError`; the wire is then unusable."""
        try:
            rest = self.transmit_some(pieces)
            while rest:
                self._wait(True, deadline)
                rest = self.transmit_some(rest)
        except (OSError, ValueError) as error:
            raise _broken(error) from error

    def transmit_some(self, pieces: Sequence[Bytes]) -> List[Bytes]:
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
        waiting = self._waiting
        waiting[False] = True
        try:
            if self.closed:
                raise ChannelError(_CLOSED)
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _broken(error) from error
        finally:
            waiting[False] = False
            if self.closed:
                self._waited(False)
        if not data:
            raise ChannelError("the other side closed the connection")
        return self.connection.reader.feed(data)

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
                remaining = max(0.0, deadline - monotonic())
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
            rest = self.transmit_some(pieces)
            while rest:
                await self._wait_async(True, deadline)
                rest = self.transmit_some(rest)
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
        connection = self.connection
        frame = self._next(deadline)
        try:
            # What `accept` does, one call less.
            connection.state = connection.state.receives[frame.opcode]
        except KeyError:
            connection.accept(frame)
        return frame

    def _next(self, deadline: Optional[float]) -> Frame:
        """The next frame, waiting in `recv` first."""
        frame = None
        if self.connection.reader.idle and (deadline is None or deadline - monotonic() > _PATIENCE):
            frame = self._read_patiently()
        return self.receive(deadline) if frame is None else frame

    async def hear_async(self, deadline: Optional[float]) -> Frame:
        """Like `hear`, without blocking the running loop."""
        return self.connection.accept(await self.receive_async(deadline))

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

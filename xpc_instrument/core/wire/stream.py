"""The stream of one connection's frames over its socket: waiting, sending, receiving and closing.

Rules:
- Whoever waits does so in the thread that needs the answer, with a deadline: first in `recv` itself, for `PATIENCE` at most, which
  spares a system call and lets the kernel keep both sides on one processor; then in `poll`, as from the beginning where a timer ticks.
  All else that touches a socket says MSG_DONTWAIT. A greenlet waits through its hub instead, and a task through its loop.
- A deadline is a `time.monotonic()` instant in seconds, or None for none.
- A stream whose thread (or task) waits is shut down by `close`, which wakes the waiter; the descriptor is closed by the waiter. Closed
  under it, the number would soon mean another file, and the waiter would wait for that one.
"""

from __future__ import annotations

import signal
import socket
import struct
from sys import modules
from typing import Any, List, Optional, Sequence

from ..model.errors import ChannelError, DeadlineError
from ..model.interrupts import raise_interrupt
from ..protocol.codec import Bytes, Frame
from ..protocol.connection import Connection
from ..unpatched import POLLIN, POLLOUT, monotonic, poll
from .held import Held, close, end, hold, identity_of, release
from .hubs import GREENLET, hub, trio, wait_in_trio
from .turns import turns_here

_CLOSED = "the connection was closed"
TOO_LATE = "the other side did not answer in time"
# One read takes this much at most; what is larger goes straight into the frame's own storage.
_CHUNK = 16 * 1024
# A peer that sends without pause must not keep the thread that serves all of them.
_FRAMES_AT_ONCE = 64
# An application that restored the default action of SIGPIPE must not die of a probe script that went away.
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_WAIT_ALL = getattr(socket, "MSG_WAITALL", 0)
_AT_ONCE = NO_SIGNAL | DONT_WAIT
# How long `recv` waits at most, in seconds: longer than most answers take, shorter than any wait that has to end in time.
PATIENCE = 0.005
# Sent in one call, at most, while waiting in `send`, which may wait as long as `recv` for each piece that the kernel cuts it into (some
# 36 KiB on a unix socket): so only while the deadline is further away than all those waits together.
_SLICE = 256 * 1024
_SLICE_PATIENCE = (_SLICE // (32 * 1024) + 1) * PATIENCE
_TIMEVAL = struct.pack("ll", 0, int(PATIENCE * 1_000_000))


# What asks for an interval timer; Windows has none.
_timer = getattr(signal, "getitimer", lambda which: (0.0, 0.0))


def _ticking() -> bool:
    """Whether a timer, a profiler's say, interrupts `recv` again and again: Python then has it wait anew, and it would never give up."""
    # ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF; before each wait, so it has to be quick.
    return bool(_timer(0)[1] or _timer(1)[1] or _timer(2)[1])


class Stream:
    """A socket and the frames that cross it. One thread (or task) at a time uses it, but any may close it."""

    __slots__ = (
        "__weakref__",
        "_held",
        "_in_hub",
        "_pollers",
        "_waiting",
        "closed",
        "connection",
        "received",
        "sent",
        "sock",
        "watched",
    )

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        # Blocking for the kernel, with a bound; not for Python, which would poll before each call if it knew of a time-out.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL)
        if hasattr(socket, "SO_NOSIGPIPE"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_NOSIGPIPE, 1)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # A lane is one small question and one small answer: waiting to fill a segment would cost 40 ms each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        # None once it is let go of.
        self._held: Optional[Held] = hold(self, sock)
        self.connection = connection
        self.closed = False
        # Bytes, since the account was opened that they are on: see `Wire.charge`.
        self.sent = self.received = 0
        # By direction, since one thread may send while another receives.
        self._pollers: List[Any] = [None, None]
        self._waiting = [False, False]
        # Whether it is a greenlet that waits.
        self._in_hub = False
        # The `Arrivals` in whose epoll it is, of a loop whose task has waited here last.
        self.watched: Any = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def set_watched(self, arrivals: Any) -> None:
        """Say in whose epoll it is, None for none."""
        self.watched = arrivals
        if self._held is not None:
            self._held.watched = arrivals

    def give_away(self) -> None:
        """The socket is another stream's from now on."""
        held, self._held = self._held, None
        if held is not None:
            release(held)

    def shake_hands(self, deadline: Optional[float]) -> None:
        """Dialling side: what comes before the first frame. Nothing, on a plain wire."""

    def stop_polling(self) -> None:
        """Have what comes next come over the socket, for one who waits for that; see `hot`. To be called while nothing is under way."""

    # waiting in the calling thread -----------------------------------------------------------------------------------

    def _wait(self, writing: bool, deadline: Optional[float]) -> None:
        green = hub() if GREENLET in modules else None
        poller = self._pollers[writing]
        if poller is None and green is None:
            poller = poll()
            poller.register(self.sock.fileno(), POLLOUT if writing else POLLIN)
            self._pollers[writing] = poller
        remaining = None if deadline is None else deadline - monotonic()
        self._waiting[writing] = True
        try:
            # Looked at after `_waiting` is set, as `close` looks at `_waiting` after it has set `closed`: one of the two sees the other.
            if self.closed:
                raise ChannelError(_CLOSED)
            if green is not None:
                self._in_hub = True
                if (remaining is not None and remaining <= 0) or not green.wait(self.sock.fileno(), writing, remaining):
                    raise DeadlineError(TOO_LATE)
                return
            # poll() rounds up to milliseconds, so an empty answer means that the deadline has passed.
            if remaining is None:
                poller.poll()
            elif remaining <= 0 or not poller.poll(remaining * 1000):
                raise DeadlineError(TOO_LATE)
        finally:
            self._waited(writing)

    def _waited(self, writing: bool) -> None:
        self._waiting[writing] = False
        self._in_hub = False
        if self.closed and not any(self._waiting):
            self._let_go()

    def _push(self, data: Bytes, deadline: Optional[float]) -> None:
        """Transmit what fits into the empty buffer of a socket, as a rule in one step."""
        try:
            sent = self.sock.send(data, _AT_ONCE)
        except BlockingIOError:
            sent = 0
        except ChannelError:
            raise
        except OSError as error:
            raise broken(error) from error
        self.sent += sent
        if sent != len(data):
            Stream.transmit(self, [memoryview(data)[sent:]], deadline)

    def transmit(self, pieces: Sequence[Bytes], deadline: Optional[float]) -> None:
        """Send all pieces. Raises `DeadlineError` or `ChannelError`; the wire is then unusable."""
        try:
            rest = self.transmit_some(pieces)
            while rest:
                if self._may_be_patient(deadline, _SLICE_PATIENCE):
                    rest = self._send_patiently(rest)
                else:
                    self._wait(True, deadline)
                    rest = self.transmit_some(rest)
        except ChannelError:
            raise
        except (OSError, ValueError) as error:
            raise broken(error) from error

    @staticmethod
    def _may_be_patient(deadline: Optional[float], patience: float) -> bool:
        """Whether to wait in `send` and `recv` themselves. Not in a greenlet, whose whole thread would wait."""
        if deadline is not None and (deadline - monotonic() <= patience or _ticking()):
            return False
        return GREENLET not in modules or hub() is None

    def _send_patiently(self, rest: List[Bytes]) -> List[Bytes]:
        """Send some of it, waiting in `send` itself, so that the kernel copies while the other side reads; returns what is left."""
        self._waiting[True] = True
        try:
            if self.closed:
                raise ChannelError(_CLOSED)
            first = memoryview(rest[0])
            sent = self.sock.send(first[:_SLICE], NO_SIGNAL)
            self.sent += sent
            return [first[sent:], *rest[1:]] if sent < len(first) else rest[1:]
        except BlockingIOError:
            return rest
        finally:
            self._waited(True)

    def transmit_some(self, pieces: Sequence[Bytes]) -> List[Bytes]:
        """Send what fits now; returns what is left."""
        try:
            if len(pieces) == 1:
                sent = self.sock.send(pieces[0], _AT_ONCE)
                self.sent += sent
                if sent == len(pieces[0]):
                    return []
            else:
                sent = self.sock.sendmsg(pieces, (), _AT_ONCE)
                self.sent += sent
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

    def _read_some(self, flags: int = DONT_WAIT) -> Optional[Frame]:
        """Take what has arrived. Raises `BlockingIOError` if nothing has, `ChannelError` at the end of the stream."""
        reader = self.connection.reader
        missing = reader.missing()
        if missing is None or len(missing) <= _CHUNK:
            if missing is not None:
                # What is taken as `bytes` at the end must not be looked at by anybody.
                missing.release()
            data = self.sock.recv(_CHUNK, flags)
            if not data:
                raise ChannelError("the other side closed the connection")
            self.received += len(data)
            return reader.feed(data)
        with missing:
            count = self.sock.recv_into(missing, 0, flags or _WAIT_ALL)
        if not count:
            raise ChannelError("the other side closed the connection")
        self.received += count
        return reader.advance(count)

    def receive(self, deadline: Optional[float]) -> Frame:
        """The next frame. Raises `DeadlineError`, `RemoteProtocolError` or `ChannelError`; the wire is then unusable."""
        reader = self.connection.reader
        try:
            frame = None if reader.idle else reader.next_frame()
            while frame is None:
                if reader.missing() is not None and self._may_be_patient(deadline, PATIENCE):
                    # The rest of a frame that has begun: it is on its way.
                    frame = self._read_patiently()
                    continue
                self._wait(False, deadline)
                try:
                    frame = self._read_some()
                except BlockingIOError:
                    continue
        except ChannelError:
            raise
        except (OSError, ValueError) as error:
            raise broken(error) from error
        return frame

    def _read_patiently(self) -> Optional[Frame]:
        """Wait in `recv` itself, which spares a system call where the answer comes soon; None if more is needed."""
        waiting = self._waiting
        waiting[False] = True
        try:
            if self.closed:
                raise ChannelError(_CLOSED)
            if not self.connection.reader.idle:
                return self._read_some(0)
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        except ChannelError:
            raise
        except OSError as error:
            raise broken(error) from error
        finally:
            waiting[False] = False
            if self.closed:
                self._waited(False)
        if not data:
            raise ChannelError("the other side closed the connection")
        self.received += len(data)
        return self.connection.reader.feed(data)

    # waiting on an event loop ------------------------------------------------------------------------------------------

    async def _wait_async(self, writing: bool, deadline: Optional[float]) -> None:
        library = trio()
        if library is not None:
            return await self._wait_in_trio(library, writing, deadline)
        turns = turns_here()
        loop: Any = turns.loop()
        ready = loop.create_future()
        self._waiting[writing] = True
        try:
            fd = self.sock.fileno()
            if self.closed or fd < 0:
                raise ChannelError(_CLOSED)
            add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
            watched = True

            def arrived(ready: Any = ready) -> None:
                # Once is enough: it may be some turns until the task goes on.
                nonlocal watched
                watched = False
                remove(fd)
                turns.settle(ready)

            add(fd, arrived)
            if deadline is not None:
                turns.expire(ready, deadline)
            try:
                await ready
            finally:
                if watched:
                    remove(fd)
                turns.forget(ready)
                # It holds the error that was raised, whose traceback holds this frame.
                del ready, arrived
        finally:
            self._waited(writing)

    async def _wait_in_trio(self, module: Any, writing: bool, deadline: Optional[float]) -> None:
        self._waiting[writing] = True
        try:
            fd = self.sock.fileno()
            if self.closed or fd < 0:
                raise ChannelError(_CLOSED)
            if not await wait_in_trio(module, fd, writing, deadline):
                raise DeadlineError(TOO_LATE)
        finally:
            self._waited(writing)

    def transmit_at_once(self, pieces: Sequence[Bytes]) -> List[Bytes]:
        """What `transmit_async` does before it waits; returns what is left to do for it."""
        # A task cannot look again and again: what it waits for is to come over the socket.
        self.stop_polling()
        try:
            return self.transmit_some(pieces)
        except ChannelError:
            raise
        except (OSError, ValueError) as error:
            raise broken(error) from error

    async def transmit_async(self, pieces: Sequence[Bytes], deadline: Optional[float]) -> None:
        """Like `transmit`, without blocking the running loop."""
        rest = self.transmit_at_once(pieces)
        try:
            while rest:
                await self._wait_async(True, deadline)
                rest = self.transmit_some(rest)
        except ChannelError:
            raise
        except (OSError, ValueError) as error:
            raise broken(error) from error

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
        except ChannelError:
            raise
        except (OSError, ValueError) as error:
            raise broken(error) from error
        return frame

    # never waiting: for a thread that serves many wires ----------------------------------------------------------------

    def recv_frames(self) -> List[Frame]:
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
            if isinstance(error, ChannelError):
                raise
            raise broken(error) from error

    # closing -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection: the other side, and a thread of ours that waits on it, see its end."""
        if self.closed:
            return
        self.closed = True
        try:
            held = self._held
            if held is not None and identity_of(self.sock) == held.identity:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            raise_interrupt(error, of_values=True)
            # Not connected any more: closing is all that is left to do.
        if not any(self._waiting):
            self._let_go()

    def abandon(self) -> None:
        """Close this process's descriptor only: after a fork the connection belongs to the parent."""
        self.closed = True
        if self._held is not None and self._in_hub:
            # A greenlet waits here too, and its hub watches the number: libev ends a process in which that is no file's.
            end(self._held)
        else:
            self._let_go()

    def _let_go(self) -> None:
        held = self._held
        if held is not None:
            close(held)
            self.give_away()


def broken(error: Exception) -> ChannelError:
    """For what is no `ChannelError` yet: one that is its own cause would wait for the garbage collector, with all that its frames hold."""
    return ChannelError(f"the connection broke: {error}")

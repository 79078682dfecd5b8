"""One node that has joined a host, and what a host's policy does with it."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional, Protocol, Sequence, TypeVar, Union

from ..model.errors import RemoteProtocolError, XpcError
from ..model.limits import Limits
from ..protocol.codec import MAX_CONTROL, Bytes, Frame
from ..protocol.messages import Answer, Hello, LanesWanted, Message, Notice, Ping, Pong, Query, Register, Synced, Unregister
from ..unpatched import allocate_lock, monotonic
from ..wire.wire import Wire
from .address import named
from .lanes import LanePool
from .throttle import LogThrottle

T = TypeVar("T")


class Service(Protocol):
    """What a peer needs of the service thread that looks after it."""

    @property
    def limits(self) -> Limits:
        """The bounds of the node."""

    @property
    def in_service_thread(self) -> bool:
        """Whether the calling thread is the one that serves."""

    def wake(self) -> None:
        """Have the service thread look at everything again."""

    def expel(self, peer: Peer, why: str) -> None:
        """Have the service thread end a session."""


class Policy:
    """What a host does with those that joined. All methods but `serve` run in the service thread and must not wait."""

    def entered_thread(self) -> None:
        """A thread of the host has started; runs in it, once."""

    def joined(self, peer: Peer) -> None:
        """A control connection has been opened."""

    def left(self, peer: Peer) -> None:
        """The control connection has ended, for whatever reason."""

    def synced(self, peer: Peer) -> None:
        """The peer has registered all that it wants to register with this process."""

    def noticed(self, peer: Peer, notice: Notice) -> None:
        """The peer said something that needs no answer."""

    def register(self, peer: Peer, message: Register) -> Optional[Answer]:
        """Answer a registration; None if the answer follows later, with `Peer.post`."""
        raise NotImplementedError

    def unregister(self, peer: Peer, message: Unregister) -> Optional[Answer]:
        """Answer the end of a registration; None if the answer follows later, with `Peer.post`."""
        raise NotImplementedError

    def query(self, peer: Peer, message: Query) -> Answer:
        """Answer a question about this process."""
        raise NotImplementedError

    def due(self) -> Optional[float]:
        """When `look_after` has something to do, in the seconds of `time.monotonic`; None for as long as that is not known."""
        return None

    def look_after(self, now: float) -> None:
        """Do what is due."""

    def load(self, work: Callable[[], T]) -> T:
        """What `work` returns, which imports something."""
        return work()

    def serve(self, wire: Wire, hello: Hello) -> None:
        """Answer the calls of one lane until it ends; runs in a thread of its own."""
        raise NotImplementedError


class Peer:
    """One joined node: its control connection and the lanes that it serves."""

    def __init__(self, service: Service, wire: Wire, hello: Hello) -> None:
        self.session = hello.session
        self.pid = hello.pid
        self.who = named(wire.sock, hello.pid)
        # Whether it alone says that this is its pid.
        self.claimed = self.who != f"pid {hello.pid}"
        self.python = hello.python
        self.program = hello.program
        self.gone = False
        self.last_heard = monotonic()
        self.wire = wire
        self.lanes = LanePool(self._want, service.limits.max_lanes)
        # On so many lanes at once it may call.
        self.max_calling = service.limits.max_lanes
        self._service = service
        self._outbox: Deque[Bytes] = deque()
        self._sending = allocate_lock()

    def __repr__(self) -> str:
        return f"<Peer {self.program!r} pid {self.pid}>"

    def trust(self) -> None:
        """It is a process of the application and not a script: it reports all that it has, and calls for the hooks of all sessions."""
        self.wire.connection.reader.limit = MAX_CONTROL
        self.max_calling = self._service.limits.max_sessions * self._service.limits.max_lanes

    def obey(self, frame: Frame, policy: Policy, log: LogThrottle) -> None:
        """Do what a control message of this peer asks for. Raises `RemoteProtocolError` for one that is not for a host."""
        self.wire.connection.accept(frame)
        message = self.wire.connection.read(frame)
        if isinstance(message, (Register, Unregister, Query)):
            answer = self._answer(message, policy, log)
            if answer is not None:
                self.post(answer)
        elif isinstance(message, Ping):
            self.post(Pong())
        elif isinstance(message, Synced):
            policy.synced(self)
        elif isinstance(message, Notice):
            count = message.data.get("count")
            if message.kind == "no-lane" and isinstance(count, int):
                self.lanes.missed(count)
            policy.noticed(self, message)
        elif not isinstance(message, Pong):
            raise RemoteProtocolError(f"{frame.opcode.name} is not for a host")

    def _answer(self, message: Union[Register, Unregister, Query], policy: Policy, log: LogThrottle) -> Optional[Answer]:
        handlers: Dict[type, Callable[[Peer, Any], Optional[Answer]]] = {
            Register: policy.register,
            Unregister: policy.unregister,
            Query: policy.query,
        }
        try:
            return handlers[type(message)](self, message)
        except XpcError as error:
            return Answer(message.request, False, type(error).__name__, str(error))
        except Exception as error:
            log.log("answer", logging.ERROR, "answering %s failed", type(message).__name__, exc_info=error)
            return Answer(message.request, False, "XpcError", f"{type(error).__name__}: {error}")

    def post(self, message: Message) -> None:
        """Send a control message from any thread, without waiting."""
        self.send(self.wire.connection.send_message(message))

    def send(self, pieces: Sequence[Bytes]) -> None:
        """Send the pieces of a frame from any thread, without waiting."""
        self._outbox.extend(pieces)
        if self._service.in_service_thread:
            self.flush()
        else:
            # A thread of the application may be interrupted by a signal handler that raises: between two steps of sending, a message
            # would be lost or sent twice, or the lock kept. The service thread is never interrupted.
            self._service.wake()

    def notify(self, kind: str, **data: Any) -> None:
        """Tell the peer something that needs no answer."""
        self.post(Notice(kind, data))

    @property
    def blocked(self) -> bool:
        """Whether something waits until the peer reads."""
        return bool(self._outbox)

    def flush(self) -> None:
        """Send what the socket takes now, in the service thread; it looks again when the socket takes more."""
        # Whoever finds the lock taken leaves its message to the holder, who looks again after letting go.
        while self._outbox and not self.gone and self._sending.acquire(False):
            try:
                stuck = self._flush_locked()
            finally:
                self._sending.release()
            if stuck:
                return

    def _flush_locked(self) -> bool:
        while self._outbox:
            piece = self._outbox.popleft()
            try:
                rest = self.wire.transmit_some([piece])
            except OSError:
                # The end of the stream is seen, and acted upon, by the service thread.
                self._outbox.clear()
                self._service.wake()
                return False
            if rest:
                self._outbox.appendleft(rest[0])
                if sum(map(len, self._outbox)) > self._service.limits.max_backlog:
                    self._outbox.clear()
                    self._service.expel(self, "it does not read what it is sent")
                return True
        return False

    def _want(self, count: int) -> None:
        self.post(LanesWanted(count))

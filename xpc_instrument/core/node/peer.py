"""One node that has joined a host, and what a host's policy does with it."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Deque, Optional

from ..protocol.codec import Bytes
from ..protocol.messages import Answer, Hello, LanesWanted, Message, Notice, Query, Register, Unregister
from ..unpatched import allocate_lock
from ..wire.wire import Wire
from .lanes import LanePool

if TYPE_CHECKING:
    from .host import Host


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

    def serve(self, wire: Wire, hello: Hello) -> None:
        """Answer the calls of one lane until it ends; runs in a thread of its own."""
        raise NotImplementedError


class Peer:
    """One joined node: its control connection and the lanes that it serves."""

    def __init__(self, host: Host, wire: Wire, hello: Hello) -> None:
        self.session = hello.session
        self.pid = hello.pid
        self.python = hello.python
        self.program = hello.program
        self.gone = False
        self.last_heard = time.monotonic()
        self.wire = wire
        self.lanes = LanePool(self._want, host.limits.max_lanes)
        self.calls = 0  # lanes on which this peer calls us
        self._host = host
        self._outbox: Deque[Bytes] = deque()
        self._sending = allocate_lock()

    def __repr__(self) -> str:
        return f"<Peer {self.program!r} pid {self.pid}>"

    def post(self, message: Message) -> None:
        """Send a control message from any thread, without waiting."""
        self._outbox.extend(self.wire.connection.send_message(message))
        if self._host.in_service_thread:
            self.flush()
        else:
            # A thread of the application may be interrupted by a signal handler that raises: between two steps of sending, a message
            # would be lost or sent twice, or the lock kept. The service thread is never interrupted.
            self._host.wake()

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
                self._host.wake()
                return False
            if rest:
                self._outbox.appendleft(rest[0])
                if sum(map(len, self._outbox)) > self._host.limits.max_backlog:
                    self._outbox.clear()
                    self._host.expel(self, "it does not read what it is sent")
                return True
        return False

    def _want(self, count: int) -> None:
        self.post(LanesWanted(count))

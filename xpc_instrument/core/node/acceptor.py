"""The way into a host: accepts connections and has each prove the key, in the host's service thread, without waiting for any.

Rules:
- What a stranger sends costs that stranger alone, an error that nobody thought of included.
- Strangers who storm the door get a part of the thread's time only: between two looks at them it rests, for the application's sake.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from typing import Callable, List, Optional

from ..model.errors import AuthenticationError, LocalProtocolError, RemoteProtocolError, XpcError
from ..model.limits import Limits
from ..protocol.codec import Bytes
from ..protocol.connection import Connection
from ..protocol.messages import Hello, Role, Welcome
from ..unpatched import Selector, accept
from ..wire.wire import Wire
from .address import Address, Protection, check_peer
from .unauthenticated import Complaints, Stranger, Strangers, origin_of

# How long accepting rests when the process has no descriptor left, in seconds.
_REST = 0.2
# While strangers storm the door: for each second spent on them, so many seconds without.
_BREATHERS = 3.0
# So many are let in at a time, before those who are in are looked at again.
_AT_A_TIME = 16
# Bytes that a refused connection may have sent in vain.
_UNREAD = 64 * 1024

# How TLS begins, as the message of a frame reader shows it.
_TLS_HELLO = "begins with the bytes 1603"

_ERROR_OF = {"authentication": "AuthenticationError", "protocol": "RemoteProtocolError"}


class Door:
    """The listener of a host and those who stand in it.

    `admit(wire, welcome)` gets each connection that has proved the key, with what is to be sent to it first; `full()` says how many
    sessions there are if no more may join, else 0.
    """

    def __init__(
        self,
        address: Address,
        key: bytes,
        protection: Protection,
        limits: Limits,
        logger: logging.Logger,
        *,
        welcome: Welcome,
        admit: Callable[[Wire, List[Bytes]], None],
        full: Callable[[], int],
    ) -> None:
        self.refused = 0
        self._address = address
        self._key = key
        self._protection = protection
        self._limits = limits
        self._welcome = welcome
        self._admit = admit
        self._full = full
        self._strangers = Strangers(limits.max_unauthenticated)
        self._complaints = Complaints(logger)
        self._listener: Optional[socket.socket] = None
        self._selector: Optional[Selector] = None
        self._rest_until = 0.0
        self._busy = 0.0

    def open(self, listener: socket.socket, selector: Selector) -> None:
        """Let in who comes to `listener`. The selector hands back this door, or the `Stranger`, as the data of what is ready."""
        self._listener, self._selector = listener, selector
        self._rest_until = 0.0
        selector.register(listener, selectors.EVENT_READ, self)

    def close(self, abandon: bool) -> None:
        """Close the listener and all who stand in the door; `abandon`: after a fork, only this process's descriptors."""
        listener, self._listener, self._selector = self._listener, None, None
        if listener is not None:
            listener.close()
        for stranger in self._strangers:
            stranger.wire.abandon() if abandon else stranger.wire.close()
        self._strangers.clear()
        if not abandon:
            self._complaints.tell(time.monotonic(), at_once=True)

    # the service thread's turns ----------------------------------------------------------------------------------------

    def due(self) -> List[float]:
        """When something is to be looked after even if nothing arrives."""
        return [when for when in (self._strangers.next_deadline, self._complaints.due, self._rest_until or None) if when is not None]

    def handle(self, stranger: Optional[Stranger]) -> None:
        """Somebody is at the door, or this stranger has sent something."""
        started = time.monotonic()
        if stranger is None:
            self._accept()
        else:
            self._read(stranger)
        self._busy += time.monotonic() - started

    def look_after(self, now: float) -> None:
        """Time-outs, counts that are to be told, rests."""
        assert self._selector is not None and self._listener is not None
        for stranger in self._strangers.overdue(now):
            self._refuse(stranger, "handshake", f"no handshake within {self._limits.handshake_timeout} s")
        self._complaints.tell(now)
        busy, self._busy = self._busy, 0.0
        if not self._rest_until and self._strangers.are_storming(now):
            self._rest(busy * _BREATHERS)
        elif self._rest_until and now >= self._rest_until:
            self._rest_until = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ, self)

    def _rest(self, seconds: float) -> None:
        """Let nobody in for a while."""
        assert self._selector is not None and self._listener is not None
        self._selector.unregister(self._listener)
        self._rest_until = time.monotonic() + seconds

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        for _ in range(_AT_A_TIME):
            try:
                sock, where = accept(listener)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._complaints.say("accept", logging.WARNING, "cannot accept connections at %s for now: %s", self._address, error)
                    self._rest(_REST)
                    return
                continue  # that connection was gone before we took it
            self._let_in(sock, origin_of(where))

    def _let_in(self, sock: socket.socket, origin: str) -> None:
        limits = self._limits
        connection = Connection(dialling=False, key=self._key, max_payload=limits.max_payload, max_nesting=limits.max_nesting)
        try:
            wire = self._protection.wire(sock, connection, listening=True)
        except (OSError, XpcError) as error:
            sock.close()
            self._complaints.say("accept", logging.WARNING, "a connection at %s was gone at once: %s", self._address, error)
            return
        now = time.monotonic()
        stranger = Stranger(wire, now + limits.handshake_timeout, origin)
        self._strangers.add(stranger)
        assert self._selector is not None
        self._selector.register(sock, selectors.EVENT_READ, stranger)
        try:
            check_peer(sock)
        except AuthenticationError as error:
            self._refuse(stranger, "authentication", str(error))
            return
        # Whoever has spoken by now, as an honest dialler has, is heard before somebody has to give way.
        self._read(stranger)
        loser = self._strangers.one_too_many(now)
        if loser is not None:
            self._refuse(loser, "crowded", "too many connections wait for their handshake (max-unauthenticated)")

    # handshakes --------------------------------------------------------------------------------------------------------

    def _read(self, stranger: Stranger) -> None:
        if stranger not in self._strangers:
            return
        connection = stranger.wire.connection
        try:
            for frame in stranger.wire.recv_frames():
                stranger.outbox.extend(connection.shake(frame, self._welcome))
                if connection.open:
                    self._forget(stranger)
                    self._admit(stranger.wire, stranger.outbox)
                    return
                stranger.spoken = True
                sessions = self._full()
                if sessions and _wants_to_join(connection.hello):
                    # Said before WELCOME, after which nothing can be refused with a reason.
                    self._refuse(stranger, "busy", f"{sessions} sessions have joined, the limit (max-sessions)")
                    return
            self._answer(stranger)
        except AuthenticationError as error:
            self._refuse(stranger, "authentication", str(error))
        except (RemoteProtocolError, LocalProtocolError) as error:
            hint = "; it seems to speak TLS, which is not configured here" if _TLS_HELLO in str(error) else ""
            self._refuse(stranger, "protocol", f"{error}{hint}")
        except OSError as error:
            self._refuse(stranger, "gone", str(error))
        except Exception as error:
            self._refuse(stranger, "internal", f"{type(error).__name__}: {error}")

    def _answer(self, stranger: Stranger) -> None:
        if stranger.outbox:
            # A handshake's answers are far smaller than a socket's buffer; one that does not fit is no honest peer's.
            if stranger.wire.transmit_some(stranger.outbox):
                raise RemoteProtocolError("it does not read its handshake")
            stranger.outbox = []

    def _refuse(self, stranger: Stranger, reason: str, text: str) -> None:
        self.refused += 1
        level = logging.DEBUG if reason == "gone" else logging.WARNING
        kind = _ERROR_OF.get(reason, reason)
        self._complaints.say(kind, level, "refused a connection at %s: %s: %s", self._address, kind, text)
        try:
            stranger.wire.transmit_some(stranger.wire.connection.refusal(reason, text))
            # What it sent and nobody has read would make the kernel reset the connection, and the reason would be lost.
            stranger.wire.sock.recv(_UNREAD, getattr(socket, "MSG_DONTWAIT", 0))
        except (OSError, XpcError):
            pass  # it has gone already, or did not get as far as to be told; the line above is for those who want to know
        self._forget(stranger)
        stranger.wire.close()

    def _forget(self, stranger: Stranger) -> None:
        if stranger in self._strangers:
            self._strangers.remove(stranger)
            if self._selector is not None:
                self._selector.unregister(stranger.wire.sock)


def _wants_to_join(hello: Optional[Hello]) -> bool:
    return hello is not None and hello.role == Role.CONTROL.value

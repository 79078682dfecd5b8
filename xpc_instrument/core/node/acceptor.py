"""Accepts connections for a host and has each prove the key, in the host's service thread, without waiting for any.

Rules:
- What a connection that has not proved the key sends costs that connection alone, an error that nobody thought of included.
- Where very many of them come, the thread rests between two looks at them, so that the application gets most of its time.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
from typing import Any, Callable, List, Optional

from ..model.errors import AuthenticationError, LocalProtocolError, RemoteProtocolError, XpcError
from ..model.limits import Limits
from ..protocol.codec import Bytes
from ..protocol.connection import Connection
from ..protocol.messages import Hello, Role, Welcome
from ..unpatched import Selector, accept, monotonic
from ..wire.held import identity_of
from ..wire.wire import Wire
from .address import Address, Protection, check_peer
from .throttle import LogThrottle
from .unauthenticated import UnauthenticatedClient, UnauthenticatedClients, origin_of

# How long accepting rests when the process has no descriptor left, in seconds.
_REST = 0.2
# While very many come: for each second spent on them, so many seconds without.
_BREATHERS = 3.0
# So many are accepted at a time, before the sessions are looked at again.
_AT_A_TIME = 16
# Bytes that a refused connection may have sent in vain.
_UNREAD = 64 * 1024

# How TLS begins, as the message of a frame reader shows it.
_TLS_HELLO = "begins with the bytes 1603"

_ERROR_OF = {"authentication": "AuthenticationError", "protocol": "RemoteProtocolError"}


class Acceptor:
    """The listener of a host, and the connections in their handshake.

    `admit(wire, welcome)` gets each connection that has proved the key, with what is to be sent to it first; `full()` says how many
    sessions there are if no more may join, else 0.
    """

    def __init__(
        self,
        address: Address,
        key: bytes,
        protection: Protection,
        limits: Limits,
        log: LogThrottle,
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
        self._clients = UnauthenticatedClients(limits.max_unauthenticated)
        self._log = log
        self._listener: Optional[socket.socket] = None
        self._identity: Any = None
        self._selector: Optional[Selector] = None
        self._rest_until = 0.0
        self._busy = 0.0

    def open(self, listener: socket.socket, selector: Selector) -> None:
        """Accept connections at `listener`. The data of what is ready in the selector is this acceptor, or the `UnauthenticatedClient`."""
        self._listener, self._selector = listener, selector
        self._identity = identity_of(listener)
        self._rest_until = 0.0
        selector.register(listener, selectors.EVENT_READ, self)

    def close(self, abandon: bool) -> None:
        """Close the listener and all connections in their handshake; `abandon`: after a fork, only this process's descriptors."""
        listener, self._listener, self._selector = self._listener, None, None
        if listener is not None:
            if identity_of(listener) != self._identity:
                # The application has closed all descriptors; the number may be that of one of its own by now.
                listener.detach()
            listener.close()
        for client in self._clients:
            client.wire.abandon() if abandon else client.wire.close()
        self._clients.clear()
        if not abandon:
            self._log.log_counts(monotonic(), at_once=True)

    # the service thread's turns ----------------------------------------------------------------------------------------

    def due(self) -> List[float]:
        """When something is to be looked after even if nothing arrives."""
        return [when for when in (self._clients.next_deadline, self._log.due, self._rest_until or None) if when is not None]

    def handle(self, client: Optional[UnauthenticatedClient]) -> None:
        """There are connections to accept, or this client has sent something."""
        started = monotonic()
        if client is None:
            self._accept()
        else:
            self._read(client)
        self._busy += monotonic() - started

    def look_after(self, now: float) -> None:
        """Time-outs, counts that are to be told, rests."""
        assert self._selector is not None and self._listener is not None
        for client in self._clients.overdue(now):
            self._refuse(client, "handshake", f"no handshake within {self._limits.handshake_timeout} s")
        self._log.log_counts(now)
        busy, self._busy = self._busy, 0.0
        if not self._rest_until and self._clients.are_storming(now):
            self._rest(busy * _BREATHERS)
        elif self._rest_until and now >= self._rest_until:
            self._rest_until = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ, self)

    def _rest(self, seconds: float) -> None:
        """Accept nothing for a while."""
        assert self._selector is not None and self._listener is not None
        self._selector.unregister(self._listener)
        self._rest_until = monotonic() + seconds

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
                    self._log.log("accept", logging.WARNING, "cannot accept connections at %s for now: %s", self._address, error)
                    self._rest(_REST)
                    return
                continue  # that connection was gone before we took it
            self._take_in(sock, origin_of(where))

    def _take_in(self, sock: socket.socket, origin: str) -> None:
        limits = self._limits
        connection = Connection(dialling=False, key=self._key, max_payload=limits.max_payload, max_nesting=limits.max_nesting)
        try:
            wire = self._protection.wire(sock, connection, listening=True)
        except (OSError, XpcError) as error:
            sock.close()
            self._log.log("accept", logging.WARNING, "a connection at %s was gone at once: %s", self._address, error)
            return
        now = monotonic()
        client = UnauthenticatedClient(wire, now + limits.handshake_timeout, origin)
        self._clients.add(client)
        assert self._selector is not None
        self._selector.register(sock, selectors.EVENT_READ, client)
        try:
            check_peer(sock)
        except AuthenticationError as error:
            self._refuse(client, "authentication", str(error))
            return
        # Whoever has spoken by now, as an honest dialler has, is heard before somebody has to give way.
        self._read(client)
        loser = self._clients.one_too_many(now)
        if loser is not None:
            self._refuse(loser, "crowded", "too many connections wait for their handshake (max-unauthenticated)")

    # handshakes --------------------------------------------------------------------------------------------------------

    def _read(self, client: UnauthenticatedClient) -> None:
        if client not in self._clients:
            return
        connection = client.wire.connection
        try:
            for frame in client.wire.recv_frames():
                client.outbox.extend(connection.shake(frame, self._welcome))
                if connection.open:
                    self._forget(client)
                    self._admit(client.wire, client.outbox)
                    return
                client.spoken = True
                sessions = self._full()
                if sessions and _wants_to_join(connection.hello):
                    # Said before WELCOME, after which nothing can be refused with a reason.
                    self._refuse(client, "busy", f"{sessions} sessions have joined, the limit (max-sessions)")
                    return
            self._answer(client)
        except AuthenticationError as error:
            self._refuse(client, "authentication", str(error))
        except (RemoteProtocolError, LocalProtocolError) as error:
            hint = "; it seems to speak TLS, which is not configured here" if _TLS_HELLO in str(error) else ""
            self._refuse(client, "protocol", f"{error}{hint}")
        except OSError as error:
            self._refuse(client, "gone", str(error))
        except Exception as error:
            self._refuse(client, "internal", f"{type(error).__name__}: {error}")

    def _answer(self, client: UnauthenticatedClient) -> None:
        if client.outbox:
            # A handshake's answers are far smaller than a socket's buffer; one that does not fit is no honest peer's.
            if client.wire.transmit_some(client.outbox):
                raise RemoteProtocolError("it does not read its handshake")
            client.outbox = []

    def _refuse(self, client: UnauthenticatedClient, reason: str, text: str) -> None:
        self.refused += 1
        level = logging.DEBUG if reason == "gone" else logging.WARNING
        kind = _ERROR_OF.get(reason, reason)
        self._log.log(kind, level, "refused a connection at %s: %s: %s", self._address, kind, text)
        try:
            client.wire.transmit_some(client.wire.connection.refusal(reason, text))
            # What it sent and nobody has read would make the kernel reset the connection, and the reason would be lost.
            client.wire.sock.recv(_UNREAD, getattr(socket, "MSG_DONTWAIT", 0))
        except (OSError, XpcError):
            pass  # it has gone already, or did not get as far as to be told; the line above is for those who want to know
        self._forget(client)
        client.wire.close()

    def _forget(self, client: UnauthenticatedClient) -> None:
        if client in self._clients:
            self._clients.remove(client)
            if self._selector is not None:
                self._selector.unregister(client.wire.sock)


def _wants_to_join(hello: Optional[Hello]) -> bool:
    return hello is not None and hello.role == Role.CONTROL.value

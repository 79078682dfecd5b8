"""Dialling: from an address to a wire that is open, key proved, within a deadline.

Rules:
- A deadline is a `time.monotonic()` instant in seconds.
- What a host name resolves to is looked at once, and that is what is connected to.
- A listener that turns us away because too many connections wait for their handshake is dialled again until the deadline.
"""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

from ..model.errors import (
    AuthenticationError,
    ChannelError,
    ConnectTimeoutError,
    CrowdedError,
    DeadlineError,
    NobodyListensError,
    RemoteProtocolError,
)
from ..model.limits import Limits
from ..model.loopback import is_loopback
from ..protocol.codec import Bytes
from ..protocol.connection import Connection
from ..protocol.messages import Hello, Welcome
from ..unpatched import Socket, monotonic
from ..wire.opening import OpeningWire
from ..wire.wire import Wire
from .address import NO_PROTECTION, Address, Protection, check_peer, refuse_plaintext, require_key, require_unix

if TYPE_CHECKING:
    from ..wire.tls import TlsWire


def dial(
    address: Address, key: bytes, hello: Hello, deadline: float, limits: Limits, protection: Protection = NO_PROTECTION
) -> Union[Wire, TlsWire]:
    """Connect and shake hands; returns a wire that is open. Where too many others are in their handshake, it tries again until
    `deadline`.

    Raises `NobodyListensError`, `ConnectTimeoutError`, `AuthenticationError`, `PlaintextError`, `ConfigError` or `ChannelError`, all
    before `deadline`.
    """
    if not address.is_unix:
        require_key(address, key)
    pause = _FIRST_PAUSE
    while True:
        try:
            return _dial_once(address, key, hello, deadline, limits, protection)
        except CrowdedError:
            if monotonic() + pause >= deadline:
                raise
        # Those that were turned away together should not all come back together.
        time.sleep(pause * (0.5 + os.urandom(1)[0] / 256))
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


# Between two attempts where too many others are in their handshake, in seconds: at first, and at most.
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
        require_unix()
        candidates: List[Tuple[int, Any]] = [(socket.AF_UNIX, address.path)]
    else:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ChannelError(f"{address}: the host name cannot be resolved: {error}") from error
        for *_, where in found:
            refuse_plaintext(address, str(where[0]), protection)
        candidates = _in_order([(int(family), where) for family, _, _, _, where in found])
    failure: Optional[OSError] = None
    for family, where in candidates:
        sock = Socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.001, deadline - monotonic()))
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

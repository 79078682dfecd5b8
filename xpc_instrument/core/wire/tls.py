"""TLS for TCP: the certificates of a node, and the wire that speaks it. Importing this loads `ssl`; nobody does who has no TLS.

Rules:
- Both sides show a certificate and verify the other's against the fleet's own CA, and against nothing else. TLS 1.2 at least.
- Host names are not verified: whoever holds a certificate of the fleet is a member of it, wherever it runs, and the handshake that
  proves the key still takes place inside.
- OpenSSL works on bytes in memory, never on the socket. So the socket is used as a plain wire uses it, waiting and closing included,
  and what OpenSSL does to read never has to wait for a chance to write.
- One lock for each wire guards its OpenSSL object and the order of what goes out: one thread may send while another receives. Nothing
  waits while it is held.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import ssl
import stat
from typing import Any, Dict, List, Optional, Sequence, Union

from ..model.errors import AuthenticationError, ChannelError, ConfigError, RemoteProtocolError
from ..protocol.codec import Bytes, Frame
from ..protocol.connection import Connection
from ..unpatched import allocate_lock
from .stream import DONT_WAIT, NO_SIGNAL
from .wire import Wire

Path = Union[str, os.PathLike[str]]

# So much is taken from the socket at a time, ...
_CHUNK = 64 * 1024
# ... and so much is encrypted before it is sent.
_AT_ONCE = 256 * 1024
# Of a record of TLS, the text at most (RFC 8446, 5.1): what one `read` can return.
_RECORD = 16 * 1024
# What a side may send until the handshake has ended: two certificates take 3 KiB, and OpenSSL would take 128 KiB of single bytes, each in
# a record of its own, one message after the other.
_UNSHAKEN = 32 * 1024
# The files of one member in the folder that `xpc-instrument certificates` makes for it.
CERTIFICATE, KEY, CA = "certificate.pem", "key.pem", "ca.pem"

# Where OpenSSL says in its own words that a certificate is at fault, ours or theirs.
_OF_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA")


@dataclasses.dataclass(frozen=True)
class TLS:
    """The files of one member of a fleet, all PEM: its certificate, the private key to it, and the fleet's CA.

    `TLS.from_folder` takes a folder that `xpc-instrument certificates` made. The files are read when a manager starts or connects.
    """

    certificate: Path
    key: Path
    ca: Path

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
                raise TypeError(f"TLS({field.name}=...): expected the path of a PEM file, got {type(value).__name__}")
            # Absolute, since an application may change its folder before a lane is dialled.
            object.__setattr__(self, field.name, os.path.abspath(value))
        object.__setattr__(self, "_contexts", {})

    def __reduce__(self) -> Any:
        return TLS, (self.certificate, self.key, self.ca)

    @classmethod
    def from_folder(cls, folder: Path) -> TLS:
        """The files `certificate.pem`, `key.pem` and `ca.pem` in a folder."""
        return cls(*(os.path.join(folder, name) for name in (CERTIFICATE, KEY, CA)))

    def load(self) -> None:
        """Read the files now. Raises `ConfigError` that names the file at fault."""
        self._context(False)
        self._context(True)

    def wire(self, sock: socket.socket, connection: Connection, *, listening: bool) -> TlsWire:
        """A wire on a connected TCP socket. Raises `ConfigError`."""
        return TlsWire(sock, connection, self._context(listening), listening)

    def _context(self, listening: bool) -> ssl.SSLContext:
        contexts: Dict[bool, ssl.SSLContext] = self._contexts  # type: ignore[attr-defined]  # no field: it does not count for equality
        context = contexts.get(listening)
        if context is None:
            context = contexts[listening] = self._read(listening)
        return context

    def _read(self, listening: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listening else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # No tickets: each connection is a whole handshake, in which both certificates are looked at.
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        if listening:
            context.num_tickets = 0
        _check_private(self.key)
        try:
            context.load_cert_chain(self.certificate, self.key, password=self._refuse_password)
        except FileNotFoundError:
            missing = self.key if os.path.exists(self.certificate) else self.certificate
            raise ConfigError(f"{missing}: no such file; expected a PEM file as `xpc-instrument certificates` makes it") from None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.certificate}: cannot be loaded with the key {self.key} ({_reason(error)}); expected a certificate in PEM and the "
                "private key to it, as `xpc-instrument certificates` makes them"
            ) from None
        try:
            context.load_verify_locations(cafile=self.ca)
        except FileNotFoundError:
            raise ConfigError(f"{self.ca}: no such file; expected the certificate of the fleet's CA") from None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.ca}: cannot be loaded ({_reason(error)}); expected the certificate of the fleet's CA in PEM"
            ) from None
        return context

    def _refuse_password(self) -> str:
        # Without this OpenSSL would ask on the terminal, of an application that has none or has other uses for it.
        raise ConfigError(f"{self.key}: is encrypted; expected a private key without a password, in a file that only its owner can read")


def _check_private(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected the private key to the certificate, in PEM") from None
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"{path}: other users have access (mode {stat.S_IMODE(mode):04o}); make it private: chmod 600 {path}")


class TlsWire(Wire):
    """A wire whose bytes are TLS. The dialling side calls `shake_hands` first; the listening side shakes hands by reading."""

    __slots__ = ("_arrived", "_lock", "_shaken", "_tls", "_to_send", "_unsent", "_unshaken")

    def __init__(self, sock: socket.socket, connection: Connection, context: ssl.SSLContext, listening: bool) -> None:
        super().__init__(sock, connection)
        self._arrived = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._to_send, server_side=listening)
        self._shaken = False
        self._unshaken = 0
        # Encrypted, and next in order, but the socket did not take it yet.
        self._unsent: Bytes = b""
        self._lock = allocate_lock()

    def shake_hands(self, deadline: Optional[float]) -> None:
        """Dialling side: wait until TLS is up. Raises `AuthenticationError`, `RemoteProtocolError`, `DeadlineError` or `ChannelError`."""
        while True:
            with self._lock:
                shaken = self._shake()
                blocked = not self._flush()
            if shaken and not blocked:
                return
            # What it says first does not fill a socket's buffer; if it does, there is room when the other side has read.
            self._wait(blocked, deadline)
            if not blocked:
                try:
                    self._take(DONT_WAIT)
                except BlockingIOError:
                    continue

    def _push(self, data: Bytes, deadline: Optional[float]) -> None:
        self.transmit([data], deadline)

    @staticmethod
    def _may_be_patient(deadline: Optional[float], patience: float) -> bool:
        return False

    def _read_patiently(self) -> Optional[Frame]:
        # `_read_some` does all reading: what arrives may be a part of a record, and may want an answer of OpenSSL's.
        return None

    def transmit_some(self, pieces: Sequence[Bytes]) -> List[Bytes]:
        """Encrypt and send what fits now; returns what is left, which may be an empty piece: call again even so."""
        rest = list(pieces)
        with self._lock:
            if not self._shaken:
                raise ChannelError("the TLS handshake has not ended")
            while self._flush():
                if not any(map(len, rest)):
                    return []
                self._encrypt(rest)
        return rest or [b""]

    def _encrypt(self, rest: List[Bytes]) -> None:
        """Take up to `_AT_ONCE` bytes from the head of `rest`. The lock is held."""
        room = _AT_ONCE
        while rest and room > 0:
            if len(rest[0]) < _RECORD and len(rest) > 1:
                # Small pieces in a row go into one record.
                joined = bytearray(rest.pop(0))
                while rest and len(joined) + len(rest[0]) <= _RECORD:
                    joined += rest.pop(0)
                rest.insert(0, joined)
            view = memoryview(rest[0]).cast("B")
            if not view:
                rest.pop(0)
                continue
            try:
                count = self._tls.write(view[:room])
            except ssl.SSLError as error:
                raise _translated(error) from None
            room -= count
            rest[:1] = [view[count:]] if count < len(view) else []

    def _flush(self) -> bool:
        """Send what is encrypted; whether all of it is gone. The lock is held."""
        while True:
            if not self._unsent:
                if not self._to_send.pending:
                    return True
                self._unsent = self._to_send.read()
            try:
                sent = self.sock.send(self._unsent, NO_SIGNAL | DONT_WAIT)
            except BlockingIOError:
                return False
            self._unsent = memoryview(self._unsent)[sent:]

    def _shake(self) -> bool:
        """One step of the handshake; whether it has ended. The lock is held."""
        if not self._shaken:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLError as error:
                # The alert that tells the other side why.
                try:
                    self._flush()
                except OSError:
                    pass  # it has gone already, and what is raised here says more
                raise _translated(error) from None
            self._shaken = True
        return True

    def _take(self, flags: int) -> None:
        """Move what has arrived to OpenSSL. Raises `BlockingIOError` if nothing has."""
        data = self.sock.recv(_CHUNK, flags)
        if not data:
            # Frames say how long they are, so an end in the middle of one is noticed without a farewell of TLS.
            raise ChannelError("the other side closed the connection")
        if not self._shaken:
            self._unshaken += len(data)
            if self._unshaken > _UNSHAKEN:
                raise RemoteProtocolError(f"more than {_UNSHAKEN} bytes before the end of the TLS handshake")
        with self._lock:
            self._arrived.write(data)

    def _read_some(self, flags: int = DONT_WAIT) -> Optional[Frame]:
        """Like `Wire._read_some`. All that has arrived is decrypted at once: nothing waits in OpenSSL that `poll` does not see."""
        while True:
            self._take(flags)
            with self._lock:
                texts = self._decrypt() if self._shake() else []
                if not self._flush() and not self._shaken:
                    raise RemoteProtocolError("it does not read its TLS handshake")
            if texts:
                return self.connection.reader.feed(texts[0] if len(texts) == 1 else b"".join(texts))
            # A part of a record, or of the handshake; whether there is more shows the next turn.

    def _decrypt(self) -> List[bytes]:
        texts: List[bytes] = []
        try:
            while True:
                text = self._tls.read(_RECORD)
                if not text:
                    raise ChannelError("the other side closed the connection")
                texts.append(text)
        except ssl.SSLWantReadError:
            return texts
        except ssl.SSLZeroReturnError:
            if texts:
                return texts  # the socket's own end follows
            raise ChannelError("the other side closed the connection") from None
        except ssl.SSLError as error:
            raise _translated(error) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        words = (error.reason or str(error)).lower().replace("_", " ")
        detail = getattr(error, "verify_message", "")
        return f"{words}: {detail}" if detail else words
    return getattr(error, "strerror", None) or str(error)


def _translated(error: ssl.SSLError) -> Exception:
    """What OpenSSL complains of, as an error of ours."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationError(
            f"the other side's certificate is not one of this fleet's ({error.verify_message}): both sides need certificates of the same CA"
        )
    if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return AuthenticationError("the other side showed no certificate: it needs one of this fleet's CA")
    if any(word in reason for word in _OF_CERTIFICATES):
        return AuthenticationError(
            f"the other side refused this one's certificate ({_reason(error)}): both sides need certificates of the same CA, and in date"
        )
    if any(word in reason for word in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER")):
        return RemoteProtocolError(f"the other side does not speak TLS ({_reason(error)}): configure TLS on both sides, or on neither")
    return RemoteProtocolError(f"TLS failed ({_reason(error)})")

"""Every error that the project raises, under one root.

The type says whose fault it is, and where a built-in error means the same thing the type is that built-in too, so that
`except TimeoutError` works without importing anything of ours. The message says what was seen, what was expected and what to do.
"""

from __future__ import annotations

from typing import Optional


class XpcError(Exception):
    """The root of all errors of xpc-instrument."""


class ConfigError(XpcError, ValueError):
    """The config file is wrong; the message has a line `FILE:LINE: KEY: ...` for each mistake."""


class TargetError(XpcError, LookupError):
    """A target does not exist, is no probe point of the application, or its mode is not allowed there."""


class ExpressionError(TargetError, ValueError):
    """An expression cannot be read, or says what is not allowed where it is to be evaluated; the message shows the place.

    `text` is the expression, `offset` the place in it in characters, `seen` what is there, `allowed` what may be, `nearest` the name that
    was perhaps meant; all but the message are empty where the application has refused it.
    """

    def __init__(self, message: str, *, text: str = "", offset: int = 0, seen: str = "", allowed: str = "", nearest: Optional[str] = None):
        super().__init__(message)
        self.text = text
        self.offset = offset
        self.seen = seen
        self.allowed = allowed
        self.nearest = nearest


class ApplicationNotFoundError(XpcError, ProcessLookupError):
    """No running instrumented application has that name or pid."""


class AmbiguousApplicationError(ApplicationNotFoundError):
    """Several applications that were started apart have that name."""


class InjectionError(XpcError, RuntimeError):
    """The command cannot be started with the agent in it."""


class AttachError(XpcError, RuntimeError):
    """The agent cannot be brought into that running process; nothing was changed in it."""


class CertificatesError(XpcError, RuntimeError):
    """The certificates of a fleet cannot be made."""


class ChannelError(XpcError, ConnectionError):
    """The connection to the other process does not work, or no longer."""


class NobodyListensError(ChannelError, ConnectionRefusedError):
    """Nothing accepts connections at that address."""


class AddressInUseError(ChannelError):
    """Another live process already listens at that address."""


class ConnectTimeoutError(ChannelError, TimeoutError):
    """Something accepts connections at that address but did not finish the handshake in time."""


class DeadlineError(ChannelError, TimeoutError):
    """The other side did not answer before the deadline."""


class PlaintextError(ChannelError, PermissionError):
    """A TCP address beyond loopback without TLS, which nobody has allowed."""


class AuthenticationError(XpcError):
    """The two sides do not hold the same key, or the peer belongs to another user."""


class LocalProtocolError(XpcError, RuntimeError):
    """This side tried to send something that the state of the connection does not allow: a bug of ours."""


class RemoteProtocolError(ChannelError):
    """The other side sent something that the protocol does not allow."""


class CrowdedError(RemoteProtocolError):
    """Too many connections wait for their handshake there (`max-unauthenticated`), and this one had to give way."""


class NoLaneError(RemoteProtocolError):
    """This session has all the lanes to call on that the other side grants it (`max-lanes`)."""


class PayloadError(XpcError, ValueError):
    """A value cannot cross: it cannot be pickled, it is too large, or the other side cannot load it."""


class ReferenceExpiredError(XpcError, LookupError):
    """A reference was used after the call that it came with had ended."""


class HookFailedError(XpcError, RuntimeError):
    """A hook could not answer, and the probe point is configured with `on-failure = "raise"`."""


class HookTimeoutError(HookFailedError, TimeoutError):
    """A hook did not answer before its deadline, and the probe point is configured with `on-failure = "raise"`."""


class RemoteError(XpcError, RuntimeError):
    """Stands for an exception whose class is not to be had here; the message has its type and text.

    It has the attributes of that exception, and its chain; where this process knows a class that it derives from, as it knows the built-in
    ones, it is one of that class too, so that `except TimeoutError` catches it.
    """

    def __str__(self) -> str:
        # First among its bases, since KeyError and OSError make texts of their own.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class RemoteTraceback(Exception):
    """The traceback of an exception that came from another process, as text: the `__cause__` of the first exception of its chain."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'

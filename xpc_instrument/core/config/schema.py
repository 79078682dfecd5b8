"""What can be configured: frozen records that hold valid, complete values, whatever they were read from.

Rules:
- Defaults are merged into each probe, and paths are absolute, so that a config means the same in a child process.
- The key itself is never in a config, only the path of its file.
"""

from __future__ import annotations

from typing import Any, FrozenSet, Literal, Optional, Tuple, Union

from ..model.limits import DEFAULT_LIMITS, Limits
from ..model.record import Record, as_dict
from ..model.target import Mode
from .secret import FilePath, read_key


class ManagerConfig(Record):
    """Where the manager of the application listens, and the key that callers have to prove."""

    address: str = "unix"
    """`unix` (a socket per process in the runtime dir), `unix:/ABSOLUTE/PATH`, `tcp:HOST:PORT` or `tcp:[IPV6]:PORT`."""

    authkey_file: Optional[FilePath] = None
    """The file that holds the key; never None for a tcp address."""

    tls_certificate: Optional[FilePath] = None
    """The certificate that this application shows on a tcp address, PEM; set if and only if `tls_key` and `tls_ca` are."""

    tls_key: Optional[FilePath] = None
    """The private key to it, PEM, open to its owner only."""

    tls_ca: Optional[FilePath] = None
    """The certificate of the CA that the other side's certificate has to be of, PEM."""

    plaintext_beyond_loopback: bool = False
    """Whether a tcp address that is not loopback may do without TLS."""

    @property
    def endpoint(self) -> Union[str, Tuple[str, int], None]:
        """The fixed address as `Manager` takes it: a socket path or a (host, port); None if each process has its own."""
        kind, _, rest = self.address.partition(":")
        if kind == "tcp":
            host, _, port = rest.rpartition(":")
            return host.strip("[]"), int(port)
        return rest or None

    def read_authkey(self) -> Optional[bytes]:
        """The key, less one newline at its end; None where no key file is configured.

        ConfigError if the file is missing, unreadable, no regular file, empty, over 64 KiB, open to others, or another user's.
        """
        return None if self.authkey_file is None else read_key(self.authkey_file)


class DefaultsConfig(Record):
    """`[defaults]`: what a probe has that does not say otherwise."""

    exclude: Tuple[str, ...] = ()
    """Globs of targets that the probe's own glob leaves out."""

    allow: FrozenSet[Mode] = frozenset(Mode)
    """The modes in which hooks may be registered; never empty."""

    timeout: float = 1.0
    """Seconds that a thread of the application may wait for one hook."""

    max_timeout: float = 30.0
    """What a registration may ask for instead, in seconds; the `timeout` itself may be longer, which then is what it may ask for."""

    on_failure: Literal["original", "raise"] = "original"
    """What an invocation does when a hook cannot answer: run the original, or, where that has not run yet, raise `HookFailedError`."""

    patcher: Literal["auto", "inside", "code", "wrapt"] = "auto"
    """How the function is patched."""

    suspend_after: int = 3
    """Failures in a row after which a hook is suspended; 0 for never."""

    suspend_for: float = 1.0
    """Seconds of the first pause; each that follows is twice as long until the hook answers again."""

    suspend_at_most: float = 60.0
    """Seconds of the longest pause."""

    expressions: Literal["off", "observe", "trusted"] = "observe"
    """Which expressions scripts may have evaluated: none, those that run no code of the application, or any Python."""

    def probe(self, target: str, **own: Any) -> ProbeConfig:
        """A probe on `target` with its `own` settings over these."""
        return ProbeConfig(**{**as_dict(self), **own, "target": target})


class RedactConfig(Record):
    """`[redact]`: what is hidden in captures beside the defaults (`core/values/redaction.py`)."""

    names: Tuple[str, ...] = ()
    """Names of fields, keys and arguments."""

    types: Tuple[str, ...] = ()
    """Types, `module:Name` or `module.Name`, and what derives from them."""


class ProbeConfig(DefaultsConfig):
    """One `[[probe]]`: a target, or a glob of targets, with the `[defaults]` merged in."""

    target: str = ""
    """`package.module:Qualified.name`; `*` globs stand anywhere but in the first part of the module."""


class Config(Record):
    """All that is configured for one application."""

    app: str
    """The name under which the application is found; letters, digits and `_.-`, since files are named after it."""

    manager: ManagerConfig = ManagerConfig()
    limits: Limits = DEFAULT_LIMITS
    probes: Tuple[ProbeConfig, ...] = ()
    path: Optional[str] = None
    """The absolute path of the file that this was read from; None without a file."""

    defaults: DefaultsConfig = DefaultsConfig()
    """What the probes have that `with_probes` adds, and those on demand."""

    on_demand: Tuple[str, ...] = ()
    """Patterns (`core/model/pattern.py`) of the functions that become probe points, with the `defaults`, when a script asks for them."""

    redact: RedactConfig = RedactConfig()
    """What captures hide beside the defaults."""

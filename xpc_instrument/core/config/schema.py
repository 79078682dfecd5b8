"""What can be configured: frozen records that hold valid, complete values, whatever they were read from.

Rules:
- Defaults are merged into each probe, and paths are absolute, so that a config means the same in a child process.
- The key itself is never in a config, only the path of its file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, FrozenSet, Literal, Optional, Tuple, Union

from ..model.target import Mode
from .secret import read_key


@dataclasses.dataclass(frozen=True)
class ManagerConfig:
    """Where the manager of the application listens, and the key that callers have to prove."""

    address: str = "unix"
    """`unix` (a socket per process in the runtime dir), `unix:/ABSOLUTE/PATH`, `tcp:HOST:PORT` or `tcp:[IPV6]:PORT`."""

    authkey_file: Optional[Path] = None
    """The file that holds the key; never None for a tcp address."""

    tls_certificate: Optional[Path] = None
    """The certificate that this application shows on a tcp address, PEM; set if and only if `tls_key` and `tls_ca` are."""

    tls_key: Optional[Path] = None
    """The private key to it, PEM, open to its owner only."""

    tls_ca: Optional[Path] = None
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


@dataclasses.dataclass(frozen=True)
class LimitsConfig:
    """`[limits]`: what one application process grants to all who connect to it."""

    max_payload: int = 64 << 20
    """Bytes of one pickled payload, in either direction; a larger argument crosses as a reference. Or `"64 MiB"`."""

    max_lanes: int = 32
    """Lanes per session and process, that is, how many invocations of one session's hooks may be under way at once."""

    max_hooks: int = 16
    """Hooks registered on one probe point, over all sessions."""

    max_sessions: int = 64
    """Sessions connected to one process."""

    max_unauthenticated: int = 16
    """Connections to one process that have not proved the key yet."""

    max_nesting: int = 32
    """Containers within containers in one JSON message."""

    max_queue: int = 10_000
    """Events that wait to be sent to one session whose hooks nobody waits for (`wait=False`); what comes beyond that is dropped."""

    max_queue_bytes: int = 64 << 20
    """What these events may weigh together, in bytes, roughly. Or `"64 MiB"`."""

    handshake_timeout: float = 2.0
    """Seconds from an accepted connection to its proof of the key."""

    heartbeat: float = 5.0
    """Seconds between the signs of life that a process sends to the one that hosts the fixed address; below `silence`."""

    silence: float = 30.0
    """Seconds without a sign of life after which a session, or the process that hosts the fixed address, is gone."""

    max_backlog: int = 4 << 20
    """Bytes of control messages that wait for a session that does not read, before it is thrown out. Or `"4 MiB"`."""

    hot_lanes: bool = True
    """Whether small frames may go through memory that is shared with the script, while calls follow each other closely."""

    hot_spin: float = 0.0001
    """Seconds for which a thread that waits looks into that memory again and again, before it sleeps; at most 0.001."""


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """One `[[probe]]`: a target, or a glob of targets, with the `[defaults]` merged in."""

    target: str
    """`package.module:Qualified.name`; `*` globs stand anywhere but in the first part of the module."""

    exclude: Tuple[str, ...] = ()
    """Globs of targets that the probe's own glob leaves out."""

    allow: FrozenSet[Mode] = frozenset(Mode)
    """The modes in which hooks may be registered; never empty."""

    timeout: float = 1.0
    """Seconds that a thread of the application may wait for one hook."""

    on_failure: Literal["original", "raise"] = "original"
    """What an invocation does when a hook cannot answer: run the original, or, where that has not run yet, raise `HookFailedError`."""

    patcher: Literal["auto", "code", "wrapt"] = "auto"
    """How the function is patched."""

    suspend_after: int = 3
    """Failures in a row after which a hook is suspended; 0 for never."""

    suspend_for: float = 1.0
    """Seconds of the first pause; each that follows is twice as long until the hook is well again."""

    suspend_at_most: float = 60.0
    """Seconds of the longest pause."""


@dataclasses.dataclass(frozen=True)
class DefaultsConfig:
    """`[defaults]`: what a probe has that does not say otherwise; the fields are those of `ProbeConfig`."""

    exclude: Tuple[str, ...] = ()
    allow: FrozenSet[Mode] = frozenset(Mode)
    timeout: float = 1.0
    on_failure: Literal["original", "raise"] = "original"
    patcher: Literal["auto", "code", "wrapt"] = "auto"
    suspend_after: int = 3
    suspend_for: float = 1.0
    suspend_at_most: float = 60.0

    def probe(self, target: str, **own: Any) -> ProbeConfig:
        """A probe on `target` with its `own` settings over these."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ProbeConfig(target, **{**settings, **own})


@dataclasses.dataclass(frozen=True)
class Config:
    """All that is configured for one application."""

    app: str
    """The name under which the application is found; letters, digits and `_.-`, since files are named after it."""

    manager: ManagerConfig = ManagerConfig()
    limits: LimitsConfig = LimitsConfig()
    probes: Tuple[ProbeConfig, ...] = ()
    path: Optional[Path] = None
    """The absolute path of the file that this was read from; None without a file."""

    defaults: DefaultsConfig = DefaultsConfig()
    """What `with_probes` gives to the probes that it adds."""

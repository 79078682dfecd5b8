"""The config file: `xpc-instrument.toml`, or the table `[tool.xpc-instrument]` of a pyproject.toml.

Rules:
- Text becomes one frozen `Config` or one `ConfigError`, nothing else. The error has a line for every mistake:
  `FILE:LINE: KEY: what was seen; what was expected; did you mean X?`
- A `Config` holds values that are valid, complete (the defaults are merged into each probe) and independent of the
  current folder (paths are absolute), so that `Config.pack` can carry it to a child process. The key itself is never
  in it, only the path of its file.
- What comes back through `Config.unpack` passes the same checks as what a user wrote: there is one reader of values.
- The TOML parser and difflib are imported when they are needed, so that an application's start-up does not pay for them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterable, List, Literal, Optional, Sequence, Tuple, Union

from ..discovery.name import app_mistake, app_name
from ..model.errors import ConfigError
from ..model.target import MODES, Mode, target_mistake
from ..model.words import quoted
from .lines import KeyPath, key_lines, parser
from .rules import TABLES, Reader, is_beyond_loopback, secret_mistake

FILE_NAME = "xpc-instrument.toml"
PYPROJECT_TABLE = ("tool", "xpc-instrument")

_FILE_LIMIT = 16 << 20  # bytes; no config is larger, and `--config /dev/zero` has to end
_KEY_FILE_LIMIT = 64 << 10  # bytes
_LONG = 16 << 10  # bytes; a shorter config can be read by eye in the environment
_COMPRESSED = "zlib:"


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
        if self.authkey_file is None:
            return None

        def refuse(seen: str, remedy: str) -> ConfigError:
            return ConfigError(f"{self.authkey_file}: manager.authkey-file: {seen}; {remedy}")

        try:
            with open(self.authkey_file, "rb", opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise refuse("is no regular file", "expected a file that holds the key")
                wrong = secret_mistake(self.authkey_file, status) if os.name == "posix" else None
                if wrong is not None:
                    raise refuse(*wrong)
                key = file.read(_KEY_FILE_LIMIT + 1)
        except FileNotFoundError:
            raise refuse("no such file", "create it, such as with (umask 077; openssl rand -hex 32 > FILE)") from None
        except (OSError, UnicodeEncodeError) as error:
            seen = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            raise refuse(seen, "expected a file that this user can read") from error
        if len(key) > _KEY_FILE_LIMIT:
            raise refuse(f"is larger than {_KEY_FILE_LIMIT} bytes", "expected a file with nothing but the key")
        if key.endswith(b"\n"):
            key = key[: -2 if key.endswith(b"\r\n") else -1]
        if not key:
            raise refuse("is empty", "expected a key in it")
        return key


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

    def pack(self) -> str:
        """This config as one line of ASCII for an environment variable, compressed if it is long; the inverse of `unpack`."""
        defaults = _document(self.defaults)
        document = {
            "app": self.app,
            "manager": _document(self.manager),
            "limits": _document(self.limits),
            "defaults": defaults,
            "probe": [{key: value for key, value in _document(probe).items() if defaults.get(key) != value} for probe in self.probes],
        }
        text = json.dumps({"path": None if self.path is None else str(self.path), "config": document})
        if len(text) <= _LONG:
            return text
        import base64
        import zlib

        return _COMPRESSED + base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")

    @classmethod
    def unpack(cls, text: str) -> Config:
        """The config that `pack` made `text` of; ConfigError if it is anything else."""
        source = "the config handed over by the parent process"
        try:
            envelope = json.loads(_expanded(text))
            path, document = envelope["path"], envelope["config"]
            if not (path is None or isinstance(path, str)) or not isinstance(document, dict) or len(envelope) != 2:
                raise TypeError("not the shape that pack gives")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            remedy = "expected what Config.pack gives; both sides need the same version of xpc-instrument"
            raise ConfigError(f"{source}: cannot be read ({error}); {remedy}") from error
        file = None if path is None else Path(path)
        return _read(Reader(source, {}, (), Path(os.sep)), document, file)


def _expanded(text: str) -> str:
    """The JSON in what `pack` gives. ValueError if it is none, or longer than a config file may be."""
    if not text.startswith(_COMPRESSED):
        return text
    import base64
    import zlib

    try:
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(base64.b64decode(text[len(_COMPRESSED) :], validate=True), _FILE_LIMIT)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof:
        raise ValueError(f"it is cut off, or over {_FILE_LIMIT} bytes")
    return data.decode("ascii")


def _document(part: Any) -> Dict[str, Any]:
    """A config dataclass in the spelling of the file: the inverse of `Reader.table`."""
    document: Dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, frozenset):
            value = [name for name, mode in MODES.items() if mode in value]
        elif isinstance(value, Path):
            value = str(value)
        if value is not None:
            document[field.name.replace("_", "-")] = value
    return document


# --- ways to a Config -----------------------------------------------------------------------------


def _open_at_once(path: str, flags: int) -> int:
    """For `open`: a FIFO is opened without waiting for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def load(path: Union[str, os.PathLike[str]]) -> Config:
    """The config in the file at `path`; of a pyproject.toml, its table `[tool.xpc-instrument]`.

    ConfigError if the file cannot be read, is no UTF-8, no TOML, or holds any mistake.
    """
    try:
        absolute = Path(os.path.abspath(path))
        with open(absolute, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                # A pipe of the shell's, such as `--config <(COMMAND)`: now that it is open, it ends if nobody writes.
                os.set_blocking(file.fileno(), True)
            data = file.read(_FILE_LIMIT + 1)
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; expected a file such as {os.path.join(path, FILE_NAME)}") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected an existing {FILE_NAME} or pyproject.toml") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a file that this user can read") from error
    if not data and stat.S_ISFIFO(mode):
        raise ConfigError(f"{path}: is a pipe that nobody writes to; expected a config file")
    if len(data) > _FILE_LIMIT:
        raise ConfigError(f"{path}: is larger than {_FILE_LIMIT >> 20} MiB; expected a config file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: byte 0x{data[error.start]:02x} is no UTF-8; expected TOML, which is always UTF-8") from None
    return parse(text, absolute, PYPROJECT_TABLE if absolute.name == "pyproject.toml" else ())


def find(start: Path) -> Optional[Path]:
    """The nearest config file in `start` (a folder, or a file in it) or above; None if there is none.

    That is an `xpc-instrument.toml`, or a pyproject.toml with the table `[tool.xpc-instrument]`. A broken pyproject.toml
    counts if it seems to have the table, so that `load` can say what is wrong with it.
    """
    absolute = Path(os.path.abspath(start))
    for folder in (absolute, *absolute.parents):
        if os.path.isfile(folder / FILE_NAME):
            return folder / FILE_NAME
        if os.path.isfile(folder / "pyproject.toml") and _has_table(folder / "pyproject.toml"):
            return folder / "pyproject.toml"
    return None


def _has_table(pyproject: Path) -> bool:
    try:
        text = pyproject.read_bytes().decode("utf-8", "replace")
    except OSError:  # somebody else's file on the way up; whether it concerns us cannot be known
        return False
    if "xpc-instrument" not in text:  # spares parsing the many that have nothing to do with us
        return False
    toml = parser(str(pyproject))
    try:
        tool = toml.loads(text.lstrip("\ufeff")).get(PYPROJECT_TABLE[0])
    except (ValueError, RecursionError):
        return re.search(r"""tool["']?\s*\.\s*["']?xpc-instrument""", text) is not None
    return isinstance(tool, dict) and PYPROJECT_TABLE[1] in tool


def parse(text: str, path: Optional[Path] = None, prefix: Sequence[str] = ()) -> Config:
    """The config in TOML `text`, in its table `prefix`; relative paths start at the folder of `path`, or this one.

    ConfigError, with all mistakes at once, for everything that is not a valid config.
    """
    source = "<config>" if path is None else _displayed(path)
    toml = parser(source)
    try:
        document: Any = toml.loads(text)
    except RecursionError:
        raise ConfigError(f"{source}: arrays or tables are nested too deeply; expected a config file") from None
    except ValueError as error:
        place = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        if place is not None:
            what = f"{source}:{place[2]}: column {place[3]}: {place[1]}"
        elif str(error).endswith("(at end of document)"):
            what = f"{source}:{text.count(chr(10)) + 1}: {error}"
        else:  # such as a number with more digits than Python converts, which carries no place
            what = f"{source}: {error}"
        raise ConfigError(f"{what}; expected valid TOML") from None
    for depth, name in enumerate(prefix):
        if not isinstance(document, dict) or name not in document:
            missing = ".".join(prefix[: depth + 1])
            raise ConfigError(f"{source}: there is no table [{missing}]; expected [{'.'.join(prefix)}]")
        document = document[name]
    try:
        absolute = None if path is None else Path(os.path.abspath(path))
        folder = Path(os.getcwd()) if absolute is None else absolute.parent
    except OSError as error:
        remedy = "expected a folder that exists, where relative paths start"
        raise ConfigError(f"{source}: the current folder is gone ({error.strerror}); {remedy}") from None
    return _read(Reader(source, key_lines(text), tuple(prefix), folder), document, absolute)


def from_probes(app: str, targets: Iterable[str]) -> Config:
    """A config without a file: the defaults, and a probe for each of `targets`; what `--probe TARGET` means."""
    return with_probes(with_app(Config(app), app), targets)


def with_probes(config: Config, targets: Iterable[str]) -> Config:
    """`config` with a probe, made of its defaults, for each of `targets` that is not yet in it."""
    targets = tuple(targets)
    mistakes = [f"--probe {quoted(t)}: {wrong}" for t, wrong in ((t, target_mistake(t)) for t in targets) if wrong]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    probes = {probe.target: probe for probe in config.probes}
    for target in targets:
        probes.setdefault(target, config.defaults.probe(target))
    return dataclasses.replace(config, probes=tuple(probes.values()))


def with_app(config: Config, app: str) -> Config:
    """`config` under another app name; what `--app NAME` means."""
    wrong = app_mistake(app)
    if wrong:
        raise ConfigError(f"--app {quoted(app)}: {wrong}")
    return dataclasses.replace(config, app=app)


def default_app(folder: Path) -> str:
    """The app name that is made of a folder's name: what cannot be in an app name becomes `-`."""
    return app_name(folder.name)


def _displayed(path: Path) -> str:
    """`path` as a message shows it: relative where that is shorter, so that terminals and editors can open it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the current folder is gone, or on another drive
        return str(path)
    return min(relative, str(path), key=len)


def _read(reader: Reader, document: object, path: Optional[Path]) -> Config:
    where = reader.prefix
    found = reader.table(where, document, TABLES["the top of the file"])
    manager = found.get("manager", {})
    address = manager.get("address")
    if isinstance(address, str) and address.startswith("tcp:") and "authkey_file" not in manager:
        problem = 'a tcp address without a key; expected authkey-file = "FILE" beside it: anybody can reach a TCP port'
        reader.report((*where, "manager", "address"), problem)
    if not reader.mistakes:
        _check_tls(reader, (*where, "manager"), manager)
    limits = found.get("limits", {})
    heartbeat, silence = limits.get("heartbeat", LimitsConfig.heartbeat), limits.get("silence", LimitsConfig.silence)
    if not reader.mistakes and heartbeat >= silence:
        key = "heartbeat" if "heartbeat" in limits else "silence"
        problem = f"heartbeat is {heartbeat:g} and silence {silence:g}; expected a heartbeat below silence, or nobody is ever heard in time"
        reader.report((*where, "limits", key), problem)
    if not reader.mistakes:
        _check_pauses(reader, where, found)
    if reader.mistakes:
        raise ConfigError("\n".join(text for _, text in sorted(reader.mistakes, key=lambda mistake: mistake[0])))
    defaults = DefaultsConfig(**found.get("defaults", {}))
    return Config(
        app=found["app"] if "app" in found else default_app(reader.folder),
        manager=ManagerConfig(**manager),
        limits=LimitsConfig(**limits),
        probes=tuple(defaults.probe(**probe) for probe in found.get("probe", ())),
        path=path,
        defaults=defaults,
    )


def _check_pauses(reader: Reader, where: KeyPath, found: Dict[str, Any]) -> None:
    """The first pause of a suspended hook is within the longest, in [defaults] and in each [[probe]], which inherits from there."""
    inherited = found.get("defaults", {})
    tables: List[Tuple[KeyPath, Dict[str, Any]]] = [((*where, "defaults"), inherited)]
    tables += [((*where, "probe", number), probe) for number, probe in enumerate(found.get("probe", ()))]
    for place, table in tables:
        given = [key for key in ("suspend_for", "suspend_at_most") if key in table]
        if not given:
            continue
        settings = {"suspend_for": DefaultsConfig.suspend_for, "suspend_at_most": DefaultsConfig.suspend_at_most, **inherited, **table}
        first, longest = settings["suspend_for"], settings["suspend_at_most"]
        if first > longest:
            problem = f"suspend-for is {first:g} and suspend-at-most {longest:g}; expected a first pause that is no longer than the longest"
            reader.report((*place, given[0].replace("_", "-")), problem)


_TLS_KEYS = ("tls-certificate", "tls-key", "tls-ca")


def _check_tls(reader: Reader, where: KeyPath, manager: Dict[str, Any]) -> None:
    """All of the three or none; for a tcp address only; and beyond loopback not none, unless the config says so."""
    given = [key for key in _TLS_KEYS if key.replace("-", "_") in manager]
    for key in _TLS_KEYS if given else ():
        if key not in given:
            problem = f"{key} is missing; expected all three of {', '.join(_TLS_KEYS)}, or none of them"
            reader.report((*where, given[0]), problem)
    address = manager.get("address", "unix")
    if not isinstance(address, str):
        return
    if given and not address.startswith("tcp:"):
        seen = f"TLS for the address {quoted(address)}"
        reader.report((*where, given[0]), f"{seen}; expected it with a tcp address only: a unix socket is private by its mode")
    if is_beyond_loopback(address) and not given and manager.get("plaintext_beyond_loopback") is not True:
        reader.report(
            (*where, "address"),
            f"{quoted(address)} is beyond loopback, and without TLS everybody on the way can read and change what crosses; expected "
            "tls-certificate, tls-key and tls-ca (`xpc-instrument certificates` makes them), or plaintext-beyond-loopback = true",
        )

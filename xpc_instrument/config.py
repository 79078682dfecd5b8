"""The config file: `xpc-instrument.toml`, or the table `[tool.xpc-instrument]` of a pyproject.toml.

Rules:
- Text becomes one frozen `Config` or one `ConfigError`, nothing else. The error has a line for every mistake:
  `FILE:LINE: KEY: what was seen; what was expected; did you mean X?`
- A `Config` holds values that are valid, complete (the defaults are merged into each probe) and independent of the
  current folder (paths are absolute), so that `Config.to_json` can carry it to a child process. The key itself is never
  in it, only the path of its file.
- What comes back through `Config.from_json` passes the same checks as what a user wrote: there is one reader of values.
- TOML parsers give no line numbers. `key_lines` finds them in a second pass over text that a parser has accepted.
- The TOML parser and difflib are imported when they are needed, so that an application's start-up does not pay for them.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import math
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Literal, Mapping, Optional, Sequence, Tuple, Union

from .errors import ConfigError
from .modes import Mode

FILE_NAME = "xpc-instrument.toml"
PYPROJECT_TABLE = ("tool", "xpc-instrument")

SOCKET_PATH_LIMIT = 107 if sys.platform.startswith("linux") else 103
"""Bytes in the path of a unix socket: `sun_path` less its NUL; 108 on Linux (unix(7)), 104 on macOS and the BSDs."""

_FILE_LIMIT = 16 << 20  # bytes; no config is larger, and `--config /dev/zero` has to end
_KEY_FILE_LIMIT = 64 << 10  # bytes
_LONGEST_WAIT = 86_400.0  # seconds; socket time-outs overflow a C timeval at some larger number that differs by system
_LARGEST_PAYLOAD = 1 << 30  # bytes; a payload is held in memory whole, on both sides

_MODES = {mode.value: mode for mode in Mode}
_KeyPath = Tuple[Union[str, int], ...]


@dataclasses.dataclass(frozen=True)
class ManagerConfig:
    """Where the manager of the application listens, and the key that callers have to prove."""

    address: str = "unix"
    """`unix` (a socket per process in the runtime dir), `unix:/ABSOLUTE/PATH`, `tcp:HOST:PORT` or `tcp:[IPV6]:PORT`."""

    authkey_file: Optional[Path] = None
    """The file that holds the key; never None for a tcp address."""

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

        ConfigError if the file is missing, unreadable, no regular file, empty, over 64 KiB, or open to group or others.
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
                if os.name == "posix" and status.st_mode & 0o077:
                    seen = f"other users have access (mode {stat.S_IMODE(status.st_mode):04o})"
                    raise refuse(seen, f"make it private: chmod 600 {self.authkey_file}")
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

    handshake_timeout: float = 2.0
    """Seconds from an accepted connection to its proof of the key."""


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


@dataclasses.dataclass(frozen=True)
class DefaultsConfig:
    """`[defaults]`: what a probe has that does not say otherwise; the fields are those of `ProbeConfig`."""

    exclude: Tuple[str, ...] = ()
    allow: FrozenSet[Mode] = frozenset(Mode)
    timeout: float = 1.0
    on_failure: Literal["original", "raise"] = "original"
    patcher: Literal["auto", "code", "wrapt"] = "auto"

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

    def to_json(self) -> str:
        """This config as one line of ASCII, fit for an environment variable; the inverse of `from_json`."""
        document = {
            "app": self.app,
            "manager": _document(self.manager),
            "limits": _document(self.limits),
            "defaults": _document(self.defaults),
            "probe": [_document(probe) for probe in self.probes],
        }
        return json.dumps({"path": None if self.path is None else str(self.path), "config": document})

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The config that `to_json` made `text` of; ConfigError if it is anything else."""
        source = "the config handed over by the parent process"
        try:
            envelope = json.loads(text)
            path, document = envelope["path"], envelope["config"]
            if not (path is None or isinstance(path, str)) or not isinstance(document, dict) or len(envelope) != 2:
                raise TypeError("not the shape that to_json gives")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            remedy = "expected the JSON of Config.to_json; both sides need the same version of xpc-instrument"
            raise ConfigError(f"{source}: cannot be read ({error}); {remedy}") from error
        file = None if path is None else Path(path)
        return _read(_Reader(source, {}, (), Path(os.sep)), document, file)


def _document(part: Any) -> Dict[str, Any]:
    """A config dataclass in the spelling of the file: the inverse of `_Reader.table`."""
    document: Dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, frozenset):
            value = [name for name, mode in _MODES.items() if mode in value]
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
    toml = _toml(str(pyproject))
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
    toml = _toml(source)
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
    return _read(_Reader(source, key_lines(text), tuple(prefix), folder), document, absolute)


def from_probes(app: str, targets: Iterable[str]) -> Config:
    """A config without a file: the defaults, and a probe for each of `targets`; what `--probe TARGET` means."""
    return with_probes(with_app(Config(app), app), targets)


def with_probes(config: Config, targets: Iterable[str]) -> Config:
    """`config` with a probe, made of its defaults, for each of `targets` that is not yet in it."""
    targets = tuple(targets)
    mistakes = [f"--probe {_quoted(t)}: {wrong}" for t, wrong in ((t, _target_mistake(t)) for t in targets) if wrong]
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
        raise ConfigError(f"--app {_quoted(app)}: {wrong}")
    return dataclasses.replace(config, app=app)


def default_app(folder: Path) -> str:
    """The app name that is made of a folder's name: what cannot be in an app name becomes `-`."""
    return _app_name(folder.name)


def _app_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")[:64]
    return name if not app_mistake(name) else f"app-{name}"[:64].rstrip("-")


def _toml(source: str) -> Any:
    """The TOML parser: `tomllib`, or `tomli` before Python 3.11."""
    import importlib

    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return importlib.import_module(name)
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise ConfigError(
            f"{source}: cannot be read, since this Python {version} ({sys.executable}) has no module {name}; "
            f"install tomli there (pip install tomli), or give the targets with --probe instead of a file"
        ) from None


def _displayed(path: Path) -> str:
    """`path` as a message shows it: relative where that is shorter, so that terminals and editors can open it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the current folder is gone, or on another drive
        return str(path)
    return min(relative, str(path), key=len)


# --- reading values -------------------------------------------------------------------------------


class _Reader:
    """Collects the mistakes of one document; each rule below reads one value and reports to it what is wrong there."""

    def __init__(self, source: str, lines: Mapping[_KeyPath, int], prefix: _KeyPath, folder: Path) -> None:
        self.source = source
        self.lines = lines
        self.prefix = prefix
        self.folder = folder
        self.mistakes: List[Tuple[int, str]] = []

    def line(self, where: _KeyPath) -> Optional[int]:
        """The line of the key, or of the nearest table around it that has one."""
        return next((self.lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self.lines), None)

    def report(self, where: _KeyPath, problem: str) -> None:
        line = self.line(where)
        place = self.source if line is None else f"{self.source}:{line}"
        key = ".".join(_quoted(part, bare=True) for part in where if isinstance(part, str)) or "the document"
        self.mistakes.append((line or 0, f"{place}: {key}: {problem}"))

    def wrong(self, where: _KeyPath, value: object, expected: str, hint: Optional[str] = None) -> None:
        self.report(where, f"{_seen(value)}; expected {expected}{_did_you_mean(hint)}")

    def table(self, where: _KeyPath, value: object, rules: Mapping[str, _Rule]) -> Dict[str, Any]:
        """The values of a table by field name, each read by its rule; a key without a rule is a mistake."""
        found: Dict[str, Any] = {}
        if not isinstance(value, dict):
            self.wrong(where, value, "a table")
            return found
        for key, item in value.items():
            rule = rules.get(key)
            if rule is not None:
                found[key.replace("-", "_")] = rule(self, (*where, key), item)
                continue
            homes = [name for name, table in _TABLES.items() if key in table and table is not rules]
            hint = None if homes else _nearest(key.lower(), rules)
            expected = f"in {' or '.join(homes)}, not here" if homes else f"one of {', '.join(sorted(rules))}"
            self.report((*where, key), f"unknown key; expected {expected}{_did_you_mean(hint)}")
        return found

    def strings(self, where: _KeyPath, value: object, expected: str) -> List[Tuple[_KeyPath, str]]:
        """The items of an array of strings, each with its place; others are mistakes."""
        if not isinstance(value, list):
            hint = f"[{_quoted(value)}]" if isinstance(value, str) else None
            self.wrong(where, value, f"an array of {expected}", hint)
            return []
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.wrong((*where, index), item, f"only {expected} in the array")
        return [((*where, index), item) for index, item in enumerate(value) if isinstance(item, str)]


_Rule = Callable[[_Reader, _KeyPath, Any], Any]


def _app(reader: _Reader, where: _KeyPath, value: object) -> object:
    if not isinstance(value, str):
        reader.wrong(where, value, "a name")
    elif app_mistake(value):
        reader.report(where, f"{_seen(value)}: {app_mistake(value)}{_did_you_mean(_quoted(_app_name(value)))}")
    return value


def app_mistake(app: str) -> Optional[str]:
    """Why `app` cannot be an app name, in words, or None if it can: files and sockets are named after it."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", app):
        return "is no app name; expected 1 to 64 of the characters A-Z a-z 0-9 _ . - and no . or - at the start"
    if re.fullmatch(r"[0-9]+", app):
        return "is no app name; expected at least one character that is no digit, or it would be taken for a pid"
    return None


def _path(reader: _Reader, where: _KeyPath, value: object) -> Optional[Path]:
    if not isinstance(value, str) or not value or "\0" in value:
        reader.wrong(where, value, "the path of a file")
        return None
    return _absolute(reader, where, value)


def _absolute(reader: _Reader, where: _KeyPath, path: str) -> Optional[Path]:
    try:
        absolute = Path(os.path.abspath(os.path.join(reader.folder, os.path.expanduser(path))))
        os.fsencode(absolute)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        reader.wrong(where, path, f"a path in the file system's encoding, {encoding}")
        return None
    return absolute


def _address(reader: _Reader, where: _KeyPath, value: object) -> object:
    expected = '"unix", "unix:PATH" or "tcp:HOST:PORT"'
    if not isinstance(value, str) or "\0" in value:
        reader.wrong(where, value, expected)
    elif value.startswith("unix:") and value != "unix:":
        path = _absolute(reader, where, value[len("unix:") :])
        if path is None:
            return value
        length = len(os.fsencode(path))
        if length > SOCKET_PATH_LIMIT:
            limit = f"at most {SOCKET_PATH_LIMIT}, the limit of unix sockets: choose a path such as one in /run or /tmp"
            reader.report(where, f"{_quoted(str(path))} has {length} bytes; expected {limit}")
        return f"unix:{path}"
    elif value != "unix" and not _is_tcp(value):
        candidates = [f"tcp:{value}", value.replace("://", ":")] if ":" in value else []
        host, _, port = value[len("tcp:") :].rpartition(":")
        candidates += [f"tcp:[{host}]:{port}"] if value.startswith("tcp:") else []
        hint = next((c for c in candidates if _is_tcp(c)), None)
        if hint is None:
            hint = f"unix:{value}" if value.startswith(("/", "./", "~/")) else _nearest(value, ["unix"])
        expected += " (a port is 1 to 65535, an IPv6 host is in brackets)"
        reader.wrong(where, value, expected, hint and _quoted(hint))
    return value


def _is_tcp(address: str) -> bool:
    match = re.fullmatch(r"tcp:(\[[0-9A-Za-z:.%_-]*:[0-9A-Za-z:.%_-]*\]|[^\[\]:/\s]+):([0-9]{1,5})", address)
    return match is not None and address.isprintable() and 1 <= int(match[2]) <= 65535


def _seconds(reader: _Reader, where: _KeyPath, value: object) -> object:
    # An int is compared as an int: converting a long one to float overflows.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LONGEST_WAIT:
        return float(value)
    reader.wrong(where, value, f"a number of seconds, more than 0 and at most {_LONGEST_WAIT:.0f}")
    return value


def _count(largest: int) -> _Rule:
    def rule(reader: _Reader, where: _KeyPath, value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            reader.wrong(where, value, f"a whole number from 1 to {largest}")
        return value

    return rule


_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _size(reader: _Reader, where: _KeyPath, value: object) -> object:
    size: object = value
    hint = None
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,12}) ?([A-Za-z]*)", value)
        size = None
        if match is not None and match[2] in _UNITS:
            size = int(match[1]) * _UNITS[match[2]]
        elif match is not None:
            unit = next((u for u in _UNITS if u.lower() == match[2].lower()), None) or _nearest(match[2], _UNITS) or "B"
            hint = f'"{match[1]} {unit}"'
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _LARGEST_PAYLOAD:
        reader.wrong(where, value, f'a number of bytes up to {_LARGEST_PAYLOAD}, or a size such as "64 MiB"', hint)
    return size


def _choice(*choices: str) -> _Rule:
    def rule(reader: _Reader, where: _KeyPath, value: object) -> object:
        if not isinstance(value, str) or value not in choices:
            hint = _nearest(value.lower(), choices) if isinstance(value, str) else None
            reader.wrong(where, value, " or ".join(f'"{choice}"' for choice in choices), hint and _quoted(hint))
        return value

    return rule


def _allow(reader: _Reader, where: _KeyPath, value: object) -> FrozenSet[Mode]:
    expected = f"the modes {', '.join(_MODES)}"
    items = reader.strings(where, value, expected)
    for place, item in items:
        if item not in _MODES:
            hint = _nearest(item.lower(), _MODES)
            reader.wrong(place, item, f"one of {expected}", hint and _quoted(hint))
    if value == []:
        reader.report(where, f"an empty array allows no hook; expected at least one of {expected}, or no such probe")
    return frozenset(_MODES[item] for _, item in items if item in _MODES)


def _exclude(reader: _Reader, where: _KeyPath, value: object) -> Tuple[str, ...]:
    items = reader.strings(where, value, 'globs of targets such as "*._*"')
    for place, item in items:
        if not item or not item.isprintable() or " " in item:
            reader.wrong(place, item, "a glob without white space")
    return tuple(item for _, item in items)


def _target(reader: _Reader, where: _KeyPath, value: object) -> object:
    if not isinstance(value, str):
        reader.wrong(where, value, f"a target {_TARGET_FORM}")
    else:
        wrong = _target_mistake(value)
        if wrong:
            reader.report(where, f"{_seen(value)}: {wrong}")
    return value


_TARGET_FORM = '"package.module:Qualified.name"'


def _target_mistake(target: str) -> Optional[str]:
    """What is wrong with a target, in words, with the nearest valid one; None if nothing is."""
    problem = _target_problem(target)
    if problem is None:
        return None
    candidates = ["".join(target.split())]
    mode, _, rest = target.partition(":")
    if mode in _MODES:
        candidates.append(rest)
    path = re.sub(r"\.py(?=:|$)", "", candidates[0]).replace("/", ".").strip(".")
    candidates.append(path)
    if ":" not in path:
        parts = path.split(".")
        # A class, by the usual spelling, is where the module ends; without one only the last part is the name.
        cut = next((n for n, part in enumerate(parts) if n and part[:1].isupper()), len(parts) - 1)
        candidates.append(f"{'.'.join(parts[:cut])}:{'.'.join(parts[cut:])}")
    hint = next((c for c in candidates if c != target and _target_problem(c) is None), None)
    return f"{problem}; expected {_TARGET_FORM}{_did_you_mean(hint and _quoted(hint))}"


def _target_problem(target: str) -> Optional[str]:
    if not target.isprintable() or " " in target:
        return "there is white space or a control character in it"
    if ":" not in target:
        return "there is no ':' between the module and the name in it"
    module, _, name = target.partition(":")
    if ":" in name and module in _MODES:
        return "a mode stands in front, for which there is the key allow"
    if ":" in name:
        return "there are several ':' in it"
    if not module or not name:
        return f"the {'name' if module else 'module'} is missing"
    if "<" in name:
        return "functions inside of functions and lambdas have no name by which they can be reached"
    if "*" in module.split(".")[0]:
        return "a glob in the first part of the module is too wide, it matches everything that Python imports"
    for part in (*module.split("."), *name.split(".")):
        if not part.replace("*", "_").isidentifier():
            return f"{_quoted(part)} is no identifier" if part else "there is an empty part next to a '.'"
    return None


def _probes(reader: _Reader, where: _KeyPath, value: object) -> List[Dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        reader.wrong(where, value, "[[probe]] tables, in double brackets")
        return []
    found = []
    places: Dict[str, _KeyPath] = {}
    for index, item in enumerate(value):
        place = (*where, index)
        found.append(reader.table(place, item, _PROBE))
        target = item.get("target")
        if "target" not in item:
            reader.report(place, f"there is no target in this probe; expected target = {_TARGET_FORM}")
        elif isinstance(target, str) and places.setdefault(target, place) != place:
            line = reader.line((*places[target], "target"))
            first = "another probe" if line is None else f"the probe in line {line}"
            problem = f"{_seen(target)} is the target of {first} already; expected each target once"
            reader.report((*place, "target"), problem)
    return found


def _subtable(name: str) -> _Rule:
    return lambda reader, where, value: reader.table(where, value, _TABLES[name])


_SETTINGS: Dict[str, _Rule] = {
    "exclude": _exclude,
    "allow": _allow,
    "timeout": _seconds,
    "on-failure": _choice("original", "raise"),
    "patcher": _choice("auto", "code", "wrapt"),
}
_PROBE: Dict[str, _Rule] = {"target": _target, **_SETTINGS}
_TABLES: Dict[str, Dict[str, _Rule]] = {
    "the top of the file": {
        "app": _app,
        "manager": _subtable("[manager]"),
        "limits": _subtable("[limits]"),
        "defaults": _subtable("[defaults]"),
        "probe": _probes,
    },
    "[manager]": {"address": _address, "authkey-file": _path},
    "[limits]": {
        "max-payload": _size,
        "max-lanes": _count(1_000),
        "max-hooks": _count(1_000),
        "max-sessions": _count(10_000),
        "max-unauthenticated": _count(10_000),
        "max-nesting": _count(200),  # the interpreter's own recursion limit has to stay out of reach
        "handshake-timeout": _seconds,
    },
    "[defaults]": _SETTINGS,
    "[[probe]]": _PROBE,
}


def _read(reader: _Reader, document: object, path: Optional[Path]) -> Config:
    where = reader.prefix
    found = reader.table(where, document, _TABLES["the top of the file"])
    manager = found.get("manager", {})
    address = manager.get("address")
    if isinstance(address, str) and address.startswith("tcp:") and "authkey_file" not in manager:
        problem = 'a tcp address without a key; expected authkey-file = "FILE" beside it: anybody can reach a TCP port'
        reader.report((*where, "manager", "address"), problem)
    if reader.mistakes:
        raise ConfigError("\n".join(text for _, text in sorted(reader.mistakes, key=lambda mistake: mistake[0])))
    defaults = DefaultsConfig(**found.get("defaults", {}))
    return Config(
        app=found["app"] if "app" in found else default_app(reader.folder),
        manager=ManagerConfig(**manager),
        limits=LimitsConfig(**found.get("limits", {})),
        probes=tuple(defaults.probe(**probe) for probe in found.get("probe", ())),
        path=path,
        defaults=defaults,
    )


def _seen(value: object) -> str:
    """A value of a TOML file in a message: its type and, shortened, what was written."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int):
        # Python refuses to print integers of more than 4300 digits, which a file can hold in hexadecimal.
        return f"the integer {value}" if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return f"the number {value}" if math.isfinite(value) else f"{value}, which is no finite number"
    if isinstance(value, str):
        return f"the string {_quoted(value)}" if value else "an empty string"
    if isinstance(value, list):
        return f"an array of {len(value)}" if value else "an empty array"
    return "a table" if isinstance(value, dict) else "nothing" if value is None else "a date or time"


def _quoted(text: str, bare: bool = False) -> str:
    """`text` in double quotes, on one line, shortened; `bare` leaves plain keys without quotes."""
    if bare and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", text):
        return text
    return json.dumps(text if len(text) <= 100 else f"{text[:100]}...", ensure_ascii=not text.isprintable())


def _did_you_mean(hint: Optional[str]) -> str:
    return f"; did you mean {hint}?" if hint else ""


def _nearest(word: str, words: Iterable[str]) -> Optional[str]:
    import difflib

    return next(iter(difflib.get_close_matches(word[:100], list(words), 1)), None)


# --- line numbers ---------------------------------------------------------------------------------

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*("(?:\\.|[^"\\])*"|'[^']*'|[^\s.=\[\]{}#,"']+)[ \t]*""")
_SCALAR = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*'|[^,\]}#\n]+''', re.DOTALL
)  # a multi-line string may end in one or two quotes of its own, hence {3,5}


def key_lines(text: str) -> Dict[_KeyPath, int]:
    """The line, from 1, of every key, table and array item in TOML that a parser has accepted.

    A path is made of keys and, for items of arrays and arrays of tables, indexes: `("probe", 1, "allow", 0)`.
    """
    toml = _toml("<config>")
    newlines = [match.start() for match in re.finditer("\n", text)]
    lines: Dict[_KeyPath, int] = {}
    sizes: Dict[_KeyPath, int] = {}  # arrays of tables -> their tables so far
    table: _KeyPath = ()
    # The arrays and inline tables around `position`, each with the index of its current item, or None for a table. A
    # list instead of recursion: parsers accept deeper nesting than is left of the interpreter's recursion limit.
    around: List[Tuple[_KeyPath, Optional[int]]] = []

    def keys(position: int) -> Tuple[List[str], int]:
        found = []
        while True:
            match = _KEY.match(text, position)
            if match is None:
                raise AssertionError(f"no key at offset {position} of accepted TOML")
            found.append(toml.loads(f"k = {match[1]}")["k"] if match[1][0] in "\"'" else match[1])
            position = match.end()
            if text[position] != ".":
                return found, position
            position += 1

    def record(base: _KeyPath, names: Sequence[str], position: int) -> _KeyPath:
        for name in names:
            # A name of an array of tables means its newest table.
            base = (*base, sizes[base] - 1, name) if base in sizes else (*base, name)
            lines.setdefault(base, bisect.bisect_left(newlines, position) + 1)
        return base

    position = 0
    while True:
        blank = _BLANK.match(text, position)
        position = position if blank is None else blank.end()
        if position >= len(text):
            return lines
        mark = text[position]
        if not around and mark == "[":
            double = text.startswith("[[", position)
            names, end = keys(position + 1 + double)
            table = record((), names, position)
            if double:
                sizes[table] = sizes.get(table, 0) + 1
                table = (*table, sizes[table] - 1)
                lines.setdefault(table, bisect.bisect_left(newlines, position) + 1)
            position = end + 1 + double
            continue
        if around and mark in ",]}":
            path, index = around.pop()
            if mark == ",":
                around.append((path, None if index is None else index + 1))
            position += 1
            continue
        if around and around[-1][1] is not None:
            path = (*around[-1][0], around[-1][1])
            lines[path] = bisect.bisect_left(newlines, position) + 1
        else:
            names, end = keys(position)
            path = record(around[-1][0] if around else table, names, position)
            blank = _BLANK.match(text, end + 1)  # past the "="
            position = end + 1 if blank is None else blank.end()
        if text[position] in "[{":
            around.append((path, 0 if text[position] == "[" else None))
            position += 1
        else:
            scalar = _SCALAR.match(text, position)
            if scalar is None:
                raise AssertionError(f"no value at offset {position} of accepted TOML")
            position = scalar.end()

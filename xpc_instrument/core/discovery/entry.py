"""Where instrumented applications are found: one private folder per user, with a file for each instrumented process.

In the runtime dir, for an application `shop`:

    shop.4711.json      the `Entry` of process 4711, written whole or not at all
    shop.4711.sock      its socket, if it listens at one of its own
    shop.1f2e3d4c.bell  a doorbell: a datagram socket of a session that wants to hear of new processes of `shop`; the
                        digits are the first of the session's identifier

Rules:
- Only the user may enter: mode 0700, owned by this uid, no symlink. Anything else is refused, not repaired.
- A session hears of every process: it binds its doorbell first and lists the processes second; a newborn process
  announces itself first and rings second.
- What dead processes left behind is removed by whoever comes by: an entry whose pid is gone or whose pid belongs to a
  process that started at another time, a doorbell that refuses. What belongs to a live pid is never removed, except the
  entry of its predecessor, which the start time tells from its own.
- A process writes its files once. Whoever deletes them, such as a cleaner of /tmp, hides it from new sessions until it starts again; those
  that have joined stay. `$XDG_RUNTIME_DIR` is cleaned by nobody.
- Garbage in the folder is skipped and reported to the logger `xpc_instrument`; it neither blocks nor raises.
- A fork inherits `Entry` and `Doorbell` objects. They belong to the process that made them: in a child, `withdraw` and
  `Doorbell.close` leave the files alone.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import socket
import stat
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Collection, Dict, List, Optional, Set, Tuple, Type, Union

from ..config.rules import SOCKET_PATH_LIMIT, app_mistake
from ..model.errors import ApplicationNotFoundError, ConfigError, XpcError
from ..unpatched import Socket

VARIABLE = "XPC_INSTRUMENT_RUNTIME_DIR"

_log = logging.getLogger("xpc_instrument")

_ENTRY_LIMIT = 64 << 10  # bytes of an entry's file; `_own_argv` keeps far below
_RINGS_PER_DRAIN = 1_000  # a flood must not keep `drain` from returning; select tells that there are more

# What those need to know who look too early.
_WAIT = "wait for it with connect(..., timeout=SECONDS): a process that another one has started is found once it has imported a target"

# By this name, as gevent replaces those in the module: a ring must not enter its event loop.
_socket = Socket


class RuntimeDirError(XpcError, OSError):
    """The runtime dir is not private to this user, or not usable for sockets."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One instrumented process, as it announced itself."""

    app: str
    pid: int
    ppid: int
    address: str
    """Where its manager listens; the text is the manager's own affair."""

    started: Optional[int]
    """Its start in clock ticks since boot (proc(5), field 22 of stat); None where there is no /proc."""

    since: float
    """When the agent started, in seconds since the epoch."""

    argv: Tuple[str, ...]
    """Its command line, shortened if it is very long."""

    python: str
    """Its Python version, such as `3.11.7`."""

    version: str
    """Its version of xpc-instrument."""

    member: str = ""
    """As which session it joins the process that hosts its address; "" if it listens there itself. By that it proves to be the user's."""

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.app}.{self.pid}.json"


def own_entry(app: str, address: str, member: str = "") -> Entry:
    """The entry of the process that calls this; ConfigError if `app` is no app name."""
    from ..version import __version__

    _check(app)
    pid = os.getpid()
    stats = _stat(pid)
    python = ".".join(str(part) for part in sys.version_info[:3])
    started = stats and stats[1]
    return Entry(app, pid, os.getppid(), address, started, time.time(), _own_argv(), python, __version__, member)


def _own_argv() -> Tuple[str, ...]:
    # While `site` runs, sys.argv may not exist yet; orig_argv (3.10+) does, and has the interpreter's own options too.
    argv = getattr(sys, "orig_argv", None) or getattr(sys, "argv", None) or [sys.executable]
    return tuple(str(argument)[:200] for argument in argv[:50])


# --- the folder -------------------------------------------------------------------------------------


def runtime_dir(create: bool = True) -> Path:
    """The runtime dir of this user, private as said above; made if it does not exist, unless `create` is false.

    `$XPC_INSTRUMENT_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/xpc-instrument` if that exists and is this user's (as its
    specification demands; `sudo` and containers pass on the name of a folder that is not), else
    `<tempdir>/xpc-instrument-<uid>`. RuntimeDirError if it is not private; another OSError if it cannot be made.
    """
    path = _location()
    if create:
        try:
            if VARIABLE in os.environ:
                os.makedirs(path.parent, exist_ok=True)
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # checked below, whoever made it
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        if create:
            raise
        return path
    remedy = f"remove it, or set {VARIABLE} to a folder of your own"
    if not stat.S_ISDIR(status.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no folder"
        raise RuntimeDirError(f"runtime dir {path}: it is {what}; expected a folder: {remedy}")
    if status.st_uid != os.geteuid():
        expected = f"expected this user's own (uid {os.geteuid()})"
        raise RuntimeDirError(f"runtime dir {path}: it belongs to uid {status.st_uid}; {expected}: {remedy}")
    if status.st_mode & 0o077:
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
        raise RuntimeDirError(f"runtime dir {path}: other users have access ({mode}); expected 0700: chmod 700 {path}")
    return path


def _location() -> Path:
    explicit = os.environ.get(VARIABLE)
    if explicit:
        if not os.path.isabs(explicit):
            # A relative path would mean another folder to each process.
            raise RuntimeDirError(f"{VARIABLE}={explicit}: it is a relative path; expected an absolute one")
        return Path(explicit)
    xdg = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(xdg):
        try:
            status = os.stat(xdg)
        except OSError:
            status = None
        if status is not None and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            return Path(xdg, "xpc-instrument")
    # As tempfile.gettempdir chooses, without importing it: that costs an application's start-up some milliseconds.
    candidates = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    temporary = next((c for c in candidates if os.path.isabs(c) and os.access(c, os.W_OK | os.X_OK)), "/tmp")  # noqa: S108 - made private by runtime_dir
    return Path(temporary, f"xpc-instrument-{os.geteuid()}")


def socket_path(app: str, pid: Optional[int] = None) -> Path:
    """Where the process `pid` (this one, if None) of `app` listens; RuntimeDirError if that is too long for a socket."""
    _check(app)
    return _fits(runtime_dir() / f"{app}.{os.getpid() if pid is None else pid}.sock")


def _fits(path: Path) -> Path:
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        remedy = f"set {VARIABLE} to a shorter folder, or choose a shorter app name"
        raise RuntimeDirError(f"{path}: {length} bytes; expected at most {SOCKET_PATH_LIMIT} for a unix socket: {remedy}")
    return path


def _check(app: str) -> None:
    wrong = app_mistake(app)
    if wrong:
        raise ConfigError(f"{app!r} {wrong}")


def _files(folder: Path) -> List[Tuple[str, str, str]]:
    """The files that are named like ours: (app, what is in the middle, extension); app names may have dots themselves."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    parts = [name.rsplit(".", 2) for name in names]
    return [(part[0], part[1], part[2]) for part in parts if len(part) == 3 and part[0]]


# --- processes --------------------------------------------------------------------------------------

_announced: Dict[Entry, Path] = {}  # the application may change its environment before it withdraws


def announce(entry: Entry) -> Path:
    """Write `entry` where all can find it; returns its file. OSError if it cannot be written, such as on a full disk."""
    _check(entry.app)
    folder = runtime_dir()
    temporary = folder / f"{entry.app}.{entry.pid}.tmp"
    data = json.dumps(dataclasses.asdict(entry)).encode("ascii")
    try:
        os.unlink(temporary)  # of a process of the same pid that died on the way
    except FileNotFoundError:
        pass
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, folder / entry.name)
    except BaseException:
        os.unlink(temporary)
        raise
    _announced[entry] = folder / entry.name
    return folder / entry.name


def withdraw(entry: Entry) -> None:
    """Undo `announce`, and remove the socket beside it. Does nothing in a child that inherited `entry` by a fork."""
    path = _announced.pop(entry, None)
    if entry.pid != os.getpid():
        return
    if path is None:
        path = _location() / entry.name
    _unlink(path)
    _unlink(path.with_name(f"{entry.app}.{entry.pid}.sock"))


def processes(app: Optional[str] = None, known: Collection[str] = ()) -> List[Entry]:
    """The instrumented processes that are alive, of `app` or all, by app name and age; leftovers of others are removed.

    Those whose `Entry.name` is in `known` are left out, and not looked at. RuntimeDirError if the runtime dir is not private; [] if there
    is none.
    """
    folder = runtime_dir(create=False)
    found = []
    for name, middle, extension in _files(folder):
        if extension == "bell" and app in (None, name):
            _remove_dead_bell(folder / f"{name}.{middle}.bell")
        if (app is not None and name != app) or extension not in {"json", "sock", "tmp"} or not _is_pid(middle):
            continue
        if f"{name}.{middle}.json" in known:
            continue
        path = folder / f"{name}.{middle}.{extension}"
        stats = _stat(int(middle))
        if stats is None:
            _remove_leftover(path)
        elif extension == "json":
            entry = _read(path, name, int(middle), stats[1])
            if entry is not None:
                found.append(entry)
    return sorted(found, key=lambda entry: (entry.app, entry.since, entry.pid))


def is_announced(app: str, pid: int, member: str) -> bool:
    """Whether the process `pid` of `app` has announced that it joins as that session. Raises `RuntimeDirError`."""
    stats = _stat(pid) if _is_pid(str(pid)) else None
    if stats is None:
        return False
    entry = _read(runtime_dir(create=False) / f"{app}.{pid}.json", app, pid, stats[1])
    return entry is not None and bool(member) and entry.member == member


def _read(path: Path, app: str, pid: int, started: Optional[int]) -> Optional[Entry]:
    """The entry in the file of a live pid, or None if it is of another process that had the pid, or no entry at all."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # withdrawn since the folder was listed
    except OSError as error:
        _log.warning("%s: cannot be read (%s); skipped", path, error.strerror)
        return None
    try:
        status = os.fstat(descriptor)
        data = os.read(descriptor, _ENTRY_LIMIT + 1) if stat.S_ISREG(status.st_mode) else b""
        entry = _decode(data)
        if (entry.app, entry.pid) != (app, pid):
            raise ValueError(f"it names process {entry.pid} of {entry.app!r}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        _log.warning("%s: is no entry of an instrumented process (%s); skipped, and kept while pid %d lives", path, error, pid)
        return None
    finally:
        os.close(descriptor)
    if entry.started is not None and started is not None and entry.started != started:
        # Only the entry goes: the socket may be one that the pid's new process has just bound.
        _remove_leftover(path, status)
        return None
    return entry


def _decode(data: bytes) -> Entry:
    """The entry in `data`; any of ValueError, TypeError, KeyError, RecursionError, OverflowError if there is none."""
    if len(data) > _ENTRY_LIMIT:
        raise ValueError(f"it is larger than {_ENTRY_LIMIT} bytes")
    raw = json.loads(data)
    if not isinstance(raw, dict):
        raise TypeError("it is no JSON object")

    def field(name: str, *kinds: Type[Any]) -> Any:
        value = raw[name]
        if type(value) not in kinds:
            raise TypeError(f"{name} is {value!r}"[:200])
        return value

    argv = field("argv", list)
    if not all(isinstance(argument, str) for argument in argv):
        raise TypeError("argv is no list of strings")
    # Fields that a later version adds are ignored.
    return Entry(
        app=field("app", str),
        pid=field("pid", int),
        ppid=field("ppid", int),
        address=field("address", str),
        started=field("started", int, type(None)),
        since=float(field("since", int, float)),
        argv=tuple(argv),
        python=field("python", str),
        version=field("version", str),
        member=field("member", str) if "member" in raw else "",
    )


def find(name_or_pid: Union[str, int]) -> List[Entry]:
    """The live processes of the application of that name, or the one with that pid (as a number or as digits).

    ApplicationNotFoundError if there is none; it names what runs.
    """
    wanted = str(name_or_pid)
    running = processes()
    found = [entry for entry in running if wanted in {entry.app, str(entry.pid)}]
    if found:
        return found
    pids: Dict[str, List[str]] = {}
    for entry in running:
        pids.setdefault(entry.app, []).append(str(entry.pid))
    if not _is_pid(wanted):
        seen = f"no instrumented application is called {wanted!r}"
    elif _stat(int(wanted)) is None:
        seen = f"there is no process {wanted}"
    elif _may_be_starting(int(wanted)):
        seen = f"process {wanted} was started with the agent, but has not announced itself yet, or failed to, as its log says; {_WAIT}"
    else:
        seen = f"process {wanted} runs, but not with the agent in it"
    if not pids:
        start = f"start one with: xpc-instrument run --app NAME -- COMMAND; if it has just been started, {_WAIT}"
        folder = runtime_dir(create=False)
        raise ApplicationNotFoundError(f"{seen}; no instrumented application of this user runs (per {folder}); {start}")
    import difflib

    listed = ", ".join(f"{app} (pid {', '.join(numbers)})" for app, numbers in pids.items())
    near = difflib.get_close_matches(wanted[:100], list(pids), 1)
    hint = f"; did you mean {near[0]!r}?" if near else "" if _is_pid(wanted) else f"; if it has just been started, {_WAIT}"
    raise ApplicationNotFoundError(f"{seen}; these run: {listed}{hint}")


def _may_be_starting(pid: int) -> bool:
    """Whether the environment of a process has the agent start in it; False where that cannot be seen, as where there is no /proc."""
    try:
        environment = Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return False
    return any(one.startswith(b"XPC_INSTRUMENT_CONFIG_PACKED=") for one in environment.split(b"\0"))


def _is_pid(text: str) -> bool:
    """Whether `text` is a number that a process can have (at most 2**22 on Linux, 99998 on macOS), as we write it."""
    return text.isascii() and text.isdigit() and len(text) <= 9 and text[0] != "0"


def _stat(pid: int) -> Optional[Tuple[int, Optional[int]]]:
    """(pid, start time in ticks since boot, or None where there is no /proc) of a live process; None if it is dead.

    A zombie is dead: it runs no code and only waits for its parent.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # alive, and another user's
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name, field 2, is in parentheses and may hold anything, also spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.exists("/proc/self/stat") else (pid, None)
    except OSError:
        return pid, None
    return None if fields[0] in {b"Z", b"X"} else (pid, int(fields[19]))


def _remove_leftover(path: Path, seen: Optional[os.stat_result] = None) -> None:
    """Remove what a dead process left, unless there is another file than `seen` by now; no matter if that fails."""
    try:
        now = os.lstat(path)
        if seen is None or (now.st_ino, now.st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns):
            os.unlink(path)
            _log.debug("%s: removed, its process is dead", path)
    except FileNotFoundError:
        pass  # somebody else came by
    except OSError as error:
        _log.warning("%s: a dead process left it, and it cannot be removed (%s)", path, error.strerror)


def _unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # the aim is reached


# --- doorbells --------------------------------------------------------------------------------------


class Doorbell:
    """A session's ear for new processes of `app`: becomes readable when one rings. Not for use by several threads."""

    def __init__(self, app: str, session: str) -> None:
        """For the session of that identifier. RuntimeDirError or another OSError if it cannot be put up."""
        _check(app)
        folder = runtime_dir()
        self.app = app
        self._pid = os.getpid()
        self._socket = _socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self.path = _fits(folder / f"{app}.{bell_name(session)}.bell")
            self._socket.bind(os.fspath(self.path))
            os.chmod(self.path, 0o600)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor to wait on; -1 after `close`."""
        return self._socket.fileno()

    def drain(self) -> List[int]:
        """The pids that have rung since the last call, without waiting; [] if none has."""
        pids = []
        for _ in range(_RINGS_PER_DRAIN):
            try:
                text = self._socket.recv(64).decode("ascii", "replace")
            except (BlockingIOError, InterruptedError):
                break
            if _is_pid(text):
                pids.append(int(text))
            else:
                _log.warning("%s: somebody rang with %r; expected a pid; ignored", self.path, text)
        return pids

    def close(self) -> None:
        """Take it down; also twice. In a child that inherited it by a fork, only the descriptor is closed."""
        if self._socket.fileno() == -1:
            return
        self._socket.close()
        if self._pid == os.getpid():
            _unlink(self.path)

    def __enter__(self) -> Doorbell:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()


def bell_name(session: str) -> str:
    """The part of the doorbell's name that tells whose it is; short, since a socket's path is limited."""
    return session[:8]


def ring(app: str, pid: int) -> Set[str]:
    """Tell all sessions that wait for new processes of `app` about `pid`; the `bell_name`s of those alive. Never waits.

    RuntimeDirError if the runtime dir is not private; OSError if this process has no descriptor left.
    """
    folder = runtime_dir(create=False)
    bells = [middle for name, middle, kind in _files(folder) if (name, kind) == (app, "bell")]
    alive: Set[str] = set()
    if not bells:
        return alive
    with _socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for name in bells:
            bell = folder / f"{app}.{name}.bell"
            try:
                sender.sendto(str(pid).encode("ascii"), os.fspath(bell))
                alive.add(name)
            except (BlockingIOError, InterruptedError):
                alive.add(name)  # its queue is full: it will hear of this process when it lists them all
            except ConnectionRefusedError:
                # Linux says so of what is no socket, too.
                if _is_socket(bell):
                    _remove_leftover(bell)
                else:
                    _log.warning("%s: is no doorbell (it is no socket); skipped", bell)
            except FileNotFoundError:
                pass  # taken down since the folder was listed
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # a full queue, on the BSDs
                    alive.add(name)
                else:
                    _log.warning("%s: is no doorbell (%s); skipped", bell, error.strerror)
    return alive


def _remove_dead_bell(bell: Path) -> None:
    """Remove a doorbell whose session is gone; one that was never rung again would stay for ever."""
    with _socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.connect(os.fspath(bell))
        except ConnectionRefusedError:
            if _is_socket(bell):
                _remove_leftover(bell)
        except OSError as error:
            _log.debug("%s: cannot be looked at: %s", bell, error)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return True  # it has just gone: `_remove_leftover` takes that for done

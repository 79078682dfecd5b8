"""Where instrumented applications are found: a file in the runtime dir for each instrumented process.

For an application `shop`, the folder holds:

    shop.4711.json      the `Entry` of process 4711, written whole or not at all
    shop.4711.sock      its socket, if it listens at one of its own
    shop.1f2e3d4c.bell  a doorbell: a datagram socket of a session that wants to hear of new processes of `shop`; the
                        digits are the first of the session's identifier, and behind a `-` stands the root of the tree
                        of processes that it follows, if it has one by now

Rules:
- A session hears of every process: it binds its doorbell first and lists the processes second; a newborn process
  announces itself first and rings second.
- What dead processes left behind is removed by whoever comes by: an entry whose pid is gone or whose pid belongs to a
  process that started at another time, a doorbell that refuses. What belongs to a live pid is never removed, except the
  entry of its predecessor, which the start time tells from its own, or, of another program in its place (execve(2)), the stack.
- An entry of another pid namespace is alive if the socket beside it answers, and is never removed for any other reason; at a fixed
  address it is left to the processes of that namespace.
- A process writes its files once. Whoever deletes them, such as a cleaner of /tmp, hides it from new sessions until it starts again; those
  that have joined stay. `$XDG_RUNTIME_DIR` is cleaned by nobody.
- A fork inherits `Entry` objects. They belong to the process that made them: in a child, `withdraw` leaves the files alone.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import stat
import sys
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit
from typing import Any, Collection, Dict, Iterable, List, Optional, Tuple, Type, Union

from ..model.errors import ApplicationNotFoundError
from ..model.record import Record, as_dict, replace
from ..model.words import nearest
from ..unpatched import close, open_file, read, wall_clock
from ..version import __version__
from .doorbell import remove_dead_bell
from .folder import (
    VARIABLE,
    ProcessStat,
    RuntimeDirError,
    answers,
    check_app,
    files,
    is_pid,
    location,
    pid_namespace,
    process_stat,
    remove_leftover,
    runtime_folder,
    unlink,
)

_log = logging.getLogger("xpc_instrument")

# `xpc-instrument run` sets it to its pid, which becomes the program's.
MAIN_VARIABLE = "XPC_INSTRUMENT_MAIN_PID"

_ENTRY_LIMIT = 64 << 10  # bytes of an entry's file; `_own_argv` keeps far below

# How long an entry may take to be written, in seconds; a suspended machine apart, it takes microseconds.
_WRITING = 10.0

# What those need to know who look too early.
_WAIT = "wait for it with connect(..., timeout=SECONDS): a process that another one has started is found once it has imported a target"


class Entry(Record):
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
    """Its command line, shortened if it is very long; empty in the file while its agent is not loaded."""

    python: str
    """Its Python version, such as `3.11.7`."""

    version: str
    """Its version of xpc-instrument."""

    member: str = ""
    """As which session it joins the process that hosts its address; "" if it listens there itself. By that it proves to be the user's."""

    namespace: str = ""
    """The pid namespace in which `pid` and `started` are; "" where that cannot be told."""

    root: str = ""
    """What all processes have that belong together: the pid that `xpc-instrument run` had, which started this process or one above it, or
    of the process at the top of those that were attached to at once; "" of one that has started the agent itself."""

    stack: Optional[int] = None
    """Where its stack begins, which tells this program from another that it becomes; None where that cannot be told."""

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.app}.{self.pid}.json"

    @property
    def tree(self) -> Tuple[str, str]:
        """What is the same of all processes that one `xpc-instrument run` started, or that were attached to at once."""
        return self.namespace, self.root


# Of a process that was attached to; its children inherit it, and its environment is the application's.
_attached_root = ""


def own_root() -> str:
    """The `root` of the process that calls this."""
    return os.environ.get(MAIN_VARIABLE, "") or _attached_root


def belong_to(root: str) -> None:
    """This process is attached to, with those that have the same `root`; "" once it is so no more."""
    global _attached_root
    _attached_root = root


def own_entry(app: str, address: str, member: str = "") -> Entry:
    """The entry of the process that calls this; ConfigError if `app` is no app name."""
    check_app(app)
    pid = os.getpid()
    stats = process_stat(pid) or ProcessStat()
    python = ".".join(str(part) for part in sys.version_info[:3])
    return Entry(
        app,
        pid,
        os.getppid(),
        address,
        stats.started,
        wall_clock(),
        _own_argv(),
        python,
        __version__,
        member,
        pid_namespace(),
        own_root(),
        stats.stack,
    )


def _own_argv() -> Tuple[str, ...]:
    # While `site` runs, sys.argv may not exist yet; orig_argv (3.10+) does, and has the interpreter's own options too.
    argv = getattr(sys, "orig_argv", None) or getattr(sys, "argv", None) or [sys.executable]
    return _shortened(argv)


def _shortened(argv: Iterable[Any]) -> Tuple[str, ...]:
    return tuple(str(argument)[:200] for argument in itertools.islice(argv, 50))


_announced: Dict[Entry, str] = {}  # the application may change its environment before it withdraws


def announce(entry: Entry) -> str:
    """Write `entry` where all can find it; returns its file. RuntimeDirError if it cannot be written, such as on a full disk."""
    check_app(entry.app)
    folder = runtime_folder()
    try:
        _write(folder, entry, json.dumps(as_dict(entry)).encode("ascii"))
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise RuntimeDirError(f"runtime dir {folder}: {entry.name} cannot be written there: {error.strerror or error}{remedy}") from error
    _announced[entry] = f"{folder}/{entry.name}"
    return _announced[entry]


_REMEDIES = {
    errno.ENOSPC: f": make room there, or set {VARIABLE} to another folder",
    errno.EFBIG: " (RLIMIT_FSIZE): prlimit --pid PID --fsize=unlimited: allows larger ones",
}


def _write(folder: str, entry: Entry, data: bytes) -> None:
    temporary = f"{folder}/{entry.app}.{entry.pid}.tmp"
    longest = getrlimit(RLIMIT_FSIZE)[0]
    if longest != RLIM_INFINITY and longest < len(data):
        # Whoever writes more gets a signal, which ends a process that does not ignore it as Python does.
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    try:
        os.unlink(temporary)  # of a process of the same pid that died on the way
    except FileNotFoundError:
        pass
    descriptor = open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, f"{folder}/{entry.name}")
    except BaseException:
        os.unlink(temporary)
        raise


def withdraw(entry: Entry) -> None:
    """Undo `announce`, and remove the socket beside it. Does nothing in a child that inherited `entry` by a fork."""
    path = _announced.pop(entry, None)
    if entry.pid != os.getpid():
        return
    if path is None:
        path = f"{location()}/{entry.name}"
    unlink(path)
    unlink(f"{os.path.dirname(path)}/{entry.app}.{entry.pid}.sock")


def forget(address: str) -> None:
    """Remove what tells of a process at that address, which the agent has left: whoever attached from elsewhere has announced it here."""
    for entry in processes():
        if entry.address == address:
            unlink(f"{runtime_folder(create=False)}/{entry.name}")


def processes(app: Optional[str] = None, known: Collection[str] = (), elsewhere: bool = True) -> List[Entry]:
    """The instrumented processes that are alive, of `app` or all, by app name and age; leftovers of others are removed.

    Those whose `Entry.name` is in `known` are left out, and not looked at; without `elsewhere`, those of other pid namespaces too, whose
    sockets would be asked. RuntimeDirError if the runtime dir is not private; [] if there is none.
    """
    folder = runtime_folder(create=False)
    found = []
    for name, middle, extension in files(folder):
        if extension == "bell" and app in (None, name):
            remove_dead_bell(f"{folder}/{name}.{middle}.bell")
        if (app is not None and name != app) or extension not in {"json", "sock", "tmp"} or not is_pid(middle):
            continue
        if f"{name}.{middle}.json" in known:
            continue
        path = f"{folder}/{name}.{middle}.{extension}"
        if extension == "json":
            entry = _read(path, name, int(middle), elsewhere)
            if entry is not None:
                found.append(entry)
        elif process_stat(int(middle)) is None and not _may_be_used(path):
            remove_leftover(path)
    return sorted(found, key=lambda entry: (entry.app, entry.since, entry.pid))


def _may_be_used(path: str) -> bool:
    """Whether a socket, or an entry that is being written, may be that of a process in another pid namespace."""
    if path.endswith(".sock"):
        # What tells of it has been looked at before.
        return os.path.exists(f"{path[: -len('.sock')]}.json") or answers(path)
    try:
        return wall_clock() - os.lstat(path).st_mtime < _WRITING
    except FileNotFoundError:
        return True


def is_announced(app: str, pid: int, member: str) -> bool:
    """Whether the process `pid` of `app` has announced that it joins as that session. Raises `RuntimeDirError`."""
    if not is_pid(str(pid)):
        return False
    entry = _read(f"{runtime_folder(create=False)}/{app}.{pid}.json", app, pid, elsewhere=False)
    return entry is not None and bool(member) and entry.member == member


def _is_of_here(entry: Entry) -> bool:
    """Whether its pid means it here."""
    own = pid_namespace()
    return not entry.namespace or not own or entry.namespace == own


def _has_left(entry: Entry) -> bool:
    """Whether the agent has left a process that somebody else has announced here: root, or who is outside of its container."""
    socket = entry.address[len("unix:") :] if entry.address.startswith("unix:") else ""
    try:
        return bool(
            socket and (socket.startswith("/proc/") or os.stat(f"/proc/{entry.pid}").st_uid != os.geteuid()) and not os.path.exists(socket)
        )
    except OSError:
        return False  # it has just ended


def _read(path: str, app: str, pid: int, elsewhere: bool) -> Optional[Entry]:
    """The entry in a file, or None if there is none of a process that is alive, and here unless it may be `elsewhere`.

    What a dead one left is removed.
    """
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = open_file(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # withdrawn since the folder was listed
    except OSError as error:
        _log.warning("%s: cannot be read (%s); skipped", path, error.strerror)
        return None
    try:
        status = os.fstat(descriptor)
        data = read(descriptor, _ENTRY_LIMIT + 1) if stat.S_ISREG(status.st_mode) else b""
        entry = _decode(data)
        if (entry.app, entry.pid) != (app, pid):
            raise ValueError(f"it names process {entry.pid} of {entry.app!r}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        if process_stat(pid) is None:
            remove_leftover(path)
        else:
            _log.warning("%s: is no entry of an instrumented process (%s); skipped, and kept while pid %d lives", path, error, pid)
        return None
    finally:
        close(descriptor)
    if not _is_of_here(entry):
        return _of_elsewhere(entry, path, status) if elsewhere else None
    stats = process_stat(pid)
    if stats is None or _differ(entry.started, stats.started) or _differ(entry.stack, stats.stack):
        # Only the entry goes: the socket may be one that the pid's new process, or program, has just bound.
        remove_leftover(path, status)
        return None
    if _has_left(entry):
        remove_leftover(path, status)
        return None
    return entry if entry.argv else replace(entry, argv=_argv_of(pid))


def _argv_of(pid: int) -> Tuple[str, ...]:
    """The command line of a process that has not told it, as one whose agent is not loaded yet; () where it cannot be seen."""
    try:
        words = _content(f"/proc/{pid}/cmdline").split(b"\0")
    except OSError:
        return ()
    return _shortened(os.fsdecode(word) for word in words[:-1])


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _differ(announced: Optional[int], now: Optional[int]) -> bool:
    return announced is not None and now is not None and announced != now


def _of_elsewhere(entry: Entry, path: str, status: os.stat_result) -> Optional[Entry]:
    """The entry of another pid namespace, as it is to be reached from here; None if it is not, or cannot be told to be."""
    beside = f"{path[: -len('.json')]}.sock"
    if os.path.basename(entry.address) != os.path.basename(beside):
        return None
    if answers(beside):
        # The folder may have another name there.
        return replace(entry, address=f"unix:{beside}")
    remove_leftover(path, status)
    return None


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
        namespace=field("namespace", str) if "namespace" in raw else "",
        root=field("root", str) if "root" in raw else "",
        stack=field("stack", int, type(None)) if "stack" in raw else None,
    )


def find(name_or_pid: Union[str, int], advice: str = _WAIT) -> List[Entry]:
    """The live processes of the application of that name, or the one with that pid (as a number or as digits).

    ApplicationNotFoundError if there is none; it names what runs, and gives the `advice` where it may have just been started.
    """
    wanted = str(name_or_pid)
    # A pid means nothing elsewhere. Whoever waits for one asks often, and would be heard by all that listen there.
    running = processes(elsewhere=not is_pid(wanted))
    found = [entry for entry in running if wanted in {entry.app, str(entry.pid)}]
    if found:
        return found
    pids: Dict[str, List[str]] = {}
    for entry in running:
        pids.setdefault(entry.app, []).append(str(entry.pid))
    if not is_pid(wanted):
        seen = f"no instrumented application is called {wanted!r}"
    elif process_stat(int(wanted)) is None:
        seen = f"there is no process {wanted}"
    elif (owner := _other_owner(int(wanted))) is not None:
        seen = f"process {wanted} is that of another user, {owner}, whose applications only that user can hook: run this as {owner}"
    elif _may_be_starting(int(wanted)):
        hidden = "has not announced itself yet, or failed to, as its log says, or has become another program"
        seen = f"process {wanted} was started with the agent, but {hidden}; {advice}"
    else:
        seen = f"process {wanted} runs, but not with the agent in it: xpc-instrument attach {wanted}"
    if not pids:
        start = f"start one with: xpc-instrument run --app NAME -- COMMAND; if it has just been started, {advice}"
        folder = runtime_folder(create=False)
        raise ApplicationNotFoundError(f"{seen}; no instrumented application of this user runs (per {folder}); {start}")
    listed = ", ".join(f"{app} (pid {', '.join(numbers)})" for app, numbers in pids.items())
    near = nearest(wanted, pids)
    hint = f"; did you mean {near!r}?" if near else "" if is_pid(wanted) else f"; if it has just been started, {advice}"
    raise ApplicationNotFoundError(f"{seen}; these run: {listed}{hint}")


def _other_owner(pid: int) -> Optional[str]:
    """The user to whom a process belongs, if that is not this one; None too where it cannot be told."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    if owner == os.geteuid():
        return None
    import pwd

    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"uid {owner}"


def _may_be_starting(pid: int) -> bool:
    """Whether the environment of a process has the agent start in it; False where that cannot be seen, as where there is no /proc."""
    try:
        environment = _content(f"/proc/{pid}/environ")
    except OSError:
        return False
    return any(one.startswith(b"XPC_INSTRUMENT_CONFIG_PACKED=") for one in environment.split(b"\0"))

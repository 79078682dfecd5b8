"""The runtime dir: one folder per user, which nobody else may enter, and the files in it.

Rules:
- Mode 0700, owned by this uid, no symlink. Anything else is refused, not repaired.
- What a dead process left behind is removed by whoever comes by; what belongs to a live pid never is.
- A pid means a process in its own pid namespace only: containers that share the folder, as a volume, have others. What may be alive in
  another one is never removed; only its socket tells.
- Garbage in the folder is skipped and reported to the logger `xpc_instrument`; it neither blocks nor raises.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, List, Optional, Tuple

from ..model.errors import ConfigError, XpcError
from ..model.limits import SOCKET_PATH_LIMIT
from ..model.record import Record
from ..unpatched import Socket
from .name import app_mistake

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "XPC_INSTRUMENT_RUNTIME_DIR"

_log = logging.getLogger("xpc_instrument")


class RuntimeDirError(XpcError, OSError):
    """The runtime dir is not private to this user, or not usable for sockets."""


def runtime_dir(create: bool = True) -> Path:
    """As `runtime_folder`, for scripts; the agent does not import pathlib, which takes a tenth of what its first connection takes."""
    from pathlib import Path

    return Path(runtime_folder(create))


def runtime_folder(create: bool = True) -> str:
    """The runtime dir of this user, private as said above; made if it does not exist, unless `create` is false.

    `$XPC_INSTRUMENT_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/xpc-instrument` if that exists and is this user's (as its
    specification demands; `sudo` and containers pass on the name of a folder that is not), else
    `<tempdir>/xpc-instrument-<uid>`. RuntimeDirError if it is not private; another OSError if it cannot be made.
    """
    path = location()
    if create:
        try:
            if VARIABLE in os.environ or _stays_in is not None:
                os.makedirs(os.path.dirname(path), exist_ok=True)
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


_stays_in: Optional[str] = None


def stay_in(folder: Optional[str]) -> None:
    """The runtime dir of this process is that one from now on, whatever its environment says; None: what the environment says.

    So a process that was attached to is found by whoever attached, and its environment, which its children inherit, is not touched.
    """
    global _stays_in
    _stays_in = folder


def location() -> str:
    if _stays_in is not None:
        return _stays_in
    explicit = os.environ.get(VARIABLE)
    if explicit:
        if not os.path.isabs(explicit):
            # A relative path would mean another folder to each process.
            raise RuntimeDirError(f"{VARIABLE}={explicit}: it is a relative path; expected an absolute one")
        return _tidy(explicit)
    xdg = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(xdg):
        try:
            status = os.stat(xdg)
        except OSError:
            status = None
        if status is not None and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            return _tidy(f"{xdg}/xpc-instrument")
    # As tempfile.gettempdir chooses, without importing it: that costs an application's start-up some milliseconds.
    candidates = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    temporary = next((c for c in candidates if os.path.isabs(c) and os.access(c, os.W_OK | os.X_OK)), "/tmp")  # noqa: S108 - made private by runtime_dir
    return _tidy(f"{temporary}/xpc-instrument-{os.geteuid()}")


def _tidy(path: str) -> str:
    """An absolute path as pathlib spells it: one text for one folder, but for links and `..`."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def socket_path(app: str, pid: Optional[int] = None) -> str:
    """Where the process `pid` (this one, if None) of `app` listens; RuntimeDirError if that is too long for a socket."""
    check_app(app)
    return bound_path(f"{runtime_folder()}/{app}.{os.getpid() if pid is None else pid}.sock")


def bound_path(path: str) -> str:
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        remedy = f"set {VARIABLE} to a shorter folder, or choose a shorter app name"
        raise RuntimeDirError(f"{path}: {length} bytes; expected at most {SOCKET_PATH_LIMIT} for a unix socket: {remedy}")
    return path


def check_app(app: str) -> None:
    wrong = app_mistake(app)
    if wrong:
        raise ConfigError(f"{app!r} {wrong}")


def files(folder: str) -> List[Tuple[str, str, str]]:
    """The files that are named like ours: (app, what is in the middle, extension); app names may have dots themselves."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    parts = [name.rsplit(".", 2) for name in names]
    return [(part[0], part[1], part[2]) for part in parts if len(part) == 3 and part[0]]


def is_pid(text: str) -> bool:
    """Whether `text` is a number that a process can have (at most 2**22 on Linux, 99998 on macOS), as we write it."""
    return text.isascii() and text.isdigit() and len(text) <= 9 and text[0] != "0"


class ProcessStat(Record):
    """What the kernel tells of a live process (proc(5), stat); None where it does not."""

    started: Optional[int] = None
    """Its start, in ticks since boot."""

    stack: Optional[int] = None
    """Where its stack begins: at a random place, which changes only when it becomes another program (execve(2))."""


def process_stat(pid: int) -> Optional[ProcessStat]:
    """Of a live process; None if it is dead. A zombie is dead: it runs no code and only waits for its parent."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # alive, and another user's
    try:
        # One of another pid namespace, as after `unshare --pid` without a mount of its own, numbers processes otherwise.
        if os.readlink("/proc/self") != str(os.getpid()):
            return ProcessStat()
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name, field 2, is in parentheses and may hold anything, also spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.exists("/proc/self/stat") else ProcessStat()
    except OSError:
        return ProcessStat()
    # The second is 0 to those who may not see it.
    return None if fields[0] in {b"Z", b"X"} else ProcessStat(int(fields[19]), int(fields[25]) or None)


def pid_namespace() -> str:
    """Where the pid of this process means it and no other, as the kernel names that (pid_namespaces(7)); "" where it does not tell."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def answers(path: str) -> bool:
    """Whether a process listens at a socket; True also where that cannot be told, such as at one of another user."""
    with Socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # A full backlog (EAGAIN): somebody is there.
            pass
    return True


def remove_leftover(path: str, seen: Optional[os.stat_result] = None) -> None:
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


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # the aim is reached


def is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return True  # it has just gone: `remove_leftover` takes that for done

"""The folder through which a process that is attached to is told what to do, and answers.

Rules:
- Its name cannot be guessed, it is 0700 and its files 0600. Where root attaches to another user's process they are that user's.
- It lies where the target sees it: in its root and mount namespace. No symbolic link of the target's is followed on the way there.
- It is gone when the target has answered, or the time is over; who comes too late finds nothing to do.
- It is locked by whoever attaches. One that is not is what a killed one has left, and is removed by the next.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import secrets
import select
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

from ..core.model.errors import AttachError

# Where a folder can be made in another mount namespace, in this order.
_PLACES = ("tmp", "var/tmp", "dev/shm", "run")
_PREFIX = "xpc-attach-"
NO_PLACE = "no folder can be made that it sees"
MOUNT = "make room in its /tmp, mount a tmpfs there in its container, or make that folder in its root"
# What is written there, in bytes: where the target does not see our files, all modules of the agent.
_ROOM, _ROOM_FOR_SOURCES = 128 << 10, 4 << 20
_FULL = "it has no room left"
# How old a folder is that nobody has locked and that is not just being made, in seconds.
_ABANDONED = 10.0
# The same of what waits for a main thread to run it.
_LEFT = 86400.0
_PACKAGES = ("xpc_agent", "xpc_instrument", "wrapt", "cloudpickle")
# What the agent does not import.
_ASIDE = ("xpc_instrument.cli", "xpc_instrument.script", "xpc_instrument.attaching")
# What a report has, unless it says why there is none; it has at most 4 KB (`bootstrap/attached.py`).
_REPORT = {
    "thread": int,
    "app": str,
    "address": str,
    "folder": str,
    "python": str,
    "modules": int,
    "already": bool,
    "version": str,
    "root": str,
}
# The same of one that was to take the agent out.
_FAREWELL = {"thread": int, "app": str}
_LONGEST_REPORT = 16 << 10
_FILES = ("start.py", "attached.py", "remote.py", "needed.py", "job.json", "sources.json", "report")


def sees_the_same(pid: int) -> bool:
    """Whether a process sees the files that this one sees, under the same names."""
    try:
        mounts = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        return mounts and os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))
    except OSError:
        return False


def has_place(pid: int, is_own: bool) -> bool:
    """Whether such a folder can be made for a process, which is this user's or not; none is."""
    is_shared = sees_the_same(pid)
    for place in _places(is_own and is_shared):
        try:
            folder = _open_place(pid, place)
        except OSError:
            continue
        try:
            if os.access(f"/proc/self/fd/{folder}", os.W_OK | os.X_OK) and _has_room(folder, is_own and is_shared):
                return True
        finally:
            os.close(folder)
    return False


def _places(is_ours: bool) -> List[str]:
    """Where a folder may be made: the one for such first, where the target sees what this process sees."""
    try:
        own = [os.path.realpath(tempfile.gettempdir()).lstrip("/")] if is_ours else []
    except FileNotFoundError:
        own = []  # this process may not write anywhere: said when it tries
    return [*own, *_PLACES]


def _has_room(folder: int, is_ours: bool) -> bool:
    """Whether the file system of a folder has room for all that is written, where the target sees our files or not."""
    room = os.fstatvfs(folder)
    # One without a bound has no blocks, or no files, to count.
    fits = not room.f_blocks or room.f_bavail * room.f_frsize >= (_ROOM if is_ours else _ROOM_FOR_SOURCES)
    return fits and (not room.f_files or room.f_favail > len(_FILES))


def _open_place(pid: int, place: str) -> int:
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _walk(root, place)
    finally:
        os.close(root)


class Job:
    """One such folder. A context manager: at its end it is removed. `AttachError` if none can be made."""

    def __init__(self, pid: int, uid: int, gid: int, leaves: bool = False) -> None:
        self.pid = pid
        self._leaves = leaves
        self.is_shared = sees_the_same(pid)
        """Whether the target sees our files."""
        self._others = (uid, gid) if uid != os.geteuid() else None
        name = f"{_PREFIX}{secrets.token_hex(8)}"
        parent, self.path = self._make(name)
        """The folder, as the target knows it."""
        self._parent, self._name = parent, name
        self._left = ""
        try:
            self._folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._others:
                os.fchown(self._folder, *self._others)
            os.mkfifo("report", 0o600, dir_fd=self._folder)
            self._own("report")
            self._report = os.open("report", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        except BaseException:
            _remove(parent, name)
            os.close(parent)
            raise
        _remove_leftovers(parent)

    def _make(self, name: str) -> Tuple[int, str]:
        """A folder of that name; the descriptor of the one that it is in, and its path as the target knows it."""
        problem = ""
        is_ours = self.is_shared and not self._others
        for place in _places(is_ours):
            try:
                parent = _open_place(self.pid, place)
            except OSError as error:
                problem = problem or f"/{place}: {error.strerror}"
                continue
            try:
                if not _has_room(parent, is_ours):
                    raise OSError(errno.ENOSPC, _FULL)
                os.mkdir(name, 0o700, dir_fd=parent)
                return parent, f"/{place}/{name}"
            except OSError as error:
                problem = problem or f"/{place}: {error.strerror}"
                os.close(parent)
        raise AttachError(f"process {self.pid} cannot be attached to: {NO_PLACE} ({problem}); {MOUNT}")

    def _own(self, name: str) -> None:
        if self._others:
            os.chown(name, *self._others, dir_fd=self._folder, follow_symlinks=False)

    def write(self, name: str, text: str) -> str:
        """Make a file; its path as the target knows it."""
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            self._own(name)
        except OSError as error:
            raise AttachError(
                f"process {self.pid} cannot be attached to: {self.path}/{name} cannot be written: {error.strerror}"
            ) from error
        return f"{self.path}/{name}"

    def leave(self, name: str, text: str) -> None:
        """Have a file of another text stay when all else is removed; it is to remove itself and the folder."""
        descriptor = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        self._left = name

    def await_report(self, deadline: float) -> Optional[Mapping[str, Any]]:
        """What the target says; None if it says nothing until then. `AttachError` if it ends meanwhile."""
        data = b""
        poll = select.poll()
        poll.register(self._report, select.POLLIN)
        try:
            process = os.pidfd_open(self.pid)
        except OSError:
            raise AttachError(f"process {self.pid} has ended while it was attached to") from None
        try:
            poll.register(process, select.POLLIN)
            while b"\n" not in data and len(data) <= _LONGEST_REPORT:
                ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
                if self._report in ready:
                    piece = os.read(self._report, 4096)
                    data += piece
                    if b"\n" in data or (data and not piece):
                        break
                    # Its writer has gone without a word: the thread was ended with its process, or somebody else has opened the pipe.
                    if not piece:
                        time.sleep(0.001)
                if process in ready:
                    raise AttachError(f"process {self.pid} has ended while it was attached to")
                if time.monotonic() > deadline:
                    return None
        finally:
            os.close(process)
        # Where it was begun twice (`Injection.run_again`), there are two.
        return _checked(self.pid, data.partition(b"\n")[0], _FAREWELL if self._leaves else _REPORT)

    def has(self, name: str) -> bool:
        """Whether a file is there still."""
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @property
    def has_begun(self) -> bool:
        """Whether the target has the pipe open: it is at work, and has not reported yet."""
        wanted = os.fstat(self._report)
        try:
            for name in os.listdir(f"/proc/{self.pid}/fd"):
                try:
                    found = os.stat(f"/proc/{self.pid}/fd/{name}")
                except OSError:
                    continue  # closed since
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
        except OSError:
            pass  # it has ended
        return False

    def close(self) -> None:
        """Remove it."""
        os.close(self._report)
        _remove(self._parent, self._name, self._left)
        os.close(self._folder)
        os.close(self._parent)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()


def _checked(pid: int, text: bytes, expected: Mapping[str, type]) -> Mapping[str, Any]:
    """A report, which the target may have written as it liked. Raises `AttachError` for what is none."""
    try:
        report = json.loads(text)
        wanted = {"thread": int} if report.get("refusal") or report.get("error") else expected
        if all(type(report.get(name)) is kind for name, kind in wanted.items()):
            return dict(report)
    except (ValueError, AttributeError, RecursionError):
        pass
    raise AttachError(f"process {pid}: its answer is not what the agent says: {text[:100]!r}")


def _remove(parent: int, name: str, left: str = "") -> None:
    """Remove a folder of a job, which the target may remove too; or all in it but one file."""
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            for file in _FILES:
                try:
                    if file != left:
                        os.unlink(file, dir_fd=folder)
                except FileNotFoundError:
                    pass
        finally:
            os.close(folder)
        if not left:
            os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _remove_leftovers(parent: int) -> None:
    """Remove the folders of those that were killed while they attached."""
    for name in os.listdir(parent):
        if not name.startswith(_PREFIX):
            continue
        try:
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                # One that is just being made is not locked yet.
                age = time.time() - os.fstat(folder).st_mtime
                if age > (_LEFT if os.listdir(folder) == ["remote.py"] else _ABANDONED):
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(parent, name)
            finally:
                os.close(folder)
        except OSError:
            continue  # in use, or another user's


def _walk(root: int, place: str) -> int:
    """The descriptor of a folder below another one, without following a symbolic link. OSError if there is none, or one is on the way."""
    folder = os.dup(root)
    for name in filter(None, place.split("/")):
        try:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    return folder


def folders() -> Dict[str, str]:
    """The folder in which each package lies that the agent needs, by its name. `AttachError` if one is not to be found."""
    found = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise AttachError(f"the package {name}, which the agent needs, cannot be found: install xpc-instrument again")
        found[name] = os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))
    return found


def sources() -> Dict[str, Tuple[bool, str, str]]:
    """(whether it is a package, its text, its file here) of each module that the agent may import, by name."""
    found: Dict[str, Tuple[bool, str, str]] = {}
    for name, folder in folders().items():
        for path in sorted(Path(folder, name).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if package else parts)
            if not module.startswith(_ASIDE):
                found[module] = package, path.read_text(encoding="utf-8"), str(path)
                parent = module.rpartition(".")[0]
                if parent and not (path.parent / "__init__.py").exists():
                    # One without a file, which the system of imports makes of its folder.
                    found[parent] = True, "", str(path.parent / "__init__.py")
    return found

"""Files that hold a secret: who may own one, who may read it, and the key in it."""

from __future__ import annotations

import os
import stat
from typing import Optional, Tuple, Union

from ..model.errors import ConfigError

FilePath = Union[str, os.PathLike[str]]


def secret_mistake(path: FilePath, status: os.stat_result, uid: Optional[int] = None) -> Optional[Tuple[str, str]]:
    """What is wrong with the owner or the mode of a file that holds a secret of the user `uid` (the effective one), and the remedy.

    Its owner can change it, so that is the user, or root, who can do everything. Nobody else may read it, but for the group of a file of
    root's: so root hands secrets to a container that runs as another user.
    """
    # A system without the one has the other.
    uid = getattr(os, "geteuid", os.getuid)() if uid is None else uid
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (uid, 0):
        seen = f"belongs to uid {status.st_uid}, who could put another key there"
        return seen, f"expected a file of this user's (uid {uid}) or root's: make a copy, or chown {uid} {path}"
    granted = 0o040 if status.st_uid != uid else 0
    if mode & 0o077 & ~granted:
        private = (
            f"mount it with mode 0440 and a group of this process, or with uid {uid} and mode 0400" if granted else f"chmod 600 {path}"
        )
        return f"other users have access (mode {mode:04o})", f"make it private: {private}"
    return None


_KEY_FILE_LIMIT = 64 << 10  # bytes


def open_at_once(path: str, flags: int) -> int:
    """For `open`: a FIFO is opened without waiting for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_key(path: FilePath) -> bytes:
    """The key in a file, less one newline at its end.

    ConfigError if the file is missing, unreadable, no regular file, empty, over 64 KiB, open to others, or another user's.
    """

    def refuse(seen: str, remedy: str) -> ConfigError:
        return ConfigError(f"{path}: manager.authkey-file: {seen}; {remedy}")

    try:
        with open(path, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise refuse("is no regular file", "expected a file that holds the key")
            wrong = secret_mistake(path, status) if os.name == "posix" else None
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

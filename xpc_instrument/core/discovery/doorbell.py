"""Doorbells: how a session hears of new processes of an application without asking for them again and again.

A doorbell is a datagram socket in the runtime dir; a newborn process sends its pid to all of its application's, but for those that follow
another application of the same name, which the name of the bell tells. What a fork inherits
belongs to the process that made it: in a child, `Doorbell.close` leaves the file alone.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from types import TracebackType
from typing import List, Optional, Set, Type

from ..unpatched import Socket
from .folder import RuntimeDirError, bound_path, check_app, files, is_pid, is_socket, process_stat, remove_leftover, runtime_folder, unlink

_log = logging.getLogger("xpc_instrument")
_RINGS_PER_DRAIN = 1_000  # a flood must not keep `drain` from returning; select tells that there are more


class Doorbell:
    """A session's ear for new processes of `app`: becomes readable when one rings. Not for use by several threads."""

    def __init__(self, app: str, session: str) -> None:
        """For the session of that identifier. RuntimeDirError or another OSError if it cannot be put up."""
        check_app(app)
        folder = runtime_folder()
        self.app = app
        self._name = bell_name(session)
        self._pid = os.getpid()
        self._socket = Socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self.path = bound_path(f"{folder}/{app}.{self._name}.bell")
            self._socket.bind(self.path)
            os.chmod(self.path, 0o600)
        except BaseException:
            self._socket.close()
            raise

    def follow(self, root: str) -> None:
        """Only processes of the tree with that root have to ring, while it lives: the others need not wait for anybody."""
        path = f"{os.path.dirname(self.path)}/{self.app}.{self._name}-{root or '0'}.bell"
        try:
            os.rename(self.path, bound_path(path))
        except (RuntimeDirError, OSError) as error:
            _log.debug("%s: keeps its name (%s)", self.path, error)
        else:
            self.path = path

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
            if is_pid(text):
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
            unlink(self.path)

    def __enter__(self) -> Doorbell:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()


def bell_name(session: str) -> str:
    """The part of the doorbell's name that tells whose it is; short, since a socket's path is limited."""
    return session[:8]


def is_meant(middle: str, root: str) -> bool:
    """Whether a bell of that name is for processes of the tree with that root: it follows this one, or any, or one whose root has ended."""
    followed = middle.partition("-")[2]
    return followed in ("", root or "0") or (is_pid(followed) and process_stat(int(followed)) is None)


def ring(app: str, pid: int, root: str = "") -> Set[str]:
    """Tell all sessions that wait for new processes of `app` about `pid`, of the tree with that root; the `bell_name`s of those alive.

    Never waits.

    RuntimeDirError if the runtime dir is not private; OSError if this process has no descriptor left.
    """
    folder = runtime_folder(create=False)
    bells = [middle for name, middle, kind in files(folder) if (name, kind) == (app, "bell") and is_meant(middle, root)]
    alive: Set[str] = set()
    if not bells:
        return alive
    with Socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for name in bells:
            bell = f"{folder}/{app}.{name}.bell"
            try:
                sender.sendto(str(pid).encode("ascii"), bell)
                alive.add(bell_name(name))
            except (BlockingIOError, InterruptedError):
                alive.add(bell_name(name))  # its queue is full: it will hear of this process when it lists them all
            except ConnectionRefusedError:
                # Linux says so of what is no socket, too.
                if is_socket(bell):
                    remove_leftover(bell)
                else:
                    _log.warning("%s: is no doorbell (it is no socket); skipped", bell)
            except FileNotFoundError:
                pass  # taken down since the folder was listed
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # a full queue, on the BSDs
                    alive.add(bell_name(name))
                else:
                    _log.warning("%s: is no doorbell (%s); skipped", bell, error.strerror)
    return alive


def remove_dead_bell(bell: str) -> None:
    """Remove a doorbell whose session is gone; one that was never rung again would stay for ever."""
    with Socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.connect(bell)
        except ConnectionRefusedError:
            if is_socket(bell):
                remove_leftover(bell)
        except OSError as error:
            _log.debug("%s: cannot be looked at: %s", bell, error)

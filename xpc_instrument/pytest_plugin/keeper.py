"""Ends what a test run has started: a process and all that it started in turn, also where the test run itself was killed.

The plugin runs this file as a process of its own beside each application: `keeper.py PID FILE`. Its standard input is a pipe of which the
test run holds the other end. A byte on it says that the application has been ended; the end of the pipe without one says that the test run
is gone. It imports nothing but the standard library, so that it starts in the time of a bare interpreter.

Rules:
- What belongs to the application is known by its environment: `xpc-instrument run` leaves its pid in it, which becomes the application's,
  and whatever the application starts inherits that. Where there is no /proc, it is the process group.
- First the application is asked (SIGTERM), as a service manager would, since it may have workers of its own to end and requests to answer;
  then whatever it leaves is; and what is left when that has taken too long is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import List, Tuple

# `xpc-instrument run` sets it to its pid, which becomes the program's.
MARK = "XPC_INSTRUMENT_MAIN_PID"

# How long the application may take to end once it is asked, in seconds; uvicorn and gunicorn wait for requests that are under way.
PATIENCE = 5.0

_LOOK_AGAIN = 0.02


def started_at(pid: int) -> bytes:
    """When the process began, as the kernel tells it (proc(5), stat); b"" if it has ended, or where there is no /proc."""
    state, started = _stat(pid)
    return b"" if state in {b"Z", b"X"} else started


def members(pid: int, started: bytes) -> List[int]:
    """The processes that are alive and belong to the application: the one that began as `pid` then, and those that have its mark."""
    mark = f"{MARK}={pid}".encode()
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue  # it has ended, or is another user's
        began = started_at(int(name))
        if began and ((int(name) == pid and began == started) or mark in environment.split(b"\0")):
            found.append(int(name))
    return found


def end(pid: int, started: bytes, patience: float = PATIENCE) -> None:
    """End the application that began as `pid` at that time, and all that belongs to it; returns when none of it runs any more."""
    if not started or started_at(pid) == started:
        # Else it has ended, and what has its pid now is another.
        _signal(pid, signal.SIGTERM)
    until = time.monotonic() + patience
    while started and started_at(pid) == started and time.monotonic() < until:
        time.sleep(_LOOK_AGAIN)
    for one in members(pid, started):
        _signal(one, signal.SIGTERM)
    if _gone(pid, started, patience / 5):
        return
    while True:
        for one in members(pid, started):
            _signal(one, signal.SIGKILL)
        if not os.path.isdir("/proc"):
            _signal(-pid, signal.SIGKILL)
        if _gone(pid, started, _LOOK_AGAIN):
            return


def _stat(pid: int) -> Tuple[bytes, bytes]:
    """Its state and when it began; b"" where that cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of its command may hold anything, parentheses too.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return b"", b""
    return fields[0], fields[19]


def _gone(pid: int, started: bytes, seconds: float) -> bool:
    """Whether all of it has ended within so many seconds."""
    end_of_waiting = time.monotonic() + seconds
    while members(pid, started):
        if time.monotonic() >= end_of_waiting:
            return False
        time.sleep(_LOOK_AGAIN)
    return True


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, and its pid may be another's by now


def main(pid: int, printed: str) -> None:
    """Wait for the test run to say that the application has been ended, or to be gone. `printed` is the file of its output."""
    started = started_at(pid)
    # Ctrl-C in the terminal is for the test run, which ends the application then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not os.read(0, 1):
        end(pid, started)
        os.unlink(printed)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

"""The memory of a hot lane: its layout, how it is made, and what a side that is passed one checks before it maps it.

Rules:
- It is a memfd, made and sealed against resizing by the listening side, and passed to the dialling one with WELCOME (`opening`).
- Each direction has a byte with the number of the frame that is there, a byte in which its reader says that it polls, and a slot for one
  frame. `hot` says in which order they are written and read.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from typing import Any, Dict, Tuple

from ..model.errors import ChannelError
from ..model.interrupts import raise_interrupt
from ..protocol.codec import HEADER
from ..unpatched import close

try:
    import fcntl
    import resource
except ImportError:  # not on this system, where lanes are plain
    fcntl = None  # type: ignore[assignment,unused-ignore]

# Where things are. Each byte has a cache line of its own, and a slot begins with a page. Of each pair the first is of the direction in
# which the listening side writes.
NUMBERS = (0, 64)
POLLS = (128, 192)
THREAD = 256  # the native identifier of the listening side's thread, in 4 bytes
TAKEN = 320  # 1 once the dialling side has the memory
SPIN = 384  # the listening side's `hot_spin` in nanoseconds, in 8 bytes
SLOTS = (4096, 4096 + 68 * 1024)
# A frame's body at most, and the frame with its header.
LONGEST_BODY = 64 * 1024
LONGEST_FRAME = HEADER.size + LONGEST_BODY
SIZE = 4096 + 2 * 68 * 1024


def why_plain() -> str:
    """Why this process cannot have hot lanes as it is now; empty if it can."""
    if not sys.platform.startswith("linux") or not hasattr(os, "memfd_create") or not hasattr(fcntl, "F_ADD_SEALS"):
        return "this system has no sealed memory (memfd)"
    # Not `platform.machine()`: before Python 3.10 that module loads `subprocess` into the application.
    machine = os.uname().machine
    if machine != "x86_64":
        return f"the order of stores on {machine} is not what hot lanes rely on"
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        # The mapping is used without a lock of its own, and may be let go of by another thread.
        return "this Python runs without the GIL of CPython"
    if len(os.sched_getaffinity(0)) < 2:
        return "this process may run on one processor only"
    return ""


_seals = 0 if fcntl is None else getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0) | getattr(fcntl, "F_SEAL_SEAL", 0)


# Before Python 3.13 a mapping keeps a descriptor of its own.
_NO_DESCRIPTOR: Dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


# Of each mapping that keeps one: (the descriptor, what tells its file from any other), by the mapping's `id`.
_kept: Dict[int, Tuple[int, Tuple[int, int]]] = {}
# Mappings whose descriptor the application has closed, and has perhaps a file of its own at.
_left: Dict[int, mmap.mmap] = {}


def _mapped(descriptor: int) -> mmap.mmap:
    if _NO_DESCRIPTOR:
        return mmap.mmap(descriptor, SIZE, **_NO_DESCRIPTOR)
    # It takes the first number that is free.
    number = os.dup(descriptor)
    close(number)
    memory = mmap.mmap(descriptor, SIZE)
    identity = _identity_of(descriptor)
    if _identity_of(number) != identity:
        # Another thread was faster.
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
        number = next((other for other in numbers if other != descriptor and _identity_of(other) == identity), -1)
    _kept[id(memory)] = number, identity
    return memory


def _identity_of(descriptor: int) -> Tuple[int, int]:
    try:
        facts = os.fstat(descriptor)
    except OSError as error:
        raise_interrupt(error, of_values=True)
        return -1, -1
    return facts.st_dev, facts.st_ino


def let_go(memory: mmap.mmap) -> None:
    """Close a mapping: whoever uses it gets a `ValueError`. Its descriptor is closed with it unless that is another file's by now.

    An application may close all descriptors, as daemons do, and what it opens next has their numbers. Such a mapping stays.
    """
    number, identity = _kept.get(id(memory), (-1, (-1, -1)))
    if number >= 0 and _identity_of(number) != identity:
        _left[id(memory)] = memory
    else:
        memory.close()
        _kept.pop(id(memory), None)


def make_memory() -> Tuple[int, mmap.mmap]:
    """A new sealed memory: its descriptor, to be passed on and closed, and the mapping. Raises `OSError`."""
    longest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if longest != resource.RLIM_INFINITY and longest < SIZE:
        # Whoever asks for more gets a signal, which ends a process that does not ignore it as Python does.
        raise OSError(errno.EFBIG, f"files of this process may have {longest} bytes (RLIMIT_FSIZE), and it needs {SIZE}")
    descriptor = os.memfd_create("xpc-instrument lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # All of it now: a page that cannot be had later, where memory is short, would end this process with a signal.
        os.posix_fallocate(descriptor, 0, SIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals)
        return descriptor, _mapped(descriptor)
    except BaseException:
        close(descriptor)
        raise


def take_memory(descriptor: int) -> mmap.mmap:
    """The mapping of a memory that came from the other side; closes the descriptor. Raises `ChannelError` if it is not as it must be."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        if seals & _seals != _seals or os.fstat(descriptor).st_size != SIZE:
            # One that can shrink would end this process with a signal.
            raise ChannelError("the other side passed a memory that is not sealed, or has another size")
        return _mapped(descriptor)
    except OSError as error:
        raise ChannelError(f"the other side passed no memory that can be mapped: {error}") from error
    finally:
        close(descriptor)

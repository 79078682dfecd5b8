"""One thread of another process, stopped by ptrace(2) through ctypes (x86-64 Linux).

Rules:
- It is seized, not attached to: no signal is sent to it, and none is lost. One that is just being delivered is delivered when it goes on.
- It may be held back for a moment at the start of a thread of its own. Then the kernel has seized that one too, for so long.
- All is done by the thread of ours that has seized it, and when that ends the kernel lets it go on.
- `wait` asks for the stop itself, and not for news of a child only, which another thread of ours may take.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time
from typing import Callable, Dict, Optional, Tuple

_PTRACE_CONT, _PTRACE_GETREGS, _PTRACE_SETREGS, _PTRACE_DETACH = 7, 12, 13, 17
_PTRACE_SETOPTIONS, _PTRACE_GETEVENTMSG = 0x4200, 0x4201
_PTRACE_O_TRACECLONE, _PTRACE_EVENT_CLONE = 1 << 3, 3
_PTRACE_GETSIGINFO, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 0x4202, 0x4206, 0x4207
_PTRACE_GETSIGMASK, _PTRACE_SETSIGMASK = 0x420A, 0x420B
_PTRACE_EVENT_STOP = 128
_WALL = 0x40000000
# The order of `struct user_regs_struct` (sys/user.h).
_REGISTERS = [
    "r15",
    "r14",
    "r13",
    "r12",
    "rbp",
    "rbx",
    "r11",
    "r10",
    "r9",
    "r8",
    "rax",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "orig_rax",
    "rip",
    "cs",
    "eflags",
    "rsp",
    "ss",
    "fs_base",
    "gs_base",
    "ds",
    "es",
    "fs",
    "gs",
]
# How long a thread may take to stop, in seconds: it needs microseconds, unless it waits for a disk or for a child of vfork(2).
_STOPPING = 0.2
# Between two looks, in seconds.
_LOOK_AGAIN = 0.00005


class ThreadGoneError(Exception):
    """The thread has ended, or does not stop now; nothing was done to it."""


_libc: Optional[ctypes.CDLL] = None


def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """The system call. OSError if it fails."""
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.ptrace.restype = ctypes.c_long
        _libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ctypes.set_errno(0)
    result = int(_libc.ptrace(request, tid, address, data))
    number = ctypes.get_errno()
    if result == -1 and number:
        raise OSError(number, f"ptrace({request:#x}) of {tid}: {os.strerror(number)}")
    return result


class StoppedThread:
    """A thread that stands still from here until `let_go`. OSError if it may not be traced; ThreadGoneError."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self._signal = 0
        # Whether it stands still for us alone, and not for a signal that is being delivered to it or has stopped it.
        self.is_touchable = False
        try:
            ptrace(_PTRACE_SEIZE, tid)
        except ProcessLookupError:
            raise ThreadGoneError from None
        try:
            ptrace(_PTRACE_INTERRUPT, tid)
            self._wait()
        except ProcessLookupError:
            raise ThreadGoneError from None

    def _wait(self) -> None:
        number, code = self._await_stop(self.tid)
        if number and code >> 8 != _PTRACE_EVENT_STOP:
            # On its way to the handler of a signal, which it gets when it is let go.
            self._signal = number
        self.is_touchable = code == _PTRACE_EVENT_STOP << 8 | signal.SIGTRAP

    @staticmethod
    def _await_stop(tid: int) -> Tuple[int, int]:
        """Wait until a thread stands still; the number and the code of what stopped it (siginfo)."""
        # struct siginfo: signo, errno, code, in 128 bytes.
        buffer = ctypes.create_string_buffer(128)
        end = time.monotonic() + _STOPPING
        while True:
            try:
                # So that no zombie is left of one that ends.
                pid, status = os.waitpid(tid, _WALL | os.WNOHANG)
                if pid and not os.WIFSTOPPED(status):
                    raise ThreadGoneError
            except ChildProcessError:
                raise ThreadGoneError from None
            try:
                ptrace(_PTRACE_GETSIGINFO, tid, 0, ctypes.addressof(buffer))
                break
            except OSError as error:
                if error.errno == errno.EINVAL:
                    # Stopped, with its whole process, by a signal.
                    break
                if error.errno != errno.ESRCH:
                    raise
            if time.monotonic() > end:
                raise ThreadGoneError
            time.sleep(_LOOK_AGAIN)
        number, _, code = struct.unpack_from("<3i", buffer.raw)
        return number, code

    def hold_back(self, until: Callable[[], bool], seconds: float) -> None:
        """Have it run on until it has started a thread, which goes on, and stand still there until `until()`, for so many seconds at most.

        It is to be let go after that, as ever.
        """
        ptrace(_PTRACE_SETOPTIONS, self.tid, 0, _PTRACE_O_TRACECLONE)
        ptrace(_PTRACE_CONT, self.tid)
        try:
            number, code = self._await_stop(self.tid)
        except ThreadGoneError:
            # There was no room for another one, and it is at work again.
            ptrace(_PTRACE_INTERRUPT, self.tid)
            self._wait()
            return
        if code >> 8 != _PTRACE_EVENT_CLONE:
            self._signal = number
            return
        started = ctypes.c_ulong()
        ptrace(_PTRACE_GETEVENTMSG, self.tid, 0, ctypes.addressof(started))
        try:
            self._await_stop(started.value)
            ptrace(_PTRACE_DETACH, started.value)
        except (ThreadGoneError, OSError):
            return
        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            time.sleep(_LOOK_AGAIN)

    def registers(self) -> Dict[str, int]:
        """All of them, by name."""
        buffer = (ctypes.c_ulonglong * len(_REGISTERS))()
        ptrace(_PTRACE_GETREGS, self.tid, 0, ctypes.addressof(buffer))
        return dict(zip(_REGISTERS, buffer))

    def set_registers(self, values: Dict[str, int]) -> None:
        """All of them at once."""
        buffer = (ctypes.c_ulonglong * len(_REGISTERS))(*(values[name] for name in _REGISTERS))
        ptrace(_PTRACE_SETREGS, self.tid, 0, ctypes.addressof(buffer))

    def mask(self) -> int:
        """The signals that it blocks, bit N - 1 for signal N."""
        buffer = ctypes.c_ulonglong()
        ptrace(_PTRACE_GETSIGMASK, self.tid, 8, ctypes.addressof(buffer))
        return buffer.value

    def set_mask(self, mask: int) -> None:
        """Have it block these."""
        buffer = ctypes.c_ulonglong(mask)
        ptrace(_PTRACE_SETSIGMASK, self.tid, 8, ctypes.addressof(buffer))

    def let_go(self) -> None:
        """It runs on."""
        try:
            ptrace(_PTRACE_DETACH, self.tid, 0, self._signal)
        except ProcessLookupError:
            pass  # somebody has killed it meanwhile


# All but those by which the kernel tells of a fault of the thread's own, and the first of the real-time ones, by which the C library has
# all threads do something at once (setuid(2) and pthread_cancel): it waits for each of them.
_NOT_BLOCKED: Tuple[int, ...] = (
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGKILL, signal.SIGSTOP),
    *(32, 33, 34),
)
BLOCKED = sum(1 << (number - 1) for number in range(1, 65) if number not in _NOT_BLOCKED)

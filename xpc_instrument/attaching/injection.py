"""Running Python source in a new thread of another process, which is not told and loses nothing: ptrace(2) for a moment, x86-64 Linux.

Rules:
- One thread of the target is stopped for less than a millisecond. It is one at a safe place: in a system call that waits, or in code that
  holds no lock of the C library. Any other is let go at once, and another one looked at, again and again.
- Where forks would warn of a second thread, the only one of the target is stopped until they wait (`until`), unless it computes.
- Its registers are set once. From then on everything comes back by itself (stub.S), whatever happens to this process: it may die at any
  moment before, in between and after.
- What it runs lies behind the end of the code of a mapped file, in the last page, where nothing of the program is. It is byte for byte the
  same each time, but for the name of a folder, so that what an earlier one has left there can be written over even if it is still used.
- The bytes are put back once no thread can be in them any more. If that cannot be known they stay: they harm nobody.
- Only one process does this to another one at a time: whoever comes second waits for the lock on its /proc folder.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import random
import struct
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Type, TypeVar

from ..core.discovery.folder import process_stat
from ..core.model.errors import AttachError
from ..core.node.threads import start_seen
from .memory import Image, Mapping, Memory, images, mappings
from .thread import BLOCKED, StoppedThread, ThreadGoneError

# Bytes of the source, with its zero. As long as that, whatever folder it names.
TEXT_SIZE = 400
# The block on the thread's stack (stub.S), how far below its own stack pointer it lies, and how much room has to be below that.
_BLOCK = struct.Struct("<QQQQ")
_BELOW = 1024
_ROOM = 48 << 10
# Within so many bytes above the block a stack pointer is one of that stack, and not of the one that handlers of signals may have.
_NEAR = 1 << 20
# System calls that wait, in which no thread holds a lock of the C library that starting one needs: restart_syscall, read, poll, select,
# accept, recvfrom, recvmsg, pause, nanosleep, wait4, futex, epoll_wait, epoll_pwait, clock_nanosleep, pselect6, ppoll, waitid, accept4,
# rt_sigtimedwait, rt_sigsuspend, epoll_pwait2, io_getevents, connect, semop; and those of a process that hangs: write, writev, sendto,
# sendmsg, sendfile, open, openat, fcntl, flock, msgrcv, semtimedop.
_HANGING = frozenset((1, 20, 44, 46, 40, 2, 257, 72, 73, 70, 220))
_WAITING = _HANGING | {
    *(219, 0, 7, 23, 43, 45, 47, 34, 35, 61, 202, 232, 281, 230, 270, 271, 247, 288, 128, 130, 441, 208, 42, 65),
}
_FUTEX, _RESTART = 202, 219
# What the kernel has in rax of one that it will start again (include/linux/errno.h), and of one that ended because of us.
_AGAIN = (-512, -513, -514)
_BY_RESTART = -516
_EINTR = -errno.EINTR
_SYSCALL = b"\x0f\x05"
# musl's C library is its loader too. What it waits for where it is not in the middle of something of its own goes through one place, at
# which pthread_cancel(3) can reach it: mov [rsp + 8], r11; syscall; ret (src/thread/x86_64/syscall_cp.s).
_OF_MUSL = b"\x4c\x89\x5c\x24\x08" + _SYSCALL + b"\xc3"
_WORD = (1 << 64) - 1
# The C library, its loader, and allocators: code of theirs may hold a lock that starting a thread needs.
_UNSAFE = ("libc.so", "libc-2", "libpthread", "ld-linux", "ld-2", "ld-musl", "libc.musl", "libjemalloc", "libtcmalloc", "libmimalloc")
_OF_LIBC = (*("__errno_location", "pthread_attr_init", "pthread_attr_setstacksize", "pthread_attr_setdetachstate", "pthread_create"),)
_OF_PYTHON = ("Py_IsInitialized", "PyGILState_Ensure", "PyDict_New", "PyRun_StringFlags", "Py_DecRef", "PyGILState_Release")
# What other threads of this process may keep one waiting that has stopped a thread of the target, in seconds: usually 5 ms, each time.
_SWITCHING = 0.00001
# Between two rounds over the threads, in seconds, at first and at most.
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.02
# How long the only thread is held back, in seconds at most: it takes a millisecond, but longer where it waits with the global interpreter
# lock. And in how many rounds it may be found computing, a fifth of a second, before it is taken there, where that would not help.
_HELD = 0.1
_ROUNDS_OF_WAITING = 12
# A process that has been forked so little ago, in seconds, may still be in the part of fork(2) in which Python makes its locks anew.
_NEWBORN = 0.3
# A mask that never changes in so many rounds is no handler's.
_ROUNDS_OF_MASK = 20

Result = TypeVar("Result")


class Place(NamedTuple):
    """Where the machine code goes, and what it calls."""

    address: int
    size: int
    path: str
    symbols: Tuple[int, ...]


@functools.lru_cache(maxsize=1)
def code() -> bytes:
    """The machine code, as `stub.S` has it."""
    return (Path(__file__).parent / "stub.bin").read_bytes()


def is_unsafe(name: str) -> bool:
    """Whether a mapped file of that name is the C library, its loader or an allocator."""
    return name.startswith(_UNSAFE)


def is_musl(everything: List[Image]) -> bool:
    """Whether the C library is musl's, which has no version to ask for, under whatever name it is mapped."""
    libraries = [image for image in everything if is_unsafe(image.name)]
    return bool(libraries) and all(image.symbol("gnu_get_libc_version") is None for image in libraries)


def find_place(everything: List[Image], memory: Memory) -> Place:
    """Where to put the code. Raises `AttachError` if a symbol is missing, or there is no room."""
    symbols = tuple(_find(everything, name, libc=True) for name in _OF_LIBC) + tuple(_find(everything, name) for name in _OF_PYTHON)
    stub = code()
    need = len(stub) + 8 * len(symbols) + TEXT_SIZE
    for image in everything:
        room = image.slack()
        # What begins with a piece of our code and goes on otherwise is of another version, and may be in use.
        if room is not None and room[1] >= need:
            now = memory.read(room[0], len(stub))
            if now == stub or now[:32] != stub[:32]:
                return Place(room[0], need, image.path, symbols)
    raise AttachError("no file that it has mapped has room for the machine code behind its own")


def _find(everything: List[Image], name: str, libc: bool = False) -> int:
    for image in everything:
        if not libc or is_unsafe(image.name):
            address = image.symbol(name)
            if address is not None:
                return address
    what = "the C library" if libc else "Python"
    raise AttachError(f"it exports no {name}: {what} is linked into it statically and without symbols, or is not there")


class Lock:
    """The right to attach to a process. A context manager; `AttachError` if another process has it until the `deadline`."""

    def __init__(self, pid: int, deadline: float) -> None:
        try:
            self._descriptor = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise AttachError(f"process {pid} has ended") from None
        try:
            while True:
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise AttachError(f"another process is attaching to {pid}, and does not come to an end: try again later") from None
                    time.sleep(0.005)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        os.close(self._descriptor)


class Injection:
    """One run of some source in a new thread of a process.

    `stopped` is for how long a thread stood still, in seconds, and `rounds` how many rounds over the threads were needed.
    """

    def __init__(self, pid: int, source: str, until: Optional[Callable[[], bool]] = None) -> None:
        text = source.encode("ascii")
        if len(text) >= TEXT_SIZE:
            raise AttachError(
                f"the path of the folder for the agent's start is too long ({len(text)} bytes of source): set TMPDIR to a shorter one"
            )
        self.pid = pid
        self.stopped = 0.0
        self.rounds = 0
        self._text = text + b"\0" * (TEXT_SIZE - len(text))
        self._masks: Dict[int, List[int]] = {}
        self._is_newborn = False
        self._until = until
        # Whether the thread is the only one, and in a system call that waits.
        self._is_alone = self._waits = False
        self._before = b""
        self._tid = 0
        self._block = 0
        with Memory(pid) as memory:
            everything = images(memory, mappings(pid))
            self._is_musl = is_musl(everything)
            try:
                self._place = find_place(everything, memory)
            except AttachError as error:
                raise AttachError(f"process {pid} cannot be attached to: {error}") from None
        self._known = [part for image in everything for part in image.parts if "x" in part.access]
        self._bad = [part for image in everything if is_unsafe(image.name) for part in image.parts if "x" in part.access]
        self._caught = _caught(pid)

    def run(self, deadline: float) -> None:
        """Have it begin. Raises `AttachError` if no thread comes to a safe place until then, or the process ends or may not be traced."""
        pause = _FIRST_PAUSE
        while not in_thread(self._try_all):
            if time.monotonic() > deadline:
                raise AttachError(
                    f"process {self.pid} cannot be attached to: none of its threads came to a place where it could be stopped safely, "
                    f"in {self.rounds} tries: it may be in a long operation of the C library or the kernel; try again"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    def run_again(self, deadline: float) -> None:
        """The same a second time, while the first may still be under way: then nobody knows when nobody is in the code any more."""
        self._before = b""
        self.run(deadline)
        self._before = b""

    def _try_all(self) -> bool:
        """One round, in a thread of its own: whatever it has seized goes on when that ends."""
        self.rounds += 1
        self._is_newborn = age(self.pid) < _NEWBORN
        maps = mappings(self.pid)
        with Memory(self.pid, writable=True) as memory:
            threads = _threads(self.pid)
            self._is_alone = len(threads) == 1
            for tid in threads:
                if self._try(tid, memory, maps):
                    return True
        return False

    def _try(self, tid: int, memory: Memory, maps: List[Mapping]) -> bool:
        try:
            thread = StoppedThread(tid)
        except ThreadGoneError:
            return False
        except PermissionError as error:
            if self.rounds > 1:
                return False  # the last round's thread of ours may not have quite ended
            raise AttachError(f"process {self.pid} cannot be attached to: it may not be traced ({error.strerror})") from error
        began = time.perf_counter()
        try:
            going = thread.is_touchable and self._redirect(thread, memory, maps)
            if going and self._until is not None and self._is_alone and self._waits:
                self._hold_back(thread, self._until)
        except OSError:
            # Killed meanwhile, or its stack has no room.
            going = False
        finally:
            thread.let_go()
        self.stopped = time.perf_counter() - began
        return going

    @staticmethod
    def _hold_back(thread: StoppedThread, until: Callable[[], bool]) -> None:
        try:
            thread.hold_back(until, _HELD)
        except (OSError, ThreadGoneError):
            pass  # it has ended

    def _redirect(self, thread: StoppedThread, memory: Memory, maps: List[Mapping]) -> bool:
        registers, mask = thread.registers(), thread.mask()
        where = self._resumption(thread.tid, registers, mask, memory)
        if where is None or not _has_room(registers["rsp"], maps):
            return False
        goes_on, on_signal, rax_on_signal, rax = where
        place = self._place
        stub = code()
        if not self._before:
            now = memory.read(place.address, place.size)
            # What is there already is what one like us has left; what was there before, nobody knows.
            self._before = b"" if now.startswith(stub) else now
        block = registers["rsp"] - _BELOW
        memory.write(place.address, stub + struct.pack(f"<{len(place.symbols)}Q", *place.symbols) + self._text)
        memory.write(block, _BLOCK.pack(goes_on, on_signal, rax_on_signal & _WORD, mask))
        self._tid, self._block = thread.tid, block
        # This is the moment. Blocking comes second: what dies in between leaves a thread that takes a signal in the middle of the code.
        thread.set_registers({**registers, "rip": place.address, "rsp": block, "rax": rax & _WORD, "orig_rax": _WORD})
        thread.set_mask(mask | BLOCKED)
        return True

    def _resumption(self, tid: int, registers: Dict[str, int], mask: int, memory: Memory) -> Optional[Tuple[int, int, int, int]]:
        """(where it goes on, where if a signal comes, rax then, rax now) of a thread at a safe place; None of any other."""
        rip, rax, number = registers["rip"], _signed(registers["rax"]), _signed(registers["orig_rax"])
        # A 32-bit or x32 program would be another world; the code segment of 64 bits is 0x33.
        if registers["cs"] != 0x33 or self._place.address <= rip < self._place.address + self._place.size:
            return None
        self._waits = number >= 0
        if number < 0:
            if self._until is not None and self._is_alone and self.rounds <= _ROUNDS_OF_WAITING:
                return None
            handlers = mask & self._caught
            if (
                self._is_newborn
                or not _within(self._known, rip)
                or _within(self._bad, rip)
                or (handlers and not self._is_constant(tid, handlers))
            ):
                return None
            return rip, rip, rax, rax
        if number not in _WAITING or memory.read(rip - 2, 2) != _SYSCALL:
            return None
        if memory.read(rip - len(_OF_MUSL) + 1, len(_OF_MUSL)) != _OF_MUSL if self._is_musl else self._is_in_loader(rip):
            return None
        if rax in _AGAIN:
            return rip - 2, rip, _EINTR, number
        if rax == _BY_RESTART:
            return rip - 2, rip, _EINTR, _RESTART
        # It has just ended.
        return rip, rip, rax, rax

    def _is_constant(self, tid: int, mask: int) -> bool:
        """Whether a thread that blocks signals with handlers always does. Else it may be in one, which has interrupted who knows what."""
        seen = self._masks.setdefault(tid, [])
        seen.append(mask)
        return len(seen) > _ROUNDS_OF_MASK and len(set(seen)) == 1

    def _is_in_loader(self, rip: int) -> bool:
        return any(os.path.basename(part.path).startswith("ld-") for part in self._bad if part.start <= rip < part.end)

    def undo(self, started: int, deadline: float) -> bool:
        """Put the bytes back once the thread that was `started` has ended and nobody is in them; False if that cannot be known in time."""
        if not self._before:
            return False
        while os.path.exists(f"/proc/{self.pid}/task/{started}"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        while not in_thread(self._try_undo):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def _try_undo(self) -> bool:
        try:
            with Memory(self.pid, writable=True) as memory:
                now = memory.read(self._place.address, self._place.size)
                if not now.endswith(self._text):
                    return True  # somebody else's by now
                try:
                    thread = StoppedThread(self._tid)
                except ThreadGoneError:
                    if os.path.exists(f"/proc/{self.pid}/task/{self._tid}"):
                        return False
                    memory.write(self._place.address, self._before)
                    return True
                try:
                    # In the code, or in something that it has called, its stack reaches beyond the block, whose address it needs to return.
                    registers = thread.registers()
                    inside = not self._block < registers["rsp"] < self._block + _NEAR or _within_place(self._place, registers["rip"])
                    if not inside:
                        memory.write(self._place.address, self._before)
                    return not inside
                finally:
                    thread.let_go()
        except OSError:
            return True  # it has ended, or may not be traced any more


def main_ident(pid: int) -> int:
    """What `threading.get_ident()` is in the main thread: the base of fs. 0 if that cannot be had."""

    def look() -> int:
        try:
            thread = StoppedThread(pid)
        except (ThreadGoneError, OSError):
            return 0
        try:
            return thread.registers()["fs_base"]
        finally:
            thread.let_go()

    return in_thread(look)


def in_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns or raises, in a thread of its own, which is gone afterwards with all that it has seized."""
    outcome: List[Any] = []
    failure: List[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, _SWITCHING))
    try:
        start_seen(run, name="attach").join()
    finally:
        # Else another thread that attaches does that.
        if usual > _SWITCHING:
            sys.setswitchinterval(usual)
    if failure:
        raise failure[0]
    result: Result = outcome[0]
    return result


def _threads(pid: int) -> List[int]:
    """Those that wait in a system call first, of these the main one first and those at a lock last."""
    found = []
    try:
        tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        raise AttachError(f"process {pid} has ended") from None
    for tid in tids:
        try:
            word = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()[0]
        except (OSError, IndexError):
            continue
        if word == "running":
            rank = 2
        elif int(word) not in _WAITING or int(word) in _HANGING:
            rank = 3
        else:
            rank = int(int(word) == _FUTEX)
        found.append((rank, tid != pid, random.random(), tid))  # noqa: S311 - in no order of theirs
    return [tid for *_, tid in sorted(found)]


def age(pid: int) -> float:
    """For how long a process has run, in seconds; infinite where that cannot be told."""
    try:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError):
        return float("inf")
    stats = process_stat(pid)
    if stats is None or stats.started is None:
        return float("inf")
    return uptime - stats.started / os.sysconf("SC_CLK_TCK")


def _caught(pid: int) -> int:
    """The signals that the process has handlers for, as a mask."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return int(line.split()[1], 16)
    return 0


def _has_room(rsp: int, maps: List[Mapping]) -> bool:
    """Whether the code's own stack fits below the thread's. That of the main thread grows."""
    for one in maps:
        if one.start <= rsp < one.end:
            return one.path == "[stack]" or rsp - one.start >= _ROOM
    return False


def _within(parts: List[Mapping], address: int) -> bool:
    return any(part.start <= address < part.end for part in parts)


def _within_place(place: Place, address: int) -> bool:
    return place.address <= address < place.address + place.size


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value

"""What the seccomp filters of a process make of the agent's system calls: one that ends the process would, at the first of them.

The filters are read by ptrace(2), for which a thread is stopped for a moment, and only root of the whole machine may. Each is run for each
of the calls with arguments that are not known: a jump on one goes both ways.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Dict, List, Optional, Sequence, Set, Tuple

from .injection import in_thread
from .thread import StoppedThread, ThreadGoneError, ptrace

# (code, how far to jump if true, if false, operand), as in `struct sock_filter` (linux/filter.h).
Instruction = Tuple[int, int, int, int]
_INSTRUCTION = struct.Struct("<HBBI")
_PTRACE_SECCOMP_GET_FILTER = 0x420C
_LONGEST = 4096
_MOST_FILTERS = 64
_X86_64 = 0xC000003E
# What `struct seccomp_data` has that is known beforehand: the number of the call, and the processor.
_NUMBER_AT, _PROCESSOR_AT = 0, 4
# SECCOMP_RET_KILL_PROCESS, KILL_THREAD and TRAP: the signal of the last one ends whoever does not expect it.
_ACTION, _ENDING = 0xFFFF0000, (0x80000000, 0x00000000, 0x00030000)
_WORD = 0xFFFFFFFF

# What starting the agent, serving a session and leaving take, as strace(1) tells, by number.
_TEXT = (
    "read:0 write:1 close:3 fstat:5 poll:7 lseek:8 mmap:9 mprotect:10 munmap:11 rt_sigprocmask:14 ioctl:16 access:21 "
    "madvise:28 getitimer:36 getpid:39 socket:41 sendto:44 recvfrom:45 sendmsg:46 recvmsg:47 shutdown:48 bind:49 listen:50 "
    "getsockname:51 setsockopt:54 getsockopt:55 exit:60 kill:62 uname:63 fcntl:72 rename:82 mkdir:83 rmdir:84 unlink:87 "
    "readlink:89 getuid:102 geteuid:107 getppid:110 rt_sigpending:127 gettid:186 futex:202 sched_getaffinity:204 "
    "getdents64:217 clock_nanosleep:230 openat:257 newfstatat:262 ppoll:271 set_robust_list:273 fallocate:285 accept4:288 "
    "pipe2:293 prlimit64:302 getrandom:318 memfd_create:319 rseq:334 clone3:435"
)
_CALLS = {name: int(number) for name, _, number in (word.partition(":") for word in _TEXT.split())}


def deadly_calls(filters: Sequence[Sequence[Instruction]]) -> List[str]:
    """The names of the agent's system calls that one of these filters may end the process for."""
    return [name for name, number in _CALLS.items() if any(_may_end(one, number) for one in filters)]


def filters_of(pid: int) -> Optional[List[List[Instruction]]]:
    """The filters of a process, the last one first; None if they may not be read, or it has ended."""

    def look() -> Optional[List[List[Instruction]]]:
        try:
            thread = StoppedThread(pid)
        except (ThreadGoneError, OSError):
            return None
        try:
            return _read(pid)
        except OSError:
            return None
        finally:
            thread.let_go()

    return in_thread(look)


def _read(tid: int) -> List[List[Instruction]]:
    found: List[List[Instruction]] = []
    buffer = ctypes.create_string_buffer(_INSTRUCTION.size * _LONGEST)
    while len(found) < _MOST_FILTERS:
        try:
            count = ptrace(_PTRACE_SECCOMP_GET_FILTER, tid, len(found), ctypes.addressof(buffer))
        except FileNotFoundError:
            break  # there are no more
        found.append(list(_INSTRUCTION.iter_unpack(buffer.raw[: _INSTRUCTION.size * count])))
    return found


def _may_end(program: Sequence[Instruction], number: int) -> bool:
    """Whether a filter may answer a call with an end of the process. What it does not say within its own instructions is taken for one."""
    known = {_NUMBER_AT: number, _PROCESSOR_AT: _X86_64}
    seen: Set[Tuple[int, Optional[int], Optional[int]]] = set()
    # (the next instruction, the accumulator, the index register); None is a value that is not known.
    waiting: List[Tuple[int, Optional[int], Optional[int]]] = [(0, None, None)]
    while waiting:
        state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        at, a, x = state
        if at >= len(program):
            return True
        code, if_true, if_false, operand = program[at]
        kind = code & 7
        if kind == 6:
            action = a if code & 0x18 == 0x10 else operand
            if action is None or action & _ACTION in _ENDING:
                return True
        elif kind == 5:
            waiting += [(at + 1 + by, a, x) for by in _jumps(code, if_true, if_false, operand, a, x)]
        else:
            waiting.append((at + 1, *_computed(code, operand, a, x, known)))
    return False


def _jumps(code: int, if_true: int, if_false: int, operand: int, a: Optional[int], x: Optional[int]) -> Sequence[int]:
    """How far a jump may go."""
    kind = code & 0xF0
    if kind == 0:
        return (operand,)
    with_what = x if code & 8 else operand
    if a is None or with_what is None:
        return (if_true, if_false)
    holds = {0x10: a == with_what, 0x20: a > with_what, 0x30: a >= with_what, 0x40: bool(a & with_what)}[kind]
    return (if_true if holds else if_false,)


def _computed(code: int, operand: int, a: Optional[int], x: Optional[int], known: Dict[int, int]) -> Tuple[Optional[int], Optional[int]]:
    """The two registers after an instruction that is no jump and no answer."""
    kind = code & 7
    if kind in (0, 1):
        mode = code & 0xE0
        value = {0x00: operand, 0x20: known.get(operand), 0x80: 64}.get(mode)
        return (value, x) if kind == 0 else (a, value)
    if kind == 4:
        with_what = x if code & 8 else operand
        if a is None or with_what is None:
            return None, x
        results = {
            0x00: a + with_what,
            0x10: a - with_what,
            0x40: a | with_what,
            0x50: a & with_what,
            0x60: a << (with_what & 31),
            0x70: a >> (with_what & 31),
            0x80: -a,
            0xA0: a ^ with_what,
        }
        result = results.get(code & 0xF0)
        return (None if result is None else result & _WORD), x
    if kind == 7:
        return (x, x) if code & 0x80 else (a, a)
    return a, x

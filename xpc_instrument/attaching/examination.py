"""What is known of a process before anything is done to it, and whether, and how, it can be attached to.

Nothing here changes anything: files in /proc are read, and its memory, which takes the same rights as tracing it. Of one with seccomp
filters a thread is stopped for a moment, to read them.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from ..core.discovery.name import app_name
from ..core.model.errors import AttachError
from .filters import deadly_calls, filters_of
from .injection import find_place, is_musl, is_unsafe
from .job import MOUNT, NO_PLACE, has_place
from .limits import shortages
from .memory import EM_X86_64, Image, Memory, images, mappings
from .thread import ptrace

OLDEST, NEWEST = (3, 9), (3, 15)
# From which on Python itself runs code for another process (PEP 768).
REMOTE = (3, 14)

_CAP_SYS_PTRACE = 19
# More than /proc/sys/kernel/yama/ptrace_scope ever is: without Yama there is no such file.
_SCOPES = {
    0: "any process of the same user may be traced",
    1: "only one's own children may be traced",
    2: "only who has CAP_SYS_PTRACE may trace",
    3: "nobody may trace",
}
_CAPABILITY = "give this process CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE; capabilities.add: [SYS_PTRACE] in Kubernetes; sudo)"
RUN = "start it with: xpc-instrument run -- COMMAND"
_OF_PYTHON = re.compile(r"python(\d)\.(\d+)")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `remedy` is what to do if it is not `ok`."""

    ok: bool
    text: str
    remedy: str = ""
    passing: bool = False
    """Whether it may be another thing in a moment, as of a program that is being loaded."""


@dataclass
class Examination:
    """What is known of a process. `way` is how to get in: `stub`, `remote`, or "" if it cannot be done."""

    pid: int
    uid: int = -1
    owner_uid: int = -1
    inner_pid: int = 0
    command: Tuple[str, ...] = ()
    python: Tuple[int, ...] = ()
    libc: str = ""
    container: str = ""
    way: str = ""
    checks: List[Check] = field(default_factory=list)

    @property
    def program(self) -> str:
        """What it runs, in one word: the script or module, or else the command."""
        return program_name(self.command)

    def refuse(self) -> None:
        """Raise an `AttachError` with what stands against it, if anything does."""
        wrong = [check for check in self.checks if not check.ok]
        if wrong:
            first = wrong[0]
            raise AttachError(f"process {self.pid} cannot be attached to: {first.text}" + (f"; {first.remedy}" if first.remedy else ""))

    def head(self) -> str:
        """The first line that a person is told."""
        version = ".".join(map(str, self.python)) or "?"
        facts = [f"python {version}", f"uid {self.uid}"]
        if self.inner_pid and self.inner_pid != self.pid:
            facts.append(f"container {self.container or '?'} (pid {self.inner_pid} there)")
        if self.libc:
            facts.append(self.libc)
        return f"{self.pid}: {', '.join(facts)}"


def program_name(command: Tuple[str, ...]) -> str:
    """What a command line runs, in one word: of `python -m http.server 80`, http.server; of `/usr/bin/python3 /srv/shop.py`, shop."""
    words = [word for word in command if word]
    if not words:
        return "app"
    name = os.path.basename(words[0])
    if re.match(r"python[0-9.]*t?$", name):
        rest = words[1:]
        while rest and rest[0].startswith("-"):
            word = rest.pop(0)
            if word in ("-m", "-W", "-X") and rest:
                value = rest.pop(0)
                if word == "-m":
                    return app_name(value)
            elif word.startswith("-m") and len(word) > 2:
                return app_name(word[2:])
            elif word == "-c":
                return app_name(name)
        if rest:
            name = os.path.basename(rest[0])
    # A title that the program has given itself, such as `gunicorn: worker [shop]`, in one word.
    name = name.partition(":")[0].partition(" ")[0]
    return app_name(name[:-3] if name.endswith(".py") else name)


def examine(pid: int) -> Examination:
    """Look at a process. `AttachError` only where this system cannot attach at all."""
    found = Examination(pid)
    if not sys.platform.startswith("linux"):
        raise AttachError(f"attaching takes Linux, and this is {sys.platform}: {RUN}")
    checks = found.checks
    status = _status(pid)
    if not status:
        checks.append(Check(False, "there is no such process"))
        return found
    group = status.get("Tgid", str(pid))
    if group != str(pid):
        checks.append(Check(False, f"it is a thread of process {group}", f"attach to that: xpc-instrument attach {group}"))
        return found
    found.uid = int(status.get("Uid", "-1").split()[0])
    found.inner_pid = int(status.get("NSpid", str(pid)).split()[-1])
    found.command = _command(pid)
    found.container = _container(pid)
    _look_at_state(found, status)
    _look_at_rights(found, status)
    if all(check.ok for check in checks):
        checks += [Check(False, one.text, one.remedy) for one in shortages(pid)]
        _look_at_filters(found, status)
        _look_inside(found)
        if found.way and not has_place(pid, found.uid == os.geteuid()):
            checks.append(Check(False, NO_PLACE, MOUNT))
    return found


def _look_at_filters(found: Examination, status: Dict[str, str]) -> None:
    """Whether what the agent does would end the process by a seccomp filter of its own."""
    mode = int(status.get("Seccomp", "0"))
    if mode == 1:
        found.checks.append(Check(False, "it has limited itself to read and write (strict seccomp), and would be ended"))
    if mode != 2:
        return
    filters = filters_of(found.pid)
    if filters is None:
        # Those of a container are here, too, and this process does the same.
        own = _status(os.getpid()).get("Seccomp_filters", "0")
        if int(status.get("Seccomp_filters", "0")) > int(own):
            text = "it has seccomp filters of its own, which may not be read, and what they forbid may end it"
            found.checks.append(Check(False, text, f"attach as root of the machine, with CAP_SYS_ADMIN, or {RUN}"))
        return
    deadly = deadly_calls(filters)
    if deadly:
        some = ", ".join(deadly[:3]) + (f" and {len(deadly) - 3} more" if len(deadly) > 3 else "")
        text = f"its seccomp filter would end it for system calls of the agent ({some})"
        found.checks.append(Check(False, text, "have the filter answer them with an error, or allow them"))


def _look_at_state(found: Examination, status: Dict[str, str]) -> None:
    checks, pid = found.checks, found.pid
    state = status.get("State", "?")[:1]
    if pid == os.getpid():
        checks.append(Check(False, "it is this very process", "call xpc_agent.start() in it"))
    elif state in ("Z", "X") and _tasks(pid) > 1:
        checks.append(Check(False, "its main thread has ended, while others go on", RUN))
    elif state in ("Z", "X"):
        checks.append(Check(False, "it has ended, and only waits for its parent"))
    elif "VmSize" not in status:
        checks.append(Check(False, "it is a thread of the kernel, or is ending"))
    tracer = int(status.get("TracerPid", "0"))
    if tracer:
        name = " ".join(_command(tracer)[:1]) or "?"
        checks.append(Check(False, f"it is traced by process {tracer} ({os.path.basename(name)})", "end the debugger or strace first"))
    elif state in ("T", "t"):
        checks.append(Check(False, "it is stopped", f"let it go on first: kill -CONT {pid}"))
    if "shstk" in status.get("x86_Thread_features", ""):
        checks.append(Check(False, "it has a shadow stack, which this way in does not know of", RUN))


def _look_at_rights(found: Examination, status: Dict[str, str]) -> None:
    checks, pid = found.checks, found.pid
    own = os.geteuid()
    may = bool(_capabilities(os.getpid(), "CapEff") >> _CAP_SYS_PTRACE & 1)
    uids = {int(word) for word in status.get("Uid", "").split()[:3]}
    try:
        # That of the folder itself is its user, whether it may be traced or not.
        owner = os.stat(f"/proc/{pid}/mem").st_uid
    except OSError:
        owner = found.uid
    found.owner_uid = owner
    if uids == {own}:
        checks.append(Check(True, "same user"))
    elif may:
        checks.append(Check(True, f"another user (uid {found.uid}), and CAP_SYS_PTRACE"))
    elif own == 0:
        checks.append(Check(False, f"it belongs to uid {found.uid}, and CAP_SYS_PTRACE is missing, though this is root", _CAPABILITY))
    else:
        checks.append(Check(False, f"it belongs to uid {found.uid}, and this is uid {own}", "attach as that user, or as root"))
    if owner != found.uid and not may:
        checks.append(Check(False, "it has forbidden that it is traced (PR_SET_DUMPABLE), as programs with secrets do", _CAPABILITY))
    scope = _scope()
    if scope is not None:
        ok = may or scope == 0 or (scope == 1 and _is_descendant(pid))
        ok = ok and scope < 3
        remedy = (
            "it can be changed by a reboot only: " + RUN if scope == 3 else f"sysctl kernel.yama.ptrace_scope=0, or {_CAPABILITY}, or {RUN}"
        )
        checks.append(Check(ok, f"ptrace_scope {scope} ({_SCOPES.get(scope, '?')})", "" if ok else remedy))
    environment = _environment(pid)
    if environment.get("XPC_INSTRUMENT_DISABLE", "") not in ("", "0"):
        checks.append(Check(False, "its environment has XPC_INSTRUMENT_DISABLE set", "start it without"))
    if environment.get("PYTHON_DISABLE_REMOTE_DEBUG", "") or "disable-remote-debug" in implementation_options(found.command):
        checks.append(
            Check(False, "remote debugging is disabled in it (PYTHON_DISABLE_REMOTE_DEBUG, -X disable-remote-debug)", "start it without")
        )
    if all(check.ok for check in checks):
        _try_rights(found)


def implementation_options(command: Sequence[str]) -> List[str]:
    """What a command line gives Python by `-X`, which ends where the program begins."""
    options: List[str] = []
    words = iter(command[1:])
    for word in words:
        if not word.startswith("-") or word in ("-", "--") or word[1] in "cm":
            break
        if word in ("-X", "-W", "--check-hash-based-pycs"):
            value = next(words, "")
            options += [value] if word == "-X" else []
        elif word.startswith("-X"):
            options.append(word[2:])
    return options


def _try_rights(found: Examination) -> None:
    """Ask the kernel itself, by what takes the same rights as tracing and does nothing."""
    try:
        Memory(found.pid).close()
    except FileNotFoundError:
        found.checks.append(Check(False, "it has ended"))
    except OSError as error:
        what = f"the kernel refuses ({error.strerror}): a security module, another user namespace, or CAP_SYS_PTRACE is missing"
        if _same_users(found.pid) and _capabilities(found.pid, "CapPrm") & ~_capabilities(os.getpid(), "CapEff"):
            what = f"the kernel refuses ({error.strerror}), since it has capabilities that this process has not"
        found.checks.append(Check(False, what, f"{_CAPABILITY}, or {RUN}"))


def _look_inside(found: Examination) -> None:
    checks, pid = found.checks, found.pid
    try:
        maps = mappings(pid)
        with Memory(pid) as memory:
            header = _header(pid)
            if header[:4] == b"\x7fELF" and header[4] == 1:
                checks.append(Check(False, "it is a 32-bit program", RUN))
                return
            everything = images(memory, maps)
            _look_for_python(found, memory, everything)
            if all(check.ok for check in checks):
                _choose(found, memory, everything)
    except OSError as error:
        checks.append(
            Check(False, f"it cannot be looked at ({error.strerror or error}): it has ended, or has just become another program", "", True)
        )


def _look_for_python(found: Examination, memory: Memory, everything: List[Image]) -> None:
    names = " ".join(image.name for image in everything)
    if "pypy" in names:
        found.checks.append(Check(False, "it is run by PyPy, and attaching takes CPython", RUN))
        return
    python = next((image for image in everything if image.symbol("PyRun_SimpleStringFlags") is not None), None)
    if python is None:
        _look_at_another_program(found)
        return
    found.libc = "musl" if is_musl(everything) else "glibc" if any(is_unsafe(image.name) for image in everything) else ""
    found.python = _version(memory, python, everything)
    if not found.python:
        found.checks.append(Check(False, "its version of Python cannot be told", RUN, passing=True))
    elif not OLDEST <= found.python[:2] <= NEWEST:
        version = ".".join(map(str, found.python))
        known = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        found.checks.append(Check(False, f"it is run by Python {version}, and attaching knows {known}"))
    else:
        found.checks.append(Check(True, f"CPython {'.'.join(map(str, found.python))}"))


def _look_at_another_program(found: Examination) -> None:
    """What is said of one in which no Python is to be seen."""
    try:
        name = os.path.basename(os.readlink(f"/proc/{found.pid}/exe"))
    except OSError:
        name = ""
    if name.startswith("qemu-"):
        found.checks.append(Check(False, f"it is a program for another processor, which {name} runs", RUN))
        return
    what = f"no Python that exports its functions runs in it: it is another program ({name or '?'}), or was linked in an unusual way"
    below = [pid for pid in children(found.pid) if program_name(_command(pid)[:1]).startswith("python")]
    remedy = f"attach to what it has started: xpc-instrument attach {below[0]}" if below else RUN
    found.checks.append(Check(False, what, remedy, passing=True))


def _version(memory: Memory, python: Image, everything: List[Image]) -> Tuple[int, ...]:
    address = python.symbol("Py_Version")
    if address is not None:
        (number,) = struct.unpack("<Q", memory.read(address, 8))
        return number >> 24 & 255, number >> 16 & 255, number >> 8 & 255
    # Before 3.11, the name of the library or program, of a folder of the standard library, or of an extension module.
    for text in [python.path, *(image.path for image in everything)]:
        match = _OF_PYTHON.search(text) or re.search(r"cpython-(\d)(\d+)-", text)
        if match is not None:
            return int(match[1]), int(match[2])
    return ()


def _choose(found: Examination, memory: Memory, everything: List[Image]) -> None:
    """The way: machine code first, Python's own where that cannot be."""
    problem = ""
    machine = platform.machine()
    if machine != "x86_64" or not everything or everything[0].machine != EM_X86_64:
        problem = f"the machine code is for x86-64, and this is {machine}"
    else:
        try:
            find_place(everything, memory)
        except AttachError as error:
            problem = str(error)
        try:
            ptrace(17, 0)  # of no process: a filter answers before the kernel finds that out
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EIO):
                problem = f"this process may not use ptrace ({error.strerror}), as by the seccomp filter of a container"
    if not problem:
        found.way = "stub"
        found.checks.append(Check(True, "machine code fits"))
    elif found.python[:2] >= REMOTE:
        found.way = "remote"
        found.checks.append(Check(True, f"sys.remote_exec, since {problem}; it runs when its main thread next runs Python code"))
    else:
        found.checks.append(Check(False, problem, RUN, passing=True))


# what the kernel tells ----------------------------------------------------------------------------------------------------


def _status(pid: int) -> Dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _capabilities(pid: int, name: str) -> int:
    return int(_status(pid).get(name, "0"), 16)


def _same_users(pid: int) -> bool:
    """Whether a process is in the user namespace of this one, so that capabilities are the same."""
    try:
        return os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return True  # hidden since it may not be traced, as most are that are


def _tasks(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _command(pid: int) -> Tuple[str, ...]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in words[:-1])


def _environment(pid: int) -> Dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (os.fsdecode(line).partition("=") for line in lines)}


def _header(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            return file.read(20)
    except OSError:
        return b""


def _scope() -> Optional[int]:
    try:
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        return None


def _is_descendant(pid: int) -> bool:
    own = os.getpid()
    for _ in range(1000):
        parent = int(_status(pid).get("PPid", "0"))
        if parent == own:
            return True
        if parent <= 1:
            return False
        pid = parent
    return False


def _container(pid: int) -> str:
    """The first letters of the id of the container that it is in; "" if it is in none, or that cannot be told."""
    try:
        match = re.search(r"[0-9a-f]{64}", Path(f"/proc/{pid}/cgroup").read_text())
    except OSError:
        return ""
    return match[0][:12] if match is not None else ""


def children(pid: int) -> List[int]:
    """The processes that it has started and that run, and those that these have, from above downwards."""
    found: List[int] = []
    waiting = [pid]
    while waiting:
        one = waiting.pop(0)
        try:
            tids = os.listdir(f"/proc/{one}/task")
        except OSError:
            continue
        for tid in tids:
            try:
                words = Path(f"/proc/{one}/task/{tid}/children").read_text().split()
            except OSError:
                continue
            found += map(int, words)
            waiting += map(int, words)
    return found

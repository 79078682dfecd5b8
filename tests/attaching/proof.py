"""Attaching to a target, hooking it, detaching, again and again, and looking whether it is as it was.

Rules of `Target`: a program of `targets.py` that lives until `end`; `work` has it do something, and waits until it has.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Tuple, Type

import xpc_instrument
from tests.attaching import targets
from xpc_instrument.attaching.attach import attach_process, attach_tree
from xpc_instrument.attaching.examination import children, examine
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.errors import AttachError, ChannelError, XpcError

PATIENCE = 30.0
# How each kind is made to work that does not work by itself.
_ASKED = ("accept", "poll", "epoll", "http", "asynchronous", "gunicorn_sync", "gunicorn_gthread", "uvicorn", "gevent", "eventlet")
_OF_HTTP = ("http", "gunicorn_sync", "gunicorn_gthread", "uvicorn", "gevent", "eventlet")
_SIGNALLED = ("pause", "signal_wait")
# Never do anything.
_SILENT = ("long_sleep", "lock", "full_pipe", "without_threading")
# Have processes of their own, which are attached to with them.
_TREES = ("process_pool", "gunicorn_sync", "gunicorn_gthread")
# How many processes they have forked once they are there.
_WORKERS = {"gunicorn_sync": 2, "gunicorn_gthread": 2}
# Which tools trace a process, by the command that has them do it; they let go of it when their standard input ends or SIGINT comes.
TRACERS = {"strace": ("strace", "-q", "-o", "/dev/null", "-p"), "gdb": ("gdb", "-q", "-nx", "-p")}


class MissingError(Exception):
    """What a kind of target needs is not there."""


def why_not() -> str:
    """Why nothing can be attached to on this machine, such as for want of CAP_SYS_PTRACE; "" if it can."""
    program = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdout is not None and program.stdin is not None
    try:
        program.stdout.readline()
        return "; ".join(check.text for check in examine(program.pid).checks if not check.ok)
    except XpcError as error:
        return str(error)
    finally:
        program.communicate(b"\n")


class Target:
    """A running program. A context manager."""

    def __init__(self, kind: str, python: str = sys.executable) -> None:
        self.kind = kind
        with tempfile.NamedTemporaryFile(prefix="xpc-target-", delete=False) as file:
            file.write(bytes(targets.END))
            self._path = file.name
        with open(self._path, "r+b") as memory:
            self._memory = mmap.mmap(memory.fileno(), targets.END)
        self.process = subprocess.Popen(
            [python, targets.__file__, kind, self._path], stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        )  # fmt: skip
        self.pid = self.process.pid
        self.before: Any = ()

    def wait_ready(self) -> Target:
        """Raises `MissingError` if it cannot be of its kind here."""
        try:
            self._wait(lambda: self._number(targets.READY) == self.pid, "get ready")
        except AssertionError:
            if self.process.poll() == targets.MISSING:
                raise MissingError(self.kind) from None
            raise
        if self.kind in _WORKERS:
            self._wait(lambda: len(children(self.pid)) == _WORKERS[self.kind], "start its workers")
        self.work()
        # A connection that a framework has just closed may not be gone, and a worker that has just been forked starts threads.
        same, looks = 0, 10 if self.kind in _WORKERS else 1
        pause = 0.05 if self.kind in (*_OF_HTTP, *_TREES, "asynchronous") else 0.001
        while same < looks:
            before, self.before = self.before, (self.state(), self.tasks())
            same = same + 1 if before == self.before else 0
            time.sleep(pause)
        return self

    def _number(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self._memory, at)[0])

    @property
    def count(self) -> int:
        """What it has counted, and those that it has started."""
        return sum(struct.unpack_from(f"<{(targets.END - targets.NUMBER) // 8}Q", self._memory, targets.NUMBER))

    @property
    def pids(self) -> List[int]:
        """It, and those that it has started and that stay."""
        return [self.pid, *(children(self.pid) if self.kind in _TREES else ())]

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            status = self.process.poll()
            assert status is None, f"{self.kind} ended with status {status} when it was to {what}"
            assert time.monotonic() < deadline, f"{self.kind} did not {what} within {PATIENCE:g} s"
            time.sleep(0.001)

    def work(self) -> None:
        """Have it do something; fails if it does not."""
        before = self.count
        if self.kind in _SILENT:
            assert self.process.poll() is None, f"{self.kind} ended with status {self.process.poll()}"
            return
        if self.kind in _ASKED:
            with socket.create_connection(("127.0.0.1", self._number(targets.PORT)), timeout=PATIENCE) as connection:
                if self.kind in _OF_HTTP:
                    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert connection.recv(4096), f"{self.kind} answered nothing"
                while connection.recv(4096):
                    pass
        elif self.kind in _SIGNALLED:
            os.kill(self.pid, signal.SIGUSR1)
        elif self.kind == "reads_input":
            assert self.process.stdin is not None
            self.process.stdin.write(b"line\n")
            self.process.stdin.flush()
        self._wait(lambda: self.count > before, "work")

    def state(self) -> Dict[int, Dict[str, Any]]:
        """What must be the same before and after, of each process."""
        return {pid: self._state_of(pid) for pid in self.pids}

    def _state_of(self, pid: int) -> Dict[str, Any]:
        descriptors = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                descriptors.append(os.readlink(f"/proc/{pid}/fd/{name}"))
            except FileNotFoundError:
                continue  # of a file that the program has just read
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        # Without those of the C library, which takes one with the first thread.
        masks = {words[0]: int(words[1], 16) & 0x7FFFFFFF for words in lines if words[:1] in (["SigBlk:"], ["SigIgn:"], ["SigCgt:"])}
        descriptors.sort()
        return {"descriptors": [name for name in descriptors if not name.startswith("/")], "masks": masks}

    def is_as_before(self) -> bool:
        """Waits a moment, for threads that end."""
        deadline = time.monotonic() + 5
        # That has pipes for a moment, and all signals blocked.
        while (self.state(), self.tasks()) != self.before and self.kind != "spawning":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def tasks(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in self.pids)

    def memory(self) -> int:
        """Its resident memory in KiB."""
        return int(self._status("VmRSS"))

    def _status(self, name: str) -> str:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:"))

    def await_tracer(self, traced: bool) -> None:
        """Wait until something traces it, or nothing does."""
        self._wait(lambda: (self._status("TracerPid") != "0") == traced, "be traced" if traced else "be let go")

    def end(self) -> int:
        """Its exit status: that of SIGKILL unless it was wrong before."""
        try:
            status = self.process.poll()
            if status is None:
                os.killpg(self.pid, signal.SIGKILL)
            status = self.process.wait(PATIENCE)
            if self.process.stdin is not None:
                self.process.stdin.close()
        finally:
            self._memory.close()
            if os.path.exists(self._path):
                os.unlink(self._path)
        return status

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.end()


def go_through(target: Target, hooked: bool = True) -> float:
    """Attach, see a hook called, detach, and look; how long attaching took, in seconds."""
    refused: List[str] = []
    found = attach_tree(target.pid, say=refused.append) if target.kind in _TREES else [attach_process(target.pid)]
    assert [one.pid for one in found] == target.pids, f"{target.kind}: {refused}"
    with xpc_instrument.connect(found[0].app if target.kind in _TREES else target.pid) as app:
        if hooked and target.kind not in _SILENT:
            calls: List[Any] = []
            app.before("__main__:tick", lambda call: calls.append(call.id))
            target.work()
            deadline = time.monotonic() + PATIENCE
            while not calls:
                if not app.pids:
                    raise ChannelError("the agent of one that was killed has just left")
                assert time.monotonic() < deadline, f"{target.kind}: the hook was not called"
                time.sleep(0.0005)
        if app.detach() != sorted(target.pids):
            raise ChannelError("the agent of one that was killed has just left")
    target.work()
    assert target.is_as_before(), f"{target.kind}: {target.before} became {target.state()}, {target.tasks()}"
    return sum(one.seconds for one in found)


def kill_attacher(target: Target, longest: float, chance: random.Random) -> None:
    """Have a process attach that is killed at a random moment within `longest` seconds, and take out what it may have brought."""
    child = os.fork()
    if child == 0:
        try:
            attach_process(target.pid)
        finally:
            os._exit(0)
    time.sleep(chance.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    target.work()


def attach_together(target: Target) -> None:
    """Two processes attach at the same moment: there is one agent then, and each is told of it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            attach_process(target.pid)
            status = 0
        finally:
            os._exit(status)
    attach_process(target.pid)
    assert os.waitpid(child, 0)[1] == 0, f"{target.kind}: the other one failed"
    assert [entry.pid for entry in discovery.processes()] == [target.pid]
    with xpc_instrument.connect(target.pid) as app:
        assert app.detach() == [target.pid]
    target.work()
    assert target.is_as_before(), f"{target.kind}: {target.before} became {target.state()}, {target.tasks()}"


def refuse_traced(target: Target, tool: str) -> str:
    """What is said of a program that a tool traces; it must go on when the tool has let go."""
    tracer = subprocess.Popen(
        [*TRACERS[tool], str(target.pid)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        target.await_tracer(True)
        try:
            attach_process(target.pid)
            raise AssertionError(f"{target.kind} was attached to while {tool} traces it")
        except AttachError as error:
            said = str(error)
        assert f"it is traced by process {tracer.pid} ({tool})" in said, said
    finally:
        if tool == "strace":
            tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=PATIENCE)
    target.await_tracer(False)
    target.work()
    return said


def settle(target: Target) -> None:
    """What a killed attacher has left in the process ends: it starts no agent, or stops it, or one is there that can be told to leave."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if any(entry.pid == target.pid for entry in discovery.processes()):
                with xpc_instrument.connect(target.pid) as app:
                    app.detach()
            go_through(target)
            return
        except (XpcError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def at_random_moment(kind: str, chance: random.Random, python: str) -> Tuple[str, int]:
    """Attach while a program starts or ends; what came of it, and its exit status, which must be the one that it has of itself."""
    source = {
        "start": "import json, threading, logging, socket\ninput()\n",
        "end": "import sys, threading\nprint('up', flush=True)\ninput()\nimport json, csv, decimal\n",
    }[kind]
    program = subprocess.Popen([python, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdin is not None and program.stdout is not None
    if kind == "end":
        program.stdout.readline()
        program.stdin.write(b"\n")
        program.stdin.flush()
    time.sleep(chance.uniform(0, 0.05))
    try:
        attach_process(program.pid)
        told = "attached"
    except (XpcError, OSError) as error:
        told = str(error).splitlines()[0].replace(str(program.pid), "PID")
    _, said = program.communicate(b"\n", timeout=PATIENCE)
    assert b"Error" not in said and b"Fatal" not in said, said.decode()
    return told, program.returncode

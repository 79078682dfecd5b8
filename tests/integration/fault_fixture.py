"""What the tests of faults share: an application that measures itself, scripts that break where they are told to, and fair bounds.

The application and the test read the same clock, CLOCK_MONOTONIC, so that "killed at" here and "went on at" there can be compared. On a
machine that does other work too a thread may be woken late through no fault of anybody: a bound holds if it holds in one of a few attempts,
and what a thread that just sleeps is late meanwhile is taken off, once for each of the processes that take turns.
"""

from __future__ import annotations

import ast
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set

from tests.integration.app_fixture import App, start_app
from tests.programs import PATIENCE, Program
from xpc_instrument.core.wire.memory import why_plain

# No thread waits longer than its deadline, or than the death of the script, by more than this, in seconds.
LATE = 0.05
# A setting under [limits]: a machine that does other work too runs the script a bit later, and a side looks for as long as that takes.
PATIENT = "hot-spin = 0.001\n"
# How often a bound may be tried, and after how many failures it counts as broken.
ATTEMPTS = 6

TILL = """
import asyncio, gc, os, signal, sys, threading, time

ran = []                     # what the originals were called with
release = threading.Event()  # lets go of those that are held

def pay(n):
    ran.append(n)
    return "paid"

def hold(n):
    ran.append(n)
    print(f"original {n}\\n", end="", flush=True)  # in one write, as the answers are
    release.wait(60)
    return "held"

async def pay_async(n):
    ran.append(n)
    return "paid"

async def hold_async(n):
    ran.append(n)
    print(f"original {n}\\n", end="", flush=True)  # in one write, as the answers are
    await asyncio.get_running_loop().run_in_executor(None, release.wait, 60)
    return "held"

class Call:
    def __init__(self, function):
        self.function = function

    def run(self):
        self.began = time.monotonic()
        try:
            self.outcome = self.function()
        except BaseException as error:
            self.outcome = f"raised {type(error).__name__}: {error}"
        self.ended = time.monotonic()

    def report(self):
        return {"outcome": self.outcome, "began": self.began, "ended": self.ended}

def timed(function):
    call = Call(function)
    call.run()
    return call.report()

begun = {}

def begin(name, function):
    call = Call(function)
    call.thread = threading.Thread(target=call.run)
    begun[name] = call
    call.thread.start()

def end(name):
    call = begun.pop(name)
    call.thread.join(60)
    return call.report()

def let_go():
    release.set()
    return time.monotonic()

def resources():
    gc.collect()
    fds = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
    with open("/proc/self/maps") as file:
        mapped = file.read().count("memfd:xpc-instrument")
    return {"fds": len(fds), "threads": len(os.listdir("/proc/self/task")), "memories": mapped}

def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""

TARGETS = ("pay", "hold", "pay_async", "hold_async")

# Breaks at the step that it is told: `script.py TARGET MODE STEP [CALLS]`; the first so many calls it answers.
SCRIPT = """
import os, pickle, signal, sys, time
import xpc_instrument
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.node.address import parse_address

target, mode, step = sys.argv[1:4]
warm = int(sys.argv[4]) if len(sys.argv) > 4 else 0
LARGE = 8_000_000

def die():
    # In one write, and then at once: nothing of ours runs any more.
    os.write(1, f"dying {time.monotonic()}\\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)

def warming():
    global warm
    warm -= 1
    return warm >= 0

def half_an_answer(wire, frame):
    if warming():
        wire.send_frame(Opcode.RETURN, 0, pickle.dumps("hooked", 5), None)
        return
    opcode = Opcode.PROCEED if step == "half of proceed" else Opcode.RETURN
    pieces = b"".join(bytes(piece) for piece in wire.connection.send(opcode, 0, b"x" * LARGE))
    wire.transmit([pieces[: LARGE // 2]], None)
    die()

def hook(*args):
    if warming():
        return "hooked"
    if step == "answers":
        return "hooked" if mode == "instead" else (args[0].proceed(), "hooked")[1] if mode == "around" else None
    if step == "dies":
        die()
    print("=inside", flush=True)
    if step == "proceeds":
        args[0].proceed()
        print("proceeded", flush=True)
    elif step == "dies after proceed":
        args[0].proceed()
        die()
    sys.stdin.readline()
    if step == "proceeds late":
        try:
            args[0].proceed()
        except BaseException as error:
            print("=late", type(error).__name__, flush=True)
            raise
    return "hooked"

if step.startswith("half"):
    joiner = Joiner(parse_address(discovery.find("shop")[0].address), b"", limits=Limits(), serve=half_an_answer)
    joiner.connect(time.monotonic() + 20)
    joiner.register(f"{mode}:{target}", 1, "plain" if mode == "instead" else "call", timeout=20)
    print("hooked", flush=True)
    sys.stdin.readline()
else:
    app = xpc_instrument.connect("shop")
    getattr(app, mode)(target, hook)
    print("hooked", flush=True)
    app.run()
"""


class Faulty(App):
    """The application, with calls that run in threads of their own and are timed there."""

    def value(self, expression: str) -> Any:
        """What an expression gives: a plain value."""
        text = self.evaluate(expression)
        assert not text.startswith("raised "), text
        return ast.literal_eval(text)

    def begin(self, name: str, expression: str) -> None:
        """Have a thread evaluate it."""
        self.value(f"till.begin({name!r}, lambda: {expression})")

    def end(self, name: str) -> Dict[str, Any]:
        """Its `outcome`, and when it `began` and `ended`."""
        found: Dict[str, Any] = self.value(f"till.end({name!r})")
        return found

    def timed(self, expression: str) -> Dict[str, Any]:
        """The same in the main thread."""
        found: Dict[str, Any] = self.value(f"till.timed(lambda: {expression})")
        return found

    @property
    def ran(self) -> List[Any]:
        """What the originals were called with."""
        found: List[Any] = self.value("till.ran")
        return found

    def resources(self) -> Dict[str, int]:
        """Descriptors, threads, and memories of lanes that are mapped."""
        found: Dict[str, int] = self.value("till.resources()")
        return found

    def settles_at(self, before: Dict[str, int]) -> None:
        """It has as many descriptors, threads and memories as before, at the latest when those that left have been noticed."""
        patience = threading.Event()
        deadline = time.monotonic() + PATIENCE
        while (now := self.resources()) != before:
            assert time.monotonic() < deadline, (now, before)
            patience.wait(0.02)

    def frames(self) -> int:
        """How many frames have gone through memory on the lanes that there are."""
        return sum(self.value("[one.frames for one in __import__('xpc_agent').lanes()]"))

    def heat(self, expression: str, wanted: int = 50) -> bool:
        """Evaluate it until so many frames have gone through memory, so that what happens next happens to a hot lane; returns whether they have.

        Where lanes cannot be hot, or other programs keep the processors busy, the fault happens to a plain one.
        """
        if why_plain():
            return False
        # Tens of milliseconds where there is a processor for each side; where there is none, to go on takes it from others.
        deadline = time.monotonic() + PATIENCE / 30
        before = self.frames()
        while self.frames() - before < wanted:
            if time.monotonic() >= deadline:
                assert is_busy(), f"{self.frames() - before} frames went through memory"
                return False
            self.value(f"[{expression} for _ in range(100)][:0]")
        return True

    def disarmed(self) -> None:
        """Wait until no hook is left."""
        patience = threading.Event()
        deadline = time.monotonic() + PATIENCE
        expression = "sum(len(point.hooks) for point in sys.modules['xpc_agent.life.control'].current().table.points.values())"
        while self.value(expression) and time.monotonic() < deadline:
            patience.wait(0.02)
        assert self.value(expression) == 0


def start_faulty(
    run_program: Callable[..., Program],
    folder: Path,
    timeout: float = 20.0,
    more: str = "",
    env: Optional[Dict[str, str]] = None,
    defaults: str = "",
) -> Faulty:
    """Start the application; ready when it returns. `more` comes before the table of the defaults, `defaults` into it."""

    def run(*args: Any, **options: Any) -> Program:
        return run_program(*args, **options, **({"env": env} if env else {}))

    return _with_till(start_app(run, folder, write_till(folder, timeout, more, defaults)))


def begin_faulty(begin_app: Callable[..., App], folder: Path, timeout: float = 20.0, more: str = "", defaults: str = "") -> Faulty:
    """The same in a process that other tests have had before."""
    return _with_till(begin_app(write_till(folder, timeout, more, defaults)))


def write_till(folder: Path, timeout: float, more: str, defaults: str) -> str:
    """Write the module `till`; returns the config."""
    (folder / "till.py").write_text(TILL)
    probes = "".join(f'[[probe]]\ntarget = "till:{name}"\n' for name in TARGETS)
    return f'{more}[defaults]\ntimeout = {timeout}\n{defaults}{probes}[[probe]]\ntarget = "shop:*"\n'


def _with_till(app: App) -> Faulty:
    faulty = Faulty(app.program)
    faulty.value("globals().update(till=__import__('till'))")
    return faulty


def is_busy() -> bool:
    """Whether other programs want the processors too: lanes rightly stay plain then. To be asked while those of the test have nothing to do.

    The load alone does not tell: two sides that take turns need two processors, and one program that computes takes one of two.
    """
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        return True
    before = _processor_seconds()
    threading.Event().wait(_LOOK)
    return _processor_seconds() - before > 0.3 * _LOOK


_LOOK = 0.3


def _processor_seconds() -> float:
    """What all processors together have worked so far, or have been taken away by the host of a virtual machine; proc(5)."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, interrupts, soft, stolen, *_ = map(int, file.readline().split()[1:])
    return float(user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def memories(pid: int) -> Set[int]:
    """The memories of lanes that a process holds, by mapping or by descriptor: their inodes. Linux only."""
    found = {int(line.split()[4]) for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:xpc-instrument" in line}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "memfd:xpc-instrument" in os.readlink(path):
                found.add(os.stat(path).st_ino)
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def await_rest(pid: int) -> None:
    """Return once the main thread of a process has slept for a while; at once where there is no /proc."""
    patience, asleep = threading.Event(), 0
    deadline = time.monotonic() + PATIENCE / 3
    while asleep < 5 and time.monotonic() < deadline and os.path.exists(f"/proc/{pid}/stat"):
        with open(f"/proc/{pid}/stat") as file:
            asleep = asleep + 1 if file.read().rpartition(")")[2].split()[0] == "S" else 0
        patience.wait(0.005)


def holds_no_memory(pid: int) -> None:
    """Wait until a process holds no memory of a lane; fails if it goes on to hold one."""
    patience = threading.Event()
    deadline = time.monotonic() + PATIENCE / 3
    while memories(pid) and time.monotonic() < deadline:
        patience.wait(0.02)
    assert memories(pid) == set()


def stop(program: Program) -> None:
    """Stop a program by SIGSTOP; no thread of it does anything more when this returns."""
    program.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED)


class Sleeper:
    """Measures how late a thread wakes that just sleeps: what the machine does to everybody. `with` runs it."""

    def __init__(self) -> None:
        self.late = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sleep)

    def _sleep(self) -> None:
        while True:
            due = time.monotonic() + 0.01
            if self._done.wait(0.01):
                return
            self.late = max(self.late, time.monotonic() - due)

    def __enter__(self) -> Sleeper:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()


# The script or its last breath, the thread of the application, and whoever tells of it.
TURNS = 3


def holds_once(attempt: Callable[[int], float], bound: float = LATE) -> None:
    """Some attempt is late by no more than the bound; each gets its number and returns by how many seconds it was late."""
    seen: List[str] = []
    for number in range(ATTEMPTS):
        with Sleeper() as sleeper:
            late = attempt(number)
        if late - TURNS * sleeper.late <= bound:
            return
        seen.append(f"{late * 1000:.0f} (a sleeper {sleeper.late * 1000:.0f})")
    raise AssertionError(f"late by {', '.join(seen)} ms; expected at most {bound * 1000:.0f} ms, once at least")

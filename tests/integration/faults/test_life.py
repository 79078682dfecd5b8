"""The application forks, leaves, recurses, and runs out of descriptors, disk and time while invocations are under way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import MAIN, SNAPSHOT, TARGETS, instrumented, listing
from tests.integration.fault_fixture import (
    ATTEMPTS,
    LATE,
    PATIENT,
    SCRIPT,
    TILL,
    Faulty,
    holds_no_memory,
    holds_once,
    is_busy,
    memories,
    start_faulty,
    stop,
)
from tests.programs import Program, wait_for, wait_for_exit
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.wire.memory import why_plain

CLI = [sys.executable, "-m", "xpc_instrument.cli"]
TIMEOUT = 0.3

Start = Callable[..., Faulty]


@pytest.fixture
def start(run_program: Callable[..., Program], tmp_path: Path) -> Start:
    def start_with(timeout: float = 20.0, more: str = "", env: Any = None, module: str = "") -> Faulty:
        (tmp_path / "extra.py").write_text(module)
        app = start_faulty(run_program, tmp_path, timeout, more, env)
        app.value("globals().update(extra=__import__('extra'))")
        return app

    return start_with


needs_hot = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")
# Whether the lanes in question are hot when the fault strikes: frames have just gone through memory.
both = pytest.mark.parametrize("hot", [False, True], ids=["plain", "hot"])


class Holding:
    """A hook for `till:pay` that holds calls with a negative number until it is let go."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Semaphore(0), threading.Event()

    def hook(self, n: int) -> str:
        if n < 0:
            self.entered.release()
            wait_for(self.leave)
        return "hooked"


# forks ------------------------------------------------------------------------------------------------------------------------

FORKS = """
import os, threading, time, till

def sockets():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found

def fork():
    before = sockets()
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        shared = before & sockets()
        began = time.monotonic()
        answer = till.pay(7)
        os.write(into, repr((answer, len(shared), threading.active_count(), time.monotonic() - began)).encode())
        os._exit(0)
    os.close(into)
    text = b""
    while True:
        piece = os.read(out, 4096)
        if not piece:
            break
        text += piece
    os.close(out)
    return eval(text), os.waitpid(pid, 0)[1]
"""


@pytest.mark.parametrize("step", ["inside", "original"])
def test_a_fork_in_the_middle_of_a_call_of_another_thread_leaves_each_process_its_own(start: Start, step: str) -> None:
    app = start(module=FORKS)
    inside, leave = threading.Event(), threading.Event()

    def hook(call: Any) -> Any:
        if call.args == ("warm",):
            return None
        if step == "inside":
            inside.set()
            wait_for(leave)
        return ("hooked", call.proceed())

    with xpc_instrument.connect("shop") as session:
        session.around("till:hold", hook)
        session.instead("till:pay", lambda n: f"hooked {n}")
        app.heat("till.hold('warm')")
        before = app.resources()
        app.begin("call", "till.hold(1)")
        if step == "inside":
            wait_for(inside)
        else:
            app.program.find_line("original 1")
        for _ in range(5):
            (answer, shared, threads, _), status = app.value("extra.fork()")
            # The waiting thread has no copy in the child, and its connections stay the parent's.
            assert (answer, shared, threads, status) == ("hooked 7", 0, 1, 0)
        leave.set()
        app.value("till.let_go()")
        assert app.end("call")["outcome"] == ("hooked", "held")
        assert app.ran == [1]
        app.value("till.pay(1) and None")
        app.value("till.resources()")
        assert app.resources()["fds"] <= before["fds"] + 2  # a lane more
    discovery.processes()


def test_a_child_forked_in_the_middle_of_a_call_to_a_stopped_script_waits_once_and_no_longer(
    start: Start, run_program: Callable[..., Program]
) -> None:
    app = start(timeout=TIMEOUT, module=FORKS)
    script = run_program(SCRIPT, "till:pay", "instead", "answers", name="script.py")
    script.read_until("hooked")
    app.heat("till.pay(1)")
    stop(script)

    def attempt(number: int) -> float:
        app.begin("call", "till.pay(1)")
        (answer, shared, threads, waited), status = app.value("extra.fork()")
        assert (answer, shared, threads, status) == ("paid", 0, 1, 0)
        assert app.end("call")["outcome"] == "paid"
        return float(waited - TIMEOUT)

    holds_once(attempt)
    script.kill()
    discovery.processes()


@needs_hot
def test_a_child_has_no_memory_of_its_parents_and_neither_has_any_when_the_script_has_gone(start: Start) -> None:
    app = start(more=f"[limits]\n{PATIENT}")
    fork = (
        "(lambda ends, go: os.fork() or (os.close(go[1]), os.write(ends[1], till.pay(1).encode()), os.read(go[0], 1), os._exit(7))) "
        "(extra.__dict__.setdefault('ends', os.pipe()), extra.__dict__.setdefault('go', os.pipe()))"
    )
    app.value("globals().update(os=__import__('os'))")
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", lambda n: "hooked")
        hot = app.heat("till.pay(0)")
        ours = memories(app.program.pid)
        assert len(ours) == sum(one.lanes for one in session.lanes()) > 0
        child = app.value(fork)
        # It has called its hook by now: on a lane of its own.
        assert app.value("os.read(extra.ends[0], 100)") == b"hooked"
        assert memories(child) and not memories(child) & ours
        assert memories(app.program.pid) == ours
        # The lanes of the parent are as they were.
        assert app.heat("till.pay(0)") or not hot or is_busy()
        assert app.value("till.pay(1)") == "hooked"
    holds_no_memory(child)
    app.disarmed()
    holds_no_memory(app.program.pid)
    holds_no_memory(os.getpid())
    app.value("os.close(extra.go[1])")
    assert app.value(f"os.waitpid({child}, 0)[1]") == 7 << 8
    discovery.processes()


# A script has threads, of which a fork warns; what the parent prints of that would come in between what the child prints.
FORKING_SCRIPT = """
import os, sys, warnings, xpc_instrument
warnings.simplefilter("ignore")
app = xpc_instrument.connect("shop")
app.instead("till:pay", lambda n: "hooked")
print("hooked", flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    app.close()
    print("forked", os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
app.run()
"""


@needs_hot
def test_a_script_that_forks_while_its_lanes_are_hot_keeps_them_and_its_child_closes_its_own_side_of_them(
    start: Start, run_program: Callable[..., Program]
) -> None:
    app = start(more=f"[limits]\n{PATIENT}")
    script = run_program(FORKING_SCRIPT, name="script.py")
    script.read_until("hooked")
    app.heat("till.pay(0)")
    assert memories(script.pid) == memories(app.program.pid) != set()
    script.send_line()
    child = int(script.read_until("forked").split()[1])
    assert memories(child) == set()
    assert memories(script.pid) == memories(app.program.pid) != set()
    app.heat("till.pay(0)")
    assert app.value("[till.pay(n) for n in range(100)]") == ["hooked"] * 100
    script.send_line()
    assert wait_for_exit(child)
    script.kill()
    app.disarmed()
    holds_no_memory(app.program.pid)
    assert app.value("till.pay(1)") == "paid"


# exits ------------------------------------------------------------------------------------------------------------------------

EXITS = """
import contextlib, io, os, signal, sys, threading, time
import till

# What prints an exception imports some fifty modules from 3.13 on: now, and not as it leaves.
with contextlib.redirect_stderr(io.StringIO()):
    sys.excepthook(ValueError, ValueError(), None)

def call():
    # What follows is said only by a thread that the interpreter lets run on.
    os.write(1, b"thread got %s\\n" % till.pay(1).encode())

print("ready", flush=True)
sys.stdin.readline()
# The lane is hot when the last of them begins: calls through memory that come one right after the other.
for _ in range({warm}):
    till.pay(1)
for daemon in {daemons}:
    threading.Thread(target=call, daemon=daemon).start()
sys.stdin.readline()
print("leaving", time.monotonic(), flush=True)
{leave}
"""

# How the application leaves, with daemon threads or others that wait in hooks, and its exit status.
WAYS: Dict[str, Any] = {
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "the end": ("", 0),
    "an exception": ("raise ValueError('unhandled')", 1),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM),
    "a handler that exits": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        5,
    ),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
}
NEITHER = ("os._exit", "SIGTERM")


# Whether the interpreter waits for the threads makes no difference to two of them.
@pytest.mark.parametrize(("way", "daemon"), [(way, daemon) for way in WAYS for daemon in (True, False) if daemon or way not in NEITHER])
def test_an_application_that_leaves_with_calls_in_flight_is_gone_at_once(
    run_program: Callable[..., Program], tmp_path: Path, way: str, daemon: bool
) -> None:
    leave, status = WAYS[way]
    (tmp_path / "till.py").write_text(TILL)
    (tmp_path / "exits.py").write_text(EXITS.format(leave=leave, daemons=[daemon] * 4, warm=WARM))
    timeout = 60.0 if daemon else TIMEOUT
    config = tmp_path / "xpc-instrument.toml"
    config.write_text(f'app = "shop"\n[[probe]]\ntarget = "till:pay"\ntimeout = {timeout}\n')
    waits = not daemon and way not in NEITHER

    def attempt(number: int) -> float:
        holding = run_program(HOLDING, str(WARM), name="holding.py")
        program = run_program(command=instrumented(config, sys.executable, "exits.py"), cwd=tmp_path)
        program.read_until("ready")
        holding.read_until("hooked")
        program.send_line()
        for _ in range(4):
            holding.read_until("inside")
        # Nothing else runs in it now: what it takes from here on is the leaving.
        program.send_line()
        left = float(program.read_until("leaving").split()[1])
        assert program.wait() == status
        gone = time.monotonic()
        holding.kill()
        # Other threads than daemons the interpreter waits for, and they for their deadline: as long as the hook may take. Daemons go on
        # without their hooks as soon as the agent leaves, if the interpreter lets them.
        went_on = program.text.count("thread got paid")
        assert went_on == 4 if waits else went_on <= 4
        assert "Fatal" not in program.text and program.text.count("Traceback") == (way in ("an exception", "Ctrl-C"))
        return gone - left - (TIMEOUT if waits else 0)

    # Leaving is more than a wait: the interpreter ends, by itself some 30 ms, which is as much longer as there are others that compute.
    crowded = os.getloadavg()[0] > (os.cpu_count() or 1)
    holds_once(attempt, bound=LATE + (1.0 if crowded else 0.1))
    discovery.processes()


# Calls that the hook answers before it holds the next ones.
WARM = 150
HOLDING = """
import os, sys, threading, xpc_instrument
app = xpc_instrument.connect("shop", timeout=30)
warm = int(sys.argv[1])
def hook(*args):
    global warm
    warm -= 1
    if warm >= 0:
        return "warm"
    os.write(1, b"inside\\n")
    threading.Event().wait()
app.instead("till:pay", hook)
print("hooked", flush=True)
app.run()
"""


# hooks that come back by HTTP -------------------------------------------------------------------------------------------------

SERVER = """
import http.server, threading

handled = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        handled.append(self.path)
        body = answer(self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

def answer(path):
    return f"original {path}"

def serve(kind):
    server = getattr(http.server, kind)(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port
"""

GET = "__import__('urllib.request').request.urlopen('http://127.0.0.1:{}/{}', timeout=20).read().decode()"


def get(port: int, path: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
        text: str = answer.read().decode()
        return text


@both
def test_a_hook_that_requests_the_application_again_is_answered_by_a_server_with_threads(start: Start, hot: bool) -> None:
    app = start(more=f'[limits]\n{PATIENT}[[probe]]\ntarget = "extra:answer"\n', module=SERVER)
    port = app.value("extra.serve('ThreadingHTTPServer')")

    def hook(call: Any) -> str:
        if call.args[0] == "/warm":
            return "warm"
        depth = int(call.args[0].lstrip("/"))
        inner = get(port, str(depth - 1)) if depth else "the ground"
        return f"{call.proceed()} < {inner}"

    with xpc_instrument.connect("shop") as session:
        session.around("extra:answer", hook)
        expected = "original /3 < original /2 < original /1 < original /0 < the ground"
        for _ in range(3 if hot else 1):
            if hot:
                app.heat("extra.answer('/warm')")
            app.value("extra.handled.clear()")
            # Four threads are in calls at once, each on a lane of its own.
            assert app.value(GET.format(port, 3)) == expected
            assert sorted(app.value("extra.handled")) == ["/0", "/1", "/2", "/3"]


@both
def test_a_hook_that_requests_a_server_with_one_thread_ends_by_its_deadline_and_fails_open(start: Start, hot: bool) -> None:
    app = start(more=f'[limits]\n{PATIENT}[[probe]]\ntarget = "extra:answer"\ntimeout = {TIMEOUT}\n', module=SERVER)
    port = app.value("extra.serve('HTTPServer')")
    again: List[str] = []

    def hook(call: Any) -> Any:
        if call.args[0] == "/outer":
            # The only thread of the server waits for us, so this is answered when it has given up.
            again.append(get(port, "inner"))
        return call.proceed()

    with xpc_instrument.connect("shop") as session:
        session.around("extra:answer", hook)

        def attempt(number: int) -> float:
            if hot:
                app.heat("extra.answer('/warm')")
            done = app.timed(GET.format(port, "outer"))
            assert done["outcome"] == "original /outer"
            return float(done["ended"] - done["began"]) - TIMEOUT

        holds_once(attempt, bound=LATE)
        handled = app.value("extra.handled")
        assert handled.count("/outer") == handled.count("/inner") or handled.count("/outer") == handled.count("/inner") + 1
    assert set(again) <= {"original /inner"}


# the runtime directory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sockets", "the whole directory"])
@both
def test_sockets_that_are_deleted_while_in_use_cost_hooks_at_most(start: Start, runtime_dir: Path, hot: bool, what: str) -> None:
    app = start(timeout=TIMEOUT, more=f"[limits]\n{PATIENT}", module=FORKS)
    before = app.resources()
    holding = Holding()
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", holding.hook)
        assert app.value("till.pay(1)") == "hooked"
        if hot:
            app.heat("till.pay(1)")
        if what == "sockets":
            for path in runtime_dir.iterdir():
                path.unlink()
        else:
            shutil.rmtree(runtime_dir)
        # The lane that is there goes on; a second one cannot be dialled any more.
        if hot:
            app.heat("till.pay(1)")
        assert app.value("till.pay(1)") == "hooked"
        app.begin("held", "till.pay(-1)")
        assert holding.entered.acquire(timeout=20)

        def attempt(number: int) -> float:
            done = app.timed(f"till.pay({number})")
            assert done["outcome"] in ("paid", "hooked")
            return float(done["ended"] - done["began"]) - TIMEOUT

        holds_once(attempt)
        holding.leave.set()
        app.end("held")
        (_, shared, _, _), status = app.value("extra.fork()")
        assert (shared, status) == (0, 0)
    runtime_dir.mkdir(mode=0o700, exist_ok=True)
    discovery.processes()
    assert app.value("till.pay(2)") == "paid"
    app.settles_at(before)
    app.program.send_line("")
    assert app.program.wait() == 0
    assert "Traceback" not in app.program.text


FULL = """
import os, subprocess, sys, time
folder = sys.argv[1]
os.environ["XPC_INSTRUMENT_RUNTIME_DIR"] = folder
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=16,mode=0700", "none", folder], check=True)
import xpc_instrument
run = [sys.executable, "-m", "xpc_instrument.cli", "run", "--", sys.executable, "main.py"]

def start():
    app = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=sys.argv[2])
    while "ready" not in (line := app.stdout.readline()):
        print("app:", line.strip())
        assert line
    return app

def ask(app, expression):
    app.stdin.write(expression + "\\n")
    app.stdin.flush()
    while not (line := app.stdout.readline()).startswith("=> "):
        if line.strip():
            print("app:", line.strip())
        assert line
    return line[3:].strip()

def fill():
    try:
        with open(os.path.join(folder, "filling"), "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
    except OSError:
        pass
    number = 0
    try:
        while True:
            open(os.path.join(folder, f"filling{number}"), "x").close()
            number += 1
    except OSError:
        pass

frames = 0

def heat():
    global frames
    # Until frames have gone through memory, or for as long as a busy machine is waited for.
    until = time.monotonic() + 3
    before = sum(one.frames for one in session.lanes())
    while (frames := sum(one.frames for one in session.lanes())) < before + 50 and time.monotonic() < until:
        ask(app, "[shop.charge(n) for n in range(100)][:0]")
    return frames >= before + 50

app = start()
session = xpc_instrument.connect("shop")
session.instead("shop:charge", lambda amount: "hooked")
before = heat()
fill()
print("hot:", before, heat())
print("armed:", ask(app, "shop.charge(1)"))
forked = "(lambda pid: os.waitpid(pid, 0)[1] if pid else os._exit(len(shop.charge(2))))(os.fork())"
print("child:", ask(app, "globals().update(os=__import__('os'))"), ask(app, forked))
try:
    xpc_instrument.connect("shop")
except OSError as error:
    print("connect:", type(error).__name__, error)
session.before("shop:fail", print)
print("still:", ask(app, "shop.charge(3)"))
session.close()
print("disarmed:", ask(app, "shop.charge(4)"))
app.stdin.close()
print("status:", app.wait())
other = start()
print("other:", ask(other, "shop.charge(5)"))
other.stdin.close()
print("status:", other.wait())
"""


def test_a_full_disk_in_the_runtime_directory_harms_neither_application_nor_session(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path
) -> None:
    may = shutil.which("unshare") and subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=4k", "none", str(runtime_dir)], capture_output=True, check=False
    )
    if not may or may.returncode:
        pytest.skip("a small disk of one's own needs unshare and the right to mount; full files are tested with ulimit -f")
    for name, text in (("shop", TARGETS), ("snapshot", SNAPSHOT), ("main", MAIN)):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "xpc-instrument.toml").write_text(
        'app = "shop"\n[defaults]\ntimeout = 5\n[limits]\n' + PATIENT + '[[probe]]\ntarget = "shop:*"\n'
    )
    (tmp_path / "full.py").write_text(FULL)
    program = run_program(command=["unshare", "-rm", sys.executable, "full.py", str(runtime_dir), str(tmp_path)], cwd=tmp_path)
    assert program.wait() == 0, program.text
    # Memory is not of that disk.
    assert "hot: True True" in program.text or why_plain() or is_busy()
    assert "armed: 'hooked'" in program.text
    # 5 letters of '2 EUR': the child cannot be found, so it runs the original.
    assert f"child: None {5 << 8}" in program.text
    assert "connect: " in program.text
    assert "still: 'hooked'" in program.text
    assert "disarmed: '4 EUR'" in program.text
    assert "other: '5 EUR'" in program.text
    assert program.text.count("status: 0") == 2
    assert "Traceback" not in program.text


# descriptors ------------------------------------------------------------------------------------------------------------------

GREEDY = """
import os, resource

taken = []

def take_all(spare=0):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(spare):
        os.close(taken.pop())

def give_back():
    while taken:
        os.close(taken.pop())
"""


@both
def test_an_application_without_descriptors_goes_on_and_is_hooked_again_when_it_has_some(start: Start, hot: bool) -> None:
    app = start(timeout=TIMEOUT, more=f"[limits]\n{PATIENT}", module=GREEDY)
    holding = Holding()
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", holding.hook)
        assert app.value("till.pay(1)") == "hooked"
        if hot:
            app.heat("till.pay(1)")
        app.value("extra.take_all()")
        # On the lane that is there.
        if hot:
            app.heat("till.pay(2)")
        assert app.value("till.pay(2)") == "hooked"
        app.begin("held", "till.pay(-1)")
        assert holding.entered.acquire(timeout=20)

        def attempt(number: int) -> float:
            done = app.timed(f"till.pay({number})")
            # The lane that is held comes free by its deadline, or does not.
            assert done["outcome"] in ("paid", "hooked")
            return float(done["ended"] - done["began"]) - TIMEOUT

        holds_once(attempt)
        holding.leave.set()
        app.end("held")
        assert app.value("till.pay(3)") in ("paid", "hooked")
        app.value("extra.give_back()")
        deadline = time.monotonic() + 20
        while app.value("till.pay(4)") != "hooked":
            assert time.monotonic() < deadline
        with xpc_instrument.connect("shop") as second:
            second.instead("till:pay", lambda n: "second")
            assert app.value("till.pay(5)") == "second"
        assert app.value("till.pay(6)") == "hooked"
    assert app.value("till.pay(7)") == "paid"
    assert "Traceback" not in app.log()


GREEDY_SCRIPT = """
import sys, threading, xpc_instrument, greedy
app = xpc_instrument.connect("shop")
app.instead("till:pay", lambda n: "hooked")
print("hooked", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "take":
        greedy.take_all()
    elif word == "give":
        greedy.give_back()
    elif word == "register":
        try:
            app.before("till:pay", lambda call: None).remove()
            print("answer: registered", flush=True)
        except OSError as error:
            print("answer: refused", type(error).__name__, flush=True)
        continue
    else:
        break
    print("done", flush=True)
app.close()
print("closed", flush=True)
"""


@both
def test_a_script_without_descriptors_keeps_its_hooks_and_opens_more_lanes_later(
    start: Start, run_program: Callable[..., Program], tmp_path: Path, hot: bool
) -> None:
    app = start(timeout=TIMEOUT, more=f"[limits]\n{PATIENT}")
    before = app.resources()
    (tmp_path / "greedy.py").write_text(GREEDY)
    script = run_program(GREEDY_SCRIPT, name="script.py")
    script.read_until("hooked")
    if hot:
        app.heat("till.pay(1)")
    script.send_line("take")
    script.read_until("done")
    if hot:
        app.heat("till.pay(1)")
    assert app.value("till.pay(1)") == "hooked"
    # More threads than lanes, none of which can be opened now: each is hooked or fails open, and by its deadline.
    for number in range(4):
        app.begin(str(number), f"[till.pay({number}) for _ in range(20)]")
    for number in range(4):
        done = app.end(str(number))
        assert set(done["outcome"]) <= {"hooked", "paid"}
    script.send_line("register")
    # Its log speaks too: of the doorbell that cannot be looked at.
    assert script.read_until("answer: ")[8:] in ("registered", "refused OSError", "refused ChannelError")
    script.send_line("give")
    script.read_until("done")
    script.send_line("register")
    assert script.read_until("answer: ") == "answer: registered"
    assert app.value("till.pay(2)") == "hooked"
    script.send_line("close")
    script.read_until("closed")
    assert script.wait() == 0
    assert app.value("till.pay(3)") == "paid"
    app.disarmed()
    app.settles_at(before)


# memory that cannot be had -----------------------------------------------------------------------------------------------------

# What keeps an application from making a memory, or from mapping it: with one descriptor left it accepts the connection, and that was it.
SCARCE = (
    GREEDY
    + """
def limit(which, value):
    found = getattr(resource, which)
    resource.setrlimit(found, (value, resource.getrlimit(found)[1]))

def free(which):
    found = getattr(resource, which)
    resource.setrlimit(found, (resource.getrlimit(found)[1],) * 2)

def in_use():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
"""
)

SCARCITIES = {
    "descriptors": ("extra.take_all(1)", "extra.give_back()", "no memory could be made: [Errno 24] Too many open files"),
    "the size of files": (
        "extra.limit('RLIMIT_FSIZE', 100_000)",
        "extra.free('RLIMIT_FSIZE')",
        "no memory could be made: [Errno 27] files of this process may have",
    ),
    "address space": (
        "extra.limit('RLIMIT_AS', extra.in_use() + 64_000)",
        "extra.free('RLIMIT_AS')",
        "no memory could be made: [Errno 12] Cannot allocate memory",
    ),
}
if sys.version_info < (3, 13):
    # The mapping has a descriptor of its own there.
    SCARCITIES["descriptors of mappings"] = ("extra.take_all(2)", *SCARCITIES["descriptors"][1:])


@needs_hot
@pytest.mark.parametrize("what", SCARCITIES)
def test_a_lane_for_which_no_memory_can_be_had_is_plain_and_the_statistics_say_why(start: Start, what: str) -> None:
    scarce, enough, why = SCARCITIES[what]
    app = start(more=f"[limits]\n{PATIENT}", module=SCARCE)
    before = app.resources()
    holding = Holding()
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", holding.hook)
        app.heat("till.pay(0)")
        # Calls find no free lane from here on.
        count = sum(one.lanes for one in session.lanes())
        for number in range(count):
            app.begin(f"held {number}", "till.pay(-1)")
            assert holding.entered.acquire(timeout=20)
        app.value(scarce)
        assert app.value("till.pay(1)") == "hooked"
        app.value(enough)
        (ours,) = (one for one in session.lanes() if one.lanes)
        assert sum(ours.plain.values()) == ours.lanes - ours.hot >= 1
        assert all(reason.startswith(why) for reason in ours.plain)
        assert f"plain: {why}" in listing("--stats")
        # It is a lane like any other.
        assert app.value("[till.pay(n) for n in range(200)]") == ["hooked"] * 200
        holding.leave.set()
        for number in range(count):
            assert app.end(f"held {number}")["outcome"] == "hooked"
        # The others are as hot as before, and those that come are.
        with xpc_instrument.connect("shop") as second, second.instead("shop:charge", lambda n: n):
            app.heat("shop.charge(1)")
    app.disarmed()
    assert app.ran == []
    app.settles_at(before)
    assert "Traceback" not in app.log()


# clocks -----------------------------------------------------------------------------------------------------------------------

JUMPING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Each look at the wall clock finds it a year away from the last one. */
static volatile unsigned looks;

static long jump(void) { return (++looks % 2 ? 1L : -1L) * 31536000L; }

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, which, now);
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec real;
    (void)zone;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
    now->tv_sec = real.tv_sec + jump();
    now->tv_usec = real.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec real;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
    real.tv_sec += jump();
    if (where) *where = real.tv_sec;
    return real.tv_sec;
}
"""


@pytest.fixture
def jumping(tmp_path: Path) -> Dict[str, str]:
    """The environment of a program whose wall clock jumps."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a clock that jumps needs a C compiler and LD_PRELOAD")
    (tmp_path / "jumping.c").write_text(JUMPING)
    library = tmp_path / "jumping.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "jumping.c"), "-ldl"], check=True)
    env = {"LD_PRELOAD": str(library)}
    look = "import time; one, two = time.time(), time.time(); print(abs(one - two) > 1e7, time.monotonic() < one)"
    seen = subprocess.run([sys.executable, "-c", look], env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout
    assert seen.split()[0] == "True", "the clock does not jump"
    return env


@pytest.mark.parametrize("kind", ["sync", "async", "hot"])
def test_clocks_that_jump_decide_nothing(start: Start, run_program: Callable[..., Program], jumping: Dict[str, str], kind: str) -> None:
    app = start(timeout=TIMEOUT, more=f"[limits]\nmax-lanes = 1\n{PATIENT}", env=jumping)
    target, expression = ("pay_async", "asyncio.run(till.pay_async({}))") if kind == "async" else ("pay", "till.pay({})")
    script = run_program(SCRIPT, f"till:{target}", "instead", "answers", name="script.py", env=jumping)
    script.read_until("hooked")
    for number in range(20):
        assert app.value(expression.format(number)) == "hooked"
    if kind == "hot":
        app.heat("till.pay(1)")
    stop(script)

    def attempt(number: int) -> float:
        # The first waits for an answer, and then for a lane, of which there is one: both by their deadline.
        done = app.timed(expression.format(number))
        assert done["outcome"] == "paid"
        assert done["ended"] - done["began"] >= TIMEOUT - 0.001
        return float(done["ended"] - done["began"]) - TIMEOUT

    for _ in range(3):
        holds_once(attempt)
    assert len(app.ran) <= 3 * ATTEMPTS
    script.signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while app.value(expression.format(99)) != "hooked":
        assert time.monotonic() < deadline
    if kind == "hot":
        app.heat("till.pay(1)")
    script.kill()
    app.disarmed()
    holds_no_memory(app.program.pid)

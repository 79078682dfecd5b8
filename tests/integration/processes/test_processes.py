"""One application in several processes: a session covers them all, at every moment of their births and deaths."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import instrumented
from tests.programs import PATIENCE, Program, kill, wait_for_exit
from xpc_instrument import Session
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.node.joiner import Joiner

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PAY = "def charge(n):\n    return f'{n} paid'\n"
CONFIG = 'app = "pay"\n[defaults]\ntimeout = 5.0\n[[probe]]\ntarget = "pay:charge"\n'

Start = Callable[..., Program]


@pytest.fixture
def start(run_program: Callable[..., Program], tmp_path: Path) -> Start:
    """Start an application of that source, with `pay:charge` as its probe point; warnings of Python end it."""

    def start_application(source: str, ready: str = "ready", config: str = CONFIG) -> Program:
        (tmp_path / "pay.py").write_text(PAY)
        (tmp_path / "main.py").write_text(source)
        path = tmp_path / "xpc-instrument.toml"
        path.write_text(config)
        program = run_program(command=instrumented(path, sys.executable, "-W", "error::DeprecationWarning", "main.py"), cwd=tmp_path)
        program.read_until(ready)
        return program

    return start_application


def end(program: Program) -> None:
    """Have the program read to the end of its input, and look for what its children left behind."""
    program.send_line()
    assert program.wait() == 0
    assert "Warning" not in program.text
    discovery.processes()


def announced() -> List[int]:
    return sorted(entry.pid for entry in discovery.processes("pay"))


# births ------------------------------------------------------------------------------------------------------------------

POOL = """
import multiprocessing, os, sys, pay

def work(n):
    return os.getpid(), pay.charge(n)

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    with multiprocessing.get_context("{way}").Pool(3) as pool:
        for pid, answer in sorted(pool.map(work, range(3), 1), key=lambda one: one[1]):
            print("child", pid, answer, flush=True)
        sys.stdin.readline()
        pool.close()
        pool.join()
    print("again", pay.charge(9), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_all_workers_of_a_pool_are_hooked_and_listed_under_the_name_of_the_application(start: Start, way: str) -> None:
    # A worker of a pool does one task at a time, so three that meet here are in three workers.
    meeting = threading.Barrier(3)
    pids: List[int] = []

    def stand_in(call: Any) -> str:
        if call.args != (9,):
            pids.append(call.pid)
            meeting.wait(PATIENCE)
        return f"{call.args[0]} hooked"

    program = start(POOL.format(way=way))
    with xpc_instrument.connect("pay") as session:
        session.around("pay:charge", stand_in)
        program.send_line("go")
        lines = [program.read_until("child").split() for _ in range(3)]
        assert [line[2:] for line in lines] == [["0", "hooked"], ["1", "hooked"], ["2", "hooked"]]
        assert sorted(int(line[1]) for line in lines) == sorted(pids)
        assert {program.pid, *pids} <= set(announced())
        assert announced() == session.pids
        program.send_line("close the pool")
        assert program.read_until("again") == "again 9 hooked"
        for pid in pids:
            assert wait_for_exit(pid)
    end(program)


GRANDCHILD = """
import os, subprocess, sys, pay

def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            sys.stdout.flush()
            os._exit(0)
    return os.waitpid(pid, 0)[1]

def call(name):
    print(name, pay.charge(1))

def child():
    call("child")
    in_child(lambda: call("grandchild"))
    subprocess.run([sys.executable, "-c", "import pay; print('other program', pay.charge(1))"], check=True)

print("ready", flush=True)
sys.stdin.readline()
status = in_child(child)
print("parent", status, pay.charge(1), flush=True)
sys.stdin.readline()
"""


def test_grandchildren_and_python_programs_that_a_child_starts_are_hooked(start: Start) -> None:
    program = start(GRANDCHILD)
    with xpc_instrument.connect("pay") as session:
        session.instead("pay:charge", lambda n: "hooked")
        program.send_line("go")
        names = ("child", "grandchild", "other program", "parent 0")
        assert [program.read_line() for _ in names] == [f"{name} hooked" for name in names]
    end(program)


SLOW_BIRTH = """
import os, sys, pay
from xpc_instrument.core.discovery import entry as discovery

announce = discovery.announce

def announce_when_told(entry):
    print("unannounced", flush=True)
    sys.stdin.readline()
    return announce(entry)

print("ready", flush=True)
sys.stdin.readline()
discovery.announce = announce_when_told
pid = os.fork()
if pid == 0:
    print("born", flush=True)
    sys.stdin.readline()
    print("child", pay.charge(1), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print("joined", flush=True)
sys.stdin.readline()
"""


def test_a_registration_during_a_birth_returns_when_the_child_is_hooked_too(start: Start) -> None:
    program = start(SLOW_BIRTH)
    with xpc_instrument.connect("pay") as session, ThreadPoolExecutor(1) as pool:
        program.send_line("fork")
        program.read_until("unannounced")
        # The child was forked without the hook, and cannot be found yet.
        registration = pool.submit(session.instead, "pay:charge", lambda n: "hooked")
        assert not wait([registration], 0.2).done
        program.send_line("announce")
        registration.result(PATIENCE)
        assert len(session.pids) == 2
        program.read_until("born")
        program.send_line("call")
        assert program.read_until("child") == "child hooked"
        program.read_until("joined")
    end(program)


TWO_THREADS = """
import os, sys, threading, pay

def fork_often():
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if pay.charge(1) == "hooked" else 1)
        failed.append(os.waitpid(pid, 0)[1])

failed = []
print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=fork_often) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("forked", len(failed), any(failed), flush=True)
sys.stdin.readline()
print("again", pay.charge(2), flush=True)
sys.stdin.readline()
"""


def test_two_threads_that_fork_at_once_leave_the_application_hookable(start: Start, run_program: Callable[..., Program]) -> None:
    # From Python 3.12 on, a fork beside a second thread of the application's own warns, as it would without us.
    program = start('import warnings\nwarnings.simplefilter("ignore")\n' + TWO_THREADS)
    with xpc_instrument.connect("pay") as session:
        handle = session.instead("pay:charge", lambda n: "hooked")
        program.send_line("go")
        assert program.read_until("forked") == "forked 40 False"
        handle.remove()
        session.instead("pay:charge", lambda n: "hooked anew")
        program.send_line("call")
        assert program.read_until("again") == "again hooked anew"
    end(program)


OTHER_THREAD = """
import os, sys, threading, pay

print("ready", flush=True)
sys.stdin.readline()
thread = threading.Thread(target=lambda: print("thread", pay.charge("slow"), flush=True))
thread.start()
sys.stdin.readline()
pid = os.fork()
if pid == 0:
    print("child", pay.charge("quick"), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print("joined", flush=True)
thread.join()
sys.stdin.readline()
"""


def test_a_fork_while_another_thread_is_in_a_hook_disturbs_neither(start: Start) -> None:
    program = start('import warnings\nwarnings.simplefilter("ignore")\n' + OTHER_THREAD)
    inside, leave = threading.Event(), threading.Event()

    def stand_in(word: str) -> str:
        if word == "slow":
            inside.set()
            leave.wait(PATIENCE)
        return f"{word} hooked"

    with xpc_instrument.connect("pay") as session:
        session.instead("pay:charge", stand_in)
        program.send_line("start the thread")
        assert inside.wait(PATIENCE)
        program.send_line("fork")
        assert program.read_until("child") == "child quick hooked"
        program.read_until("joined")
        leave.set()
        assert program.read_until("thread") == "thread slow hooked"
    end(program)


AROUND = """
import os, sys, pay

def charge_and_fork(n):
    before = pay.charge(n)
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return before, pid == 0, pay.charge(n)

print("ready", flush=True)
sys.stdin.readline()
before, child, after = charge_and_fork(1)
# In one write: both processes write to the same pipe.
os.write(1, f"{'child' if child else 'parent'} {before} {after} {pay.charge(2)}\\n".encode())
if child:
    os._exit(0)
sys.stdin.readline()
"""


def test_a_fork_inside_proceed_keeps_both_processes_hooked(start: Start) -> None:
    program = start(AROUND, config=CONFIG + '[[probe]]\ntarget = "main:charge_and_fork"\n')
    outer: List[int] = []
    inner: List[int] = []

    def stand_in(call: Any) -> str:
        inner.append(call.pid)
        return f"hooked{call.args[0]}"

    with xpc_instrument.connect("pay") as session:
        session.around("pay:charge", stand_in)

        @session.around("main:charge_and_fork")
        def forward(call: Any) -> Any:
            outer.append(call.pid)
            return call.proceed()

        program.send_line("go")
        # The child's answer has nobody to go to; it gets the outcome of the original.
        assert program.read_until("child") == "child hooked1 hooked1 hooked2"
        assert program.read_until("parent") == "parent hooked1 hooked1 hooked2"
    assert outer == [program.pid]
    child = next(pid for pid in inner if pid != program.pid)
    assert inner == [program.pid, child, child, program.pid, program.pid]
    end(program)


# ends --------------------------------------------------------------------------------------------------------------------

LIVING_CHILD = """
import os, sys, pay

parent = os.getpid()
print("ready", flush=True)
sys.stdin.readline()
r, w = os.pipe()
back_r, back_w = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(w)
    print("forked", os.getpid(), flush=True)
    while os.read(r, 1):
        print("child", pay.charge(1), flush=True)
        os.write(back_w, b"x")
    os._exit(0)
os.close(r)
for line in sys.stdin:
    if not line.strip():
        break
    if line.strip() == "wait":
        print("ended", os.waitpid(pid, 0)[1], flush=True)
        continue
    os.write(w, b"x")
    os.read(back_r, 1)
    print("parent", pay.charge(1), flush=True)
"""


def answers(program: Program) -> List[str]:
    """What child and parent get from the target now."""
    program.send_line("call")
    return [program.read_until(word).partition(" ")[2] for word in ("child", "parent")]


@pytest.fixture
def family(start: Start) -> Program:
    """An application with one child."""
    program = start(LIVING_CHILD)
    program.send_line("fork")
    return program


def child_of(family: Program) -> int:
    return int(family.read_until("forked").split()[1])


def test_removing_a_hook_and_closing_the_session_disarm_in_every_process(family: Program) -> None:
    child = child_of(family)
    with xpc_instrument.connect("pay") as session:
        assert session.pids == sorted([family.pid, child])
        with session.instead("pay:charge", lambda n: "hooked"):
            assert answers(family) == ["hooked", "hooked"]
        assert answers(family) == ["1 paid", "1 paid"]
        session.instead("pay:charge", lambda n: "hooked")
        assert answers(family) == ["hooked", "hooked"]
    assert answers(family) == ["1 paid", "1 paid"]
    assert "failed" not in family.text
    end(family)


def test_a_session_that_closes_has_disarmed_before_it_leaves(family: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    child_of(family)
    leave = Joiner.close
    seen: List[List[str]] = []

    def look_and_leave(joiner: Joiner) -> None:
        seen.append(answers(family))
        leave(joiner)

    # It waits for a second at most, which the processes may not have had on a machine that is busy.
    monkeypatch.setattr("xpc_instrument.script.session._LEAVE_TIMEOUT", 30.0)
    with xpc_instrument.connect("pay") as session:
        session.instead("pay:charge", lambda n: "hooked")
        monkeypatch.setattr(Joiner, "close", look_and_leave)
    assert seen == [["1 paid", "1 paid"]] * 2
    assert "failed" not in family.text
    end(family)


def test_a_session_with_one_pid_leaves_the_other_processes_alone(family: Program) -> None:
    child = child_of(family)
    with xpc_instrument.connect(child) as session:
        session.instead("pay:charge", lambda n: "hooked")
        assert answers(family) == ["hooked", "1 paid"]
    end(family)


def test_a_killed_child_is_gone_from_the_list_and_the_session_goes_on(family: Program, runtime_dir: Path) -> None:
    child = child_of(family)
    with xpc_instrument.connect("pay") as session:
        session.instead("pay:charge", lambda n: "hooked")
        assert announced() == sorted([family.pid, child])
        kill(child)
        family.send_line("wait")
        assert family.read_until("ended") == "ended 9"
        assert announced() == [family.pid]
        assert not [path.name for path in runtime_dir.iterdir() if str(child) in path.name]
        session.instead("pay:charge", lambda n: "hooked anew")
        assert session.pids == [family.pid]
    end(family)


LATE_IMPORT = """
import os, sys

print("ready", flush=True)
sys.stdin.readline()
pid = os.fork()
if pid == 0:
    print("forked", flush=True)
    sys.stdin.readline()
    import pay
    print("child", pay.charge(1), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print("joined", flush=True)
sys.stdin.readline()
"""


def test_a_child_does_not_wait_for_a_session_that_closed_since_the_fork(start: Start) -> None:
    program = start(LATE_IMPORT)
    other: Session
    # Another session is there all the time: somebody answers the child's bell, but not for the hook that it has inherited.
    with xpc_instrument.connect("pay") as other:
        with xpc_instrument.connect("pay") as session:
            session.instead("pay:charge", lambda n: "hooked")
            program.send_line("fork")
            program.read_until("forked")
        program.send_line("import")
        assert program.read_until("child") == "child 1 paid"
        assert program.read_until("joined")
        assert "failed" not in program.text
        assert other.pids[0] == program.pid
    end(program)


def test_a_hook_of_a_session_with_one_pid_is_not_waited_for_in_a_child(start: Start) -> None:
    program = start(LIVING_CHILD)
    with xpc_instrument.connect("pay"), xpc_instrument.connect(program.pid) as session:
        session.instead("pay:charge", lambda n: "hooked")
        program.send_line("fork")
        child_of(program)
        assert answers(program) == ["1 paid", "hooked"]
        assert "failed" not in program.text
    end(program)

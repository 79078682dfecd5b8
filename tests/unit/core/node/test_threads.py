"""The thread that a fork has end: gone when it is said to be, started again, never two at work."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, List

import pytest

from xpc_instrument.core.node import threads as module
from xpc_instrument.core.node.threads import Run, ServiceThread

pytestmark = pytest.mark.version

ROOT = Path(__file__).resolve().parents[4]


class Waiting:
    """Work that waits until it is woken, and notes when it begins and ends."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.began = threading.Event()
        self.at_work: List[int] = []
        self.most = 0

    def __call__(self, run: Run) -> None:
        self.at_work.append(threading.get_ident())
        self.most = max(self.most, len(self.at_work))
        self.began.set()
        while run.due:
            self.woken.wait(30)
            self.woken.clear()
        self.at_work.remove(threading.get_ident())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells how many threads its kernel knows")
def test_a_fork_after_the_end_finds_one_thread_alone() -> None:
    source = """
import os, warnings
from xpc_instrument.core.node.threads import ServiceThread

warnings.simplefilter("error")
read, write = os.pipe()

def work(run):
    while run.due:
        os.read(read, 1)

thread = ServiceThread(work, lambda: os.write(write, b"w"))
for _ in range(300):
    thread.start()
    assert thread.end(30)
    with open("/proc/self/status") as file:
        assert "Threads:\\t1\\n" in file.read()
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_it_runs_until_it_is_ended_and_can_be_started_again() -> None:
    work = Waiting()
    thread = ServiceThread(work, work.woken.set)
    assert (thread.running, thread.end(1)) == (False, True)
    for _ in range(3):
        thread.start()
        assert work.began.wait(30)
        work.began.clear()
        assert thread.running and not thread.is_this_thread
        assert thread.end(30)
        assert (thread.running, work.at_work) == (False, [])


def test_one_that_runs_is_not_started_twice() -> None:
    work = Waiting()
    thread = ServiceThread(work, work.woken.set)
    thread.start()
    thread.start()
    assert thread.end(30)
    assert work.most == 1


def test_it_waits_for_one_that_is_still_at_its_last_step() -> None:
    leave, entered = threading.Event(), threading.Event()
    order: List[str] = []

    def work(run: Run) -> None:
        order.append("begins")
        entered.set()
        assert leave.wait(30)
        order.append("ends")

    thread = ServiceThread(work, lambda: None)
    thread.start()
    assert entered.wait(30)
    entered.clear()
    assert not thread.end(0)
    thread.start()
    assert thread.running and not entered.is_set()
    leave.set()
    assert entered.wait(30)
    assert thread.join(30)
    assert order == ["begins", "ends", "begins", "ends"]
    assert not thread.running


def test_work_that_is_done_or_fails_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a thread below `threading` raises goes there.
    raised: List[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)

    def fails(run: Run) -> None:
        raise ValueError("of the work")

    for work in (lambda run: None, fails):
        thread = ServiceThread(work, lambda: None)
        thread.start()
        assert thread.join(30)
        assert not thread.running
    assert [str(one.exc_value) for one in raised] == ["of the work"]


def test_it_knows_itself() -> None:
    found: List[bool] = []
    thread = ServiceThread(lambda run: found.append(thread.is_this_thread), lambda: None)
    thread.start()
    assert thread.join(30)
    assert found == [True] and not thread.is_this_thread


def test_without_room_for_a_thread_it_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    work = Waiting()
    thread = ServiceThread(work, work.woken.set)
    with monkeypatch.context() as patch:
        patch.setattr(module, "start_new_thread", refused)
        with pytest.raises(RuntimeError):
            thread.start()
    assert not thread.running
    thread.start()
    assert thread.running and thread.end(30)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a file for each thread")
def test_a_number_that_another_thread_has_been_given_is_not_waited_for_without_end() -> None:
    work = Waiting()
    other = ServiceThread(work, work.woken.set)
    other.start()
    assert work.began.wait(30)
    thread = ServiceThread(lambda run: None, lambda: None)
    thread.start()
    assert thread.join(30)
    assert thread._run is not None and other._run is not None
    thread._run._native = other._run._native
    began = time.monotonic()
    assert not thread.end(30)
    assert time.monotonic() - began < 10
    assert other.end(30)


def test_no_thread_of_ours_starts_elsewhere() -> None:
    starts = re.compile(r"\bThread\(|start_new_thread\(")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("xpc_instrument", "agent")
        for path in (ROOT / folder).rglob("*.py")
        if starts.search(path.read_text(encoding="utf-8").replace("ServiceThread(", ""))
    ]
    # The agent's stand-in has none of our modules yet.
    assert sorted(found) == ["agent/xpc_agent/bootstrap/sitecustomize.py", "xpc_instrument/core/node/threads.py"]


def test_those_of_threading_end_with_the_process() -> None:
    thread = module.start_seen(time.sleep, 0, name="of a test")
    assert (thread.name, thread.daemon) == ("xpc-instrument of a test", True)
    thread.join()


# Each way in which a thread of ours starts, with something to run in it.
STARTS = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")  # of forks beside threads
from xpc_instrument.core.node.threads import ServiceThread, start_seen, start_unseen

def mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())

def run(way, work):
    over = threading.Event()
    def whole(*_):
        work()
        over.set()
    if way == "seen":
        start_seen(whole, name="of a test")
    elif way == "unseen":
        start_unseen(whole)
    else:
        ServiceThread(whole, lambda: None).start()
    return over

def ended(over):
    assert over.wait(30)
"""

FAULTS = "{signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGKILL, signal.SIGSTOP}"


def _runs(source: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-c", STARTS + source, *words], capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize("way", ["seen", "unseen", "service"])
def test_a_thread_of_ours_takes_no_signal_and_nor_does_one_that_it_starts(way: str) -> None:
    _runs(
        f"""
found = []
def work():
    found.append(mask())
    inner = threading.Thread(target=lambda: found.append(mask()))
    inner.start()
    inner.join()
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR2}})
ended(run(sys.argv[1], work))
assert mask() == {{signal.SIGUSR2}}
assert [signal.valid_signals() - one for one in found] == [{FAULTS}] * 2, found
print("done")
""",
        way,
    )


@pytest.mark.parametrize("way", ["seen", "unseen", "service"])
def test_a_handler_that_raises_while_a_thread_of_ours_starts_leaves_the_mask_as_it_was(way: str) -> None:
    _runs(
        """
class Late(Exception):
    pass
came = raised = 0
def handler(*_):
    global came
    came += 1
    raise Late
# What is raised in a callback of `threading` is lost.
sys.unraisablehook = lambda _: None
signal.signal(signal.SIGALRM, handler)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
for number in range(500):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.000001 + number % 100 / 500_000)
        run(sys.argv[1], int)
        while came == number:
            time.sleep(0.001)
    except Late:
        raised += 1
    assert mask() == {signal.SIGUSR2}, (number, mask())
assert raised > 400
print("done")
""",
        way,
    )


@pytest.mark.parametrize("way", ["seen", "unseen", "service"])
def test_a_process_that_a_thread_of_ours_forks_can_be_ended_by_a_signal(way: str) -> None:
    _runs(
        """
found = []
def work():
    pid = os.fork()
    if not pid:
        os._exit(mask() != {signal.SIGUSR2})
    found.append(os.waitpid(pid, 0)[1])
    # By a thread of ours that another one has started, as those of lanes are.
    ended(run(sys.argv[1], deeper))
def deeper():
    pid = os.fork()
    if not pid:
        os._exit(mask() != {signal.SIGUSR2})
    found.append(os.waitpid(pid, 0)[1])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
ended(run(sys.argv[1], work))
assert found == [0, 0], found
print("done")
""",
        way,
    )


def test_our_threads_have_a_stack_where_the_application_s_have_next_to_none() -> None:
    # Each parenthesis takes more than a KB of it.
    source = """
import threading
threading.stack_size(65536)
from xpc_instrument.core.node.threads import Run, ServiceThread, start_seen, start_unseen

done = threading.Semaphore(0)
def work(*_):
    compile("(" * 90 + "1" + ")" * 90, "deep", "eval")
    done.release()

start_unseen(work)
start_seen(work, name="deep").join()
thread = ServiceThread(work, done.release)
thread.start()
for _ in range(3):
    assert done.acquire(timeout=30)
assert thread.end(30) and threading.stack_size(1 << 23) == 65536
start_seen(work, name="other").join()
assert threading.stack_size() == 1 << 23
"""
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True, timeout=60)

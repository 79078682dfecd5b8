"""The lock that a thread may take again: never left held, shared by all, and not there for eventlet to find."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading

import pytest

from xpc_instrument.core.unpatched import RLock


class Limit(Exception):
    """What a signal handler raises."""


def _is_free(lock: RLock) -> bool:
    """Whether another thread gets it."""
    found = []

    def look() -> None:
        with_it = lock()
        if with_it.acquire(False):
            with_it.release()
            found.append(True)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return bool(found)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no interval timers")
def test_no_exception_of_a_signal_handler_leaves_it_held() -> None:
    def handler(*_: object) -> None:
        raise Limit

    lock = RLock()
    interrupts = 0
    before = signal.signal(signal.SIGALRM, handler)
    try:
        while interrupts < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00005)
                while True:
                    with lock():
                        pass
            except Limit:
                interrupts += 1
                assert _is_free(lock)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_thread_takes_it_again_and_keeps_others_out_until_it_has_left_for_the_last_time() -> None:
    lock = RLock()
    with lock():
        with lock():
            pass
        assert not _is_free(lock)
    assert _is_free(lock)


def test_one_of_many_threads_is_in_at_a_time() -> None:
    lock = RLock()
    inside, most = 0, 0

    def go() -> None:
        nonlocal inside, most
        for _ in range(2000):
            with lock():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=go) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert (inside, most) == (0, 1)


@pytest.mark.skipif(importlib.util.find_spec("eventlet") is None, reason="eventlet is not installed")
def test_eventlet_finds_none_to_replace_and_none_to_complain_of() -> None:
    program = (
        "import gc, sys, threading\n"
        "from xpc_instrument.core.unpatched import RLock\n"
        "kind = type(threading.RLock())\n"
        "theirs = sum(isinstance(one, kind) for one in gc.get_objects())\n"
        "locks = [RLock() for _ in range(20)]\n"
        "for lock in locks:\n"
        "    with lock(): pass\n"
        "assert sum(isinstance(one, kind) for one in gc.get_objects()) == theirs\n"
        "import eventlet\n"
        "eventlet.monkey_patch()\n"
        "with locks[0]() as _: assert isinstance(locks[0](), kind)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "not greened" not in done.stderr

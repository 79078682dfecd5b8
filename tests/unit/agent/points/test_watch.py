"""The thread that waits for what is to come: who imports waits until it has looked, and never for what holds it up."""

from __future__ import annotations

import threading
import time
from typing import List

from xpc_agent.points.watch import Watch


class Looks:
    """Looks when it is let, and notes by which thread."""

    def __init__(self) -> None:
        self.allowed = threading.Event()
        self.allowed.set()
        self.began, self.looked = threading.Semaphore(0), threading.Semaphore(0)
        self.threads: List[int] = []
        self.more = True

    def __call__(self) -> bool:
        self.began.release()
        assert self.allowed.wait(30)
        self.threads.append(threading.get_ident())
        self.looked.release()
        return self.more


def ended(watch: Watch, looks: Looks) -> None:
    looks.more = False
    looks.allowed.set()
    watch.rouse()
    watch.pause()


def test_who_imports_goes_on_when_it_has_looked() -> None:
    looks = Looks()
    watch = Watch(looks)
    watch.look_now()
    assert not looks.threads
    watch.begin()
    assert looks.looked.acquire(timeout=30)
    before = len(looks.threads)
    watch.look_now()
    assert len(looks.threads) > before
    # It looks in a thread of its own: who imports may hold the lock of all imports.
    assert threading.get_ident() not in looks.threads
    ended(watch, looks)


def test_who_imports_waits_for_a_moment_only_and_then_for_a_while_not_at_all() -> None:
    """It may be held up by a lock that the importing thread holds: neither would ever go on."""
    looks = Looks()
    looks.allowed.clear()
    watch = Watch(looks)
    watch.begin()
    assert looks.began.acquire(timeout=30)
    began = time.monotonic()
    watch.look_now()
    first = time.monotonic() - began
    assert 0.04 < first < 10
    began = time.monotonic()
    for _ in range(100):
        watch.look_now()
    # Each would have waited as long.
    assert time.monotonic() - began < 100 * 0.05
    assert not looks.threads
    ended(watch, looks)

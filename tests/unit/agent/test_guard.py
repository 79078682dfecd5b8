"""The reentrancy guard: on for our work, off again whatever happens, and the application's own work stays the application's."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Iterator, List

import pytest

from xpc_agent.guard import guard, guard_thread, guarded, unguarded


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """The guard is off before and after."""
    assert not guard.on
    yield
    assert not guard.on


@guarded
def look() -> bool:
    """Whether the guard is on."""
    return guard.on


def test_work_of_ours_is_guarded_and_nothing_after_it() -> None:
    assert look()
    assert not guard.on


def test_guarded_work_inside_of_guarded_work_releases_nothing() -> None:
    @guarded
    def outer() -> List[bool]:
        return [look(), guard.on]

    assert outer() == [True, True]


def test_an_error_releases_the_guard() -> None:
    @guarded
    def fails() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()


def test_the_original_runs_unguarded_inside_and_what_follows_is_guarded() -> None:
    def original(fail: bool) -> bool:
        if fail:
            raise ValueError(str(guard.on))
        return guard.on

    @guarded
    def outer() -> List[bool]:
        seen = [unguarded(original)(False), guard.on]
        with pytest.raises(ValueError, match="False"):
            unguarded(original)(True)
        return [*seen, guard.on]

    assert outer() == [False, True, True]


def test_each_thread_has_its_own_guard() -> None:
    seen: List[bool] = []

    @guarded
    def outer() -> None:
        thread = threading.Thread(target=lambda: seen.append(guard.on))
        thread.start()
        thread.join()

    outer()
    assert seen == [False]


def test_a_thread_of_the_agent_is_guarded_for_good() -> None:
    seen: List[bool] = []

    def ours() -> None:
        guard_thread()
        seen.extend([look(), guard.on])

    thread = threading.Thread(target=ours)
    thread.start()
    thread.join()
    assert seen == [True, True]


BY_GREENLET = """
import gevent
from xpc_agent.guard import guard, guard_thread, guarded
from xpc_instrument.core.wire.hubs import hub

@guarded
def ours():
    hub()  # the first greenlet that is about to wait, with the guard on
    gevent.sleep(0.01)
    return guard.on

def theirs():
    return guard.on

first, second = gevent.spawn(ours), gevent.spawn(theirs)
gevent.joinall([first, second], raise_error=True)
print(first.value, second.value, guard.on)

def thread():
    guard_thread()
    return guard.on, gevent.spawn(theirs).get()

print(gevent.get_hub().threadpool.apply(thread))
"""


def test_with_greenlets_each_has_its_own_guard_and_those_of_a_thread_of_the_agent_are_all_guarded() -> None:
    pytest.importorskip("gevent")
    done = subprocess.run([sys.executable, "-c", BY_GREENLET], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines() == ["True False False", "(True, True)"]

"""Garbage collections that are put off: none runs in between, and afterwards they are on where they were."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any, Iterator, List

import pytest

from xpc_agent import collecting


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(100, *before[1:])
    yield
    gc.enable()
    gc.set_threshold(*before)
    assert not collecting._stretches


def collections_of(number: int) -> List[int]:
    """Make objects that are in circles; the threads in which collections began meanwhile."""
    began: List[int] = []

    def look(phase: str, _: Any) -> None:
        if phase == "start":
            began.append(threading.get_ident())

    gc.callbacks.append(look)
    try:
        for _ in range(number):
            circle: List[Any] = []
            circle.append(circle)
    finally:
        gc.callbacks.remove(look)
    return began


@pytest.mark.version
def test_no_collection_runs_between_hold_and_let_go() -> None:
    assert collections_of(10_000)
    threshold = gc.get_threshold()
    assert collecting.held(lambda: collections_of(10_000)) == []
    assert gc.get_threshold() == threshold
    assert collections_of(10_000)


def test_stretches_of_several_threads_are_one() -> None:
    collecting.hold()
    thread = threading.Thread(target=lambda: collecting.held(lambda: collecting.held(list)))
    thread.start()
    thread.join()
    assert not gc.isenabled()
    collecting.let_go()
    assert gc.isenabled()


def test_where_the_application_has_them_off_they_stay_so() -> None:
    gc.disable()
    assert collecting.held(gc.isenabled) is False
    assert not gc.isenabled()


def test_they_are_on_again_where_loading_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        collecting.held(lambda: 1 // 0)
    assert gc.isenabled()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_collects_at_once() -> None:
    collecting.hold()
    pid = os.fork()
    if not pid:
        collecting.reset_after_fork()
        os._exit(0 if gc.isenabled() and not collecting._stretches else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not gc.isenabled()
    collecting.let_go()

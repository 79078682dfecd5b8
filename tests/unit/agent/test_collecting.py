"""Garbage collections that are put off: none runs in the thread, the application's thresholds are as they were, and what it sets stays."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any, Iterator, List

import pytest

from xpc_agent import collecting
from xpc_agent.collecting import OUT_OF_REACH


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(100, *before[1:])
    yield
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
    collecting.hold()
    assert collections_of(10_000) == []
    collecting.let_go()
    assert collections_of(10_000)


def test_stretches_of_several_threads_are_one() -> None:
    first = gc.get_threshold()
    collecting.hold()
    thread = threading.Thread(target=lambda: (collecting.hold(), collecting.hold(), collecting.let_go(), collecting.let_go()))
    thread.start()
    thread.join()
    assert gc.get_threshold()[0] == first[0] + OUT_OF_REACH
    collecting.let_go()
    assert gc.get_threshold() == first


@pytest.mark.parametrize("mine", [(300, 7, 3), (0, 10, 10)])
def test_what_the_application_sets_meanwhile_stays(mine: Any) -> None:
    collecting.hold()
    gc.set_threshold(*mine)
    before = gc.get_threshold()
    collecting.let_go()
    assert gc.get_threshold() == before
    assert before[0] == mine[0]


def test_what_it_has_read_meanwhile_and_puts_back_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(collecting, "monotonic", lambda: now[0])
    first = gc.get_threshold()
    collecting.hold()
    read = gc.get_threshold()
    now[0] += 0.01
    collecting.let_go()
    looks = []
    while True:
        due = collecting.due()
        if due is None:
            break
        gc.set_threshold(*read)
        looks.append(due - now[0])
        now[0] = due
        collecting.hold()
        collecting.let_go()
        assert gc.get_threshold() == first
    assert looks == pytest.approx([2.0**power for power in range(11)])


def test_where_collections_are_off_they_stay_so() -> None:
    for off in (0, OUT_OF_REACH):
        gc.set_threshold(off)
        collecting.hold()
        assert gc.get_threshold()[0] == off
        collecting.let_go()
        assert gc.get_threshold()[0] == off


def test_a_breath_lets_others_collect_and_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: List[int] = []
    monkeypatch.setattr(collecting, "sleep", lambda _: seen.append(gc.get_threshold()[0]))
    collecting.breathe()
    collecting.hold()
    collecting.breathe()
    assert seen == []
    monkeypatch.setattr(collecting, "_BREATHLESS", -1.0)
    collecting.breathe()
    assert seen == [100]
    assert gc.get_threshold()[0] == 100 + OUT_OF_REACH
    collecting.let_go()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_collects_at_once() -> None:
    collecting.hold()
    pid = os.fork()
    if not pid:
        collecting.reset_after_fork()
        os._exit(0 if gc.get_threshold()[0] == 100 and not collecting._stretches and collecting.due() is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    collecting.let_go()

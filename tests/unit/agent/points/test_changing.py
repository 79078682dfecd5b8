"""The table's lock: threads of the application wait for it for a moment, and signal handlers that raise leave it free."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import Any, Callable, Iterator, List

import pytest

from xpc_agent.guard import guard
from xpc_agent.points import changing as module
from xpc_agent.points.changing import BusyError, Changing


@contextlib.contextmanager
def held(changing: Changing) -> Iterator[None]:
    """By another thread."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with changing():
            taken.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)
    try:
        yield
    finally:
        over.set()
        thread.join()


def answered(work: Callable[[], Any]) -> Any:
    """In another thread."""
    found: List[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(30)
    return found[0]


def test_what_is_done_has_the_lock_and_may_change_more() -> None:
    changing = Changing()
    assert changing.change(lambda: changing.change(lambda: changing()._is_owned())) is True
    assert answered(lambda: changing.change(lambda: True))


def test_a_thread_of_the_application_gives_up_and_nobody_waits_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    changing = Changing()
    with held(changing):
        with pytest.raises(BusyError, match="being changed by another thread"):
            changing.change(list)
        monkeypatch.setattr(module, "_PATIENCE", 1000)
        with pytest.raises(BusyError):
            changing.change(list)
        assert changing.shortly(lambda: changing.change(list)) is False
    assert changing.shortly(lambda: changing.change(list)) is True
    assert changing.change(lambda: 5) == 5
    assert answered(lambda: changing.change(lambda: True))


def test_our_own_thread_waits_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    changing, began, results = Changing(), threading.Event(), []

    def ours() -> None:
        guard.ours = True
        began.set()
        results.append(changing.change(lambda: "done"))

    thread = threading.Thread(target=ours)
    with held(changing):
        thread.start()
        began.wait(30)
        thread.join(0.05)
        assert results == []
    thread.join(30)
    assert results == ["done"]


class LimitError(BaseException):
    """Of a signal handler."""


@pytest.mark.version
def test_a_signal_handler_that_raises_leaves_it_free() -> None:
    changing = Changing()

    def limit(*_: Any) -> None:
        raise LimitError

    before = signal.signal(signal.SIGPROF, limit)
    try:
        seen, until = 0, time.monotonic() + 0.4
        while time.monotonic() < until or not seen:
            try:
                signal.setitimer(signal.ITIMER_PROF, 0.0003)
                while True:
                    changing.change(changing)
            except LimitError:
                seen += 1
            assert answered(lambda: changing.shortly(lambda: changing.change(list)))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert changing.change(lambda: True)

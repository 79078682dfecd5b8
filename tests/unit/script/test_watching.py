"""A stream of events: who takes from it may be interrupted at any moment."""

from __future__ import annotations

import threading
from typing import Any, List

from tests.interruption import interrupted, within
from xpc_instrument.script.watching import Stream


def a_stream() -> Stream[Any]:
    return Stream(lambda call: call)


def test_events_come_on_wherever_whoever_took_them_was_interrupted() -> None:
    stream = a_stream()
    moments = 0
    for _ in interrupted(lambda: stream.take(0.001)):
        moments += 1
        assert within(lambda: stream.put("call")) and stream.take(10) == "call"
    assert moments > 4 and stream.take(0.001) is None


def test_each_event_goes_to_one_of_those_that_wait() -> None:
    stream = a_stream()
    taken: List[Any] = []
    threads = [threading.Thread(target=lambda: taken.append(stream.take(60.0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        stream.put(number)
    for thread in threads:
        thread.join(10)
    assert sorted(taken) == [0, 1, 2, 3] and stream.waiting == 0 and stream.taken == 4

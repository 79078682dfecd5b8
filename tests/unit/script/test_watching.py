"""Streams of events, and the rows that they are given; who takes from one may be interrupted at any moment."""

from __future__ import annotations

import inspect
import marshal
import threading
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Tuple

import pytest

from tests.interruption import interrupted, within
from xpc_instrument.core.calls.batch import Batch
from xpc_instrument.core.calls.rows import Layout
from xpc_instrument.core.model.local import WATCH
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.snapshots import AS_IS
from xpc_instrument.script.events import EventReader
from xpc_instrument.script.hook import Hook
from xpc_instrument.script.watching import ROOM, CallEvent, CallRows, Stream, Watch

LAYOUT = tuple(Layout(("amount",), (True,), False, True, "shop.py", 3))


class Told:
    """What a process tells a watch, which is a hook of a session."""

    def __init__(self, limit: Optional[int] = None) -> None:
        self.stream = Watch()
        local = {"kind": WATCH, "when": "", "show": [], "depth": 2, "stack": 0, "errors": False, "rejected": False, "locals": False}
        terms = Terms(wait=False, limit=limit, local=local)
        self.hook = Hook(1, Mode.AFTER, "shop:charge", self.stream, terms, (), lambda handle: None)
        self.stream.handle = self.hook.handle
        self.failures: List[BaseException] = []
        self._reader = EventReader({1: self.hook}, lambda value: value, lambda hook, error: self.failures.append(error))
        self._signatures: Dict[str, Optional[inspect.Signature]] = {}
        self._batches = 0

    def come(self, *events: Tuple[Any, ...]) -> None:
        """A batch."""
        self._batches += 1
        batch = Batch("here", 7, self._batches, {}, {}, list(events), {})
        wire: Any = SimpleNamespace(send_frame=lambda *_: None)
        frame: Any = SimpleNamespace(body=batch.dump())
        self._reader.serve(self._signatures, wire, frame)

    def taken(self) -> List[CallEvent]:
        """All that can be taken at once."""
        return [self.stream.take(0) for _ in range(self.stream.waiting)]  # type: ignore[misc]


def row(number: int, amount: Any = 1, result: Any = None) -> Tuple[Any, ...]:
    return (1, number, 99, 1.5, 0.25, LAYOUT, amount, result)


def captured(number: int) -> Tuple[Any, ...]:
    blob = marshal.dumps((1.5, 0.25, [("amount", 1)], None, None, (), [], (), ("shop.py", 3)), 4)
    return (1, number, 99, (blob,), {}, None, 0.25, (AS_IS, None))


def test_rows_and_what_is_captured_keep_their_order() -> None:
    told = Told()
    told.come(row(1), row(2), captured(3), row(4))
    assert told.failures == []
    assert [event.id for event in told.taken()] == ["7-1", "7-2", "7-3", "7-4"]
    assert (told.stream.taken, told.hook.handle.delivered, told.stream.dropped) == (4, 4, 0)


def test_all_that_has_come_can_be_taken_in_one_step() -> None:
    told = Told()
    told.come(row(1, {"a": 1}), captured(2), row(3))
    shown: List[Any] = []
    assert told.stream.show_all(0, shown.append) == 3
    first, second, third = shown
    assert type(second) is CallEvent
    common, values = first
    assert type(common) is CallRows
    assert common is third[0]
    assert common.event(values).arguments == {"amount": {"a": 1}}
    assert (told.stream.taken, told.stream.show_all(0, shown.append)) == (3, 0)


def test_what_is_interrupted_while_it_is_shown_is_shown_again() -> None:
    told = Told()
    told.come(row(1), row(2))
    shown: List[int] = []

    def show(one: Any) -> None:
        if len(shown) == 1 and not told.failures:
            told.failures.append(KeyboardInterrupt())
            raise KeyboardInterrupt
        shown.append(one[1][1])

    with pytest.raises(KeyboardInterrupt):
        told.stream.show_all(0, show)
    assert told.stream.show_all(0, show) == 1
    assert (shown, told.stream.taken) == ([1, 2], 2)


def test_beyond_the_limit_rows_count_as_that() -> None:
    told = Told(limit=2)
    told.come(row(1), row(2), row(3))
    assert [event.id for event in told.taken()] == ["7-1", "7-2"]
    assert (told.stream.over, told.hook.handle.delivered, told.stream.dropped) == ("limit", 2, 0)


def test_rows_for_which_there_is_no_room_are_dropped_and_counted() -> None:
    told = Told()
    told.come(*map(row, range(ROOM - 1)))
    told.come(row(1), row(2), row(3))
    assert (told.stream.waiting, told.stream.overflowed, told.stream.dropped) == (ROOM, 2, 2)


def test_rows_that_come_after_the_hook_is_removed_are_dropped() -> None:
    told = Told()
    told.hook.handle._end()
    told.come(row(1), row(2))
    assert (told.taken(), told.hook.handle.delivered, told.hook.handle.dropped) == ([], 0, 2)


def test_a_row_that_makes_no_sense_is_reported() -> None:
    told = Told()
    told.come((1, 1, 99, 1.5, 0.25, None))
    told.come(row(2))
    assert (len(told.failures), [event.id for event in told.taken()]) == (1, ["7-2"])


def a_stream() -> Stream[Any]:
    return Stream(lambda call: call)


def test_events_come_on_wherever_whoever_took_them_was_interrupted() -> None:
    stream = a_stream()
    moments = 0
    for _ in interrupted(lambda: stream.take(0.001)):
        moments += 1
        assert within(lambda: stream("call")) and stream.take(10) == "call"
    assert moments > 4 and stream.take(0.001) is None


def test_none_is_lost_wherever_whoever_showed_them_was_interrupted() -> None:
    stream = a_stream()
    for number in range(40):
        stream(number)
    shown: List[int] = []
    for _ in interrupted(lambda: stream.show_all(0.001, shown.append)):
        assert within(lambda: stream("more"))
    assert [*dict.fromkeys(one for one in shown if one != "more")] == [*range(40)]


def test_each_event_goes_to_one_of_those_that_wait() -> None:
    stream = a_stream()
    taken: List[Any] = []
    threads = [threading.Thread(target=lambda: taken.append(stream.take(60.0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        stream(number)
    for thread in threads:
        thread.join(10)
    assert sorted(taken) == [0, 1, 2, 3] and stream.waiting == 0 and stream.taken == 4

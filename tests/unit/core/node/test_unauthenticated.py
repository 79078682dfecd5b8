"""Who of the unauthenticated has to give way, and how often the log hears of the refused."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from xpc_instrument.core.node import unauthenticated as module
from xpc_instrument.core.node.unauthenticated import Complaints, Stranger, Strangers, origin_of

pytestmark = pytest.mark.no_process


def stranger(origin: str, spoken: bool = False) -> Stranger:
    found = Stranger(None, 10.0, origin)  # type: ignore[arg-type]
    found.spoken = spoken
    return found


def standing(*people: Stranger, limit: int) -> Strangers:
    found = Strangers(limit)
    for one in people:
        found.add(one)
    return found


def test_nobody_gives_way_while_there_is_room() -> None:
    assert standing(stranger("a"), stranger("a"), limit=2).one_too_many(0.0) is None


def test_the_address_with_the_most_loses_one_of_its_own() -> None:
    honest = stranger("honest")
    crowd = [stranger("crowd") for _ in range(3)]
    found = standing(honest, *crowd, limit=3)
    assert found.one_too_many(0.0) is crowd[0]


def test_who_has_said_nothing_goes_before_who_has_spoken() -> None:
    spoken = [stranger("a", spoken=True) for _ in range(5)]
    silent = stranger("a")
    assert standing(*spoken, silent, limit=5).one_too_many(0.0) is silent


def test_of_those_who_have_all_spoken_none_can_be_pushed_out_with_certainty() -> None:
    honest = stranger("a", spoken=True)
    losers = set()
    for _ in range(300):
        found = standing(honest, *[stranger("a", spoken=True) for _ in range(3)], limit=3)
        losers.add(found.one_too_many(0.0) is honest)
    assert losers == {True, False}


@pytest.mark.parametrize(
    ("where", "origin"),
    [
        (("192.0.2.7", 80), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 80, 0, 0), "20010db800010002"),
        (("2001:db8:1:2:ffff::1", 80, 0, 0), "20010db800010002"),
        (("fe80::1%eth0", 80, 0, 2), "fe80000000000000"),
        ("", ""),
        (b"", ""),
    ],
)
def test_where_a_connection_comes_from(where: Any, origin: str) -> None:
    if where and ":" in where[0] and sys.platform == "emscripten":
        pytest.skip("Pyodide knows no IPv6")
    assert origin_of(where) == origin


def test_many_that_give_way_within_a_second_are_a_storm_until_the_second_is_over() -> None:
    found = standing(stranger("a"), stranger("a"), limit=1)
    for _ in range(module._ONSLAUGHT):
        found.one_too_many(100.0)
    assert not found.are_storming(100.1)
    found.one_too_many(100.2)
    assert found.are_storming(100.3)
    assert not found.are_storming(101.5)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def test_one_refusal_is_one_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logging.getLogger("test.strangers"))
    complaints.say("AuthenticationError", logging.WARNING, "refused %s", "one")
    complaints.tell(clock.now, at_once=True)
    assert caplog.messages == ["refused one"]
    assert complaints.due is None


def test_many_are_a_few_lines_and_a_count_and_of_other_kinds_as_many(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logging.getLogger("test.strangers"))
    for number in range(1000):
        complaints.say("crowded", logging.WARNING, "refused %d", number)
    complaints.say("AuthenticationError", logging.WARNING, "a wrong key")
    assert caplog.messages == ["refused 0", "refused 1", "refused 2", "a wrong key"]
    assert complaints.due == clock.now + 1.0
    clock.now += 1.0
    complaints.tell(clock.now)
    assert caplog.messages[4:] == ["997 more like that (crowded) within 1 s"]
    assert complaints.due is None


def test_while_it_goes_on_the_lines_become_rarer_and_afterwards_they_do_not_stay_so(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logging.getLogger("test.strangers"))
    for _ in range(36_000):  # an hour
        complaints.say("crowded", logging.WARNING, "refused")
        complaints.tell(clock.now)
        clock.now += 0.1
    assert len(caplog.messages) < 4 * 70
    assert "597 more like that (crowded) within 60 s" in caplog.messages
    complaints.tell(clock.now, at_once=True)
    caplog.clear()
    clock.now += 1000
    for _ in range(4):
        complaints.say("crowded", logging.WARNING, "refused")
        clock.now += 100
    assert caplog.messages == ["refused"] * 4


def test_what_a_peer_sent_makes_no_endless_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    Complaints(logging.getLogger("test.strangers")).say("x", logging.WARNING, "refused: %s", "y" * 100_000)
    assert len(caplog.messages[0]) == 500

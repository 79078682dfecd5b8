"""How often the log hears of what many do at once."""

from __future__ import annotations

import logging

import pytest

from xpc_instrument.core.node import throttle as module
from xpc_instrument.core.node.throttle import LogThrottle


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "monotonic", found.monotonic)
    return found


def test_one_refusal_is_one_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    throttle = LogThrottle(logging.getLogger("test.throttle"))
    throttle.log("AuthenticationError", logging.WARNING, "refused %s", "one")
    throttle.log_counts(clock.now, at_once=True)
    assert caplog.messages == ["refused one"]
    assert throttle.due is None


def test_many_are_a_few_lines_and_a_count_and_of_other_kinds_as_many(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    throttle = LogThrottle(logging.getLogger("test.throttle"))
    for number in range(1000):
        throttle.log("crowded", logging.WARNING, "refused %d", number)
    throttle.log("AuthenticationError", logging.WARNING, "a wrong key")
    assert caplog.messages == ["refused 0", "refused 1", "refused 2", "a wrong key"]
    assert throttle.due == clock.now + 1.0
    clock.now += 1.0
    throttle.log_counts(clock.now)
    assert caplog.messages[4:] == ["997 more like that (crowded) within 1 s"]
    assert throttle.due is None


def test_while_it_goes_on_the_lines_become_rarer_and_afterwards_they_do_not_stay_so(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    throttle = LogThrottle(logging.getLogger("test.throttle"))
    for _ in range(36_000):  # an hour
        throttle.log("crowded", logging.WARNING, "refused")
        throttle.log_counts(clock.now)
        clock.now += 0.1
    assert len(caplog.messages) < 4 * 70
    assert "597 more like that (crowded) within 60 s" in caplog.messages
    throttle.log_counts(clock.now, at_once=True)
    caplog.clear()
    clock.now += 1000
    for _ in range(4):
        throttle.log("crowded", logging.WARNING, "refused")
        clock.now += 100
    assert caplog.messages == ["refused"] * 4


def test_what_a_peer_sent_makes_neither_an_endless_line_nor_another_one(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    throttle = LogThrottle(logging.getLogger("test.throttle"))
    throttle.log("x", logging.WARNING, "refused %d: %s", 7, "y" * 100_000)
    throttle.log("x", logging.WARNING, "refused: %s", ValueError("a\nCRITICAL:root:forged\r\x1b[2J\u202e"))
    assert caplog.messages == [
        f"refused 7: {'y' * 197}...",
        "refused: a\\nCRITICAL:root:forged\\r\\x1b[2J\\u202e",
    ]

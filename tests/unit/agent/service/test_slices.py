"""Registrations that take long: others are served in between, and nothing of them goes on for who is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List

import pytest

from xpc_agent.service.slices import Slices, Steps
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.protocol.messages import Answer, Register


class Script:
    """One whose session has joined, and what it has been answered."""

    def __init__(self, session: str = "one") -> None:
        self.session = session
        self.answers: List[Answer] = []
        self.post = self.answers.append


class Work:
    """A registration that takes as long as is `wanted`, and may fail."""

    def __init__(self, number: int, failure: Any = None) -> None:
        self.message = Register(number, f"before:shop:{number}", number, "call", {}, "")
        self.wanted = True
        self.closed = False
        self._failure = failure

    def steps(self) -> Steps[Any]:
        try:
            while self.wanted:
                yield
            if self._failure is not None:
                raise self._failure
            return Answer(self.message.request, True)
        finally:
            self.closed = True


@pytest.fixture
def begun() -> Any:
    """Two registrations of one script that have had a slice, and who has been found to have registered all."""
    synced: List[Any] = []
    slices, script, works = Slices(synced.append), Script(), [Work(1), Work(2)]
    for work in works:
        assert slices.begin(script, work.message, work.steps()) is None  # type: ignore[arg-type]
    return SimpleNamespace(slices=slices, script=script, works=works, synced=synced)


def test_what_is_short_is_answered_at_once() -> None:
    work, script, slices = Work(1), Script(), Slices(print)
    work.wanted = False
    assert slices.begin(script, work.message, work.steps()) == Answer(1, True)  # type: ignore[arg-type]
    assert not slices.due
    failing = Work(2, TargetError("no such target"))
    failing.wanted = False
    with pytest.raises(TargetError):
        slices.begin(script, failing.message, failing.steps())  # type: ignore[arg-type]


def test_those_that_are_long_go_on_in_turn_and_are_answered_when_done(begun: Any) -> None:
    assert begun.slices.due
    assert begun.slices.wait(begun.script)
    begun.works[1].wanted = False
    begun.slices.go_on()
    assert begun.script.answers == []
    begun.slices.go_on()
    assert (begun.script.answers, begun.synced) == ([Answer(2, True)], [])
    begun.works[0].wanted = False
    begun.slices.go_on()
    assert begun.script.answers == [Answer(2, True), Answer(1, True)]
    assert (begun.synced, begun.slices.due) == ([begun.script], False)


@pytest.mark.parametrize("failure", [TargetError("no such target"), ZeroDivisionError("a bug")])
def test_one_that_fails_is_refused_and_the_others_go_on(begun: Any, failure: Exception) -> None:
    begun.works[0].wanted, begun.works[0]._failure = False, failure
    begun.slices.go_on()
    (answer,) = begun.script.answers
    assert (answer.request, answer.ok) == (1, False)
    assert str(failure) in answer.message
    assert begun.slices.due


def test_a_hook_that_is_removed_is_put_on_nothing_more(begun: Any) -> None:
    assert begun.slices.wait(begun.script)
    begun.slices.end(begun.script, 1)
    assert [work.closed for work in begun.works] == [True, False]
    assert [(one.request, one.ok) for one in begun.script.answers] == [(1, False)]
    assert begun.synced == []
    begun.slices.end(begun.script, 2)
    assert (begun.synced, begun.slices.due) == ([begun.script], False)


def test_nothing_goes_on_for_a_session_that_has_ended(begun: Any) -> None:
    begun.slices.wait(begun.script)
    begun.slices.left(Script())
    assert begun.slices.due
    begun.slices.left(begun.script)
    assert all(work.closed for work in begun.works)
    begun.slices.go_on()
    assert (begun.slices.due, begun.synced, begun.script.answers) == (False, [], [])

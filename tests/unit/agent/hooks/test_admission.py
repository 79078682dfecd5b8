"""Whether an invocation calls a hook: terms and suspension, in all orders of events, with a clock that the test turns."""

from __future__ import annotations

import threading
from typing import Any, Callable, List, Optional

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from xpc_agent.guard import guard
from xpc_agent.hooks.admission import Admission, Bucket, SuspensionPolicy
from xpc_agent.hooks.counters import HookCounters
from xpc_instrument.core.model.terms import Terms


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


DEFAULT = SuspensionPolicy()


class Scene:
    """A gate with all that it is given."""

    def __init__(self, suspension: SuspensionPolicy = DEFAULT, chance: float = 0.0, **terms: Any) -> None:
        self.clock = Clock()
        self.counters = HookCounters()
        self.installed: List[Callable[[], Any]] = []
        self.ended = 0
        self.chance = chance
        self.admission = Admission(
            Terms(**terms),
            self.counters,
            suspension,
            install=self.installed.append,
            ended=self._end,
            clock=self.clock,
            chance=lambda: self.chance,
        )

    def _end(self) -> None:
        self.ended += 1

    def take(self) -> bool:
        """As an invocation asks."""
        return bool(self.installed[-1]())

    def skipped(self, why: str) -> int:
        return self.counters.skipped[why].value

    def suspend(self) -> None:
        for _ in range(3):
            assert self.take()
            self.admission.failed("timeout")
        assert self.admission.suspended


# terms -----------------------------------------------------------------------------------------------------------------------


def test_a_hook_without_terms_is_let_through_by_c_code_alone() -> None:
    scene = Scene()
    assert scene.installed == [scene.counters.calls.up]
    assert not hasattr(scene.admission.take, "__code__")
    assert all(scene.take() for _ in range(5))
    assert scene.counters.calls.value == 5


def test_a_limit_counts_only_the_calls_that_are_made() -> None:
    scene = Scene(limit=2, sample=0.5, chance=0.9)
    assert [scene.take() for _ in range(3)] == [False] * 3
    scene.chance = 0.1
    assert [scene.take() for _ in range(3)] == [True, True, False]
    assert (scene.ended, scene.counters.calls.value, scene.skipped("sample")) == (1, 2, 3)


def test_an_invocation_that_the_rate_keeps_out_takes_none_of_the_limit() -> None:
    scene = Scene(limit=2, rate=1)
    assert [scene.take() for _ in range(3)] == [True, False, False]
    scene.clock.now += 1
    assert scene.take()
    assert (scene.ended, scene.counters.calls.value, scene.skipped("rate")) == (1, 2, 2)


def test_an_invocation_that_chance_keeps_out_takes_no_token() -> None:
    scene = Scene(rate=1, sample=0.5, chance=0.5)
    assert not scene.take()
    scene.chance = 0.49
    assert scene.take()


def test_work_of_ours_takes_neither_a_call_of_a_limit_nor_the_trial() -> None:
    limited, suspended = Scene(limit=1), Scene()
    suspended.suspend()
    suspended.clock.now += 1
    guard.on = True
    try:
        assert not limited.take()
        assert not suspended.take()
    finally:
        guard.on = False
    assert (limited.take(), limited.ended) == (True, 1)
    assert suspended.take()
    assert (suspended.skipped("suspended"), suspended.counters.calls.value) == (1, 4)


def test_a_suspended_hook_rests_until_it_is_to_be_tried() -> None:
    scene = Scene()
    assert not scene.admission.resting()
    scene.suspend()
    assert scene.admission.resting()
    scene.clock.now += 1
    assert not scene.admission.resting()


def test_time_ends_a_registration() -> None:
    scene = Scene(expires=5.0)
    assert scene.take()
    assert not scene.admission.expired
    scene.clock.now += 5.0
    assert scene.admission.expired
    assert not scene.take()
    assert scene.ended == 1
    assert scene.counters.calls.value == 1


@pytest.mark.parametrize(("rate", "at_once"), [(0.5, 1), (5, 1), (10, 1), (25, 2), (100, 10), (1000, 100)])
def test_a_bucket_holds_a_tenth_of_a_second_and_fills_at_its_rate(rate: float, at_once: int) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock)
    assert sum(bucket.take() for _ in range(at_once * 3)) == at_once
    clock.now += 1.5 / rate
    assert [bucket.take(), bucket.take()] == [True, False]
    clock.now += 3600
    assert sum(bucket.take() for _ in range(at_once * 3)) == at_once


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    clock = Clock()
    bucket = Bucket(1, clock)
    assert bucket.take()
    clock.now -= 100
    assert not bucket.take()
    clock.now += 100.5
    assert not bucket.take()


def in_threads(number: int, work: Callable[[], int]) -> int:
    """What the work gives in so many threads that begin together, summed up."""
    results: List[int] = []
    barrier = threading.Barrier(number)

    def run() -> None:
        barrier.wait(10)
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == number
    return sum(results)


def test_eight_threads_take_no_token_twice() -> None:
    clock = Clock()
    bucket = Bucket(2000, clock)
    for _ in range(20):
        assert in_threads(8, lambda: sum(bucket.take() for _ in range(400))) == 200
        clock.now += 0.1


def test_eight_threads_share_a_limit_and_no_call_is_counted_twice_or_lost() -> None:
    scene = Scene(limit=5000)
    assert in_threads(8, lambda: sum(scene.take() for _ in range(2000))) == 5000
    assert (scene.counters.calls.value, scene.ended) == (5000, 1)


def test_eight_threads_that_meet_a_suspended_hook_send_one() -> None:
    scene = Scene()
    scene.suspend()
    scene.clock.now += 1.0
    assert in_threads(8, lambda: sum(scene.take() for _ in range(500))) == 1
    assert scene.skipped("suspended") == 8 * 500 - 1


# suspension ------------------------------------------------------------------------------------------------------------------


def test_the_third_failure_in_a_row_suspends() -> None:
    scene = Scene()
    for cause in ("timeout", "payload"):
        assert scene.take()
        assert scene.admission.failed(cause) is None
    assert scene.take()
    assert not scene.admission.succeeded()
    for _ in range(2):
        assert scene.admission.failed("channel") is None
    assert scene.admission.failed("channel") == 1.0
    assert not scene.take()
    assert scene.counters.suspensions == 1
    assert scene.admission.status() == {"cause": "channel", "failures": 3, "pause": 1.0, "retry-in": 1.0, "trying": False}


def test_never_is_never() -> None:
    scene = Scene(SuspensionPolicy(after=0))
    assert [scene.admission.failed("timeout") for _ in range(100)] == [None] * 100
    assert scene.take()


def test_the_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    scene = Scene(SuspensionPolicy(first=1.0, most=5.0))
    scene.suspend()
    for pause in (1.0, 2.0, 4.0, 5.0, 5.0):
        scene.clock.now += pause - 0.001
        assert not scene.take()
        scene.clock.now += 0.001
        assert scene.take()
        assert scene.admission.failed("timeout") is None
    scene.clock.now += 5.0
    assert scene.take()
    assert scene.admission.succeeded()
    assert scene.admission.status() is None
    scene.suspend()
    scene.clock.now += 1.0
    assert scene.take()


def test_while_one_invocation_tries_the_others_go_without() -> None:
    scene = Scene()
    scene.suspend()
    scene.clock.now += 1.0
    assert scene.take()
    status = scene.admission.status()
    assert status is not None
    assert status["trying"]
    assert not any(scene.take() for _ in range(5))


def test_the_failure_of_an_invocation_that_began_before_does_not_end_the_trial_of_another() -> None:
    scene = Scene()
    scene.suspend()
    scene.clock.now += 1.0
    assert scene.take()
    assert in_threads(1, lambda: int(scene.admission.failed("timeout") is None)) == 1
    assert not scene.take()
    scene.admission.failed("timeout")
    assert (scene.admission.status() or {})["pause"] == 2.0


def test_a_trial_that_was_interrupted_makes_room_for_the_next() -> None:
    scene = Scene()
    scene.suspend()
    scene.clock.now += 1.0
    assert scene.take()
    scene.admission.abandoned()
    assert not scene.take()
    scene.clock.now += 1.0
    assert scene.take()


def test_a_trial_that_is_not_heard_of_is_given_up() -> None:
    scene = Scene(SuspensionPolicy(lost_after=61.0))
    scene.suspend()
    scene.clock.now += 1.0
    assert scene.take()
    scene.clock.now += 60.9
    assert not scene.take()
    scene.clock.now += 0.1
    assert scene.take()


def test_the_terms_hold_for_the_trial_too_and_what_they_keep_out_tries_nothing() -> None:
    scene = Scene(SuspensionPolicy(after=1), sample=0.5)
    # By which one invocation passes, and the next is taken.
    scene.chance = 0.6
    assert scene.take()
    scene.admission.failed("timeout")
    scene.clock.now += 1.0
    assert not scene.take()
    assert scene.take()
    assert (scene.skipped("sample"), scene.counters.calls.value) == (1, 2)


def test_a_forked_child_begins_without_failures_but_with_what_is_left_of_the_limit() -> None:
    scene = Scene(limit=4)
    scene.suspend()
    counters = HookCounters()
    scene.admission.reset(counters, scene.installed.append)
    assert [scene.take(), scene.take()] == [True, False]
    assert counters.calls.value == 1


# all orders ------------------------------------------------------------------------------------------------------------------


class GateMachine(RuleBasedStateMachine):
    """Invocations begin and end in any order while time passes; the model is a few plain numbers.

    All run in one thread, so what is under way when a trial begins is ended first: a thread ends one thing at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.suspension = SuspensionPolicy(after=3, first=1.0, most=8.0, lost_after=100.0)
        self.scene = Scene(self.suspension)
        self.under_way = 0
        self.trying = False
        self.row = 0
        self.pause: Optional[float] = None
        self.retry_at = 0.0
        self.calls = self.skipped = self.suspensions = 0

    @rule()
    def begin(self) -> None:
        if self.pause is not None and self.under_way:
            return
        expected = self.pause is None or (not self.trying and self.scene.clock.now >= self.retry_at)
        assert self.scene.take() is expected
        if not expected:
            self.skipped += 1
            return
        self.calls += 1
        if self.pause is None:
            self.under_way += 1
        else:
            self.trying = True

    @precondition(lambda self: self.under_way or self.trying)
    @rule(cause=st.sampled_from(["timeout", "channel", "payload"]))
    def fail(self, cause: str) -> None:
        told = self.scene.admission.failed(cause)
        if self.trying:
            self.trying = False
            assert told is None
            assert self.pause is not None
            self.pause = min(self.pause * 2, self.suspension.most)
            self.retry_at = self.scene.clock.now + self.pause
            return
        self.under_way -= 1
        if self.pause is not None:
            assert told is None
            return
        self.row += 1
        if self.row == self.suspension.after:
            self.pause = self.suspension.first
            self.suspensions += 1
            self.retry_at = self.scene.clock.now + self.pause
        assert told == self.pause

    @precondition(lambda self: self.under_way or self.trying)
    @rule()
    def succeed(self) -> None:
        if self.trying:
            self.trying = False
        else:
            self.under_way -= 1
        if self.scene.admission.failures:
            assert self.scene.admission.succeeded() is (self.pause is not None)
        else:
            assert self.pause is None
        self.row, self.pause = 0, None

    @precondition(lambda self: self.trying)
    @rule()
    def leave(self) -> None:
        self.scene.admission.abandoned()
        self.trying = False
        assert self.pause is not None
        self.retry_at = self.scene.clock.now + self.pause

    @rule(seconds=st.floats(0.0, 10.0))
    def pass_time(self, seconds: float) -> None:
        self.scene.clock.now += seconds if not self.trying else seconds / 1000

    @invariant()
    def what_is_seen_is_so(self) -> None:
        status = self.scene.admission.status()
        assert (status is not None) is (self.pause is not None)
        if status is not None:
            assert status["pause"] == self.pause
            assert status["trying"] is self.trying
        assert self.scene.counters.calls.value == self.calls
        assert self.scene.skipped("suspended") == self.skipped
        assert self.scene.counters.suspensions == self.suspensions


GateMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestGate = GateMachine.TestCase

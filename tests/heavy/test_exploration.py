"""The comparison of two runs of a suite, on plain data."""

from __future__ import annotations

from tests.exploration.suites import SUITES, differences


def test_equal_outcomes_are_no_difference() -> None:
    assert differences({"a": "passed", "b": "failed"}, {"b": "failed", "a": "passed"}, {}) == ([], [])


def test_a_test_that_ends_in_another_way_or_is_missing_is_a_difference() -> None:
    found, explained = differences({"a": "passed", "b": "passed"}, {"a": "failed", "c": "passed"}, {})
    assert list(found) == [
        "a: passed without hooks, failed with them",
        "b: passed without hooks, not run with them",
        "c: not run without hooks, passed with them",
    ]
    assert explained == []


def test_a_difference_with_a_reason_is_told_apart() -> None:
    found, explained = differences({"t::a[1]": "passed", "t::b": "passed"}, {"t::a[1]": "failed", "t::b": "failed"}, {"t::a": "it may"})
    assert list(found) == ["t::b: passed without hooks, failed with them"]
    assert list(explained) == ["t::a[1]: passed without hooks, failed with them (it may)"]


def test_every_change_is_tried_on_some_suites_and_all_together_are_at_least_eight() -> None:
    assert sum(suite.small for suite in SUITES.values()) >= 4
    assert len(SUITES) >= 8

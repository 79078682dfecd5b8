"""The comparison of two runs of a suite, on plain data."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import pytest

from tests.exploration.run import compare
from tests.exploration.suites import SUITES, differences


def test_equal_outcomes_are_no_difference() -> None:
    assert differences({"a": "passed", "b": "failed"}, {"b": "failed", "a": "passed"}, {}) == ({}, {})


def test_a_test_that_ends_in_another_way_or_is_missing_is_a_difference() -> None:
    found, explained = differences({"a": "passed", "b": "passed"}, {"a": "failed", "c": "passed"}, {})
    assert list(found.values()) == [
        "a: passed without hooks, failed with them",
        "b: passed without hooks, not run with them",
        "c: not run without hooks, passed with them",
    ]
    assert explained == {}


def test_a_difference_with_a_reason_is_told_apart() -> None:
    found, explained = differences({"t::a[1]": "passed", "t::b": "passed"}, {"t::a[1]": "failed", "t::b": "failed"}, {"t::a": "it may"})
    assert list(found.values()) == ["t::b: passed without hooks, failed with them"]
    assert list(explained.values()) == ["t::a[1]: passed without hooks, failed with them (it may)"]


class Played:
    """Runs of a suite with a test that fails armed, as often as it is told."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked: List[Tuple[str, List[str]]] = []

    def __call__(self, mode: str, tests: Sequence[str]) -> Dict[str, Any]:
        self.asked.append((mode, list(tests)))
        fails = mode != "plain" and self.times > 0
        self.times -= fails
        return {"outcomes": {"f.py::t": "failed" if fails else "passed"}, "calls": 1, "armed": 1, "inside": 1}


def test_a_difference_counts_if_it_shows_again(capsys: pytest.CaptureFixture[str]) -> None:
    once, always = Played(1), Played(9)
    assert compare("once", once, ["both"], {})
    assert once.asked == [("plain", []), ("both", []), ("plain", ["f.py::t"]), ("both", ["f.py::t"])]
    assert "f.py::t: passed without hooks, failed with them; but not again" in capsys.readouterr().out
    assert not compare("always", always, ["both"], {})


def test_hooks_that_nobody_calls_prove_nothing() -> None:
    assert not compare("never", lambda mode, tests: {"outcomes": {"t": "passed"}, "calls": 0, "armed": 1, "inside": 1}, ["both"], {})


def test_every_change_is_tried_on_some_suites_and_all_together_are_at_least_eight() -> None:
    assert sum(suite.small for suite in SUITES.values()) >= 4
    assert len(SUITES) >= 8

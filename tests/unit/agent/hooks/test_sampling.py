"""Chance: what a sampler takes, and what it counts."""

from __future__ import annotations

import itertools
import random
import threading
from typing import Any, List

import pytest

from xpc_agent.hooks.sampling import Sampler


@pytest.mark.parametrize("sample", [0.01, 0.3, 0.9])
def test_it_takes_its_part_and_counts_what_has_passed(sample: float) -> None:
    sampler = Sampler(sample, random.Random(5).random, itertools.count(1).__next__)
    calls = 40_000
    taken = sum(bool(sampler.take()) for _ in range(calls))
    # Five standard deviations.
    assert abs(taken - calls * sample) < 5 * (calls * sample * (1 - sample)) ** 0.5
    assert sampler.passed + taken == calls


def test_each_invocation_has_the_same_chance_whatever_came_before() -> None:
    sampler = Sampler(0.5, random.Random(7).random, itertools.count(1).__next__)
    row = [bool(sampler.take()) for _ in range(20_000)]
    again = [after for before, after in zip(row, row[1:]) if before]
    assert abs(sum(again) / len(again) - 0.5) < 0.03


def test_a_chance_next_to_none_and_the_greatest_there_is_are_rows_that_end() -> None:
    least = Sampler(1e-18, lambda: 1 - 2**-53, itertools.count(1).__next__)
    assert (least.take(), least.passed) == (False, 1)
    most = Sampler(1 - 2**-53, lambda: 0.5, itertools.count(1).__next__)
    assert [most.take(), most.take(), most.passed] == [1, 2, 0]


def test_threads_that_come_at_once_lose_no_count() -> None:
    numbers = itertools.count(1)
    sampler = Sampler(0.2, random.Random(9).random, numbers.__next__)
    taken: List[Any] = []

    def call() -> None:
        taken.extend([one for one in (sampler.take() for _ in range(5_000)) if one])

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, next(numbers)))
    assert sampler.passed + len(taken) == 30_000

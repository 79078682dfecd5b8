"""Counting and adding up: exact, whatever the order and the parts, with quantiles within 1.6 %."""

from __future__ import annotations

import json
import math
from typing import Any, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_agent.hooks.aggregate import Aggregate
from xpc_instrument.core.model import aggregate
from xpc_instrument.core.model.aggregate import BUCKETS, COUNT, ERRORS, LEAST, MOST, SUM, Cell

numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e200, max_value=1e200)
positive = st.floats(min_value=1e-9, max_value=1e9)


def cell_of(values: List[Any]) -> Cell:
    cell = aggregate.new_cell()
    for value in values:
        aggregate.count(cell, value)
    return cell


@given(st.lists(st.integers(-1000, 1000)), st.lists(st.integers(-1000, 1000)))
def test_the_sum_of_two_parts_is_what_one_would_have_counted(one: List[int], other: List[int]) -> None:
    whole = cell_of(one)
    aggregate.add(whole, cell_of(other))
    assert whole == cell_of(one + other)


@given(st.lists(positive, min_size=1), st.lists(positive, min_size=1))
def test_what_came_in_between_is_the_difference(before: List[float], more: List[float]) -> None:
    between = aggregate.since(cell_of(before + more), cell_of(before))
    assert between[COUNT] == len(more)
    assert between[BUCKETS] == cell_of(more)[BUCKETS]
    assert between[LEAST] == pytest.approx(min(more), rel=0.017)
    assert between[MOST] == pytest.approx(max(more), rel=0.017)
    assert aggregate.since(cell_of(more), None) == cell_of(more)


@given(numbers)
def test_a_number_lies_in_its_octave_and_near_the_middle_of_its_bucket(value: float) -> None:
    bucket = aggregate.bucket_of(value)
    assert aggregate.middle_of(bucket) == pytest.approx(value, rel=0.016)
    low, high = aggregate.octave_of(bucket)
    assert low <= value <= high


@given(st.lists(positive, min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_quantiles_are_within_a_bucket_of_the_exact_ones(values: List[float], part: float) -> None:
    exact = sorted(values)[math.ceil(part * len(values)) - 1]
    assert aggregate.quantile(cell_of(values), part) == pytest.approx(exact, rel=0.016)


@given(numbers, numbers)
def test_greater_numbers_have_no_lesser_buckets(one: float, other: float) -> None:
    assert aggregate.bucket_of(min(one, other)) <= aggregate.bucket_of(max(one, other))


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.text() | st.integers() | st.booleans() | st.floats(),
        st.lists(positive | st.sampled_from([1e308, -1e308]), min_size=1),
        max_size=5,
    )
)
def test_tables_cross_as_json(content: Any) -> None:
    table = {(aggregate.key_part(key),): cell_of(values) for key, values in content.items()}
    assert aggregate.from_json(json.loads(json.dumps(aggregate.to_json(table), allow_nan=False))) == table


@given(st.lists(st.tuples(st.sampled_from("abc"), numbers | st.none() | st.booleans() | st.text(max_size=2), st.booleans())))
def test_the_application_counts_as_the_rules_say(calls: List[Any]) -> None:
    counted = Aggregate()
    expected: Any = {}
    unusable = 0
    for key, value, failed in calls:
        counted.update((key,), value, ValueError() if failed else None)
        if type(value) not in (int, float):
            unusable += 1
            continue
        cell = expected.setdefault((key,), aggregate.new_cell())
        aggregate.count(cell, value)
        cell[ERRORS] += failed
    total = {key: cell for key, cell in counted.total().items() if cell[COUNT]}
    assert total == expected
    assert counted.unusable.value == unusable


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, "1", None, True])
def test_what_is_no_number_is_not_counted(value: Any) -> None:
    counted = Aggregate()
    counted.update((), value, None)
    assert aggregate.to_json(counted.total()) == []
    assert counted.unusable.value == 1


def test_octaves_in_between_are_empty() -> None:
    assert aggregate.octaves(cell_of([1, 1.5, 8, 9])) == [(1, 2, 2), (2, 4, 0), (4, 8, 0), (8, 16, 2)]
    assert aggregate.octaves(cell_of([-3, 0, 3])) == [(-4, -2, 1), (0, 0, 1), (2, 4, 1)]
    assert aggregate.octaves(cell_of([1e-300, 1e300]))[0][2] == 1


@pytest.mark.parametrize(
    ("value", "shown"), [("x" * 300, "x" * 200), (1, 1), (True, True), (None, None), (2.5, 2.5), (1 << 70, "int beyond 64 bits")]
)
def test_parts_of_keys_are_shown_as_they_were(value: Any, shown: Any) -> None:
    assert aggregate.shown_part(json.loads(json.dumps(aggregate.key_part(value)))) == shown
    assert cell_of([1])[SUM] == 1

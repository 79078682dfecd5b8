"""The arithmetic and the table of the benchmarks, on plain data."""

from __future__ import annotations

from typing import Dict, List

import pytest

from benchmarks.measure import Comparison, Samples, calibrate, in_turn
from benchmarks.report import differences, expectation, in_units, quartiles, ratios, row, table

pytestmark = pytest.mark.no_process

SAMPLES: Dict[str, Samples] = {
    "ours": Samples([[20e-6, 60e-6], [30e-6]], [10, 10]),
    "bare": Samples([[10e-6, 30e-6], [10e-6]], [20, 20]),
}


def test_a_ratio_is_taken_within_a_round() -> None:
    # A load that slows one round three times over leaves its ratio as it is.
    assert ratios([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]) == [2.0, 2.0, 2.0]


def test_ways_that_were_not_measured_together_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="2 rounds over 1"):
        ratios([1.0, 2.0], [1.0])


def test_a_row_has_medians_over_all_runs() -> None:
    found = row(Comparison("the name", "ours", "bare", below=3), SAMPLES)
    assert (found.name, found.baseline, found.expected) == ("the name", "bare", "below 3")
    assert (found.seconds, found.baseline_seconds) == (30e-6, 10e-6)
    assert found.ratio == pytest.approx(2.0)
    assert found.spread == pytest.approx((2.0, 2.5))


@pytest.mark.parametrize(
    ("comparison", "ratio", "text"),
    [
        (Comparison("", "", "", below=2), 1.0, "below 2"),
        (Comparison("", "", "", below=2), 2.0, "below 2: missed"),
        (Comparison("", "", "", above=5), 5.1, "above 5"),
        (Comparison("", "", "", above=5), 5.0, "above 5: missed"),
        (Comparison("", "", ""), 7.0, ""),
    ],
)
def test_what_is_expected_and_missed_is_said(comparison: Comparison, ratio: float, text: str) -> None:
    assert expectation(comparison, ratio) == text


def test_one_value_is_its_own_quartiles() -> None:
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-8, "12.3 ns"), (0.5e-9, "0.50 ns"), (2.5e-6, "2.50 µs"), (27.44e-6, "27.4 µs"), (0.123, "123 ms"), (61.0, "61.0 s")],
)
def test_times_have_units(seconds: float, text: str) -> None:
    assert in_units(seconds) == text


def test_the_table_is_markdown_with_columns_lined_up() -> None:
    lines = table([row(Comparison("the name", "ours", "bare"), SAMPLES)]).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "what", "over", "median", "baseline", "ratio", "quartiles", "expected",
    ]  # fmt: skip
    assert set(lines[1]) == {"|", " ", "-"}
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "the name",
        "bare",
        "30.0 µs",
        "10.0 µs",
        "2.00",
        "2.00 to 2.50",
        "",
    ]
    assert len({len(line) for line in lines}) == 1


def test_rounds_go_forwards_and_backwards_in_turn() -> None:
    assert [list(in_turn(["a", "b", "c"], number)) for number in range(2)] == [["a", "b", "c"], ["c", "b", "a"]]


@pytest.mark.parametrize("each", [1e-8, 2e-5, 1.0])
def test_a_block_is_calibrated_to_take_its_time(each: float) -> None:
    asked: List[int] = []

    def way(loops: int) -> float:
        asked.append(loops)
        return loops * each

    assert calibrate(way, 0.02) == max(1, round(0.02 / each))
    # Finding that out takes a few blocks, not many.
    assert sum(asked) * each < 5 * max(0.02, each)
    assert len(asked) < 25


def test_what_two_ways_add_to_a_common_part_is_compared() -> None:
    samples = {"ours": Samples([[5e-9, 8e-9]], [1]), "closure": Samples([[3e-9, 4e-9]], [1]), "bare": Samples([[1e-9, 2e-9]], [1])}
    found = row(Comparison("name", "ours", "closure", below=2.5, beyond="bare"), samples)
    assert (round(found.ratio, 6), found.expected, found.baseline) == (2.5, "below 2.5: missed", "closure, beyond bare")
    assert differences([2e-9], [3e-9]) == [1e-12]
    with pytest.raises(ValueError, match="not measured together"):
        differences([1.0], [])

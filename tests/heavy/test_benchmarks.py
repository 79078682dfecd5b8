"""The arithmetic and the table of the benchmarks, on plain data."""

from __future__ import annotations

from contextlib import nullcontext
from math import inf
from typing import Dict, List

import pytest

from benchmarks.groups.syscalls import count
from benchmarks.measure.timing import MEAN, TAIL, Comparison, Effort, Group, Samples, calibrate, in_turn, measure, percentile
from benchmarks.report.rows import differences, expectation, in_units, quartiles, ratios, row, table

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


def test_a_row_has_means_over_all_calls_where_each_was_timed_and_over_the_blocks_elsewhere() -> None:
    found = row(Comparison("the name", "ours", "bare"), {**SAMPLES, "ours" + MEAN: Samples([[70e-6], [90e-6]], [20, 10])})
    assert found.means == pytest.approx((80e-6, 50e-6 / 3))
    assert "| 80.0 µs, 16.7 µs |" in table([found])
    # A mean says nothing about a percentile, nor about what two go beyond a third.
    tails = {way + TAIL: sample for way, sample in SAMPLES.items()}
    assert "| - " in table([row(Comparison("the name", "ours" + TAIL, "bare" + TAIL), tails)])


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
        "what", "over", "median", "baseline", "ratio", "quartiles", "means", "expected",
    ]  # fmt: skip
    assert set(lines[1]) == {"|", " ", "-"}
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "the name",
        "bare",
        "30.0 µs",
        "10.0 µs",
        "2.00",
        "2.00 to 2.50",
        "36.7 µs, 16.7 µs",
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


def test_calls_that_are_timed_one_by_one_give_a_median_for_each_round_and_a_tail_and_a_mean_for_each_run() -> None:
    blocks = iter([[1.0] * 50, [1.0] * 49 + [2.0], [3.0] * 48 + [9.0] * 2])

    def way(loops: int) -> List[float]:
        assert loops == 50
        return next(blocks)

    group = Group("", lambda: nullcontext({"ours": way}), (), loops=50)
    found = measure(group, Effort(runs=1, rounds=2, block=inf), lambda text: None)
    # The first block warms up.
    assert found["ours"].runs == [[1.0, 3.0]]
    assert found["ours" + TAIL].runs == [[9.0]]
    assert found["ours" + TAIL].loops == [100]
    assert found["ours" + MEAN].runs == [[pytest.approx(2.13)]]


@pytest.mark.parametrize(("part", "value"), [(99, 99.0), (50, 50.0), (100, 100.0), (0, 1.0)])
def test_a_percentile_is_one_of_the_values(part: int, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], part) == value
    assert percentile([5.0], part) == 5.0


def test_a_block_may_give_several_figures_which_are_not_divided_by_its_calls() -> None:
    figures: Dict[str, float] = {"first": 1.0, "later": 2.0}
    group = Group("", lambda: nullcontext({"ours": lambda loops: figures}), (), loops=1000, rounds=2)
    found = measure(group, Effort(runs=2, rounds=9, block=inf), lambda text: None)
    assert {name: samples.runs for name, samples in found.items()} == {
        "ours, first": [[1.0, 1.0], [1.0, 1.0]],
        "ours, later": [[2.0, 2.0], [2.0, 2.0]],
    }


def test_calls_per_second_are_compared_the_other_way_round() -> None:
    found = row(Comparison("", "ours", "bare", above=0.6, rate=True), SAMPLES)
    assert (round(found.ratio, 6), found.expected) == (0.5, "above 0.6: missed")


@pytest.mark.parametrize(("more", "text"), [(0.02, "at most 20.0 ms more"), (19e-6, "at most 19.0 µs more: missed")])
def test_what_may_be_more_than_the_baseline_is_held_against_the_difference(more: float, text: str) -> None:
    assert row(Comparison("", "ours", "bare", more=more), SAMPLES).expected == text


def test_a_row_that_needs_what_is_not_here_says_so() -> None:
    lines = table([row(Comparison("an array", "ours", "bare", below=2, needs="numpy"), {})]).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "an array",
        "bare",
        "-",
        "-",
        "-",
        "-",
        "-",
        "not run: needs numpy",
    ]


STRACE = """\
10 openat(AT_FDCWD, "/x", O_RDONLY) = 3
10 faccessat2(AT_FDCWD, "/tmp/a/begins", F_OK) = -1 ENOENT (No such file or directory)
10 sendto(3, "..."..., 4, MSG_DONTWAIT, NULL, 0) = 4
11 futex(0x7f, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
10 recvfrom(3,  <unfinished ...>
11 <... futex resumed>) = 0
10 <... recvfrom resumed>"...", 16384, 0, NULL, NULL) = 4
10 --- SIGCHLD {si_signo=SIGCHLD} ---
10 sendto(3, "..."..., 4, MSG_DONTWAIT, NULL, 0) = 4
10 faccessat2(AT_FDCWD, "/tmp/a/ends", F_OK) = -1 ENOENT (No such file or directory)
10 close(3) = 0
""".splitlines()


def test_system_calls_between_two_marks_are_counted_once_each() -> None:
    assert count(STRACE, "begins", "ends") == {"sendto": 2, "recvfrom": 1, "futex": 1}


def test_a_mark_that_strace_has_not_seen_is_an_error() -> None:
    with pytest.raises(ValueError, match="strace has seen nothing of over"):
        count(STRACE, "begins", "over")

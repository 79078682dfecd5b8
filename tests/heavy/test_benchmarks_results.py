"""A run of the benchmarks: kept in a folder and read again, compared with another, and made a page of; on plain data."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import List, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measure.timing import Comparison, Line, Plot, Samples
from benchmarks.report import compare, page
from benchmarks.report.facts import shares, shortcomings
from benchmarks.report.plots import beaten, figure
from benchmarks.report.results import Part, ResultsError, Run, from_json, read, to_json, write
from benchmarks.report.rows import in_units
from benchmarks.report.significance import incomplete_beta, p_value, significant, two_sided
from benchmarks.report.text import markdown_of

COMPARISONS = (
    Comparison("ours of ten", "ours", "bare", below=1.5),
    Comparison("a peer", "peer", "bare", needs="nosuchpeer"),
    Comparison("memory", "fat", "thin", unit="byte"),
    Comparison("calls per second", "ours", "bare", rate=True),
)
PLOTS = (
    Plot(
        "bars",
        "Bars",
        (Line("bare", ((0.0, "bare"),)), Line("ours", ((0.0, "ours"),), ours=True), Line("a peer", ((0.0, "peer"),))),
        log_y=True,
    ),
    Plot(
        "lines",
        "Lines",
        (Line("bare", ((1.0, "bare"), (9.0, "bare"))), Line("ours", ((1.0, "ours"), (9.0, "peer")), ours=True)),
        x="size",
        log_x=True,
    ),
)


def runs_of(seed: object, runs: int, factor: float = 1.0, spread: float = 0.02, rounds: int = 10) -> Tuple[Samples, Samples]:
    """Ours and bare, with the noise of rounds and of runs and a load that both feel; ours is slower by `factor`."""
    chance = random.Random(str(seed))
    ours, bare = Samples(), Samples()
    for _ in range(runs):
        luck = factor * chance.gauss(1, spread)
        loads = [1 + chance.random() for _ in range(rounds)]
        bare.runs.append([10e-6 * load * chance.gauss(1, 0.02) for load in loads])
        ours.runs.append([20e-6 * load * luck * chance.gauss(1, 0.02) for load in loads])
        bare.loops.append(10)
        ours.loops.append(10)
    return ours, bare


def run_of(seed: object = 1, runs: int = 8, factor: float = 1.0, **options: float) -> Run:
    ours, bare = runs_of(seed, runs, factor, **options)  # type: ignore[arg-type]
    memory = {name: Samples([[size] * 10] * runs, [1] * runs) for name, size in (("fat", 3e6), ("thin", 1e6))}
    part = Part("group", "A group", "What it is.", "Because.", 12.0, comparisons=COMPARISONS, plots=PLOTS)
    part.samples = {"ours": ours, "bare": bare, **memory}
    absent = Part("absent", missing="there is no such thing here")
    return Run(
        "1.2",
        "2020-01-02",
        "python -m benchmarks",
        "full",
        {"processor": "A chip", "python": "CPython 3"},
        {"wrapt": "1.0"},
        [part, absent],
    )


def many(seed: int, slower: Sequence[int] = (), rows: int = 60, runs: int = 8, factor: float = 1.1) -> Run:
    """A run with many rows, some of them slower."""
    part = Part("group", comparisons=tuple(Comparison(f"row {row}", f"ours {row}", f"bare {row}") for row in range(rows)))
    for row in range(rows):
        ours, bare = runs_of((seed, row), runs, factor if row in slower else 1.0)
        part.samples.update({f"ours {row}": ours, f"bare {row}": bare})
    return Run("1.2", "", "", "full", {}, {}, [part])


# the folder ------------------------------------------------------------------------------------------------------------------------


def test_a_run_reads_as_it_was_written(tmp_path: Path) -> None:
    pytest.importorskip("pyperf")
    run = run_of()
    write(run, tmp_path)
    again = read(tmp_path)
    assert again == run
    assert read(tmp_path / "values.json") == run
    benchmarks = {one["metadata"]["name"]: one for one in json.loads((tmp_path / "values.json").read_text())["benchmarks"]}
    assert benchmarks["group: fat"]["metadata"]["unit"] == "byte"
    assert markdown_of(again) == markdown_of(run)


def test_values_alone_are_compared_as_the_times_that_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyperf")
    write(run_of(), tmp_path)
    (tmp_path / "run.json").unlink()
    values = str(tmp_path / "values.json")
    assert compare.main([values, values]) == 0
    captured = capsys.readouterr()
    assert "| group | ours " in captured.out
    assert "A has no run.json beside it" in captured.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; expected a folder"),
        ({}, "holds no run.json"),
        ({"run.json": "{"}, "is not JSON"),
        ({"run.json": "[]"}, "says no format"),
        ({"run.json": '{"format": 99}'}, "is of format 99; this version reads 1"),
        ({"run.json": '{"format": 1}'}, "lacks what format 1 has"),
        ({"run.json": "{}", "values.json": '{"version": "7"}'}, "is of version '7'"),
        ({"run.json": "{}", "values.json": '{"version": "1.0", "benchmarks": [3]}'}, "is no suite of pyperf's"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "page"])
def test_what_is_no_run_is_an_error_that_says_why(
    tmp_path: Path, command: str, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    if isinstance(content, dict):
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    words = [str(folder), str(folder)] if command == "compare" else [str(folder), "--to", str(tmp_path / "page.md")]
    assert (compare if command == "compare" else page).main(words) == 2
    assert message in capsys.readouterr().err


def test_a_run_with_an_unknown_field_is_an_error() -> None:
    data = json.loads(json.dumps(to_json(run_of())))
    data["parts"][0]["surprise"] = 1
    with pytest.raises(ResultsError, match="surprise"):
        from_json(data, {})


# the tables and pictures -----------------------------------------------------------------------------------------------------------


def test_the_tables_say_what_was_not_measured_and_why() -> None:
    text = markdown_of(run_of())
    assert "## A group" in text
    assert "- absent was not measured: there is no such thing here." in text
    assert "- group: a peer (needs nosuchpeer)." in text
    assert re.search(r"\| memory +\| thin +\| 3.00 MB +\| 1.00 MB +\| 3.00", text)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(999.7e-9, "second", "1.00 µs"), (9.999e-6, "second", "10.0 µs"), (1500, "byte", "1.50 KB"), (-2e-6, "second", "-2.00 µs")],
)
def test_a_value_has_three_digits_and_a_unit(value: float, unit: str, text: str) -> None:
    assert in_units(value, unit) == text


def test_a_figure_leaves_out_what_was_not_measured_and_names_it() -> None:
    part = run_of().parts[0]
    bars, lines = (figure(part, plot) for plot in PLOTS)
    assert [series.label for series in bars.series] == ["bare", "ours"]
    assert bars.missing == (("a peer", "needs nosuchpeer"),)
    assert [len(series.points) for series in lines.series] == [2, 1]
    assert lines.missing == (("ours at some points", "needs nosuchpeer"),)
    assert all(point.low <= point.y <= point.high for series in bars.series for point in series.points)


def test_where_another_is_better_by_more_than_the_quartiles_it_is_said() -> None:
    part = run_of().parts[0]
    ((best, its, mine, my),) = beaten(figure(part, Plot("p", "", PLOTS[0].lines, over="bare")))
    assert (its.label, my.label) == ("bare", "ours")
    assert best.y < mine.y
    assert any(one.startswith("ours of ten, over bare: ") and one.endswith("below 1.5: missed") for one in shortcomings(part))


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_pictures_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    from benchmarks.report.drawing import draw_all

    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = draw_all(run_of(), tmp_path / name)
        assert [file.name for file in files] == ["bars.svg", "lines.svg"]
        assert all(file.with_suffix(".png").read_bytes().startswith(b"\x89PNG") for file in files)
        drawn.append([file.read_bytes() for file in files])
    assert drawn[0] == drawn[1]
    assert b"<dc:date>" not in drawn[0][0]


# comparing -------------------------------------------------------------------------------------------------------------------------


def verdicts(before: Run, after: Run) -> List[Tuple[str, str]]:
    """Those that are sure."""
    found = [(change.name.partition(",")[0], change.verdict) for change in compare.changes(before, after)]
    return sorted(one for one in found if one[1] in ("slower", "faster"))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sets(st.integers(0, 59), min_size=1, max_size=10))
def test_ten_percent_are_found_among_many_rows(seed: int, slower: set) -> None:  # type: ignore[type-arg]
    found = verdicts(many(seed, ()), many(seed + 10**7, sorted(slower)))
    expected = {(f"row {row}", "slower") for row in slower}
    # All that are slower, and next to none that is not.
    assert expected <= set(found)
    assert len(found) - len(expected) <= 3


def test_runs_of_the_same_are_hardly_ever_called_different() -> None:
    found = [verdicts(many(seed, rows=40), many(seed + 1000, rows=40)) for seed in range(40)]
    # In one of twenty a row may be, by the level of the test.
    assert sum(map(bool, found)) <= 6


def test_a_fast_run_finds_ten_percent_where_its_runs_agree() -> None:
    before, after = run_of(1, runs=3, spread=0.005), run_of(2, runs=3, spread=0.005, factor=1.1)
    assert verdicts(before, after) == [("calls per second", "slower"), ("ours of ten", "slower")]
    assert verdicts(after, before) == [("calls per second", "faster"), ("ours of ten", "faster")]


def test_what_had_one_set_up_is_only_perhaps_slower_and_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyperf")
    before, after = run_of(1, runs=1), run_of(2, runs=1, factor=3)
    found = {change.name.partition(",")[0]: change.verdict for change in compare.changes(before, after)}
    assert found["ours of ten"] == "perhaps slower: one set-up" and "slower" not in found.values()
    for name, run in (("a", before), ("b", after)):
        (tmp_path / name).mkdir()
        write(run, tmp_path / name)
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--fail-if-slower", "5"]) == 0
    assert "perhaps slower or faster: measure those groups again" in capsys.readouterr().out


def test_a_group_of_many_rows_does_not_hide_what_is_slower_in_another() -> None:
    before, after = many(1, (), rows=200), many(2, (), rows=200)
    before.parts.append(replace(run_of(1, runs=3).parts[0], name="other"))
    after.parts.append(replace(run_of(2, runs=3, factor=1.2).parts[0], name="other"))
    assert {change.name.partition(",")[0] for change in compare.changes(before, after) if change.verdict == "slower"} >= {"ours of ten"}


@pytest.mark.parametrize("nonsense", ["nan", "inf", "-5", "much"])
def test_a_percentage_that_is_none_is_refused(nonsense: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        compare.main(["a", "b", f"--fail-if-slower={nonsense}"])
    assert end.value.code == 2 and nonsense in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_value_that_cannot_have_been_measured_is_refused_with_its_file_and_name(tmp_path: Path, value: float) -> None:
    pytest.importorskip("pyperf")
    write(run_of(1), tmp_path)
    file = tmp_path / "values.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    data["benchmarks"][0]["runs"][0]["values"][0] = value
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ResultsError, match=rf"values\.json: .* has the value {value}; expected finite numbers above 0"):
        read(tmp_path)


def test_a_page_leaves_pictures_alone_that_are_not_its_own(tmp_path: Path) -> None:
    to = tmp_path / "docs" / "performance.md"
    page.write(run_of(), tmp_path, to)
    mine = to.with_suffix("") / "mine.svg"
    mine.write_text("<svg/>")
    old = to.with_suffix("") / "gone.svg"
    old.write_text("<svg/>")
    to.write_text(to.read_text(encoding="utf-8") + "![old](performance/gone.svg)", encoding="utf-8")
    page.write(run_of(), tmp_path, to)
    assert mine.exists() and not old.exists()


def test_the_exit_status_says_whether_more_was_lost_than_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyperf")
    folders = [tmp_path / name for name in ("a", "b", "c")]
    other = run_of(3)
    other.machine = {"processor": "Another", "python": "CPython 3"}
    other.parts[0].comparisons = COMPARISONS[:1]
    for folder, run in zip(folders, (run_of(1), run_of(2, factor=1.1), other)):
        folder.mkdir()
        write(run, folder)
    a, b, c = map(str, folders)
    assert compare.main([a, b]) == 0
    assert compare.main([a, b, "--fail-if-slower", "5"]) == 1
    assert compare.main([a, b, "--fail-if-slower", "20"]) == 0
    assert compare.main([b, a, "--fail-if-slower", "5"]) == 0
    capsys.readouterr()
    assert compare.main([a, c]) == 0
    captured = capsys.readouterr()
    assert "different values of 'processor': A chip and Another" in captured.err
    assert "Only in A:\n\n- group: calls per second, over bare\n- group: memory, over thin" in captured.out


def test_the_t_distribution_is_right() -> None:
    # From printed tables: the values beyond which five (and one) of a hundred lie.
    for t, freedom, probability in ((12.706, 1, 0.05), (2.776, 4, 0.05), (4.604, 4, 0.01), (2.145, 14, 0.05), (1.96, 1e6, 0.05)):
        assert two_sided(t, freedom) == pytest.approx(probability, rel=2e-3)
    assert two_sided(0.0, 3) == 1.0


@given(st.floats(0.001, 0.999), st.floats(0.5, 50), st.floats(0.5, 50))
def test_the_incomplete_beta_function_is_a_probability_and_its_own_mirror(x: float, a: float, b: float) -> None:
    assert 0 <= incomplete_beta(x, a, b) <= 1
    assert incomplete_beta(x, a, b) + incomplete_beta(1 - x, b, a) == pytest.approx(1)


def test_what_agrees_by_chance_better_than_clocks_do_is_not_believed() -> None:
    probability = p_value([1.0, 1.0, 1.0], [1.0001, 1.0001, 1.0001])
    assert probability is not None and probability > 0.5
    assert p_value([1.0], [1.0, 2.0]) is None


def test_the_level_is_shared_by_all_rows() -> None:
    assert significant([0.04]) == [True]
    assert significant([0.04, 0.9, None, 0.9]) == [False, False, False, False]
    assert significant([0.001, 0.02, 0.9, 0.9]) == [True, True, False, False]


# the page --------------------------------------------------------------------------------------------------------------------------


def test_a_page_holds_every_group_and_links_that_resolve(tmp_path: Path) -> None:
    to = tmp_path / "docs" / "performance.md"
    drawn = page.write(run_of(), tmp_path, to)
    text = to.read_text(encoding="utf-8")
    assert "### A group\n\nWhat it is." in text
    assert "**Why:** Because." in text
    assert "Not the best, or not as expected, in this run:\n\n- ours of ten, over bare: " in text
    assert "A chip" in text and "wrapt 1.0" in text
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if link != "../benchmarks/README.md"]
    assert [to.parent / link for link in links] == drawn
    assert all((to.parent / link).exists() for link in links)


def test_the_words_of_the_page_hold_no_number() -> None:
    words = [value for name, value in vars(page).items() if name.isupper() and isinstance(value, str)]
    assert len(words) == 5
    for text in words:
        assert not re.search(r"\d", text.replace("python3", "")), text


def test_a_page_says_what_a_rate_of_calls_costs_by_the_crossings_of_the_run() -> None:
    run = run_of()
    assert shares(run) == ""
    run.parts.append(Part("roundtrip", samples={"instead": Samples([[20e-6] * 3], [1])}))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shares(run).splitlines()]
    assert lines[0] == ["calls per second", "`instead`, unix socket"]
    assert lines[2:] == [
        ["added to each call", "20.0 µs"],
        ["1", "below 0.01 %"],
        ["10", "0.02 %"],
        ["100", "0.20 %"],
        ["1,000", "2.00 %"],
        ["10,000", "20.0 %"],
        ["100,000", "more than one thread can"],
    ]
    text = page.page_of(run, "pictures", "README.md", [])
    assert "a call takes 20.0 µs" in text
    assert "| `instead`, unix socket | 20.0 µs" in text and "| 200 µs" in text


def test_a_page_says_what_whole_programs_pay() -> None:
    run = run_of()
    memory = Comparison("Flask, 100 probe points: memory", "agent", "plain", unit="byte")
    run.parts.append(Part("startup", comparisons=(memory,), samples={"agent": Samples([[44e6]], [1]), "plain": Samples([[40e6]], [1])}))
    served = Comparison("gunicorn, Flask: requests per second, `before`", "hooked", "bare", rate=True)
    again = Comparison("gunicorn, Flask: requests per second, plain again", "bare", "bare", rate=True)
    samples = {"hooked": Samples([[250e-6]], [1]), "bare": Samples([[200e-6]], [1])}
    run.parts.append(Part("applications", comparisons=(served, again), samples=samples))
    text = page.page_of(run, "pictures", "README.md", [])
    assert "**Start-up, Flask, 100 probe points: memory** is 44.0 MB instead of 40.0 MB, 1.10 times as much." in text
    assert "**gunicorn, Flask, `before`:** 4,000 requests a second instead of 5,000, 0.80 times as many" in text
    assert "plain again:**" not in text

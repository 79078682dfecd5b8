"""The table of figures in the README is made of a run, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List

import pytest

from benchmarks.__main__ import GROUPS
from benchmarks.measure.timing import Comparison, Group, Samples
from benchmarks.report import page, results, summary
from benchmarks.report.results import Part, Run

README = Path(__file__).resolve().parents[2] / "README.md"


def run_of_all() -> Run:
    """A run in which each row of the summary took 30 ns, over 20."""
    parts: Dict[str, Part] = {}
    for group, name in summary.ROWS:
        part = parts.setdefault(group, Part(group))
        part.comparisons += (Comparison(name, f"ours of {name}", "bare"),)
        part.samples.update({f"ours of {name}": Samples([[30e-9] * 3], [1]), "bare": Samples([[20e-9] * 3], [1])})
    machine = {"processor": "A chip", "python": "CPython 3"}
    return Run("1.2", "2020-01-02 03:04:05", "python -m benchmarks", "full", machine, {}, list(parts.values()))


def table(text: str) -> List[List[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


def test_the_readme_shows_the_rows_of_the_run_and_keeps_the_rest(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    before = README.read_text(encoding="utf-8")
    readme.write_text(before, encoding="utf-8")
    summary.write(run_of_all(), readme)
    after = readme.read_text(encoding="utf-8")
    assert table(after)[2:] == [[name, "bare", "30.0 ns", "20.0 ns", "1.50"] for _, name in summary.ROWS]
    assert "Medians of `python -m benchmarks`, 2020-01-02: A chip, CPython 3." in after
    for piece in (0, -1):
        assert after.split("<!-- figures: ")[piece] == before.split("<!-- figures: ")[piece]


def test_a_row_that_the_run_lacks_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    pytest.importorskip("pyperf")
    run = run_of_all()
    run.parts = [part for part in run.parts if part.name != "tcp"]
    (tmp_path / "run").mkdir()
    results.write(run, tmp_path / "run")
    readme = tmp_path / "README.md"
    readme.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    to = tmp_path / "docs" / "page.md"
    assert page.main([str(tmp_path / "run"), "--to", str(to), "--readme", str(readme)]) == 2
    assert readme.read_bytes() == README.read_bytes()
    assert not to.exists()
    with pytest.raises(results.ResultsError, match="no row '`instead`, TCP loopback' of the group 'tcp'"):
        summary.summary(run)


def test_a_file_without_the_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("nothing here\n")
    with pytest.raises(results.ResultsError, match="no place for the figures"):
        summary.write(run_of_all(), tmp_path / "other.md")


@pytest.mark.parametrize(("group", "name"), summary.ROWS)
def test_the_rows_of_the_readme_are_rows_of_the_benchmarks(group: str, name: str) -> None:
    declared = GROUPS[group]
    assert isinstance(declared, Group)
    assert name in [comparison.name for comparison in declared.comparisons]

"""The benchmarks run: a table comes out, what they hook really is hooked, and nothing stays behind. The figures are judged by people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from benchmarks.__main__ import main
from benchmarks.measure import Effort, Group, Samples, measure
from benchmarks.roundtrip import ROUNDTRIP, SEED, TCP

ROOT = Path(__file__).resolve().parents[2]
# One block of each way: the least that goes through everything.
LEAST = Effort(runs=1, rounds=1, block=0.001)


def test_the_table_is_printed_and_the_values_are_kept(tmp_path: Path) -> None:
    pyperf = pytest.importorskip("pyperf")
    file = tmp_path / "values.json"
    command = [sys.executable, "-m", "benchmarks", "--fast", "--only", "disarmed", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| what ")
    assert sum("code swap" in line and "below 2" in line for line in lines) == 8
    assert "disarmed: function, bare" in pyperf.BenchmarkSuite.load(str(file)).get_benchmark_names()


@pytest.mark.parametrize("group", [ROUNDTRIP, TCP, SEED], ids=lambda group: group.name)
def test_processes_of_a_group_do_their_part_and_leave(group: Group) -> None:
    said: List[str] = []
    samples = measure(group, LEAST, said.append)
    assert said == [f"{group.name}: run 1 of 1"]
    for comparison in group.comparisons:
        assert samples[comparison.way].values[0] > 0
        assert samples[comparison.baseline].values[0] > 0


def test_what_could_not_run_is_said_and_the_rest_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import __main__ as program

    def broken() -> None:
        raise RuntimeError("no such thing here")

    monkeypatch.setattr(program, "FAST", LEAST)
    monkeypatch.setitem(program.GROUPS, "seed", Group("seed", broken, ()))  # type: ignore[arg-type]
    assert main(["--fast", "--only", "seed", "--only", "forwarding"]) == 1
    captured = capsys.readouterr()
    assert "no such thing here" in captured.err
    assert "seed could not run" in captured.err
    assert "armed, only forwarding" in captured.out


def test_the_suite_is_in_pyperfs_form() -> None:
    pytest.importorskip("pyperf")
    from benchmarks.suite import make_suite

    suite = make_suite({"group": {"ours": Samples([[20e-6, 60e-6], [30e-6]], [10, 20]), "bare": Samples([[1e-6]], [1])}})
    assert suite.get_benchmark_names() == ["group: ours", "group: bare"]
    benchmark = suite.get_benchmark("group: ours")
    assert benchmark.get_values() == (20e-6, 60e-6, 30e-6)
    assert [run.get_loops() for run in benchmark.get_runs()] == [10, 20]

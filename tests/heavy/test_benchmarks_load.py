"""What the load generator says is read right, and groups that take long to set up have their part of the rounds."""

from __future__ import annotations

from contextlib import nullcontext
from math import inf
from pathlib import Path
from typing import Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.groups import growth, observed, startup, web
from benchmarks.measure.timing import FAST, FULL, Effort, Group, Unavailable, measure
from benchmarks.processes import catalogue, wrk
from benchmarks.processes.wrk import LoadError, parse

OUTPUT = """\
Running 1m test @ http://127.0.0.1:8000/
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.88ms    2.06ms  13.30ms   84.63%
    Req/Sec     1.45k     1.23k    3.05k    80.00%
  Latency Distribution
     50%  840.00us
     75%    2.87ms
     90%    4.86ms
     99%    1.02s
  723 requests in 502.28ms, 367.15KB read
Requests/sec:   1439.43
Transfer/sec:    730.96KB
"""


def test_what_wrk_says_is_read() -> None:
    found = parse(OUTPUT)
    assert (found.requests, found.seconds) == (723, pytest.approx(0.50228))
    assert found.latency == pytest.approx({50: 0.00084, 75: 0.00287, 90: 0.00486, 99: 1.02})


TIMES = st.tuples(st.integers(0, 99999), st.sampled_from([("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]))


@given(requests=st.integers(1, 10**9), took=TIMES, parts=st.tuples(TIMES, TIMES, TIMES))
def test_any_times_are_read_in_their_units(requests: int, took: tuple, parts: tuple) -> None:
    def text(one: tuple) -> str:
        return f"{one[0] / 100:.2f}{one[1][0]}"

    lines = [f"    {part}%  {text(one):>8}" for part, one in zip((50, 90, 99), parts)]
    found = parse("\n".join([*lines, f"  {requests} requests in {text(took)}, 1.00MB read"]))
    assert found.requests == requests
    assert found.seconds == pytest.approx(took[0] / 100 * took[1][1])
    assert list(found.latency.values()) == pytest.approx([one[0] / 100 * one[1][1] for one in parts])


@given(st.text())
def test_text_that_is_not_of_wrk_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(LoadError, match=r"wrk said .*; expected N requests in TIME"):
        parse(text)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (OUTPUT + "  Non-2xx or 3xx responses: 7\n", "Non-2xx or 3xx responses: 7.*every request is answered with success"),
        (OUTPUT + "  Socket errors: connect 0, read 3, write 0, timeout 0\n", "read 3"),
        (OUTPUT.replace("     90%    4.86ms\n", ""), "expected the 90th percentile"),
        (OUTPUT.replace("723 requests", "0 requests"), "no answer within 502.28ms"),
    ],
)
def test_a_load_that_was_not_as_it_should_be_is_an_error(wrong: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        parse(wrong)


def test_without_wrk_its_rows_say_how_to_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    present = web.SERVERS["gunicorn, Flask"]._replace(needs=())
    assert web.missing(present) == "wrk: apt-get install wrk"
    assert web.missing(present._replace(needs=("no_such_module", "json"))) == "no_such_module"
    with pytest.raises(Unavailable, match="needs wrk: apt-get install wrk"):
        wrk.burst("http://127.0.0.1:9/", 1.0, 1)


def test_a_group_that_takes_long_to_set_up_is_set_up_once_for_its_part_of_all_rounds() -> None:
    asked: List[int] = []

    def way(loops: int) -> Dict[str, float]:
        asked.append(loops)
        return {"time": 1.0}

    group = Group("", lambda: nullcontext({"ours": way}), (), loops=7, part=0.1)
    assert measure(group, Effort(runs=3, rounds=10, block=inf), lambda text: None)["ours, time"].runs == [[1.0] * 3]
    assert asked == [7] * 4
    assert len(measure(group, Effort(runs=1, rounds=1, block=inf), lambda text: None)["ours, time"].runs) == 1


@pytest.mark.parametrize(
    "group",
    [startup.STARTUP, growth.POINTS, growth.SCRIPTS, growth.ARMING, web.APPLICATIONS, observed.OBSERVED],
    ids=lambda group: group.name,
)
def test_a_group_says_what_it_is_and_draws_what_it_compares(group: Group) -> None:
    assert group.title and group.about and group.why
    # The page has the numbers of its run; a text that holds some would not follow them.
    assert not any(f" {unit}" in group.why for unit in ("ns", "µs", "ms", "MB", "KB", "percent", "times"))
    compared = {way for one in group.comparisons for way in (one.way, one.baseline)}
    assert group.plots
    for plot in group.plots:
        for line in plot.lines:
            assert {way for _, way in line.points} <= compared
    assert 1 <= FAST.runs * FAST.rounds * (group.part or 0) < FULL.runs * FULL.rounds * (group.part or 0)


def test_the_module_of_probe_points_has_as_many_functions(tmp_path: Path) -> None:
    catalogue.write(tmp_path, 3)
    names: Dict[str, object] = {}
    exec((tmp_path / "catalogue.py").read_text(), names)
    functions = [name for name, value in names.items() if callable(value)]
    assert functions == [catalogue.function(number) for number in range(3)]
    assert catalogue.probes(1, 3).count("[[probe]]") == 2
    assert (tmp_path / "__pycache__").is_dir()

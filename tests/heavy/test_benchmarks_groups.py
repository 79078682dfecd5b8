"""What the groups of the benchmarks declare: what the page says of them and draws."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from benchmarks.groups.crossings import PEERS
from benchmarks.groups.inflight import ASYNC
from benchmarks.groups.large import LARGE
from benchmarks.groups.payloads import PAYLOADS
from benchmarks.groups.roundtrip import ROUNDTRIP, TCP
from benchmarks.groups.steps import STEPS
from benchmarks.groups.syscalls import SYSCALLS
from benchmarks.groups.threads import THREADS
from benchmarks.groups.unwaited import UNWAITED
from benchmarks.measure.timing import TAIL, Group
from benchmarks.processes.others import OTHERS, Other
from benchmarks.report.rows import row

GROUPS = [PEERS, PAYLOADS, THREADS, UNWAITED, ROUNDTRIP, TCP, LARGE, ASYNC, STEPS]


@pytest.mark.parametrize("group", [*GROUPS, SYSCALLS], ids=lambda group: group.name)
def test_a_group_says_what_it_measures_and_why_without_a_figure_that_another_run_would_not_have(group: Group) -> None:
    assert group.title and group.about
    assert group.why and not re.search(r"\d", group.why)


def test_each_picture_has_a_file_of_its_own_and_shows_ours_beside_something_else() -> None:
    plots = [plot for group in GROUPS for plot in group.plots]
    assert [name for name, count in Counter(plot.name for plot in plots).items() if count > 1] == []
    for plot in plots:
        assert {line.ours for line in plot.lines} == {True, False}, plot.name
        # Bars have one point each, lines have more; an axis that is named belongs to lines.
        assert all((len(line.points) > 1) == bool(plot.x) for line in plot.lines), plot.name


def test_every_other_way_to_call_a_process_is_a_row_a_bar_and_a_line() -> None:
    names = {"managers", "rpyc", "Pyro5", "execnet", "ZeroMQ"}
    assert {other.name for other in OTHERS} == names
    assert names <= {comparison.way for comparison in PEERS.comparisons}
    assert names <= {line.label for line in PEERS.plots[0].lines}
    assert names <= {line.label for line in PAYLOADS.plots[0].lines}
    assert {way.replace(TAIL, "") for line in PEERS.plots[1].lines for _, way in line.points} == {
        way for line in PEERS.plots[0].lines for _, way in line.points
    }


def test_a_library_that_is_missing_is_a_row_that_says_how_to_get_it() -> None:
    other = Other("it", "no_such_module_here", "no-such-package", "", OTHERS[0].connect)
    assert other.needs == "no_such_module_here: pip install no-such-package"
    for comparison in [*PEERS.comparisons, *PAYLOADS.comparisons]:
        if comparison.needs:
            assert row(comparison, {}).expected == f"not run: needs {comparison.needs}"
    assert OTHERS[0].needs == ""

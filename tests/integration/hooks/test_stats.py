"""What is counted of hooks is what happened, and can be read: `ls --stats`, `Session.stats`, `xpc_agent.stats`."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, listing
from tests.integration.cli.test_cli import on_a_terminal
from xpc_instrument.core.model.stats import ProbeStats, read_probe


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    config = '[defaults]\ntimeout = 0.2\nsuspend-after = 0\n[[probe]]\ntarget = "shop:*"\n'
    return begin_app(config)


def listed() -> Any:
    """What `ls --stats --json` gives of the one process."""
    (process,) = as_json(listing("--stats", "--json"))
    return process


def stats_of(session: xpc_instrument.Session, target: str = "shop:charge") -> ProbeStats:
    return next(one for one in session.stats() if one.target == target)


def test_all_ways_to_read_give_the_same(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: None)
        session.instead("shop:charge", lambda amount: amount * 2, sample=0.5)
        app.evaluate("[shop.charge(n) for n in range(100)]")
        asked = stats_of(session)
        process = listed()
        report = next(one for one in process["probes"] if one["target"] == "shop:charge")
        assert read_probe(process["pid"], report) == asked
        inside = app.evaluate("[repr(one) for one in __import__('xpc_agent').stats() if one.target == 'shop:charge'][0]")
        assert eval(inside) == repr(asked)
        lanes = process["process"].pop("by-session")
        assert [one["lanes"] for one in lanes] == [1, 0] and lanes[0]["hot"] + sum(lanes[0]["plain"].values()) == 1
        assert process["process"] == {"sessions": 2, "lanes": 1, "refused": 0}
        before, instead = asked.hooks
        assert (before.mode, before.script, before.calls) == ("before", os.getpid(), 100)
        assert instead.calls + instead.skipped["sample"] == 100
        assert asked.calls == 100 + instead.calls
        assert asked.pid == app.program.pid
        assert asked.bytes_sent == before.bytes_sent + instead.bytes_sent > 100 * 20
        assert asked.bytes_received == before.bytes_received + instead.bytes_received > 100 * 10
        assert 0 < asked.longest_wait_us <= asked.waited_us
        assert asked.wait_per_call_us == asked.waited_us / asked.calls


@pytest.mark.parametrize("expression", ["shop.charge('x' * 100_000)", "asyncio.run(shop.wait_a_little(b'x' * 100_000))"])
def test_bytes_are_those_that_crossed_in_each_direction(app: App, expression: str) -> None:
    target = "shop:charge" if "charge" in expression else "shop:wait_a_little"
    with xpc_instrument.connect("shop") as session:
        session.instead(target, lambda value: value[:10_000])
        app.evaluate(f"{expression} and None")
        stats = stats_of(session, target)
        assert 100_000 < stats.bytes_sent < 100_300
        assert 10_000 < stats.bytes_received < 10_300


def test_waits_are_those_for_the_hook_and_not_for_the_original(app: App) -> None:
    held = threading.Event()
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: held.wait(0.1))
        session.around("shop:Order.twice", lambda call: call.proceed())
        app.evaluate("exec('import threading, time; shop.time = time.monotonic; shop.held = threading.Event()')")
        took = [float(app.evaluate("-shop.time() + (shop.charge(1), shop.time())[1]")) * 1e6 for _ in range(2)]
        stats = stats_of(session)
        # Half of the time that the hook took: on a busy machine it may have begun before its caller waits.
        assert 100_000 <= stats.waited_us <= sum(took)
        assert 50_000 <= stats.longest_wait_us <= max(took)
        app.evaluate('exec(\'shop.Slow = type("Slow", (), {"__mul__": lambda self, n: shop.held.wait(0.3)})\')')
        took = [float(app.evaluate("-shop.time() + (shop.Order.twice(shop.Slow()), shop.time())[1]")) * 1e6]
        assert stats_of(session, "shop:Order.twice").waited_us <= took[0] - 300_000


def test_lanes_that_are_dropped_leave_what_they_have_counted(app: App) -> None:
    free = threading.Event()
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: free.wait(20))
        try:
            app.evaluate("[shop.charge(1) for _ in range(3)]")
            stats = stats_of(session)
            assert stats.timeouts == 3
            assert stats.waited_us >= 590_000  # the deadline is counted from a moment before
            assert stats.bytes_sent > 3 * 20
        finally:
            free.set()


def test_what_was_counted_outlives_the_hook_and_the_session(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        for _ in range(40):
            with session.before("shop:charge", lambda call: None):
                app.evaluate("shop.charge(1)")
        stats = stats_of(session)
        assert (stats.calls, stats.hooks) == (40, ())
    with xpc_instrument.connect("shop") as session:
        again = stats_of(session)
        assert (again.calls, again.bytes_sent, again.bytes_received) == (40, stats.bytes_sent, stats.bytes_received)
        assert (again.waited_us - stats.waited_us) in range(-50, 51)  # each part is rounded


def test_eight_threads_lose_no_count(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: None)
        session.before("shop:fail", lambda call: None)
        work = "[shop.charge(1) for _ in range(250)]"
        started = "[shop.threading.Thread(target=lambda: {0}) for _ in range(8)]"
        app.evaluate(f"(lambda ts: [t.start() for t in ts] + [t.join() for t in ts])({started.format(work)})")
        first = stats_of(session)
        assert first.calls == 2000
        app.evaluate(work)
        later = stats_of(session)
        # Each of these calls is as long as any other.
        assert later.bytes_sent - first.bytes_sent == pytest.approx(first.bytes_sent / 8, rel=0.02)
        assert later.bytes_received - first.bytes_received == pytest.approx(first.bytes_received / 8, rel=0.02)


def test_a_forked_child_counts_from_nothing(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: None)
        app.evaluate("[shop.charge(1) for _ in range(5)]")
        inside = "[one.calls for one in __import__('xpc_agent').stats() if one.target == 'shop:charge']"
        child = f"(shop.charge(1), print('child', {inside}, flush=True), os._exit(0))"
        app.evaluate(f"(lambda os: (lambda pid: os.waitpid(pid, 0) if pid else {child})(os.fork()))(__import__('os'))")
        assert "child [1]" in app.program.text
        assert stats_of(session).calls == 5


def test_a_process_without_an_agent_has_counted_nothing() -> None:
    import xpc_agent

    assert xpc_agent.stats() == []


# the command -----------------------------------------------------------------------------------------------------------------


def test_ls_shows_the_figures_of_each_hook_and_of_what_is_left_of_those_that_have_gone(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: None)
        app.evaluate("[shop.charge(1) for _ in range(3)]")
        head, row, process, lanes = listing("--stats").splitlines()
        assert head.split() == ["PID", "TARGET", "HOOK", "CALLS", "OUT/IN", "WAITED", "EACH", "MAX"]
        assert row.split()[:4] == [str(app.program.pid), "shop:charge", f"before:{os.getpid()}", "3"]
        assert process == f"pid {app.program.pid}: 2 sessions, this command's included, 1 lane, 0 connections refused"
        assert lanes.startswith(f"pid {app.program.pid}: session of pid {os.getpid()}: ") and " of 1 lane can be hot; " in lanes
        second = session.before("shop:charge", lambda call: 1 / 0)
        assert repr(second) == "<Handle #2 before shop:charge>"
        app.evaluate("shop.charge(1)")
        rows = [line.split() for line in listing("--stats").splitlines()]
        assert "FAILURES" in rows[0]
        assert [row[2:5] for row in rows[1:4]] == [
            ["all", "5", "raised:1"],
            [f"before:{os.getpid()}#1", "4", "-"],
            [f"before:{os.getpid()}#2", "1", "raised:1"],
        ]
        assert f"before:{os.getpid()}#1 before:{os.getpid()}#2" in listing()
        assert [hook.number for hook in stats_of(session).hooks] == [1, 2]
    gone = [line.split() for line in listing("--stats").splitlines()]
    assert [row[1:5] for row in gone[1:-1]] == [["shop:charge", "all", "5", "raised:1"]]


def test_a_terminal_of_120_columns_shows_each_number_in_one_piece(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    free = threading.Event()
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: free.wait(20))
        session.instead("shop:Order.total", lambda *args: 7, rate=1)
        try:
            app.evaluate("[(shop.charge('x' * 5000), shop.Order(1).total()) for _ in range(3)]")
        finally:
            free.set()
        text = on_a_terminal("ls", "shop", "--stats", cwd=tmp_path, columns=120)
        assert f"instead:{os.getpid()}" in text
        assert f"before:{os.getpid()}" in text
        assert "15." in text
        assert max(len(line) for line in _plain(text).splitlines()) <= 120


@pytest.mark.parametrize("columns", [40, 100])
def test_a_narrow_terminal_leaves_out_nothing_and_breaks_no_word(app: App, tmp_path: Path, columns: int) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: 1 / 0, sample=0.5)
        session.before("shop:charge", lambda call: threading.Event().wait(0.4), rate=0.001)
        app.evaluate("[shop.charge(n) for n in range(200)] and None")
        lines = _plain(on_a_terminal("ls", "shop", "--stats", cwd=tmp_path, columns=columns)).split("\r\n")
    text = " ".join(line.strip() for line in lines)
    assert max(map(len, [line for line in lines if not line.startswith("pid ")])) <= columns
    for part in ("shop:charge", "timeout:1", "rate:199", f"before:{os.getpid()}"):
        assert part in text
    assert re.search(r"\braised:\d+", text)
    assert re.search(r"\bsample:\d+", text)


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_report_of_an_application_that_was_never_hooked_is_short(app: App) -> None:
    process: Dict[str, Any] = listed()
    assert all(probe["stats"] == {} and probe["hooks"] == [] for probe in process["probes"])
    assert len(listing("--stats").splitlines()) == 2


def test_hooks_of_two_sessions_of_one_script_are_told_apart(app: App) -> None:
    with xpc_instrument.connect("shop") as session, xpc_instrument.connect("shop") as other:
        for one in (session, other):
            one.before("shop:charge", lambda call: None)
        session.after("shop:charge", lambda call: None)
        hooks = stats_of(session).hooks
        names = [hook.name(hooks) for hook in hooks]
        assert names == [f"before:{os.getpid()}#1@{hooks[0].session}", f"before:{os.getpid()}#1@{hooks[1].session}", f"after:{os.getpid()}"]
        assert len(set(names)) == 3
        assert " ".join(names) in listing()

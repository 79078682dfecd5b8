"""The benchmarks of start-up, of growth and of web applications run with the least effort, and nothing of them stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

from benchmarks.groups import growth, observed, startup, web
from benchmarks.measure.timing import Group
from benchmarks.processes import catalogue, wrk
from benchmarks.processes.pair import runtime_dir
from benchmarks.processes.peers import ROOT, Peer, PeerError
from tests.attaching.proof import why_not
from tests.programs import wait_for_exit

_REFUSED = why_not() if sys.platform.startswith("linux") else "takes Linux"


def run(group: Group, among: str = "") -> None:
    """One block of each way, the least that goes through everything; all that is compared must be there, of the ways with such a name."""
    found: Dict[str, float] = {}
    with group.set_up() as ways:
        for name, way in ways.items():
            measured = way(1)
            assert not isinstance(measured, list)
            found.update(
                {f"{name}, {figure}": value for figure, value in measured.items()} if isinstance(measured, dict) else {name: measured}
            )
    compared = {way for one in group.comparisons if not one.needs for way in (one.way, one.baseline) if among in way}
    assert compared
    assert {way for way in compared if not found.get(way, 0.0) > 0} == set()


@pytest.mark.timeout(240)  # dozens of interpreters start, one after the other
def test_starts_are_measured_in_time_and_memory() -> None:
    pytest.importorskip("flask", reason="flask is not installed")
    run(startup.STARTUP)


@pytest.mark.parametrize("group", [growth.POINTS, growth.ARMING], ids=lambda group: group.name)
def test_what_grows_is_measured(group: Group) -> None:
    run(group)


def test_what_grows_with_the_scripts_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    # As many as make two processes of the crowd.
    monkeypatch.setattr(growth, "_SCRIPTS", (60,))
    monkeypatch.setattr(growth, "_IN_ONE", 30)
    with growth.SCRIPTS.set_up() as ways:
        assert set(ways) == {"unarmed, 60 scripts", "armed, 60 scripts"}
        assert all(isinstance(way(1), float) for way in ways.values())


@pytest.mark.skipif(not wrk.here(), reason="wrk is not installed")
@pytest.mark.parametrize("name", web.SERVERS)
def test_web_applications_are_measured_under_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in web.SERVERS[name].needs:
        pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.setattr(web, "SERVERS", {name: web.SERVERS[name]})
    run(web.APPLICATIONS, among=name)


@pytest.mark.skipif(not wrk.here(), reason="wrk is not installed")
@pytest.mark.skipif(bool(_REFUSED), reason=f"nothing can be attached to here: {_REFUSED}")
def test_an_application_that_is_looked_at_is_measured_and_as_it_was_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "gunicorn, Flask"
    for module in web.SERVERS[name].needs:
        pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.setattr(observed, "SERVERS", {name: web.SERVERS[name]})
    monkeypatch.setattr(observed, "_WINDOW", 0.3)
    run(observed.OBSERVED, among=name)


def test_probe_points_that_are_not_all_hookable_are_an_error() -> None:
    with runtime_dir() as folder:
        catalogue.write(folder, 2)
        file = folder / "shop.toml"
        file.write_text('app = "startup"\n' + catalogue.probes(0, 3))
        with pytest.raises(PeerError, match=r"shop\.toml: '2' probe points were ready; expected 3"):
            startup._check(folder, file, 3)


def test_a_program_that_fails_is_an_error(tmp_path: Path) -> None:
    options = ("-I", "-S", str(ROOT / "benchmarks/processes/launcher.py"))
    with Peer("benchmarks.processes.launcher", runtime_dir=tmp_path, options=options) as launcher:
        with pytest.raises(PeerError, match=r"raise SystemExit\(3\) ended with the wait status 768; expected 0"):
            startup._start(launcher, ([sys.executable, "-c", "raise SystemExit(3)"], {}), 1)
        found = startup._start(launcher, ([sys.executable, "-c", "held = bytearray(200_000_000)"], {}), 1)
        assert isinstance(found, dict)
        assert 200_000_000 < found["memory"] < 300_000_000
        assert found["time"] > 0


def test_servers_end_when_the_benchmark_is_gone(tmp_path: Path) -> None:
    waits = [sys.executable, "-c", "import sys, threading; print('here', flush=True); threading.Event().wait()"]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.processes.keeper"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        keeper.stdin.write(repr((waits, dict(os.environ), str(tmp_path / "log"))) + "\n")
        pid = int(keeper.stdout.readline())
        os.kill(pid, 0)
        # As it happens when whoever holds the other end is killed.
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    assert wait_for_exit(pid)


@pytest.mark.skipif(not wrk.here(), reason="wrk is not installed")
def test_a_load_on_a_port_where_nobody_listens_is_an_error() -> None:
    port = web.free_ports(1)[0]
    with pytest.raises(wrk.LoadError, match=r"unable to connect to 127\.0\.0\.1"):
        wrk.burst(f"http://127.0.0.1:{port}/", 5.0, 1)


def test_a_load_that_goes_on_when_it_is_interrupted_is_ended_and_tells_nothing() -> None:
    goes_on = "import signal, threading; signal.signal(signal.SIGINT, signal.SIG_IGN); threading.Event().wait()"
    assert wrk._interrupted([sys.executable, "-c", goes_on], 0.5) is None


def test_ports_differ() -> None:
    assert len(set(web.free_ports(20))) == 20

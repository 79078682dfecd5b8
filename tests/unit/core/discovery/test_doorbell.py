"""Doorbells: whoever waits for new processes hears of each, and nobody waits for who does not listen."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from xpc_instrument.core.discovery import doorbell as module
from xpc_instrument.core.discovery.doorbell import Doorbell, bell_name, ring
from xpc_instrument.core.unpatched import Socket

SESSION = "0123456789abcdef"


def test_a_doorbell_hears_of_its_own_application_only(runtime_dir: Path) -> None:
    with Doorbell("shop", SESSION) as bell, Doorbell("api", SESSION) as other:
        assert bell.path == f"{runtime_dir}/shop.01234567.bell"
        assert stat.S_IMODE(os.stat(bell.path).st_mode) == 0o600
        assert bell.drain() == []
        assert ring("shop", 5) == ring("shop", 6) == {bell_name(SESSION)}
        assert bell.drain() == [5, 6]
        assert bell.drain() == other.drain() == []
    assert bell.fileno() == -1
    bell.close()
    assert os.listdir(runtime_dir) == []


def test_a_doorbell_whose_session_has_died_is_removed(runtime_dir: Path) -> None:
    with Doorbell("shop", SESSION) as bell:
        gone = Doorbell("shop", "deadbeef")
        gone._socket.close()
        assert os.path.exists(gone.path)
        assert ring("shop", 5) == {bell_name(SESSION)}
        assert not os.path.exists(gone.path)
        assert bell.drain() == [5]


def test_a_full_doorbell_counts_as_alive_and_never_waits() -> None:
    with Doorbell("shop", SESSION) as bell:
        rings = 0
        with Socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                while True:
                    sender.sendto(b"7", bell.path)
                    rings += 1
            except BlockingIOError:
                pass
        assert ring("shop", 8) == {bell_name(SESSION)}
        heard = bell.drain()
        while heard[-1:] == [7] and len(heard) < rings:
            heard += bell.drain()
        assert heard == [7] * rings


def test_one_drain_of_a_flooded_doorbell_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RINGS_PER_DRAIN", 3)
    with Doorbell("shop", SESSION) as bell:
        for pid in range(1, 6):
            ring("shop", pid)
        assert bell.drain() == [1, 2, 3]
        assert bell.drain() == [4, 5]


def test_a_ring_that_is_no_pid_is_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with Doorbell("shop", SESSION) as bell, Socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for text in (b"", b"-1", b"0", b"\xff", b"12 ", b"9" * 100, b"12"):
            sender.sendto(text, bell.path)
        assert bell.drain() == [12]
    assert len(caplog.records) == 6


@pytest.mark.parametrize("kind", ["file", "fifo", "stream"])
def test_what_is_no_doorbell_is_skipped_logged_and_kept(runtime_dir: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    path = runtime_dir / "shop.aaaa.bell"
    with socket.socket(socket.AF_UNIX) as stream, Doorbell("shop", SESSION) as bell:
        if kind == "file":
            path.write_text("notes")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            stream.bind(str(path))
            stream.listen()
        assert ring("shop", 5) == {bell_name(SESSION)}
        assert bell.drain() == [5]
        assert "is no doorbell (" in caplog.text
        assert os.path.exists(path)
    path.unlink()


@pytest.mark.parametrize("app", ["shop", "my-shop"])
def test_a_bell_that_follows_one_tree_is_rung_by_its_processes_only_while_its_root_lives(app: str) -> None:
    with Doorbell(app, SESSION) as bell, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        bell.follow(str(other.pid))
        assert ring(app, 5, str(os.getpid())) == set()
        assert ring(app, 6) == set()
        assert ring(app, 7, str(other.pid)) == {bell_name(SESSION)}
        other.communicate()
        assert ring(app, 8, str(os.getpid())) == {bell_name(SESSION)}
        assert bell.drain() == [7, 8]
        bell.follow("")
        assert ring(app, 9) == {bell_name(SESSION)}
        path = bell.path
        assert os.path.exists(path)
    assert not os.path.exists(path)

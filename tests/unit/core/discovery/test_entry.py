"""The entries of processes: always true to what lives, and never hurt by what lies beside them."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from tests import programs
from xpc_instrument.core.discovery.doorbell import Doorbell, bell_name, ring
from xpc_instrument.core.discovery.entry import Entry, announce, find, own_entry, processes, withdraw
from xpc_instrument.core.discovery.folder import VARIABLE, RuntimeDirError, socket_path
from xpc_instrument.core.model.errors import ApplicationNotFoundError, ConfigError
from xpc_instrument.core.model.record import as_dict, replace

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="start times of processes are read from /proc")

SESSION = "0123456789abcdef"
SLEEPER = "import sys; print('ready', flush=True); sys.stdin.read()"


def dead_pid() -> int:
    """The pid of a process that has just ended."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def in_child(work: Callable[[], Any]) -> None:
    """Run in a forked child, and fail if that does not succeed."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def write(folder: Path, entry: Entry, **changes: Any) -> Path:
    """An entry's file as its process would have written it."""
    path = folder / entry.name
    path.write_text(json.dumps({**as_dict(entry), **changes}))
    return path


def _entry(**changes: Any) -> Entry:
    return replace(own_entry("shop", "unix:x"), **changes)


# processes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["", "../shop", "4711", "a/b"])
def test_what_is_no_app_name_makes_no_file(app: str) -> None:
    for use in (lambda: own_entry(app, "x"), lambda: socket_path(app), lambda: Doorbell(app, "s"), lambda: announce(_entry(app=app))):
        with pytest.raises(ConfigError, match="is no app name"):
            use()


def test_an_announced_process_is_found_until_it_withdraws(runtime_dir: Path) -> None:
    entry = own_entry("shop.api", "unix:/x")
    path = announce(entry)
    assert path == f"{runtime_dir}/shop.api.{os.getpid()}.json"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert processes() == processes("shop.api") == find("shop.api") == find(os.getpid()) == find(str(os.getpid())) == [entry]
    assert processes("shop") == []
    assert (entry.pid, entry.ppid, entry.address) == (os.getpid(), os.getppid(), "unix:/x")
    assert (entry.app, entry.python) == ("shop.api", ".".join(map(str, sys.version_info[:3])))
    assert [name for name in os.listdir(runtime_dir) if name != os.path.basename(path)] == []
    (runtime_dir / f"shop.api.{os.getpid()}.sock").write_text("")
    withdraw(entry)
    withdraw(entry)
    assert os.listdir(runtime_dir) == []


def test_an_entry_is_withdrawn_where_it_was_announced(runtime_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = own_entry("shop", "x")
    announce(entry)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    withdraw(entry)
    assert os.listdir(runtime_dir) == []


def test_an_announcement_that_a_dead_process_of_the_same_pid_began_is_in_nobodys_way(runtime_dir: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (runtime_dir / f"shop.{os.getpid()}.tmp").symlink_to(victim)
    entry = own_entry("shop", "x")
    announce(entry)
    assert processes() == [entry]
    assert victim.read_text() == "untouched"
    withdraw(entry)


def test_an_announcement_that_cannot_be_written_leaves_nothing(runtime_dir: Path) -> None:
    entry = own_entry("shop", "x")
    (runtime_dir / entry.name).mkdir()
    with pytest.raises(RuntimeDirError, match=f"runtime dir {runtime_dir}: {entry.name} cannot be written there: Is a directory"):
        announce(entry)
    assert os.listdir(runtime_dir) == [entry.name]
    (runtime_dir / entry.name).rmdir()


def test_a_process_that_may_write_no_files_is_not_ended_by_its_announcement(runtime_dir: Path) -> None:
    child = os.fork()
    if not child:
        told = ""
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
            announce(own_entry("shop", "x"))
        except RuntimeDirError as error:
            told = str(error)
        finally:
            os._exit(42 if "File too large (RLIMIT_FSIZE): prlimit" in told else 1)
    assert os.waitpid(child, 0)[1] >> 8 == 42 and os.listdir(runtime_dir) == []


def test_processes_are_listed_by_app_and_age(runtime_dir: Path, run_program: Any) -> None:
    program = run_program(SLEEPER)
    program.read_until("ready")
    write(runtime_dir, _entry(pid=program.pid, since=10.0, started=None, stack=None))
    write(runtime_dir, _entry(since=20.0))
    write(runtime_dir, _entry(app="api", since=30.0))
    write(runtime_dir, _entry(app="api.v2", since=5.0))
    assert [(entry.app, entry.since) for entry in processes()] == [("api", 30.0), ("api.v2", 5.0), ("shop", 10.0), ("shop", 20.0)]
    assert [entry.pid for entry in find("shop")] == [program.pid, os.getpid()]
    assert [entry.app for entry in find(program.pid)] == ["shop"]
    for path in runtime_dir.iterdir():
        path.unlink()


def test_leftovers_of_dead_processes_are_removed_and_only_they(runtime_dir: Path) -> None:
    dead = dead_pid()
    for extension in ("json", "sock", "tmp", "log"):
        (runtime_dir / f"shop.{dead}.{extension}").write_text("")
    os.utime(runtime_dir / f"shop.{dead}.tmp", (0, 0))
    for extension in ("sock", "tmp"):
        (runtime_dir / f"shop.{os.getpid()}.{extension}").write_text("")
    for other in ("notes.txt", f".{dead}.json", f"shop.0{dead}.json", "shop.bell.json", f"shop.{'9' * 30}.json", "shop.\u0661.json"):
        (runtime_dir / other).write_text("")
    (runtime_dir / f"api.{dead}.json").write_text("")
    before = set(os.listdir(runtime_dir))
    assert processes("shop") == []
    removed = {f"shop.{dead}.{extension}" for extension in ("json", "sock", "tmp")}
    assert before - set(os.listdir(runtime_dir)) == removed
    processes()
    assert before - set(os.listdir(runtime_dir)) == {*removed, f"api.{dead}.json"}
    for path in runtime_dir.iterdir():
        path.unlink()


@needs_proc
def test_a_process_that_nobody_has_waited_for_yet_is_dead(runtime_dir: Path) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    write(runtime_dir, _entry(pid=pid, started=None))
    assert processes() == []
    assert os.listdir(runtime_dir) == []
    os.waitpid(pid, 0)


@needs_proc
def test_the_entry_of_another_process_that_had_the_pid_is_removed_and_the_socket_kept(runtime_dir: Path) -> None:
    entry = own_entry("shop", "x")
    assert entry.started is not None
    write(runtime_dir, replace(entry, started=entry.started - 1))
    (runtime_dir / f"shop.{os.getpid()}.sock").write_text("")
    assert processes() == []
    assert os.listdir(runtime_dir) == [f"shop.{os.getpid()}.sock"]
    announce(entry)
    assert processes() == [entry]
    withdraw(entry)


def test_an_entry_with_fields_of_a_later_version_is_read(runtime_dir: Path) -> None:
    entry = own_entry("shop", "x")
    path = write(runtime_dir, entry, since=7, color="red")
    assert processes() == [replace(entry, since=7.0)]
    path.unlink()


GARBAGE: List[Any] = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe\xfd",
    b"[" * 60_000,
    b" " * 65_537,
    {"pid": None},
    {"pid": "1"},
    {"pid": 1},
    {"app": "api"},
    {"argv": "python"},
    {"argv": [1]},
    {"since": "now"},
    {"since": True},
    {"since": 10**400},
    {"started": 1.5},
    {"version": None},
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage)[:20])
def test_what_is_no_entry_is_skipped_logged_and_kept(runtime_dir: Path, caplog: pytest.LogCaptureFixture, garbage: Any) -> None:
    good = _entry(app="good")
    path = write(runtime_dir, own_entry("shop", "x"), **(garbage if isinstance(garbage, dict) else {}))
    if isinstance(garbage, bytes):
        path.write_bytes(garbage)
    write(runtime_dir, good)
    assert processes() == [good]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("xpc_instrument", logging.WARNING)
    assert f"{path}: is no entry of an instrumented process (" in record.getMessage()
    assert path.exists()
    for path in runtime_dir.iterdir():
        path.unlink()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "unreadable"])
def test_what_is_no_plain_file_neither_blocks_nor_raises(
    runtime_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    entry = own_entry("shop", "x")
    path = runtime_dir / entry.name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(write(tmp_path, entry))
    elif kind == "folder":
        path.mkdir()
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))  # cannot be opened, not by root either
        sock.close()
    assert processes() == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "skipped" in caplog.text
    assert path.name in os.listdir(runtime_dir)
    path.rmdir() if kind == "folder" else path.unlink()


@pytest.fixture
def elsewhere(runtime_dir: Path) -> Iterator[Callable[[str], Path]]:
    """Writes the entry of a process of another pid namespace, whose pid is that of a dead process here; its socket listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        pid = dead_pid()
        listener.bind(os.fspath(runtime_dir / f"shop.{pid}.sock"))
        listener.listen()

        def announced(address: str) -> Path:
            return write(runtime_dir, _entry(pid=pid, address=address, namespace="pid:[1]"))

        yield announced
    for path in runtime_dir.iterdir():
        path.unlink()


@needs_proc
def test_a_process_of_another_pid_namespace_is_found_where_its_socket_is_here(runtime_dir: Path, elsewhere: Callable[[str], Path]) -> None:
    path = elsewhere("")
    elsewhere(f"unix:/its/own/name/of/the/folder/{path.stem}.sock")
    [found] = processes()
    assert found.address == f"unix:{path.with_suffix('.sock')}"
    assert find("shop") == [found]
    # Its pid is another process's here, or nobody's.
    with pytest.raises(ApplicationNotFoundError):
        find(found.pid)
    path.unlink()
    assert processes() == []
    assert path.with_suffix(".sock").exists()


@needs_proc
def test_an_entry_of_another_program_in_the_same_process_goes(runtime_dir: Path) -> None:
    entry = _entry()
    assert entry.stack
    path = write(runtime_dir, entry, stack=entry.stack + 4096)
    assert processes() == []
    assert not path.exists()


@needs_proc
def test_what_may_be_alive_in_another_pid_namespace_stays(runtime_dir: Path, elsewhere: Callable[[str], Path]) -> None:
    path = elsewhere("tcp:127.0.0.1:1")
    (runtime_dir / f"{path.stem}.tmp").touch()
    before = sorted(os.listdir(runtime_dir))
    assert processes() == []
    assert sorted(os.listdir(runtime_dir)) == before


@needs_proc
def test_what_a_dead_process_of_another_pid_namespace_left_goes(runtime_dir: Path) -> None:
    # Of a pid that is alive here, too.
    for pid in (dead_pid(), os.getpid()):
        path = write(runtime_dir, _entry(pid=pid, address=f"unix:/x/shop.{pid}.sock", namespace="pid:[1]"))
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(path.with_suffix(".sock")))
    assert processes() == []
    assert os.listdir(runtime_dir) == [f"shop.{os.getpid()}.sock"]
    (runtime_dir / f"shop.{os.getpid()}.sock").unlink()


def test_a_leftover_that_cannot_be_removed_is_logged(runtime_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = runtime_dir / f"shop.{dead_pid()}.json"
    path.mkdir()
    assert processes() == []
    assert "a dead process left it, and it cannot be removed" in caplog.text
    path.rmdir()


# the text of not found ----------------------------------------------------------------------------------------------------


def test_an_application_that_is_not_found_is_told_with_what_runs_and_the_nearest(runtime_dir: Path) -> None:
    path = write(runtime_dir, own_entry("shop", "x"))
    with pytest.raises(ApplicationNotFoundError) as caught:
        find("shpo")
    expected = f"no instrumented application is called 'shpo'; these run: shop (pid {os.getpid()}); did you mean 'shop'?"
    assert str(caught.value) == expected
    with pytest.raises(ApplicationNotFoundError, match=r"'zzz'; these run: shop .*; if it has just been started, wait for it with connect"):
        find("zzz")
    dead = dead_pid()
    with pytest.raises(ApplicationNotFoundError, match=rf"^there is no process {dead}; these run: shop \(pid {os.getpid()}\)$"):
        find(dead)
    with pytest.raises(
        ApplicationNotFoundError,
        match=f"^process {os.getppid()} runs, but not with the agent in it: xpc-instrument attach {os.getppid()}; these run",
    ):
        find(os.getppid())
    path.unlink()
    with pytest.raises(ApplicationNotFoundError) as caught:
        find("shop")
    start = "start one with: xpc-instrument run --app NAME -- COMMAND"
    wait = "if it has just been started, wait for it with connect(..., timeout=SECONDS)"
    assert f"no instrumented application of this user runs (per {runtime_dir}); {start}; {wait}" in str(caught.value)


# forks --------------------------------------------------------------------------------------------------------------------


def test_a_child_leaves_the_files_that_it_has_inherited_to_its_parent(runtime_dir: Path) -> None:
    entry = own_entry("shop", "x")
    announce(entry)
    with Doorbell("shop", SESSION) as bell:

        def work() -> None:
            withdraw(entry)
            bell.close()
            assert bell.fileno() == -1

        in_child(work)
        assert sorted(os.listdir(runtime_dir)) == sorted([entry.name, os.path.basename(bell.path)])
        assert ring("shop", 5) == {bell_name(SESSION)}
        assert bell.drain() == [5]
    withdraw(entry)
    assert os.listdir(runtime_dir) == []


def test_a_child_announces_itself_beside_its_parent(runtime_dir: Path) -> None:
    entry = own_entry("shop", "x")
    announce(entry)

    def work() -> None:
        own = own_entry("shop", "y")
        announce(own)
        assert own.ppid == entry.pid
        assert {one.pid for one in processes("shop")} == {own.pid, entry.pid}
        withdraw(own)
        assert processes() == [entry]

    in_child(work)
    assert processes() == [entry]
    withdraw(entry)


def test_what_a_killed_process_left_is_removed_by_whoever_comes_by(runtime_dir: Path, run_program: Any) -> None:
    program = run_program(
        "from xpc_instrument.core.discovery.doorbell import Doorbell\n"
        "from xpc_instrument.core.discovery.entry import announce, own_entry\n"
        "announce(own_entry('shop', 'x')); bell = Doorbell('shop', 'cafecafe'); print('ready', flush=True); input()"
    )
    program.read_until("ready")
    assert [entry.pid for entry in find("shop")] == [program.pid]
    program.kill()
    assert program.pid in programs.killed
    assert processes() == []
    assert ring("shop", 5) == set()
    assert os.listdir(runtime_dir) == []

"""What is said of a process before anything is done to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

import pytest

from xpc_instrument.attaching.examination import children, examine, implementation_options, program_name
from xpc_instrument.core.model.errors import AttachError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes /proc")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("/usr/bin/python3.11", "-m", "http.server", "8000"), "http.server"),
        (("python", "-u", "-W", "error", "/srv/shop.py", "--fast"), "shop"),
        (("python3", "-mshop"), "shop"),
        (("python3", "-c", "import shop"), "python3"),
        (("/srv/venv/bin/python", "/srv/venv/bin/gunicorn", "shop:app"), "gunicorn"),
        (("gunicorn: worker [shop]",), "gunicorn"),
        (("python3",), "python3"),
        (("uwsgi", "--http", ":80"), "uwsgi"),
        ((), "app"),
    ],
)
def test_a_process_is_named_for_what_it_runs(command: Tuple[str, ...], expected: str) -> None:
    assert program_name(command) == expected


def _refusal(pid: int) -> str:
    with pytest.raises(AttachError) as caught:
        examine(pid).refuse()
    return str(caught.value)


def test_this_process_is_refused() -> None:
    assert _refusal(os.getpid()) == f"process {os.getpid()} cannot be attached to: it is this very process; call xpc_agent.start() in it"


def test_a_process_that_is_not_there_is_refused() -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    assert "there is no such process" in _refusal(done.pid)


def test_a_zombie_is_refused() -> None:
    done = subprocess.Popen(["true"])
    os.waitid(os.P_PID, done.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert "it has ended, and only waits for its parent" in _refusal(done.pid)
    finally:
        done.wait()


def test_a_thread_of_the_kernel_is_refused() -> None:
    comm = Path("/proc/2/comm")
    if not comm.exists() or comm.read_text() != "kthreadd\n":
        pytest.skip("no thread of the kernel is to be seen here, as in a container")
    assert "it is a thread of the kernel" in _refusal(2)


def test_a_shell_is_refused_with_the_python_that_it_has_started() -> None:
    python = f"'{sys.executable}' -c 'print(1, flush=True); input()'"
    shell = subprocess.Popen(["sh", "-c", f"{python}; true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert shell.stdout is not None and shell.stdout.readline() == b"1\n"
        said = _refusal(shell.pid)
        assert "no Python that exports its functions runs in it: it is another program (" in said
        assert said.endswith(f"; attach to what it has started: xpc-instrument attach {children(shell.pid)[0]}")
    finally:
        shell.communicate(b"\n")


def test_an_emulator_is_refused_as_one(tmp_path: Path) -> None:
    emulator = tmp_path / "qemu-aarch64-static"
    shutil.copy(shutil.which("cat") or "", emulator)
    program = subprocess.Popen([emulator], stdin=subprocess.PIPE)
    try:
        assert "it is a program for another processor, which qemu-aarch64-static runs; start it with" in _refusal(program.pid)
    finally:
        program.communicate()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("python -X disable-remote-debug app.py", ["disable-remote-debug"]),
        ("python -Es -Xdisable-remote-debug -W error -X dev -m app", ["disable-remote-debug", "dev"]),
        ("python app.py -X disable-remote-debug", []),
        ("python -W -X -c pass -X disable-remote-debug", []),
        ("python -m app -X disable-remote-debug", []),
        ("python", []),
        ("python -X", [""]),
    ],
)
def test_options_of_the_interpreter_end_where_the_program_begins(command: str, options: List[str]) -> None:
    assert implementation_options(command.split()) == options

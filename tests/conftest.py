"""Fixtures for all tests: a private runtime directory, real programs in real processes, and a look for what was left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from tests.programs import Program, children


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the test's own, with a path short enough for unix sockets; nothing may be left alive in it."""
    folder = Path(tempfile.mkdtemp(prefix="xpc"))
    monkeypatch.setenv("XPC_INSTRUMENT_RUNTIME_DIR", str(folder))
    threads = set(threading.enumerate())
    sockets = _sockets()
    try:
        yield folder
        left = _left_behind(threads, sockets)
        assert not left, f"the test left behind: {left}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _left_behind(threads: "set[threading.Thread]", sockets: int) -> List[str]:
    for thread in set(threading.enumerate()) - threads:
        thread.join(2.0)
    left = [f"thread {thread.name}" for thread in set(threading.enumerate()) - threads]
    left += [f"process {pid}" for pid in children(os.getpid())]
    if _sockets() > sockets:
        left.append(f"{_sockets() - sockets} open sockets")
    return left


def _sockets() -> int:
    """How many sockets this process has open; 0 where there is no /proc."""
    count = 0
    try:
        for name in os.listdir("/proc/self/fd"):
            try:
                count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
            except OSError:
                continue  # the descriptor of the listing itself
    except FileNotFoundError:
        return 0
    return count


@pytest.fixture
def run_program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start Python source as a real program: `run_program(source, *args, name=..., command=..., env=...)`; ended with the test."""
    programs: List[Program] = []

    def start(source: str = "", *args: str, name: str = "program.py", **options: object) -> Program:
        if source:
            path = tmp_path / name
            path.write_text(source)
        else:
            path = tmp_path
        program = Program(path, *args, **options)  # type: ignore[arg-type]
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.end()

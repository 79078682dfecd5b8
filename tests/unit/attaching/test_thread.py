"""A thread of another process that is stopped, held back and let go."""

from __future__ import annotations

import platform
import select
import subprocess
import sys
from pathlib import Path

import pytest

from xpc_instrument.attaching import thread as traced

pytestmark = pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="this is written for x86-64 Linux")

# Starts a thread that removes a file: it needs nothing of Python's.
PROGRAM = """
import ctypes, sys
libc = ctypes.CDLL(None)
print("ready", flush=True)
for line in sys.stdin:
    handle = ctypes.c_ulong()
    if line.strip():
        libc.pthread_create(ctypes.byref(handle), None, libc.unlink, line.strip().encode())
        libc.pthread_join(handle, None)
    print("goes on", flush=True)
"""


def test_a_thread_is_held_back_where_it_starts_another_which_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "_STOPPING", 30.0)
    file = tmp_path / "file"
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        for _ in range(5):
            file.write_text("")
            thread = traced.StoppedThread(program.pid)
            program.stdin.write(f"{file}\n")
            program.stdin.flush()
            thread.hold_back(lambda: not file.exists(), 30.0)
            assert not file.exists()
            assert not select.select([program.stdout], [], [], 0)[0]
            thread.let_go()
            assert program.stdout.readline() == "goes on\n"
        # One that starts none in time runs on, and is let go as any other.
        thread = traced.StoppedThread(program.pid)
        monkeypatch.setattr(traced, "_STOPPING", 0.05)
        program.stdin.write("\n")
        program.stdin.flush()
        thread.hold_back(lambda: False, 30.0)
        assert program.stdout.readline() == "goes on\n"
        thread.let_go()
        program.stdin.close()
        assert program.wait(30) == 0

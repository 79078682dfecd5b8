"""The thread of the agent's stand-in, which an application must not find at a fork, and what it leaves in the application's descriptors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xpc_agent

STAND_IN = Path(xpc_agent.__file__).parent / "bootstrap" / "sitecustomize.py"

PRELUDE = f"""
import importlib.util, os, socket, sys

spec = importlib.util.spec_from_file_location("stand_in", {str(STAND_IN)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
listener = socket.socket()
listener.listen()

def begin():
    stub = module.Stub("app pay\\nfolder /\\nversion 1\\nquoted /\\nmodules \\non-demand ")
    stub.listener, stub._inode = listener.fileno(), os.fstat(listener.fileno()).st_ino
    stub._start_thread()
    return stub
"""


def run(source: str) -> str:
    done = subprocess.run([sys.executable, "-c", PRELUDE + source], capture_output=True, text=True, timeout=50)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted as /proc has them")
def test_a_thread_that_gets_to_run_when_it_is_to_end_already_ends() -> None:
    # As where the agent is loaded at once: whoever opens something next has the numbers of what the thread was to poll.
    source = """
for _ in range(300):
    stub = begin()
    stub._end_thread(0.0)
    others = [os.pipe() for _ in range(2)]
    stub._await_gone(10.0)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, threads
    for pair in others:
        os.close(pair[0])
        os.close(pair[1])
print(len(os.listdir("/proc/self/fd")))
"""
    # The standard ones, the listener, and that of the folder.
    assert run(source) == "5"


def test_an_application_that_has_closed_all_descriptors_keeps_what_it_opens_then() -> None:
    source = """
stub = begin()
os.closerange(3, 100)
stub._await_gone(10.0)
own = [os.pipe() for _ in range(4)]
stub._end_thread(1.0)
stub.withdraw()
for read, write in own:
    os.set_blocking(read, False)
    os.write(write, b"its own")
    assert os.read(read, 100) == b"its own"
print("kept", flush=True)
os._exit(0)
"""
    assert run(source) == "kept"

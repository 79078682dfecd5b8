"""Where there can be no memory that two processes share, or none that frames would be safe in, the reason is said."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from xpc_instrument.core.wire.memory import why_plain

pytestmark = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")


def test_where_there_can_be_no_hot_lanes_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(name: str, value: Any, on: Any = os) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(on, name, value, raising=False)
            return why_plain()

    assert seen("uname", lambda: SimpleNamespace(machine="aarch64")) == "the order of stores on aarch64 is not what hot lanes rely on"
    assert seen("sched_getaffinity", lambda _: {3}) == "this process may run on one processor only"
    assert seen("_is_gil_enabled", lambda: False, sys) == "this Python runs without the GIL of CPython"
    assert seen("platform", "darwin", sys) == "this system has no sealed memory (memfd)"
    assert why_plain() == ""


# In a process of its own, in which the mapping stays.
DAEMON = """
import os
from xpc_instrument.core.wire.memory import let_go, make_memory

def numbers():
    # Without that of the folder itself.
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}

before = numbers()
descriptor, memory = make_memory()
kept = [int(name) for name in numbers() - before if int(name) != descriptor]
os.close(descriptor)
for number in kept:
    # As a daemon does, and opens its own.
    os.close(number)
    os.dup2(1, number)
let_go(memory)
let_go(memory)
for number in kept:
    assert os.path.sameopenfile(number, 1)
    os.close(number)
descriptor, memory = make_memory()
os.close(descriptor)
let_go(memory)
assert numbers() == before and memory.closed
print("its own")
"""


@pytest.mark.version
def test_letting_go_closes_no_file_of_an_application_that_has_closed_all_descriptors() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", DAEMON], stdout=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "its own\n")

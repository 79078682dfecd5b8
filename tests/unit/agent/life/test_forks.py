"""Forks that are under way at once, and the pipe by which a child says that it is announced."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator, List

import pytest

from xpc_agent.events.sender import Sender
from xpc_agent.life.forks import Forks
from xpc_agent.life.logs import LineQueue
from xpc_agent.points.table import ProbeTable
from xpc_instrument.core.calls.registry import Registry
from xpc_instrument.core.config.file import from_probes
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.values.traits import python_version


@pytest.fixture
def host(runtime_dir: Path) -> Iterator[Host]:
    address = parse_address(f"unix:{runtime_dir / 'shop.sock'}")
    limits = Limits()
    host = Host(address, b"", Registry(limits), app="shop", python=python_version(), limits=limits, logger=logging.getLogger("xpc_agent"))
    host.start()
    yield host
    host.stop()


def descriptors() -> List[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_the_threads_go_on_after_the_last_of_several_forks(host: Host) -> None:
    forks = Forks(ProbeTable(from_probes("shop", [])), Sender(1, 1), LineQueue(), announced=False)
    forks.before(host)
    thread = threading.Thread(target=forks.before, args=(host,))
    thread.start()
    thread.join()
    assert not host._thread.running
    forks.in_parent(host)
    assert not host._thread.running
    forks.in_parent(host)
    assert host._thread.running


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")
def test_a_child_holds_the_pipe_until_it_has_begun_anew_and_those_of_other_forks_not_at_all(host: Host) -> None:
    forks = Forks(ProbeTable(from_probes("shop", [])), Sender(1, 1), LineQueue(), announced=True)
    before = descriptors()
    thread = threading.Thread(target=forks.before, args=(host,))
    thread.start()
    thread.join()
    forks.before(host)
    assert len(descriptors()) == len(before) + 4
    held: List[int] = []
    forks.in_child(lambda: held.append(len(descriptors())))
    assert held == [len(before) + 2]
    assert descriptors() == before
    forks.before(host)
    with pytest.raises(RuntimeError):
        forks.in_child(fail)
    assert descriptors() == before


def fail() -> None:
    raise RuntimeError("beginning anew failed")


# Its service thread takes longer for something than a fork usually waits for it.
LOADING = """
import logging, os, sys, time
from xpc_instrument.core.node import threads
threads.PAUSE_TIMEOUT = 0.02
from xpc_agent.events.sender import Sender
from xpc_agent.life.forks import Forks
from xpc_agent.life.logs import LineQueue
from xpc_agent.points.table import ProbeTable
from xpc_instrument.core.calls.registry import Registry
from xpc_instrument.core.config.file import from_probes
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.host import Host

class Loading(Registry):
    begun = ended = False

    def due(self):
        return None if self.ended else 0.0

    def look_after(self, now):
        self.begun = True
        time.sleep(0.2)
        self.ended = True

limits = Limits()
loading = Loading(limits)
host = Host(parse_address(f"unix:{sys.argv[1]}"), b"", loading, app="shop", python="3", limits=limits, logger=logging.getLogger("x"))
forks = Forks(ProbeTable(from_probes("shop", [])), Sender(1, 1), LineQueue(), announced=False)
host.start()
while not loading.begun:
    time.sleep(0.001)
forks.before(host)
print(loading.ended, len(os.listdir("/proc/self/task")))
forks.in_parent(host)
host.stop()
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="there is no /proc")
def test_a_fork_beside_no_other_thread_waits_for_what_the_service_thread_is_loading(runtime_dir: Path) -> None:
    command = [sys.executable, "-c", LOADING, str(runtime_dir / "shop.sock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("True 1\n", "")


# At the fork a thread of ours and one of the application are in the middle of imports.
IMPORTING = """
import _thread, importlib, os, sys, threading
import xpc_agent, xpc_agent.hooks
from xpc_instrument.core.node.threads import start_unseen

begun, go_on = threading.Semaphore(0), threading.Event()
os.wait_here = lambda: (begun.release(), go_on.wait())
sys.path.insert(0, sys.argv[1])
xpc_agent.hooks.__path__.append(sys.argv[1])
xpc_agent.start(app="shop", on_demand=["pay.**"])
ended = threading.Semaphore(0)

def load(name):
    importlib.import_module(name)
    ended.release()

start_unseen(load, "packed")
start_unseen(load, "xpc_agent.hooks.halved")
_thread.start_new_thread(load, ("others",))
for _ in range(3):
    begun.acquire()
if not os.fork():
    os.wait_here = int
    # As a thread of the child may have the ident of one that was the parent's, which would pass the lock.
    halved = importlib.import_module("xpc_agent.hooks.halved")
    packed = importlib.import_module("packed")
    print(halved.whole, packed.whole, xpc_agent.hooks.halved is halved, hasattr(sys.modules["others"], "whole"), flush=True)
    xpc_agent.stop()
    os._exit(0)
os.wait()
go_on.set()
for _ in range(3):
    ended.acquire()
print(all(sys.modules[name].whole for name in ("packed", "xpc_agent.hooks.halved", "others")))
"""


@pytest.mark.version
def test_a_child_has_no_half_of_what_our_threads_were_importing(runtime_dir: Path, tmp_path: Path) -> None:
    half = "import os\nos.wait_here()\nwhole = True\n"
    (tmp_path / "halved.py").write_text(half)
    (tmp_path / "others.py").write_text(half)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "__init__.py").write_text(f"from .inner import value\n{half}assert inner.value\n")
    (tmp_path / "packed" / "inner.py").write_text("value = 1\n")
    command = [sys.executable, "-W", "ignore", "-c", IMPORTING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("True True True False\nTrue\n", "")

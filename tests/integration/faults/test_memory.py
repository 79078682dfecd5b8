"""What a hot lane must not cost: a process that ends for want of a file's size, statistics that are wrong, a dead script that seems alive."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Callable

import pytest

import xpc_instrument
from tests.integration.fault_fixture import PATIENT, is_busy, memories, start_faulty
from tests.programs import Program, kill, wait_for, wait_for_exit
from xpc_instrument.core.wire.memory import why_plain

pytestmark = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")


def test_an_application_that_may_write_no_large_files_is_not_signalled_for_a_memory(
    run_program: Callable[..., Program], tmp_path: Path
) -> None:
    """Python ignores SIGXFSZ; an application may have set it to its default, as one that embeds Python has."""
    app = start_faulty(run_program, tmp_path)
    app.value("globals().update(signal=__import__('signal'), resource=__import__('resource'))")
    app.value("signal.signal(signal.SIGXFSZ, signal.SIG_DFL) and None")
    app.value("resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))")
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", lambda n: "hooked")
        assert app.value("till.pay(1)") == "hooked"
    assert app.value("till.pay(2)") == "paid"


# Takes no descriptors that are passed to it from when it is told so: it has just the one that a socket needs.
POOR_SCRIPT = """
import os, resource, sys, xpc_instrument
app = xpc_instrument.connect("shop")
def hook(n):
    if n < 0:
        print("inside", flush=True)
        sys.stdin.readline()
    return "hooked"
app.instead("till:pay", hook)
print("hooked", flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    os.close(taken.pop())
print("poor", flush=True)
app.run()
"""


def test_a_lane_whose_memory_the_script_could_not_take_counts_as_plain(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_faulty(run_program, tmp_path, more=f"[limits]\n{PATIENT}")
    script = run_program(POOR_SCRIPT, name="script.py")
    script.read_until("hooked")
    # The lane that is there, before another one is wanted.
    lanes = app.value("[(one.lanes, one.hot) for one in __import__('xpc_agent').lanes()]")[0]
    script.send_line()
    script.read_until("poor")
    for number in range(lanes[0]):
        app.begin(f"held {number}", "till.pay(-1)")
        script.read_until("inside")
    # On a new lane, of which the script has the socket alone.
    assert app.value("till.pay(1)") == "hooked"
    found = app.value("[(one.lanes, one.hot, dict(one.plain)) for one in __import__('xpc_agent').lanes()]")[0]
    for number in range(lanes[0]):
        script.send_line()
        assert app.end(f"held {number}")["outcome"] == "hooked"
    script.kill()
    app.disarmed()
    assert found[0] > lanes[0]
    assert found[1] == lanes[1], found
    assert sum(found[2].values()) == found[0] - found[1]


# A script has threads, of which a fork warns; what the parent prints of that would come in between what the child prints.
FORKING_SCRIPT = """
import os, signal, sys, warnings, xpc_instrument
warnings.simplefilter("ignore")
app = xpc_instrument.connect("shop")
app.instead("till:pay", lambda n: "hooked")
print("hooked", flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    print("child-pid", os.getpid(), flush=True)
    # The pipes are the test's: it sees the end of the script by them.
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    signal.pause()
app.run()
"""


def test_the_child_of_a_script_holds_no_memory_and_does_not_hide_the_death_of_its_parent(
    run_program: Callable[..., Program], tmp_path: Path
) -> None:
    app = start_faulty(run_program, tmp_path, timeout=0.3, more=f"[limits]\n{PATIENT}")
    script = run_program(FORKING_SCRIPT, name="script.py")
    script.read_until("hooked")
    assert app.heat("till.pay(0)") or is_busy()
    script.send_line()
    child = int(script.read_until("child-pid").split()[1])
    try:
        held = memories(child)
        script.kill()
        # Nobody answers any more: by its socket, and not by the deadline of a call, the application is to know at once.
        gone = threading.Event()

        def watch() -> None:
            app.disarmed()
            gone.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        noticed = gone.wait(5)
    finally:
        kill(child)
        assert wait_for_exit(child)
    watcher.join()
    wait_for(gone)
    assert (noticed, held) == (True, set())

"""Signals that a process has blocked, to wait for them or to have them later: none is taken by a thread of ours, in the application or in the script."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.fault_fixture import PATIENT, Faulty, start_faulty
from tests.programs import Program

pytestmark = pytest.mark.version

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

# Imported by both sides.
MASKS = """
import os, signal, sys, threading, time

def block(*numbers):
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

def unblocking(number):
    # The threads that would take it, but for the main thread.
    found = []
    for thread in map(int, os.listdir("/proc/self/task")):
        with open(f"/proc/self/task/{thread}/status") as file:
            blocked = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk:"))
        if thread != os.getpid() and not blocked & (1 << number - 1):
            found.append(thread)
    return found

def in_child(function):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, repr(function()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read) as file:
        return eval(file.read())

order = []

def defer(number):
    block(number)
    signal.signal(number, lambda *_: order.append("handler"))

def leave(number):
    order.append("end of the critical section")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    return order
"""

SCRIPT = """
import asyncio, signal, sys, threading
import xpc_instrument
import masks

pool = []
async def awaited(call):
    # In the default executor of the loop.
    pool.append(await asyncio.to_thread(threading.get_native_id))
    return await call.proceed_async()

app = xpc_instrument.connect("shop")
app.around("till:pay", awaited)
app.before("shop:charge", lambda call: None, wait=False)
app.instead("shop:fail", lambda text: "hooked")
masks.block(signal.SIGTERM)
print("hooked", flush=True)
sys.stdin.readline()
assert pool
print("=unblocking", masks.unblocking(signal.SIGTERM), flush=True)
print("=waiting", flush=True)
print("=got", signal.sigwait({signal.SIGTERM}).name, flush=True)
app.close()
"""


@pytest.fixture
def app(run_program: Callable[..., Program], tmp_path: Path) -> Faulty:
    (tmp_path / "masks.py").write_text(MASKS)
    app = start_faulty(run_program, tmp_path, more=f"[limits]\n{PATIENT}")
    app.value("globals().update(masks=__import__('masks'))")
    return app


@pytest.fixture(params=["plain", "hot"])
def heat(request: pytest.FixtureRequest, app: Faulty) -> Callable[[str], Any]:
    """Has frames go through memory by calls of the application, where the lanes of the test are to be hot."""
    return app.heat if request.param == "hot" else lambda expression: app.value(expression)


def test_an_application_that_waits_for_its_signals_gets_them(app: Faulty, heat: Callable[[str], Any]) -> None:
    app.value(f"masks.block({', '.join(str(int(number)) for number in SIGNALS)})")
    with xpc_instrument.connect("shop") as session:
        session.around("till:pay", lambda call: call.proceed())
        session.before("shop:charge", lambda call: None, wait=False)
        heat("till.pay(0)")
        app.value("shop.charge(1)")
        # Those that go on serving meanwhile.
        app.begin("calls", "[till.pay(1) for _ in range(2000)][:0]")
        for number in SIGNALS:
            app.start(f"masks.signal.sigwait({{{', '.join(str(int(one)) for one in SIGNALS)}}}).name")
            app.program.signal(number)
            assert app.result() == repr(number.name)
        assert app.end("calls")["outcome"] == []
        # The thread of the calls is the application's own, and has inherited what its main thread blocks.
        assert app.value(f"masks.unblocking({int(signal.SIGTERM)})") == []


def test_a_handler_that_is_deferred_by_a_mask_runs_after_the_critical_section(app: Faulty, heat: Callable[[str], Any]) -> None:
    with xpc_instrument.connect("shop") as session:
        session.around("till:pay", lambda call: call.proceed())
        heat("till.pay(0)")
        app.value(f"masks.defer({int(signal.SIGTERM)})")
        app.program.signal(signal.SIGTERM)
        app.value("[till.pay(1) for _ in range(100)][:0]")
        assert app.value(f"masks.leave({int(signal.SIGTERM)})") == ["end of the critical section", "handler"]


def test_a_child_that_is_forked_has_no_thread_that_takes_a_signal(app: Faulty) -> None:
    with xpc_instrument.connect("shop") as session:
        session.around("till:pay", lambda call: call.proceed())
        app.value("till.pay(0)")
        assert app.value("masks.in_child(lambda: (till.pay(1), masks.unblocking(15)))") == ("paid", [])


def test_a_script_that_waits_for_its_signals_gets_them(app: Faulty, run_program: Callable[..., Program]) -> None:
    script = run_program(SCRIPT, name="script.py")
    script.read_until("hooked")
    app.heat("till.pay(0)")
    app.heat("shop.fail('text')")
    app.value("shop.charge(1)")
    script.send_line()
    assert script.read_until("=unblocking") == "=unblocking []"
    script.read_until("=waiting")
    script.signal(signal.SIGTERM)
    assert script.read_until("=got") == "=got SIGTERM"
    assert script.wait() == 0

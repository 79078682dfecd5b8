"""A script that just ends looks to the application like one that closed its session: no call fails, and no line is in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from tests.integration.fault_fixture import PATIENT, Faulty, start_faulty
from tests.programs import Program

pytestmark = pytest.mark.version

BEGIN = """
import asyncio, atexit, concurrent.futures, sys, threading
import xpc_instrument

app = xpc_instrument.connect("shop")
pool = concurrent.futures.ThreadPoolExecutor()
begun = threading.Event()

async def awaited(call):
    begun.set()
    return await call.proceed_async()

def pooled(*args):
    begun.set()
    return pool.submit(str, "hooked").result()

async def under_way(call):
    begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        print("=unwound", flush=True)

def at_exit():
    # When `threading` has ended executors and threads.
    print("=at exit", flush=True)
    sys.stdin.readline()

hook = globals()[sys.argv[1]]
app.around("till:pay", hook) if hook is not pooled else app.instead("till:pay", hook)
print("hooked", flush=True)
sys.stdin.readline()
"""

# How the main thread of a script ends.
ENDS = {
    "its last line": "",
    "sys.exit": "sys.exit(0)",
    "an exception": "raise ValueError('of the script')",
}

# Seconds that a call may take. A hook that is under way when the script ends holds its call up until then.
TIMEOUT = 20.0


@pytest.fixture
def app(run_program: Callable[..., Program], tmp_path: Path) -> Faulty:
    return start_faulty(run_program, tmp_path, timeout=TIMEOUT, more=f"[limits]\n{PATIENT}")


@pytest.mark.parametrize(("hook", "lanes"), [("awaited", "hot"), ("pooled", "plain")])
def test_hooks_are_gone_before_the_executors_that_they_use(app: Faulty, run_program: Callable[..., Program], hook: str, lanes: str) -> None:
    script = run_program(BEGIN + "atexit.register(at_exit)\n", hook)
    script.read_until("hooked")
    (app.heat if lanes == "hot" else app.value)("till.pay(0)")
    script.send_line()
    script.read_until("=at exit")
    assert app.value("[till.pay(1) for _ in range(3)]") == ["paid"] * 3
    app.disarmed()
    script.send_line()
    assert script.wait() == 0
    assert "Error" not in script.text
    assert "xpc_agent" not in app.program.text


@pytest.mark.parametrize(
    ("hook", "end"),
    [("awaited", "its last line"), ("pooled", "an exception"), *(("under_way", end) for end in ENDS)],
)
def test_calls_that_go_on_while_a_script_ends_fail_neither_in_the_application_nor_in_its_log(
    app: Faulty, run_program: Callable[..., Program], hook: str, end: str
) -> None:
    script = run_program(BEGIN + "begun.wait(30)\n" + ENDS[end], hook)
    script.read_until("hooked")
    for number in range(2):
        app.begin(f"calls {number}", "{till.pay(1) for _ in iter(till.release.is_set, True)}")
    script.send_line()
    assert script.wait() == (1 if end == "an exception" else 0)
    # Some releases of Python refuse a hook the threads that its executor needs, once the main thread has ended.
    refused = script.text.count("can't create new thread at interpreter shutdown")
    assert script.text.count("Traceback") == (end == "an exception") + refused
    assert "=unwound" in script.text or hook != "under_way"
    app.disarmed()
    app.value("till.let_go() and None")
    outcomes = {frozenset(app.end(f"calls {number}")["outcome"]) for number in range(2)}
    assert refused or outcomes <= {frozenset({"paid"}), frozenset({"paid", "hooked"})}
    assert refused or "xpc_agent" not in app.program.text


def test_a_script_whose_main_thread_has_ended_serves_on_while_another_thread_of_its_own_goes_on(
    app: Faulty, run_program: Callable[..., Program]
) -> None:
    source = """
def later():
    threading.main_thread().join()
    print("=alone", flush=True)
    sys.stdin.readline()
    app.close()
    print("=closed", flush=True)
    sys.stdin.readline()

app.instead("shop:charge", lambda *args: "hooked")
threading.Thread(target=later).start()
"""
    script = run_program(BEGIN + source, "awaited")
    script.send_line()
    script.read_until("=alone")
    assert app.value("shop.charge(1)") == "hooked"
    script.send_line()
    script.read_until("=closed")
    assert app.value("shop.charge(1)") == "1 EUR"
    script.send_line()
    assert script.wait() == 0
    assert "xpc_agent" not in app.program.text


def test_a_manager_leaves_before_its_callbacks_fail(app: Faulty, run_program: Callable[..., Program]) -> None:
    source = """
from xpc_instrument.core.discovery import entry as discovery
app.close()
manager = xpc_instrument.Manager(discovery.find("shop")[0].address)
manager.connect(timeout=20)
assert manager.register("till:pay", pooled)
print("registered", flush=True)
sys.stdin.readline()
atexit.register(at_exit)
"""
    script = run_program(BEGIN + source, "awaited")
    script.send_line()
    script.read_until("registered")
    assert app.value("till.pay(1)") == "hooked"
    script.send_line()
    script.read_until("=at exit")
    assert app.value("till.pay(1)") == "paid"
    script.send_line()
    assert script.wait() == 0
    # It may be called while it leaves, but not by who is told that its pool has ended.
    assert "(raised)" not in app.program.text

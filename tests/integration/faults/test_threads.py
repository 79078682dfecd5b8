"""No thread can be started any more, in the application or in the script: what runs goes on, and the rest comes when there are threads again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import xpc_instrument
from tests.integration.fault_fixture import PATIENT, Faulty, start_faulty
from tests.programs import Program
from xpc_instrument import Manager
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.node.address import parse_address

# A stack that no machine can map: the system refuses the thread, as it does where a process has as many as it may.
HUGE = 1 << 46


@pytest.fixture
def app(run_program: Callable[..., Program], tmp_path: Path) -> Faulty:
    return start_faulty(run_program, tmp_path, more=f"[limits]\n{PATIENT}")


@pytest.fixture(params=["plain", "hot"])
def heat(request: pytest.FixtureRequest, app: Faulty) -> Callable[[str], None]:
    """Has frames go through memory by calls of the application, where the lanes of the test are to be hot."""

    def until_hot(expression: str) -> None:
        if request.param == "hot":
            app.heat(expression)

    return until_hot


@pytest.fixture
def no_threads() -> Iterator[Callable[[], None]]:
    """Lets this process, the script, start no thread from here on."""

    def refuse() -> None:
        threading.stack_size(HUGE)
        with pytest.raises(RuntimeError):
            threading.Thread(target=int).start()

    yield refuse
    threading.stack_size(0)


def test_an_application_that_can_start_no_thread_keeps_its_sessions_and_admits_others(app: Faulty, heat: Callable[[str], None]) -> None:
    before = app.resources()
    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", lambda n: "hooked")
        heat("till.pay(0)")
        app.value(f"__import__('threading').stack_size({HUGE}) and None")
        # A node that wants to call needs a thread over there.
        caller = Manager(parse_address(discovery.find("shop")[0].address).path)
        caller.connect(timeout=5)
        try:
            with pytest.raises(OSError):
                caller.call("nobody")
        finally:
            caller.shutdown()
        # What goes through memory needs no thread, neither on the lane that there is nor on another one.
        heat("till.pay(0)")
        assert app.value("till.pay(1)") == "hooked"
        with xpc_instrument.connect("shop") as second, second.instead("till:pay", lambda n: "second"):
            heat("till.pay(0)")
            assert app.value("till.pay(2)") == "second"
        app.value("__import__('threading').stack_size(0) and None")
        heat("till.pay(0)")
        assert app.value("till.pay(3)") == "hooked"
    app.disarmed()
    assert app.ran == []
    app.settles_at(before)
    assert "Traceback" not in app.log()


def test_a_script_that_can_start_no_thread_keeps_its_session_and_opens_more_lanes_later(
    app: Faulty, heat: Callable[[str], None], no_threads: Any
) -> None:
    before = app.resources()
    entered, leave = threading.Semaphore(0), threading.Event()

    def hook(n: int) -> str:
        if n < 0:
            entered.release()
            leave.wait(20)
        return "hooked"

    with xpc_instrument.connect("shop") as session:
        session.instead("till:pay", hook)
        session.instead("till:hold", lambda n: "hooked", timeout=0.5)
        app.value("till.let_go() and None")
        heat("till.pay(0)")
        assert app.value("till.pay(1)") == "hooked"
        no_threads()
        heat("till.pay(0)")
        app.begin("held", "till.pay(-1)")
        assert entered.acquire(timeout=20)
        # It needs a second lane, and gets none by its deadline.
        assert app.value("till.hold(2)") in ("held", "hooked")
        leave.set()
        app.end("held")
        threading.stack_size(0)
        deadline = time.monotonic() + 20
        while app.value("till.pay(3)") != "hooked":
            assert time.monotonic() < deadline
        session.before("till:pay", lambda call: None)
        assert app.value("till.pay(4)") == "hooked"
        heat("till.pay(0)")
    app.disarmed()
    app.settles_at(before)

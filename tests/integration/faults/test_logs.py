"""The application's log, written to by us: a pipe that nobody reads, and scripts that would fill it."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from tests.integration.fault_fixture import Faulty, start_faulty
from tests.programs import PATIENCE, Program
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.messages import Opcode

EXTRA = """
import logging, os, sys, warnings

def fill(configured):
    # The log goes to stderr from now on, and that to a pipe that is full and that nobody reads.
    out, into = os.pipe()
    os.set_blocking(into, False)
    try:
        while True:
            os.write(into, b"x" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(into, True)
    os.set_blocking(out, False)
    os.dup2(into, 2)
    os.close(into)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    if configured:
        logging.basicConfig()
    return out

def read(out):
    text = b""
    try:
        while True:
            text += os.read(out, 65536)
    except BlockingIOError:
        return text.strip(b"x").decode()

def fork():
    with warnings.catch_warnings():
        # From Python 3.12 on, of a second thread.
        warnings.simplefilter("error")
        pid = os.fork()
    if not pid:
        os._exit(7)
    return os.waitpid(pid, 0)[1] >> 8
"""
MODES = ("before", "after", "around", "instead")


@pytest.fixture
def app(run_program: Callable[..., Program], tmp_path: Path) -> Faulty:
    (tmp_path / "extra.py").write_text(EXTRA)
    found = start_faulty(run_program, tmp_path)
    found.value("globals().update(extra=__import__('extra'))")
    return found


def fail(*args: Any) -> Any:
    """As an observer it raises; what it answers otherwise cannot cross."""
    if isinstance(args[0], xpc_instrument.Call) and args[0].mode in ("before", "after"):
        raise ValueError("a bug of the hook's")
    return threading.Lock()


@pytest.mark.parametrize("configured", [False, True], ids=["as it is", "configured"])
def test_a_log_that_nobody_reads_stops_neither_calls_nor_sessions_nor_forks_nor_the_end(app: Faulty, configured: bool) -> None:
    out = app.value(f"extra.fill({configured})")
    with xpc_instrument.connect("shop") as session:
        for mode in MODES:
            with getattr(session, mode)("till:pay", fail):
                assert [app.value("till.pay(1)") for _ in range(3)] == ["paid"] * 3
        # The service thread goes on as well.
        with xpc_instrument.connect("shop") as other:
            assert len(other.stats()) > 0
        assert app.value("extra.fork()") == 7
        # What was to be said is said when somebody reads.
        text = ""
        deadline = time.monotonic() + PATIENCE
        while text.count("Further failures of this kind are counted") < len(MODES) and time.monotonic() < deadline:
            text += app.value(f"extra.read({out})")
        lines = [line for line in text.splitlines() if "Further failures" in line]
        assert [mode for line in lines for mode in MODES if f"the {mode} hook of pid {os.getpid()} on till:pay failed" in line] == list(
            MODES
        )
        # And the process ends, with a line that nobody reads.
        assert app.value(f"extra.fill({configured})") > 0
        with session.before("till:pay", fail):
            assert app.value("till.pay(1)") == "paid"
        app.program.send_line()
        assert app.program.wait() == 0


def liar(answer: Callable[[], bytes], pid: int = 0) -> Joiner:
    """A script whose hook on `shop:charge` answers that it has failed."""
    joiner = Joiner(
        parse_address(discovery.find("shop")[0].address),
        b"",
        limits=Limits(),
        serve=lambda wire, frame: wire.send_frame(Opcode.FAILED, 0, answer(), None),
    )
    joiner.connect(time.monotonic() + PATIENCE)
    joiner.register("before:shop:charge", 1, "call", timeout=PATIENCE)
    return joiner


def test_what_a_script_names_as_a_cause_is_one_of_a_few_words_and_what_it_says_one_short_line(begin_app: Callable[..., App]) -> None:
    app = begin_app('[defaults]\nallow = ["before"]\nsuspend-after = 0\n[[probe]]\ntarget = "shop:charge"\n')

    def answer() -> bytes:
        return json.dumps({"cause": f"{random.getrandbits(128):x}", "message": "x\nCRITICAL:root:forged line" + "y" * 1900}).encode()

    joiner = liar(answer)
    for _ in range(20):
        assert app.evaluate("[shop.charge(1) for _ in range(20)][0]") == "'1 EUR'"
    assert app.evaluate("[dict(one.failures) for one in __import__('xpc_agent').stats()]") == "[{'other': 400}]"
    joiner.close()
    lines = [line for line in app.log().splitlines() if not line.startswith("=>")]
    assert not [line for line in lines if line.startswith("CRITICAL")]
    forged = [line for line in lines if "forged" in line]
    assert len(forged) == 1
    assert "x\\nCRITICAL:root:forged lineyyy" in forged[0]
    assert forged[0].count("y") < 210


def test_a_script_that_fails_again_and_again_is_a_few_lines_and_a_count(begin_app: Callable[..., App]) -> None:
    app = begin_app('[defaults]\nallow = ["before"]\n[[probe]]\ntarget = "shop:charge"\n')
    joiner = liar(lambda: b'{"cause": "raised", "message": "a bug"}')
    for number in range(2, 102):
        # A hook of its own each time, so that its failure would be news.
        joiner.unregister(number - 1, PATIENCE)
        joiner.register("before:shop:charge", number, "call", timeout=PATIENCE)
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    joiner.close()
    app.program.find_line("more like that (the %s of %s on %s failed")
    assert len([line for line in app.program.output if "a bug" in line]) < 60


def test_a_pid_that_the_kernel_does_not_confirm_is_what_a_script_says(
    begin_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = begin_app('[defaults]\nallow = ["before"]\n[[probe]]\ntarget = "shop:charge"\n')
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    joiner = liar(lambda: b'{"cause": "raised", "message": "a bug"}')
    monkeypatch.undo()
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    hooks = "[one.name([one]) for point in __import__('xpc_agent').stats() for one in point.hooks]"
    assert app.evaluate(hooks) == "['before:4711?']"
    app.program.find_line("the before hook of a process that says it is pid 4711 on shop:charge failed (raised): a bug")
    joiner.close()

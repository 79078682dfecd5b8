"""What processes of the application say unasked, and `connect` and `run` where there is nothing to join."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest

import xpc_instrument
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.protocol.messages import Notice
from xpc_instrument.script.hook import Hook
from xpc_instrument.script.process import Process
from xpc_instrument.script.session import Session

FORGED = "all is well\nERROR root: pay here\x1b[2J" + "x" * 5000


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session(Limits(), b"")
    yield session
    session.close()


@pytest.fixture
def process(session: Session, tmp_path: Path) -> Process:
    address = parse_address(f"unix:{tmp_path}/s")
    return Process("shop (pid 1)", lambda process: session._joiner(address, process))


def test_what_a_process_says_is_one_line_in_the_scripts_log(session: Session, process: Process, caplog: pytest.LogCaptureFixture) -> None:
    hook = Hook(1, Mode.BEFORE, "shop:pay", print, Terms(), (), lambda handle: None)
    session._hooks[1] = hook
    for notice in (
        Notice("odd", {"message": FORGED}),
        Notice(FORGED, {"message": "short"}),
        Notice("odd", {FORGED: FORGED}),
        Notice("suspended", {"hook": 1, "cause": FORGED, "failures": FORGED, "pause": 5}),
    ):
        session._noticed(process, notice)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 4
    assert all(text.isprintable() and len(text) < 1000 for text in texts)
    assert "all is well\\nERROR root" in texts[0]


def test_run_says_how_much_it_serves_or_that_it_waits(session: Session, process: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xpc_instrument")
    session.app = "shop"
    session._ended.set()
    session.run()
    assert caplog.messages == ["no process of shop runs: waiting for one, to serve 0 hooks in it; Ctrl-C ends that"]


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
def test_a_time_to_wait_that_is_none_is_refused(timeout: Any) -> None:
    threads = threading.active_count()
    with pytest.raises(ValueError, match=r"timeout=.*expected a number of seconds from 0 on"):
        xpc_instrument.connect("shop", timeout=timeout)
    assert threading.active_count() == threads

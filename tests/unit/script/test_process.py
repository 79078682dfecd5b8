"""What processes answer when they are asked to register a hook."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, List, Optional

import pytest

from xpc_instrument.core.model.errors import TargetError, XpcError
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.request import PendingRequest
from xpc_instrument.core.protocol.messages import Answer
from xpc_instrument.script.hook import Hook
from xpc_instrument.script.process import PendingRegistration, Process, confirm_all

YES = Answer(1, True, data={"registered": True})
WAITS = Answer(1, True, data={"registered": True, "waits": True, "pending": ["shop:charge"]})
FAILS = Answer(1, False, "XpcError", "ImportError: half a module")
REFUSES = Answer(1, False, "TargetError", "shop has no 'charge'")


def asked(*answers: Answer) -> Hook:
    """The hook when all have answered."""
    hook = Hook(1, Mode.BEFORE, "shop:charge", print, Terms(), (), lambda _handle: None)
    pending: List[PendingRegistration] = []
    for number, answer in enumerate(answers):
        joiner: Any = SimpleNamespace(alive=True, welcome=SimpleNamespace(pid=number))
        request = PendingRequest(1, parse_address("unix:/nowhere"), lambda _request: None)
        request.settle(answer)
        pending.append(PendingRegistration(Process(f"shop (pid {number})", lambda _process, one=joiner: one), hook, request))
    confirm_all(hook, pending, 5.0)
    return hook


@pytest.mark.parametrize(
    ("answers", "has_place", "refusal", "told"),
    [
        ((YES, FAILS, YES), True, None, ["shop (pid 1): ImportError: half a module"]),
        ((WAITS, FAILS), True, None, ["shop (pid 1): ImportError: half a module"]),
        ((YES, REFUSES), True, TargetError, ["shop (pid 1): shop has no 'charge'"]),
        # One waits for the module, and one that has it says that the name is wrong.
        ((WAITS, REFUSES), False, TargetError, []),
        ((FAILS,), False, None, []),
    ],
)
def test_a_process_that_does_not_take_a_hook_is_told_of_and_keeps_it_from_no_other(
    answers: List[Answer], has_place: bool, refusal: Optional[type], told: List[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "xpc_instrument"):
        hook = asked(*answers)
    assert hook.has_place is has_place
    assert (hook.refusal and type(hook.refusal)) is refusal
    assert (hook.failure and type(hook.failure)) is (XpcError if FAILS in answers else None)
    assert caplog.messages == told


def test_what_never_came_is_what_all_processes_wait_for() -> None:
    handle = asked(WAITS, WAITS).handle
    assert handle._never_came() == ["shop:charge"]
    handle._note_targets(["shop:charge"], came=True)
    assert handle._never_came() == []
    assert asked(WAITS, YES).handle._never_came() == []
    handle._note_pending(["shop.**:pay*"])
    handle._note_targets(["other:pay"], came=True)
    assert handle._never_came() == ["shop.**:pay*"]
    handle._note_targets(["shop.till:pay_all"], came=True)
    assert handle._never_came() == []

"""A request whose answer is waited for apart: it is answered once, in time or not, and forgotten by whoever sent it."""

from __future__ import annotations

import time
from typing import List

import pytest

from xpc_instrument.core.model.errors import ChannelError, DeadlineError, TargetError, XpcError
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.request import PendingRequest
from xpc_instrument.core.protocol.messages import Answer


@pytest.fixture
def forgotten() -> List[PendingRequest]:
    """The requests that nobody waits for any more."""
    return []


@pytest.fixture
def request_(forgotten: List[PendingRequest]) -> PendingRequest:
    return PendingRequest(7, parse_address("/a/socket"), forgotten.append)


def test_the_answer_is_what_came_first(request_: PendingRequest, forgotten: List[PendingRequest]) -> None:
    assert not request_.settled
    request_.settle(Answer(7, True, data={"a": 1}))
    request_.settle(ChannelError("too late"))
    assert request_.settled
    assert request_.answer(time.monotonic()) == Answer(7, True, data={"a": 1})
    assert forgotten == [request_]


@pytest.mark.parametrize(("name", "kind"), [("TargetError", TargetError), ("an error of a later version", XpcError)])
def test_what_the_host_refuses_is_raised_as_the_error_that_it_names(request_: PendingRequest, name: str, kind: type) -> None:
    request_.settle(Answer(7, False, name, "no such target"))
    with pytest.raises(XpcError, match="no such target") as caught:
        request_.answer(time.monotonic())
    assert type(caught.value) is kind


def test_what_kept_it_from_being_sent_is_raised(request_: PendingRequest, forgotten: List[PendingRequest]) -> None:
    request_.settle(ChannelError("not connected"))
    with pytest.raises(ChannelError, match="not connected"):
        request_.answer(time.monotonic())
    assert request_.give_up()
    assert forgotten == [request_, request_]


def test_an_answer_that_does_not_come_in_time_is_a_deadline_error(request_: PendingRequest, forgotten: List[PendingRequest]) -> None:
    with pytest.raises(DeadlineError, match="unix:/a/socket did not answer within"):
        request_.answer(time.monotonic() - 1)
    assert forgotten == [request_]


def test_giving_up_says_whether_an_answer_had_come(request_: PendingRequest) -> None:
    assert request_.give_up()
    request_.settle(Answer(7, True))
    assert not request_.give_up()


def test_what_is_at_work_on_has_more_time(request_: PendingRequest) -> None:
    began = time.monotonic()
    request_.prolong(0.05)
    with pytest.raises(DeadlineError):
        request_.answer(began - 1)
    assert time.monotonic() - began >= 0.05

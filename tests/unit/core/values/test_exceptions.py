"""Exceptions across processes."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from typing import Any

import pytest

from tests.unit.core.values.elsewhere import SAME
from xpc_instrument.core.model.errors import PayloadError, RemoteError, RemoteTraceback
from xpc_instrument.core.values.exceptions import dump_exception, load_exception
from xpc_instrument.core.values.pickling import RECORD_SLACK
from xpc_instrument.core.values.traits import PeerProfile


class Polite(Exception):
    """Cannot be unpickled: its `args` do not fit its `__init__`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Refuses every assignment."""

    code: int

    def __reduce__(self) -> Any:
        return Frozen, (self.code,)


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("I say nothing")


class LoudText(str):
    """A text with code of its own."""

    def __format__(self, spec: str) -> str:
        raise RuntimeError("formatted")

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("cut")


class Loud(Exception):
    """Gives a text that is no plain str."""

    def __str__(self) -> str:
        return LoudText("loud text")


def raised(error: BaseException, cause: Any = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def across(error: BaseException, traits: PeerProfile = SAME) -> BaseException:
    return load_exception(dump_exception(error, traits)[0])


@pytest.mark.parametrize(
    "error", [ValueError("no", 5), KeyError("k"), OSError(2, "gone", "file"), UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), SystemExit(3)]
)
def test_an_exception_arrives_with_its_type_its_arguments_and_its_traceback(error: BaseException) -> None:
    arrived = across(raised(error, ZeroDivisionError("the first cause")))
    assert type(arrived) is type(error)
    assert (arrived.args, str(arrived)) == (error.args, str(error))
    assert isinstance(arrived.__cause__, RemoteTraceback)
    text = str(arrived.__cause__)
    assert "in raised" in text
    assert "ZeroDivisionError: the first cause" in text
    assert "direct cause" in text


def test_an_exception_of_a_local_class_arrives_as_itself() -> None:
    class Own(Exception):
        pass

    assert type(across(raised(Own("mine")))).__name__ == "Own"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Polite(404, "not here"), "Polite: 404 not here (it arrives as a RemoteError, because"),
        (ValueError(threading.Lock()), "ValueError: <unlocked"),
        (ValueError("x" * 2_000_000), "ValueError: xxx"),
    ],
)
def test_an_exception_that_cannot_cross_arrives_as_a_remote_error_with_text_and_traceback(error: Exception, text: str) -> None:
    arrived = across(raised(error))
    assert type(arrived) is RemoteError
    assert str(arrived).startswith(text)
    assert "in raised" in str(arrived.__cause__)


def test_an_exception_that_refuses_assignments_gets_its_traceback_all_the_same() -> None:
    arrived = across(raised(Frozen(5)))
    assert isinstance(arrived, Frozen)
    assert arrived.code == 5
    assert "in raised" in str(arrived.__cause__)


def test_exceptions_without_a_usable_text_cross() -> None:
    assert type(across(raised(Mute("x")))) is Mute
    assert type(across(raised(Loud("x")))) is Loud
    unpicklable = across(raised(Loud(threading.Lock())))
    assert (type(unpicklable), str(unpicklable)) == (RemoteError, "Loud: loud text")


def test_an_exception_stays_within_half_the_limit_and_the_room_of_a_lane() -> None:
    class Deep(Exception):
        pass

    error: BaseException = ValueError("\U0001f600" * 100_000)
    for _ in range(200):
        error = raised(Deep("\U0001f600" * 1000), error)
    for limit in (1, 1000, 1_000_000):
        assert len(dump_exception(error, PeerProfile("3.11", "3.11", limit))[0]) <= limit // 2 + RECORD_SLACK


def test_an_exception_in_an_unknown_form_is_refused() -> None:
    with pytest.raises(PayloadError, match="unknown form"):
        load_exception(pickle.dumps(("text", "trace")))
    assert type(load_exception(pickle.dumps(("text", "trace", pickle.dumps("no exception"))))) is RemoteError

"""A script that may only observe is hostile: it speaks the protocol by hand, and what it answers never becomes code in the application."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from xpc_instrument import TargetError
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.codec import Frame, encode
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.wire.wire import Wire

# Needs the enforcement on the application's side: there an observer's answer is looked at by its opcode alone.

Answer = Callable[[Wire, Frame], None]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(params=["before", "after"])
def mode(request: Any) -> str:
    """How the script observes; the config allows no more than that needs."""
    return str(request.param)


@pytest.fixture
def app(mode: str, begin_app: Callable[..., App]) -> App:
    allow = json.dumps(["before"] if mode == "before" else ["before", "after"])
    return begin_app(f'[defaults]\nallow = {allow}\ntimeout = 5\n[[probe]]\ntarget = "shop:*"\n')


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """What is there only if something was unpickled that should not have been."""
    path = tmp_path / "unpickled"
    yield path
    assert not path.exists(), "the application unpickled what an observer sent"


class Hostile:
    """Joins the application and answers each call by `answer`, which has the lane to itself."""

    def __init__(self, answer: Answer, name: str) -> None:
        self.called = threading.Event()
        self.answers: List[Any] = []
        self._answer = answer
        self.joiner = Joiner(parse_address(discovery.find("shop")[0].address), b"", limits=Limits(), serve=self._serve)
        self.joiner.connect(time.monotonic() + 20)
        self.joiner.register(name, 1, "call", timeout=20)

    def _serve(self, wire: Wire, frame: Frame) -> None:
        self.called.set()
        self._answer(wire, frame)

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.joiner.close()


def refer(op: str, number: int, name: str = "") -> bytes:
    return json.dumps({"op": op, "ref": number, "name": name}).encode()


def answers(path: Path) -> Dict[str, Tuple[Opcode, bytes, List[bytes]]]:
    evil = pickle.dumps(Evil(path), 5)
    return {
        "RETURN with a pickle": (Opcode.RETURN, evil, []),
        "RETURN with a pickle in a buffer": (Opcode.RETURN, evil, [evil]),
        "RAISE with a pickle": (Opcode.RAISE, evil, []),
        "RAISE with a pickled exception": (Opcode.RAISE, pickle.dumps(("text", "trace", evil), 5), []),
        "PROCEED with pickled arguments": (Opcode.PROCEED, evil, []),
        "PROCEED": (Opcode.PROCEED, b"", []),
        "RETURN_SAME": (Opcode.RETURN_SAME, b"", []),
        "RAISE_SAME": (Opcode.RAISE_SAME, b"", []),
        "REFER call with pickled arguments": (Opcode.REFER, refer("call", 0), [evil]),
        "REFER get with pickled arguments": (Opcode.REFER, refer("get", 0, "number"), [evil]),
        "REFER item with pickled arguments": (Opcode.REFER, refer("item", 0), [evil]),
        "REFER extra with pickled arguments": (Opcode.REFER, refer("extra", 0, "signature"), [evil]),
        "REFER separately with pickled arguments": (Opcode.REFER, refer("separately", 0), [evil]),
        "FAILED that is a pickle": (Opcode.FAILED, evil, []),
        "NOT_FOUND with a pickle": (Opcode.NOT_FOUND, evil, [evil]),
        "an opcode that is not for a callee": (Opcode.CALL, evil, [evil]),
        "a control message that is a pickle": (Opcode.NOTICE, evil, []),
    }


# Which of them reach a pickle today.
UNPICKLED = {
    "RETURN with a pickle",
    "RETURN with a pickle in a buffer",
    "RAISE with a pickle",
    "RAISE with a pickled exception",
    "PROCEED with pickled arguments",
    "REFER call with pickled arguments",
    "REFER get with pickled arguments",
    "REFER item with pickled arguments",
}
CASES = list(answers(Path("/")))

CALLS = {
    "shop:charge": ("shop.charge(4)", "'4 EUR'"),
    "shop:Order.total": ("shop.Order(21).total(2)", "42"),
    "shop:wait_a_little": ("asyncio.run(shop.wait_a_little(4))", "5"),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_an_observer_answers_is_never_unpickled_and_the_original_runs(app: App, mode: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "unpickled"
    opcode, body, buffers = answers(path)[kind]

    def answer(wire: Wire, frame: Frame) -> None:
        # Past this side's own state machine, which would not let some of them out.
        wire.transmit(encode(opcode, 0, body, buffers), time.monotonic() + 20)

    for target, (expression, expected) in CALLS.items():
        with Hostile(answer, f"{mode}:{target}") as hostile:
            assert app.evaluate(expression) == expected
            assert hostile.called.is_set()
        assert not path.exists(), "the application unpickled what an observer sent"
        # And it is as it was for the next one.
        assert app.evaluate(expression) == expected


def test_an_observer_cannot_read_by_reference(app: App, mode: str) -> None:
    seen: List[Opcode] = []

    def ask(wire: Wire, frame: Frame) -> None:
        wire.send_frame(Opcode.REFER, 0, refer("get", 0, "number"), None)
        seen.append(wire.recv_frame(time.monotonic() + 20).opcode)
        wire.send_frame(Opcode.RETURN, 0, b"", None)

    with Hostile(ask, f"{mode}:shop:Order.total"):
        assert app.evaluate("shop.Order(21).total(2)") == "42"
    # It is told no, or its lane is closed.
    assert Opcode.RESULT not in seen


def test_an_observer_still_gets_the_signature_of_what_it_observes(app: App) -> None:
    seen: List[Any] = []
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: seen.append(dict(call.arguments)))
        assert app.evaluate("shop.charge(4, currency='CHF')") == "'4 CHF'"
    assert seen == [{"amount": 4, "currency": "CHF"}]


@pytest.mark.parametrize("wanted", ["around", "instead"])
def test_an_observer_cannot_register_to_replace(app: App, wanted: str) -> None:
    def never(wire: Wire, frame: Frame) -> None:
        raise AssertionError("it was called")

    name = "shop:charge" if wanted == "instead" else f"{wanted}:shop:charge"
    with pytest.raises(TargetError):
        Hostile(never, name)
    assert app.evaluate("shop.charge(4)") == "'4 EUR'"


def test_an_observer_cannot_call_into_the_application(app: App, trace: Path) -> None:
    """A lane on which the script calls: there is nothing there for it."""
    joiner = Joiner(parse_address(discovery.find("shop")[0].address), b"", limits=Limits())
    joiner.connect(time.monotonic() + 20)
    evil = pickle.dumps(Evil(trace), 5)
    for opcode, buffers in ((Opcode.CALL, [evil]), (Opcode.CALL_NAMED, [b"shop:charge", evil]), (Opcode.CALL_NAMED, [])):
        wire = joiner.calling.take(time.monotonic() + 20)
        wire.send_frame(opcode, 1, evil, None, buffers)
        try:
            answer = wire.recv_frame(time.monotonic() + 20).opcode
        except xpc_instrument.ChannelError:
            answer = None
        # The lane ends, or there is no such callback.
        assert answer in (None, Opcode.NOT_FOUND, Opcode.FAILED)
        joiner.calling.drop(wire)
    joiner.close()
    assert app.evaluate("shop.calls") == "[]"

"""One call over a lane, from both ends: the two drivers of the caller do the same."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, Callable, Iterator, List, Optional, Tuple

import pytest

from tests.unit.core.protocol.test_connection import pair
from xpc_instrument.core.calls.callee import Incoming
from xpc_instrument.core.calls.caller import Outgoing
from xpc_instrument.core.calls.outcome import Arguments, Failed, Meta, NotFound, Outcome, run_original
from xpc_instrument.core.model.errors import RemoteProtocolError
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.values.traits import PeerProfile
from xpc_instrument.core.wire.wire import Wire

PROFILE = PeerProfile("3.11", "3.11", 1000)


class Shop:
    """Has what a callee may ask for."""

    def __init__(self) -> None:
        self.calls: List[Any] = []
        self.lock = threading.Lock()

    def charge(self, amount: int) -> Any:
        self.calls.append(amount)
        if amount < 0:
            raise ValueError("negative")
        return [amount]

    async def charge_async(self, amount: int) -> Any:
        return self.charge(amount)


@pytest.fixture
def lane() -> Iterator[Tuple[Wire, Wire]]:
    near, far = socket.socketpair()
    dialler, listener = pair("serve")
    wires = Wire(near, listener), Wire(far, dialler)
    yield wires
    for wire in wires:
        wire.close()


def look(incoming: Incoming) -> None:
    args, _ = incoming.record()
    incoming.give(args[1].calls)


def proceed(incoming: Incoming) -> None:
    incoming.give(incoming.proceed(None))


def proceed_with_another(incoming: Incoming) -> None:
    assert incoming.proceed(((4,), {}, {})) == [4]
    incoming.give("another")


def proceed_to_an_error(incoming: Incoming) -> None:
    with pytest.raises(ValueError, match="negative") as caught:
        incoming.proceed(((-1,), {}, {}))
    incoming.throw(caught.value)


def fail(incoming: Incoming) -> None:
    incoming.fail("raised", "a bug")


def know_nothing(incoming: Incoming) -> None:
    incoming.not_found()


def converse_with(outgoing: Outgoing, near: Wire, pieces: Any, original: Callable[..., Any]) -> Outcome:
    """A call whose original runs wherever the callee proceeds."""
    near.transmit(pieces, None)
    step = outgoing.until_it_proceeds(near, near.recv_frame(None), None, True)
    while not isinstance(step, Outcome):
        step = outgoing.until_it_proceeds(near, outgoing.tell(near, run_original(original, *step), None), None, True)
    return step


def outcome_of(drive: Callable[[], Outcome]) -> Tuple[str, Any]:
    try:
        return "value", drive().get()
    except (Failed, NotFound, ValueError, RemoteProtocolError) as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
@pytest.mark.parametrize(
    ("callee", "expected", "calls"),
    [
        (look, ("value", []), []),
        (proceed, ("value", [3]), [3]),
        (proceed_with_another, ("value", "another"), [4]),
        (proceed_to_an_error, ("ValueError", "negative"), [-1]),
        (fail, ("Failed", "a bug"), []),
        (know_nothing, ("NotFound", "the other side has no such callback any more"), []),
    ],
)
def test_a_call_ends_as_the_callee_answers(
    lane: Tuple[Wire, Wire], callee: Callable[[Incoming], None], expected: Tuple[str, Any], calls: List[Any], awaited: bool
) -> None:
    near, far = lane
    shop = Shop()
    thread = threading.Thread(target=lambda: callee(Incoming(far, far.recv_frame(None), PROFILE)))
    thread.start()
    outgoing = Outgoing(PROFILE, (3, shop) if callee is look else (3,), {})
    pieces = near.connection.send(Opcode.CALL, 1, *outgoing.payload())

    async def original(changed: Optional[Arguments]) -> Any:
        args, kwargs = changed or ((3,), {})
        return await shop.charge_async(*args, **kwargs)

    async def converse() -> Outcome:
        await near.transmit_async(pieces, None)
        return await outgoing.serve_async(near, await near.recv_frame_async(None), None, original)

    if awaited:
        ended = outcome_of(lambda: asyncio.run(converse()))
    else:
        ended = outcome_of(lambda: converse_with(outgoing, near, pieces, shop.charge))
    thread.join(10)
    assert ended == expected
    assert shop.calls == calls


def test_what_the_original_gave_comes_back_as_the_same_object(lane: Tuple[Wire, Wire]) -> None:
    near, far = lane
    kept = [1, [2]]
    thread = threading.Thread(target=lambda: proceed(Incoming(far, far.recv_frame(None), PROFILE)))
    thread.start()
    outgoing = Outgoing(PROFILE, (), {})
    outcome = converse_with(outgoing, near, near.connection.send(Opcode.CALL, 1, *outgoing.payload()), lambda: kept)
    thread.join(10)
    assert outcome.get() is kept


def test_keyword_arguments_that_change_where_there_are_no_positional_ones_are_not_the_callers_own() -> None:
    outgoing = Outgoing(PROFILE, (), {"amount": 1})
    assert outgoing.is_own(((), outgoing._kwargs))
    assert not outgoing.is_own(((), {"amount": 2}))


def test_a_callee_that_proceeds_where_there_is_no_original_breaks_the_rules(lane: Tuple[Wire, Wire]) -> None:
    near, far = lane
    outgoing = Outgoing(PROFILE, (), {})
    near.transmit(near.connection.send(Opcode.CALL, 1, *outgoing.payload()), None)
    far.recv_frame(None)
    far.send_frame(Opcode.PROCEED, 0, b"", None)
    with pytest.raises(RemoteProtocolError, match="no original"):
        outgoing.until_it_proceeds(near, near.recv_frame(None), None, False)


def test_the_record_of_a_call_is_read_as_it_was_written() -> None:
    assert Meta(*Meta.at_start(1, 2, 3, None)) == Meta(1, 2, 3)
    assert Meta(*Meta.at_end(1, 2, 3, None, True, 0.5)) == Meta(1, 2, 3, raised=True, duration=0.5)
    shop = Shop()
    started, ended = Meta(*Meta.at_start(1, 2, 3, shop)), Meta(*Meta.at_end(1, 2, 3, shop, False, 0.5))
    assert started.instance_type == ended.instance_type == f"{__name__}.Shop"
    assert started.instance_id == ended.instance_id == id(shop)
    assert ended.duration == 0.5

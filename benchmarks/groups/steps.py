"""The steps of a crossing one by one, in one thread and without a second process: ours over the least that does the same.

What the steps lack to a whole invocation is the change from process to process, with caches that the other one has filled meanwhile.
"""

from __future__ import annotations

import pickle
import socket
from contextlib import contextmanager
from typing import Iterator, Mapping

from xpc_instrument.core.calls.outcome import Meta
from xpc_instrument.core.protocol.connection import Connection, State
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.values.pickling import dump
from xpc_instrument.core.values.references import Table, load_with_table
from xpc_instrument.core.values.traits import PeerProfile
from xpc_instrument.core.wire.wire import Wire

from ..measure.timing import Comparison, Group, TimeFunction, timer

_LIMIT = 64 * 1024 * 1024
_CHUNK = 16 * 1024


def _lane_end(sock: socket.socket, state: State) -> Wire:
    """One end of a lane that has its handshake behind it."""
    connection = Connection(dialling=False, key=b"", max_payload=_LIMIT)
    connection.state = state
    connection.reader.limit = _LIMIT
    return Wire(sock, connection)


@contextmanager
def _steps() -> Iterator[Mapping[str, TimeFunction]]:
    arguments = ((12,), {"currency": "USD"})
    record = (*arguments, tuple(Meta(1, 4711, 140_000_000_000_000, "", 0, False, 0.0)), None)
    traits, table = PeerProfile("3.11", "3.11", _LIMIT), Table()
    body, _ = dump(record, traits)
    plain = pickle.dumps(arguments, 5)

    caller, callee = socket.socketpair()
    near, far = _lane_end(caller, State.CALLER_IDLE), _lane_end(callee, State.CALLEE_IDLE)
    left, right = socket.socketpair()

    def exchange() -> None:
        near.send_frame(Opcode.CALL, 1, body, None)
        far.recv_frame(None)
        far.send_frame(Opcode.RETURN, 0, body, None)
        near.recv_frame(None)

    def bare_exchange() -> None:
        left.send(plain)
        right.recv(_CHUNK)
        right.send(plain)
        left.recv(_CHUNK)

    with caller, callee, left, right:
        yield {
            "pickle.dumps": timer("dumps(value, 5)", dumps=pickle.dumps, value=arguments),
            "dump": timer("dump(record, traits)", dump=dump, record=record, traits=traits),
            "pickle.loads": timer("loads(body)", loads=pickle.loads, body=plain),
            "load": timer("load(table, body, ())", load=load_with_table, table=table, body=body),
            "send and recv": timer("exchange()", exchange=bare_exchange),
            "frames": timer("exchange()", exchange=exchange),
        }


STEPS = Group(
    "steps",
    _steps,
    (
        Comparison("pickling a call, with its record and a size limit", "dump", "pickle.dumps"),
        Comparison("loading a call, with its record and references", "load", "pickle.loads"),
        Comparison("a frame there and one back, in one thread", "frames", "send and recv"),
    ),
    share=0.5,
    title="The steps of a crossing, one by one",
    about="""\
The parts of an invocation in one thread and without a second process, each over the least that does the same: a pickle of the arguments,
the loading of it, and a frame sent and heard on a socket pair. What they lack to a whole invocation is the change from process to
process, with caches that the other one has filled meanwhile.""",
    why="""\
A call is pickled with a record of who called, under a size limit, and with references for what cannot cross; it is loaded with those
references put in place. A frame has a length and a number and goes through a state machine that refuses what does not belong there, on
both sides. The baselines have nothing of that.""",
)

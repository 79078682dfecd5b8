"""What the two sides say to each other: the opcodes of all frames and the control messages as records.

Rules:
- A control message is JSON, so reading it can run no code, and every field is checked for presence and type before use.
- The frames of a lane carry an opcode, a number and an opaque payload; only they may hold pickles, and only after the handshake.
- The fields of a message are the wire format: all of them cross, and a message that lacks one or has another is a protocol error.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Dict, Mapping, Tuple, Type

from ..model.record import Record, field_types, fresh

# Raised when the meaning of a frame changes; both sides must agree on it.
PROTOCOL_VERSION = 2


class Opcode(enum.IntEnum):
    """The first byte of a frame."""

    # The handshake, JSON.
    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    REFUSED = 5
    # A control connection after the handshake, JSON.
    REGISTER = 16
    UNREGISTER = 17
    QUERY = 18
    ANSWER = 19
    LANES_WANTED = 20
    NOTICE = 21
    SYNCED = 22
    PING = 23
    PONG = 24
    # A lane: from the caller.
    CALL = 32
    CALL_NAMED = 33
    RESULT = 34
    FAULT = 35
    EVENTS = 36
    # A lane: from the callee.
    RETURN = 48
    RETURN_SAME = 49
    RAISE = 50
    RAISE_SAME = 51
    FAILED = 52
    NOT_FOUND = 53
    PROCEED = 54
    REFER = 55
    # A hot lane: what is said has been put into the memory. Says nothing to the state machine.
    WAKE = 63


class Role(str, enum.Enum):
    """What a connection is for; the dialling side says so in HELLO."""

    CONTROL = "control"
    SERVE = "serve"  # a lane on which the listening side calls and the dialling side answers
    CALL = "call"  # a lane on which the dialling side calls and the listening side answers


class Message(Record):
    """A control message. The types of its fields are those of `_JSON_TYPES`; whose opcode `opcode` is, a frame with it holds."""

    opcode: ClassVar[Opcode]


class Hello(Message):
    opcode = Opcode.HELLO
    version: int
    role: str
    session: str
    nonce: str
    pid: int
    python: str
    program: str
    hot: bool = False  # whether the dialling side can take a memory with WELCOME; for lanes on which it answers


class Challenge(Message):
    opcode = Opcode.CHALLENGE
    version: int
    nonce: str


class Proof(Message):
    opcode = Opcode.PROOF
    mac: str


class Welcome(Message):
    opcode = Opcode.WELCOME
    mac: str
    pid: int
    python: str
    app: str
    max_payload: int


class Refused(Message):
    opcode = Opcode.REFUSED
    reason: str
    message: str


class Register(Message):
    """Ask for `name` to be answered by the sender's callback number `hook`.

    `style` is "plain" (called with the caller's arguments) or "call" (called with a record of the invocation).
    `terms` says how often and how long it is called (`Terms.to_json`). `module` is where the callback is defined: the answer says whether
    the host can import that, or whether its classes have to cross by value.
    """

    opcode = Opcode.REGISTER

    request: int
    name: str
    hook: int
    style: str
    terms: Mapping[str, Any] = fresh(dict)
    module: str = ""


class Unregister(Message):
    """End a registration. The answer follows when the events of a hook that nobody waits for are delivered, or `within` so many seconds."""

    opcode = Opcode.UNREGISTER

    request: int
    hook: int
    within: float = 0.0


class Query(Message):
    opcode = Opcode.QUERY
    request: int
    what: str


class Answer(Message):
    """The reply to the request of that number. If not `ok`, `error` is the name of a class of `errors` and `message` its text."""

    opcode = Opcode.ANSWER

    request: int
    ok: bool
    error: str = ""
    message: str = ""
    data: Mapping[str, Any] = fresh(dict)


class LanesWanted(Message):
    opcode = Opcode.LANES_WANTED
    count: int


class Notice(Message):
    """Something that the other side should know but need not answer: `kind` is a word, `data` says the rest."""

    opcode = Opcode.NOTICE

    kind: str
    data: Mapping[str, Any] = fresh(dict)


class Synced(Message):
    """The session has registered all its hooks with this process."""

    opcode = Opcode.SYNCED


class Ping(Message):
    opcode = Opcode.PING


class Pong(Message):
    opcode = Opcode.PONG


# The type of a field, as it is written above, and what it may be in JSON.
_JSON_TYPES: Dict[str, Tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "Mapping[str, Any]": (dict,),
}

# opcode -> the class and its fields with the JSON types that each may have.
SCHEMAS: Dict[Opcode, Tuple[Type[Message], Dict[str, Tuple[type, ...]]]] = {
    cls.opcode: (cls, {name: _JSON_TYPES[kind] for name, kind in field_types(cls).items()}) for cls in Message.__subclasses__()
}

LANE_OPCODES = frozenset(opcode for opcode in Opcode if opcode >= Opcode.CALL)

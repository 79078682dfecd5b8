"""What the two sides say to each other: the opcodes of all frames and the control messages as frozen dataclasses.

Rules:
- A control message is JSON, so reading it can run no code, and every field is checked for presence and type before use.
- The frames of a lane carry an opcode, a number and an opaque payload; only they may hold pickles, and only after the handshake.
- `SCHEMAS` is the wire format: a field that isn't in it doesn't cross, one that lacks is a protocol error.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Tuple, Type, Union

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


class _Fields:
    """Shows and compares a message by its fields. Written once, since what `dataclass` makes for each class prolongs the start of every
    application: it is source text that is compiled there."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


@dataclass(frozen=True, repr=False, eq=False)
class Hello(_Fields):
    version: int
    role: str
    session: str
    nonce: str
    pid: int
    python: str
    program: str
    hot: bool = False  # whether the dialling side can take a memory with WELCOME; for lanes on which it answers


@dataclass(frozen=True, repr=False, eq=False)
class Challenge(_Fields):
    version: int
    nonce: str


@dataclass(frozen=True, repr=False, eq=False)
class Proof(_Fields):
    mac: str


@dataclass(frozen=True, repr=False, eq=False)
class Welcome(_Fields):
    mac: str
    pid: int
    python: str
    app: str
    max_payload: int


@dataclass(frozen=True, repr=False, eq=False)
class Refused(_Fields):
    reason: str
    message: str


@dataclass(frozen=True, repr=False, eq=False)
class Register(_Fields):
    """Ask for `name` to be answered by the sender's callback number `hook`.

    `style` is "plain" (called with the caller's arguments) or "call" (called with a record of the invocation).
    `terms` says how often and how long it is called (`Terms.to_json`). `module` is where the callback is defined: the answer says whether
    the host can import that, or whether its classes have to cross by value.
    """

    request: int
    name: str
    hook: int
    style: str
    terms: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""


@dataclass(frozen=True, repr=False, eq=False)
class Unregister(_Fields):
    """End a registration. The answer follows when the events of a hook that nobody waits for are delivered, or `within` so many seconds."""

    request: int
    hook: int
    within: float = 0.0


@dataclass(frozen=True, repr=False, eq=False)
class Query(_Fields):
    request: int
    what: str


@dataclass(frozen=True, repr=False, eq=False)
class Answer(_Fields):
    """The reply to the request of that number. If not `ok`, `error` is the name of a class of `errors` and `message` its text."""

    request: int
    ok: bool
    error: str = ""
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False, eq=False)
class LanesWanted(_Fields):
    count: int


@dataclass(frozen=True, repr=False, eq=False)
class Notice(_Fields):
    """Something that the other side should know but need not answer: `kind` is a word, `data` says the rest."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False, eq=False)
class Synced(_Fields):
    """The session has registered all its hooks with this process."""


@dataclass(frozen=True, repr=False, eq=False)
class Ping(_Fields):
    pass


@dataclass(frozen=True, repr=False, eq=False)
class Pong(_Fields):
    pass


Message = Union[
    Hello,
    Challenge,
    Proof,
    Welcome,
    Refused,
    Register,
    Unregister,
    Query,
    Answer,
    LanesWanted,
    Notice,
    Synced,
    Ping,
    Pong,
]

# opcode -> the class and its fields with the JSON types that each may have.
SCHEMAS: Dict[Opcode, Tuple[Type[Any], Dict[str, Tuple[type, ...]]]] = {
    Opcode.HELLO: (
        Hello,
        {
            "version": (int,),
            "role": (str,),
            "session": (str,),
            "nonce": (str,),
            "pid": (int,),
            "python": (str,),
            "program": (str,),
            "hot": (bool,),
        },
    ),
    Opcode.CHALLENGE: (Challenge, {"version": (int,), "nonce": (str,)}),
    Opcode.PROOF: (Proof, {"mac": (str,)}),
    Opcode.WELCOME: (
        Welcome,
        {"mac": (str,), "pid": (int,), "python": (str,), "app": (str,), "max_payload": (int,)},
    ),
    Opcode.REFUSED: (Refused, {"reason": (str,), "message": (str,)}),
    Opcode.REGISTER: (
        Register,
        {
            "request": (int,),
            "name": (str,),
            "hook": (int,),
            "style": (str,),
            "terms": (dict,),
            "module": (str,),
        },
    ),
    Opcode.UNREGISTER: (Unregister, {"request": (int,), "hook": (int,), "within": (int, float)}),
    Opcode.QUERY: (Query, {"request": (int,), "what": (str,)}),
    Opcode.ANSWER: (
        Answer,
        {"request": (int,), "ok": (bool,), "error": (str,), "message": (str,), "data": (dict,)},
    ),
    Opcode.LANES_WANTED: (LanesWanted, {"count": (int,)}),
    Opcode.NOTICE: (Notice, {"kind": (str,), "data": (dict,)}),
    Opcode.SYNCED: (Synced, {}),
    Opcode.PING: (Ping, {}),
    Opcode.PONG: (Pong, {}),
}

OPCODES: Dict[Type[Any], Opcode] = {cls: opcode for opcode, (cls, _) in SCHEMAS.items()}

LANE_OPCODES = frozenset(opcode for opcode in Opcode if opcode >= Opcode.CALL)

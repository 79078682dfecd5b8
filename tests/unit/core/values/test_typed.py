"""Values as recordings hold them: made again as they were, refused where that would run code, and whole or cut by name."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import json
import pathlib
import sys
import uuid
from decimal import Decimal
from fractions import Fraction
from typing import Any, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.replay.differing import differences, places, tree_text
from xpc_instrument.core.replay.rebuilding import CannotRebuildError, Rebuilder
from xpc_instrument.core.replay.trees import check_tree
from xpc_instrument.core.values.redaction import Redaction
from xpc_instrument.core.values.typed import Encoder, is_plain


class Colour(enum.Enum):
    RED = "r"


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass(frozen=True)
class Order:
    number: int
    items: List[Any]


class Slotted:
    __slots__ = ("__weakref__", "x")

    def __init__(self) -> None:
        raise RuntimeError("never run")

    def __eq__(self, other: object) -> bool:
        return self.x == other.x  # type: ignore[attr-defined, no-any-return]

    __hash__ = None  # type: ignore[assignment]


class Model:
    """Has what it needs in slots beside its fields, as pydantic's models have."""

    __slots__ = ("__dict__", "__extra__", "__unset__")

    def __eq__(self, other: object) -> bool:
        return (vars(self), self.__extra__) == (vars(other), other.__extra__)  # type: ignore[attr-defined, no-any-return]

    __hash__ = None  # type: ignore[assignment]


def model() -> Model:
    made = Model()
    made.name, made.__extra__ = "x", {"a"}  # type: ignore[attr-defined]
    return made


class Nasty:
    """Whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError("code of the application runs")

    __repr__ = __reduce_ex__ = __len__ = __iter__ = __eq__ = __hash__ = __getattribute__  # type: ignore[assignment]


class Failed(OSError):
    def __init__(self, number: int, why: str, more: Any) -> None:
        raise RuntimeError("never run")


Point = collections.namedtuple("Point", "x y")
HERE = Rebuilder([__name__.partition(".")[0]])


def again(value: Any) -> Any:
    return HERE.value(check_tree(json.loads(json.dumps(Encoder().encode(value), allow_nan=False))))


def slotted() -> Slotted:
    made = object.__new__(Slotted)
    made.x = 1  # type: ignore[attr-defined]
    return made


VALUES = [
    None,
    True,
    -(2**70),
    float("inf"),
    1.5,
    "text \udc80",
    b"\x00",
    bytearray(b"x"),
    (1, (2,)),
    {1, 2},
    frozenset("a"),
    {"a": {"type": 1}},
    {1: [2], (3,): 4},
    range(3, 1, -1),
    1 + 2j,
    Colour.RED,
    Flags.A | Flags.B,
    Order(1, [Order(2, [])]),
    slotted(),
    model(),
    Point(1, [2]),
    Decimal("1.50"),
    Fraction(1, 3),
    uuid.uuid4(),
    pathlib.PurePosixPath("/a/b"),
    datetime.date(2020, 1, 2),
    datetime.datetime(2020, 1, 2, 3, 4, 5, 6, datetime.timezone(datetime.timedelta(hours=-2))),
    datetime.time(2, 3, fold=1),
    datetime.timedelta(-1, 2, 3),
    datetime.timezone.utc,
    collections.deque([1], 2),
    collections.OrderedDict(b=1, a=2),
    Order,
    again,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_made_again(value: Any) -> None:
    made = again(value)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    "error", [ValueError(1, "b"), KeyError("k"), OSError(2, "no", "file"), UnicodeDecodeError("utf8", b"x", 0, 1, "why")]
)
def test_an_exception_is_made_again(error: Exception) -> None:
    error.note = [1]  # type: ignore[attr-defined]
    made = again(error)
    assert (type(made), made.args, str(made), vars(made)) == (type(error), error.args, str(error), vars(error))


def test_an_exception_is_made_without_its_init() -> None:
    error = Failed.__new__(Failed, 2, "no", 3)
    error.args = (2, "no")
    assert again(error).args == (2, "no")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.dictionaries(st.integers(), inner),
    max_leaves=20,
)


@given(JSON)
@settings(max_examples=40, deadline=None)
def test_plain_data_is_made_again_unless_it_is_redacted(value: Any) -> None:
    tree = Encoder().encode(value)
    if '"redacted"' not in json.dumps(tree):
        assert again(value) == value


def test_nothing_of_the_application_runs() -> None:
    value = {"nasty": Nasty(), "list": [Nasty()]}
    assert Encoder().encode(value)["nasty"] == {"type": f"{__name__}:Nasty", "fields": {}}


def test_what_cannot_be_made_again_is_a_cut_that_says_why() -> None:
    circle: List[Any] = [1]
    circle.append(circle)
    shared = [1]

    class Local:
        pass

    encode = Encoder().encode
    assert encode(circle) == [1, {"type": "list", "cut": "cycle"}]
    assert encode([shared, shared]) == [[1], [1]]
    assert encode(Local())["cut"] == encode(sys.stderr)["cut"] == encode(lambda: 1)["cut"] == encode(collections.Counter())["cut"] == "type"
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    assert '"depth"' in json.dumps(encode(deep))


def test_it_is_bounded_by_a_size_and_what_fits_is_whole() -> None:
    room = Encoder().room(1000)
    assert room.value(["a" * 500, "b" * 500, 5]) == ["a" * 500, {"type": "str", "cut": "size"}, 5]
    assert room.value(b"x" * 500) == {"type": "bytes", "cut": "size"}
    many = Encoder().room(10_000).value([[one] for one in range(1000)])
    assert many[0] == [0] and many[-1] == {"type": "list", "cut": "size"}


@pytest.mark.parametrize(
    "make",
    [list, tuple, set, frozenset, dict.fromkeys, collections.deque, collections.OrderedDict.fromkeys, lambda values: KeyError(*values)],
)
def test_a_container_that_does_not_fit_is_a_cut_before_it_is_walked(make: Any) -> None:
    value = make(range(1000))
    room = Encoder().room(1000)
    tree = room.value(value)
    assert tree["cut"] == "size"
    # It took what one value takes.
    assert room.left > 900
    # And one whose keys do not fit.
    assert Encoder().room(1000).value({"k" * 2000: 1}) == {"type": "dict", "cut": "size"}


def test_secrets_are_not_read() -> None:
    encoder = Encoder(Redaction(["seal"], [f"{__name__}:Slotted"]))
    hidden = {"type": "", "cut": "redacted"}
    value = {"password": "x", "seal": 1, b"token": 2, 5: ("Authorization", "y")}
    token = {"type": "bytes", "base64": "dG9rZW4="}
    header = {"type": "tuple", "items": ["Authorization", hidden]}
    assert encoder.encode(value)["items"] == [["password", hidden], ["seal", hidden], [token, hidden], [5, header]]
    assert encoder.encode([slotted()])[0]["cut"] == "redacted"
    assert HERE.value(encoder.encode([["Cookie", "y"], value]))[0] == ["Cookie", "<redacted>"]


REFUSED = {
    "another package": {"type": "subprocess:Popen", "fields": {}},
    "what an allowed module has imported": {"type": f"{__name__}:Decimal", "fields": {}},
    "a function of another package": {"type": "function", "name": "os:system"},
    "a module in an allowed one": {"type": "function", "name": f"{__name__}:json.loads"},
    "a built-in type by its fields": {"type": "list", "fields": {}},
    "a built-in function": {"type": "function", "name": "eval"},
    "what ends a process": {"type": "SystemExit", "args": [], "fields": {}},
    "an enum that is none": {"type": f"{__name__}:Order", "member": "RED"},
    "a member that is not there": {"type": f"{__name__}:Colour", "member": "mro"},
    "a type that is no text": {"type": ["a"]},
    "half of it": {"type": "tuple"},
    "an int that is too long": {"type": "int", "text": "9" * 10_000},
    "no base64": {"type": "bytes", "base64": "?"},
    "fields of another shape": {"type": f"{__name__}:Order", "fields": 3},
    "a slot for a list": {"type": f"{__name__}:Slotted", "fields": {"y": 1}},
    "a container that takes no such": {"type": "set", "items": [[1]]},
    "a cut": {"type": "x", "cut": "type"},
    "a cut of no known kind": {"type": "x", "cut": ["?"]},
}


@pytest.mark.parametrize("tree", REFUSED.values(), ids=REFUSED)
def test_what_a_file_must_not_have_made_is_refused_with_its_place(tree: Any) -> None:
    with pytest.raises(CannotRebuildError, match=r"^value\[0\]"):
        HERE.value([tree], "value")


@given(
    st.recursive(JSON, lambda inner: st.dictionaries(st.sampled_from(["type", "items", "text", "fields", "args", "cut", "name"]), inner))
)
@settings(max_examples=30, deadline=None)
def test_any_data_is_made_or_refused(tree: Any) -> None:
    try:
        HERE.value(tree, "value")
    except CannotRebuildError:
        pass
    try:
        tree = check_tree(json.loads(json.dumps(tree)))
    except (ValueError, TypeError):
        return
    # What has the form of one is compared and shown.
    assert list(differences(tree, tree, "value")) == []
    assert tree_text(tree) and next(places(tree, "value")) == "value"


def test_types_written_in_c_are_not_plain() -> None:
    class Items(list):  # type: ignore[type-arg]
        pass

    class Meta(type):
        pass

    class Made(metaclass=Meta):
        pass

    assert [is_plain(one) for one in (Order, Slotted, Made, Items, int, type(sys.stderr), Meta)] == [True, True, True] + [False] * 4


class Session:
    def __init__(self) -> None:
        self.__token, self.__tokens = "secret", 1


def test_what_a_private_attribute_is_called_in_its_class_decides() -> None:
    fields = Encoder().encode(Session())["fields"]
    assert fields["_Session__token"] == {"type": "", "cut": "redacted"}
    assert fields["_Session__tokens"] == 1
    assert Redaction().hides(f"_{'A' * 100}__password") and Redaction().hides("_A__B__api_key")
    assert not Redaction().hides("__tokens__") and not Redaction().hides("_" * 200)

"""Records: what a frozen dataclass is, without what that costs a process when it starts."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any, Callable, ClassVar, Mapping

import pytest

from xpc_instrument.core.model.record import Record, as_dict, defaults, fields, fresh, replace


class Point(Record):
    x: int
    """A field may have a docstring."""

    y: int = 0
    labels: Mapping[str, str] = fresh(dict)


class Named(Point):
    name: str = "p"
    kind = "no field, since it has no annotation"
    unit: ClassVar[str] = "no field either"

    @property
    def sum(self) -> int:
        return self.x + self.y


class Even(Record):
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"number={self.number}: expected an even one")


class Empty(Record):
    pass


class Other(Record):
    x: int
    y: int = 0
    labels: Mapping[str, str] = fresh(dict)


def test_fields_are_given_by_position_by_name_or_by_default() -> None:
    assert as_dict(Point(1)) == {"x": 1, "y": 0, "labels": {}}
    assert as_dict(Point(1, 2, {"a": "b"})) == as_dict(Point(labels={"a": "b"}, y=2, x=1)) == {"x": 1, "y": 2, "labels": {"a": "b"}}
    assert as_dict(Empty()) == {}


def test_a_class_has_the_fields_of_those_it_inherits_from_first() -> None:
    assert fields(Named) == ("x", "y", "labels", "name")
    assert defaults(Named) == {"y": 0, "labels": {}, "name": "p"}
    point = Named(1, 2, name="q")
    assert (point.sum, point.name, point.kind, point.unit) == (3, "q", Named.kind, Named.unit)


def test_a_fresh_default_is_nobody_elses() -> None:
    assert Point(1).labels is not Point(1).labels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Point(), "Point was not given the field 'x'"),  # type: ignore[call-arg]
        (lambda: Point(y=1), "Point was not given the field 'x'"),  # type: ignore[call-arg]
        (lambda: Point(1, 2, {}, 4), "Point takes 3 fields, each once, and 4 were given"),  # type: ignore[call-arg]
        (lambda: Point(1, x=1), "Point takes 3 fields, each once, and 2 were given"),  # type: ignore[misc]
        (lambda: Point(1, z=1), "Point has no field 'z'"),  # type: ignore[call-arg]
        (lambda: Point(1, 2, {}, z=1), "Point has no field 'z'"),  # type: ignore[call-arg]
        (lambda: Empty(1), "Empty takes 0 fields, each once, and 1 were given"),  # type: ignore[call-arg]
    ],
)
def test_what_is_not_a_call_with_each_field_once_is_a_type_error(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == message


def test_nothing_in_a_record_can_be_changed_and_nothing_added() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="x of a Point cannot be changed"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="z of a Point cannot be changed"):
        point.z = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="x of a Point cannot be deleted"):
        del point.x
    assert point == Point(1)
    assert not hasattr(Named(1), "__dict__")


def test_records_are_equal_by_class_and_values() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(1, 3)
    assert Point(1) != Other(1)
    assert Point(1) != Named(1)
    assert Empty() == Empty()
    assert Point(1) != (1, 0, {})


def test_a_record_of_what_can_be_hashed_can_be_hashed() -> None:
    assert hash(Even(2)) == hash(Even(2))
    assert len({Even(2), Even(2), Even(4)}) == 2
    assert hash(Empty()) == hash(Empty())
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(1))


def test_a_record_shows_its_fields() -> None:
    assert repr(Named(1, name="a")) == "Named(x=1, y=0, labels={}, name='a')"
    assert repr(Empty()) == "Empty()"


def test_a_changed_copy_leaves_the_record_as_it_is() -> None:
    point = Named(1, 2, {"a": "b"}, "n")
    assert replace(point, y=5, name="m") == Named(1, 5, {"a": "b"}, "m")
    assert point == Named(1, 2, {"a": "b"}, "n")
    with pytest.raises(TypeError, match="Named has no field 'z'"):
        replace(point, z=1)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_record_survives_pickling_and_copying(protocol: int) -> None:
    for record in (Named(1, 2, {"a": "b"}), Even(2), Empty()):
        assert pickle.loads(pickle.dumps(record, protocol)) == record
        assert copy.copy(record) == copy.deepcopy(record) == record


def test_what_a_class_checks_is_checked_however_a_record_is_made() -> None:
    for make in (lambda: Even(3), lambda: replace(Even(2), number=3)):
        with pytest.raises(ValueError, match="number=3: expected an even one"):
            make()


def test_a_record_matches_its_fields_by_position() -> None:
    assert Named.__match_args__ == ("x", "y", "labels", "name")


def test_the_signature_of_the_constructor_is_that_of_its_fields() -> None:
    assert str(inspect.signature(Named)) == "(x: 'int', y: 'int' = 0, labels: 'Mapping[str, str]' = {}, name: 'str' = 'p')"
    assert str(inspect.signature(Empty)) == "()"

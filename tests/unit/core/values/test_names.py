"""Texts for values that run no code of theirs."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Dict, List

from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.values.names import safe_repr, type_name


class Trap:
    """Everything that is done to it fails."""

    def _sprung(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("code of the value ran")

    __repr__ = __str__ = __len__ = __iter__ = __getattribute__ = __eq__ = __hash__ = __format__ = __bool__ = _sprung  # type: ignore[assignment]
    __class__ = property(_sprung)  # type: ignore[assignment]


class MetaTrap(type):
    """Its classes fail too, whatever is asked of them."""

    def _sprung(cls, *args: Any) -> Any:
        raise AssertionError("code of the metaclass ran")

    __eq__ = __hash__ = __repr__ = __getattribute__ = _sprung  # type: ignore[assignment]
    __module__ = __name__ = property(_sprung)  # type: ignore[assignment]


SubStr = type("SubStr", (str,), dict.fromkeys(("__repr__", "__len__", "__getitem__", "__format__"), Trap.__dict__["_sprung"]))
SubInt = type("SubInt", (int,), dict.fromkeys(("__repr__", "__lt__", "__gt__", "bit_length"), Trap.__dict__["_sprung"]))
SubList = type("SubList", (list,), dict.fromkeys(("__repr__", "__len__", "__iter__"), Trap.__dict__["_sprung"]))
SubDict = type("SubDict", (dict,), dict.fromkeys(("__repr__", "__len__", "items"), Trap.__dict__["_sprung"]))
Trapped = MetaTrap("Trapped", (), {})
OddModule = type("OddModule", (), {"__module__": Trap()})
NASTY = [Trap(), type.__call__(Trapped), object.__new__(OddModule), SubStr("x"), SubInt(5), SubList([1]), SubDict(a=1)]


# Hypothesis looks at what it generates, so it generates places for them.
@dataclasses.dataclass
class Place:
    """Where a nasty value is to be."""

    number: int


places = st.builds(Place, st.integers(0, len(NASTY) - 1))


def with_nasty_values(value: Any) -> Any:
    if isinstance(value, Place):
        return NASTY[value.number]
    if isinstance(value, (list, tuple)):
        return type(value)(map(with_nasty_values, value))
    if isinstance(value, dict):
        return {key: with_nasty_values(item) for key, item in value.items()}
    return value


@settings(max_examples=150)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary() | places,
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
        max_leaves=30,
    )
)
def test_a_safe_text_runs_no_code_and_is_short(value: Any) -> None:
    value = with_nasty_values(value)
    text = safe_repr(value)
    assert type(text) is str
    assert len(text) < 5000
    type_name(value)


def test_the_classes_of_nasty_values_are_named() -> None:
    assert safe_repr(Trap()).startswith("tests.unit.core.values.test_names.Trap at 0x")
    assert safe_repr(type.__call__(Trapped)).startswith("tests.unit.core.values.test_names.Trapped at 0x")
    assert type_name(object.__new__(OddModule)) == "?.OddModule"
    assert safe_repr([SubStr("x")]).startswith("list(tests.unit.core.values.test_names.SubStr at 0x")


def test_huge_and_recursive_values_have_short_texts() -> None:
    recursive: List[Any] = [1]
    recursive.append(recursive)
    mapping: Dict[str, Any] = {}
    mapping["self"] = mapping
    assert safe_repr(recursive).startswith("list(1, list(1, builtins.list at 0x")
    assert safe_repr(mapping).startswith("{'self': {'self': builtins.dict at 0x")
    assert safe_repr(1 << 10_000_000) == "<int of 10000001 bits>"
    assert safe_repr("x" * 10**7) == repr("x" * 40) + "..."
    assert safe_repr(list(range(10**6))) == "list(0, 1, 2, 3, ...)"
    assert safe_repr({1: 2}) == "{1: 2}"
    assert safe_repr(types.SimpleNamespace()).startswith("types.SimpleNamespace at")

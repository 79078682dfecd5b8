"""Small plain values."""

from __future__ import annotations

import pickle
import pickletools
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.values.elsewhere import Foreign, Point
from xpc_instrument.core.model.errors import PayloadError
from xpc_instrument.core.values.names import type_name
from xpc_instrument.core.values.pickling import dump
from xpc_instrument.core.values.plain import are_small, dump_if_small, dumper_of_small_calls
from xpc_instrument.core.values.traits import PeerProfile

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
NESTED = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner))


@given(NESTED)
def test_what_counts_as_small_names_nothing_and_comes_back_equal(value: Any) -> None:
    body = dump_if_small(value, 1_000_000)
    assert (body is not None) == are_small((value,))
    if body is None:
        return
    assert pickle.loads(body) == value
    assert not any(opcode.name in ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD") for opcode, _, _ in pickletools.genops(body))


VALUES = ATOMS | NESTED | st.builds(Point, st.integers(), st.integers()) | st.just("x" * 5000)


@given(st.lists(VALUES, max_size=3).map(tuple), st.dictionaries(st.text(), VALUES, max_size=3), VALUES)
def test_a_call_is_small_if_all_its_values_are(args: Tuple[Any, ...], kwargs: Dict[str, Any], outcome: Any) -> None:
    body = dumper_of_small_calls(1_000_000)(args, kwargs, (1, 2, 3), outcome)
    assert (body is not None) == are_small((*args, *kwargs.values(), outcome))
    if body is not None:
        assert pickle.loads(body) == (args, kwargs, (1, 2, 3), outcome)
        assert dumper_of_small_calls(len(body))(args, kwargs, (1, 2, 3), outcome) == body
        assert dumper_of_small_calls(len(body) - 1)(args, kwargs, (1, 2, 3), outcome) is None


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2),
        Foreign(),
        [Foreign()],
        {"key": Foreign()},
        {Foreign: 1},
        [[[[1]]]],
        "x" * 5000,
        b"x" * 5000,
        list(range(100)),
        dict.fromkeys(range(100)),
        type("Integer", (int,), {})(3),
        type("Text", (str,), {})("x"),
        {1, 2},
        pickle.loads,
    ],
    ids=lambda value: type_name(value),
)
def test_what_is_large_deep_or_no_plain_value_does_not_count_as_small(value: Any) -> None:
    assert not are_small((value,))


def test_the_limit_holds_for_small_values_too() -> None:
    with pytest.raises(PayloadError, match="max-payload"):
        dump("x" * 500, PeerProfile("3.11", "3.11", 100))


def test_a_list_that_contains_itself_is_not_small() -> None:
    items: List[Any] = []
    items.append(items)
    assert not are_small((items,))

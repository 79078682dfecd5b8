"""The parameters of a target."""

from __future__ import annotations

from typing import Any

import pytest

from xpc_agent.targets.resolve import resolve
from xpc_agent.targets.signature import signature_spec


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "charge",
            [("order", 0, False), ("amount", 1, True), ("rest", 2, False), ("currency", 3, False), ("note", 3, True), ("more", 4, False)],
        ),
        ("decorated", [("a", 1, False), ("b", 1, True)]),
        ("Base.post", [("data", 1, False)]),
        ("Base.make", [("a", 1, False)]),
        ("Base.static", [("a", 1, False)]),
        ("Base.url.fset", [("value", 1, False)]),
        ("Made.__new__", [("a", 1, False)]),
        ("Mapping.get", None),
    ],
)
def test_a_signature_tells_the_parameters_without_the_bound_one(shop: Any, name: str, expected: Any) -> None:
    assert signature_spec(resolve(f"shop_of_targets:{name}")) == expected


def test_a_function_that_wraps_itself_has_a_signature_still(shop: Any) -> None:
    shop.charge.__wrapped__ = shop.charge
    spec = signature_spec(resolve("shop_of_targets:charge"))
    assert spec is not None
    assert spec[0] == ("order", 0, False)

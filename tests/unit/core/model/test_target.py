"""The syntax of targets, and which targets a glob stands for."""

from __future__ import annotations

import pytest

from xpc_instrument.core.model.target import matches, module_matches


@pytest.mark.parametrize(
    ("pattern", "target", "module", "whole"),
    [
        ("shop:charge", "shop:charge", True, True),
        ("shop:*", "shop.api:charge", False, False),
        ("shop.*:*", "shop.api:charge", True, True),
        ("shop.*:*", "shop:charge", False, False),
        ("shop.*:charge", "shop.api:Gateway.charge", True, False),
        ("shop:Gateway.*", "shop:Gateway.__init__", True, False),
        ("shop:Gateway.__init__", "shop:Gateway.__init__", True, True),
        ("shop:*.__i*", "shop:Gateway.__init__", True, True),
    ],
)
def test_what_a_pattern_matches(pattern: str, target: str, module: bool, whole: bool) -> None:
    assert module_matches(pattern, target.partition(":")[0]) is module
    assert matches(pattern, (), target) is whole

"""What patterns stand for, and what is wrong with those that are none."""

from __future__ import annotations

import pytest

from xpc_instrument.core.model.pattern import Pattern, pattern_mistake


@pytest.mark.parametrize(
    ("text", "target", "meant"),
    [
        ("**", "shop.api:Gateway.post", True),
        ("shop.**", "shop:charge", True),
        ("shop.**", "shop.api.v2:Gateway.post", True),
        ("shop.**", "shopping:charge", False),
        ("shop.*", "shop.api:charge", True),
        ("shop.*", "shop.api.v2:charge", False),
        ("shop", "shop:Gateway.post", True),
        ("shop", "shop.api:charge", False),
        ("shop:*", "shop:charge", True),
        ("shop:*", "shop:Gateway.post", False),
        ("shop:**", "shop:Gateway.post", True),
        ("shop.**:*charge*", "shop.api:recharge_all", True),
        ("shop.**:*charge*", "shop.api:Gateway.charge", False),
        ("shop.**:**.charge", "shop.api:Gateway.charge", True),
        ("sh*:charge", "shop:charge", True),
        ("shop.a*i:charge", "shop.a.i:charge", False),
    ],
)
def test_what_a_pattern_stands_for(text: str, target: str, meant: bool) -> None:
    assert pattern_mistake(text) is None
    module, _, name = target.partition(":")
    assert Pattern(text).matches(module, name) is meant


@pytest.mark.parametrize(
    "text", ["", ":", "shop:", ":charge", "shop api", "shop..api", "shop:a:b", "shop/api.py", "shop.[ab]", "a\nb", "1shop"]
)
def test_what_is_no_pattern_is_said_to_be_none_with_the_form(text: str) -> None:
    mistake = pattern_mistake(text)
    assert mistake is not None
    assert "package" in mistake

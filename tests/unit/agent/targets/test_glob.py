"""What a pattern of the config stands for."""

from __future__ import annotations

from typing import Any, List

import pytest

from tests.unit.agent.targets.conftest import load
from xpc_agent.targets.glob import expand


def names(pattern: str, module: Any, exclude: List[str]) -> List[str]:
    return sorted(target.partition(":")[2] for target in expand(f"shop_of_targets:{pattern}", exclude, module, "shop_of_targets"))


@pytest.mark.parametrize(
    ("pattern", "exclude", "expected"),
    [
        ("c*", [], ["charge", "coroutine"]),  # not `cached`, which is no function
        ("dum*", [], []),  # imported from elsewhere
        (
            "Base.*",
            [],
            ["Base.Inner.deep", "Base._Base__Hidden.deep", "Base._Base__sign", "Base.make", "Base.post", "Base.static", "Base.url"],
        ),
        ("Base.*", ["*._*", "Base.Inner.*"], ["Base.make", "Base.post", "Base.static", "Base.url"]),
        ("Base.*", ["shop_of_targets:Base.[!p]*"], ["Base.post"]),
        ("Base.__*", [], ["Base.__init__"]),
        ("Sub.*", [], []),  # has nothing of its own
        ("*.grow", [], ["Slotted.grow"]),
        ("charge", ["charge"], []),
        ("charge", ["shop_of_targets:c*"], []),
        ("absent", [], ["absent"]),  # stands for itself, so that it can be said to be missing
    ],
)
def test_a_glob_stands_for_what_the_module_defines_itself(shop: Any, pattern: str, exclude: List[str], expected: List[str]) -> None:
    assert names(pattern, shop, exclude) == expected


def test_a_name_in_many_modules_stands_for_those_that_define_it(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = load(monkeypatch, "shop_of_targets.api", "from shop_of_targets import charge, Base\nmain = 3\ndef run(): pass\n")
    assert expand("shop_of_*:charge", (), shop, "shop_of_targets") == ["shop_of_targets:charge"]
    assert expand("shop_of_*:Base.post", (), shop, "shop_of_targets") == ["shop_of_targets:Base.post"]
    assert expand("shop_of_*:cached", (), shop, "shop_of_targets") == ["shop_of_targets:cached"]
    assert expand("shop_of_*.api:run", (), api, "shop_of_targets.api") == ["shop_of_targets.api:run"]
    for name in ("charge", "Base.post", "main", "absent"):
        assert expand(f"shop_of_*:{name}", (), api, "shop_of_targets.api") == []


def test_an_alias_of_a_class_is_not_expanded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(monkeypatch, "aliases", "class A:\n    def f(self): pass\nB = A\nA.again = A\n")
    assert expand("aliases:*", (), module, "aliases") == ["aliases:A.f"]

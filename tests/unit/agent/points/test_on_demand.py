"""Targets that the config does not list: which of them a script may ask for, and that a wrong name leaves nothing behind."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, Iterator

import pytest

from xpc_agent.points.table import ProbeTable
from xpc_instrument.core.config.file import from_probes, with_on_demand
from xpc_instrument.core.model.errors import TargetError

NAME = "shop_on_demand"


@pytest.fixture
def shop() -> Iterator[Any]:
    module = sys.modules[NAME] = types.ModuleType(NAME)
    exec("def charge(n): return n\nclass Bank:\n    def pay(self): return 1\nprice = 3\n", module.__dict__)
    yield module
    del sys.modules[NAME]


@pytest.fixture(autouse=True)
def pythons_finders_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest has a finder of its own, and what others may find is waited for."""
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "pytest" not in type(finder).__module__])


def table_for(*patterns: str) -> ProbeTable:
    return ProbeTable(with_on_demand(from_probes("shop", []), patterns))


def test_what_a_pattern_covers_becomes_a_probe_point_when_it_is_asked_for_and_none_before(shop: Any) -> None:
    table = table_for(f"{NAME}.**")
    table.module_imported(shop)
    assert not table.points
    point = table.find_point(f"{NAME}:Bank.pay")
    assert point.state == "ready"
    assert list(table.points) == [f"{NAME}:Bank.pay"]
    code = shop.Bank.pay.__code__
    table.forget_unused()
    assert not table.points
    assert shop.Bank.pay.__code__ is code


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (f"{NAME}:chargee", f"the nearest names are {NAME}:charge"),
        (f"{NAME}:price", "cannot be called"),
        (f"{NAME}:Bank", "is a class"),
        (f"{NAME}.api:charge", f"Python cannot find api in {NAME}"),
        ("no_such_shop.api:charge", "there is no module no_such_shop"),
        ("jsonn:dumps", "the nearest modules are json"),
        ("xml.etre:x", "the nearest modules are xml.etree"),
        ("xpc_agent:start", "code of the agent"),
        ("xpc_instrument.core.model.target:matches", "code of the agent"),
        (f"{NAME}:a b", "white space"),
    ],
)
def test_a_name_that_is_wrong_is_refused_with_the_nearest_and_leaves_nothing(shop: Any, target: str, words: str) -> None:
    table = table_for("**")
    with pytest.raises(TargetError, match=words):
        table.find_point(target)
    assert not table.points
    assert not table.wants_module(target.partition(":")[0])


def test_what_no_pattern_covers_is_refused_as_without_patterns(shop: Any) -> None:
    with pytest.raises(TargetError, match="add it to the config, as a probe or on demand"):
        table_for("other.**").find_point(f"{NAME}:charge")


def test_a_module_that_can_be_imported_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_that_comes.py").write_text("def charge(n): return n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    table = table_for("**")
    point = table.find_point("shop_that_comes:charge")
    assert point.state == "pending"
    assert table.wants_module("shop_that_comes")
    module = types.ModuleType("shop_that_comes")
    monkeypatch.setitem(sys.modules, "shop_that_comes", module)
    exec("def charge(n): return n\n", module.__dict__)
    table.module_imported(module)
    assert point.state == "ready"
    table.forget_unused()
    assert not table.wants_module("shop_that_comes")


def test_what_a_finder_of_the_applications_own_may_bring_is_waited_for(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            raise AssertionError("code of the application ran")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert table_for("**").find_point("made_by_the_finder:charge").state == "pending"


def test_a_listed_probe_keeps_its_own_settings_where_a_pattern_covers_it_too(shop: Any) -> None:
    from xpc_instrument.core.config.file import parse

    config = parse(f'app = "shop"\non-demand = ["**"]\n[defaults]\ntimeout = 3.0\n[[probe]]\ntarget = "{NAME}:charge"\ntimeout = 0.5\n')
    table = ProbeTable(config)
    assert table.find_point(f"{NAME}:charge").config.timeout == 0.5
    assert table.find_point(f"{NAME}:Bank.pay").config.timeout == 3.0
    table.forget_unused()
    assert list(table.points) == [f"{NAME}:charge"]
    table.restore_all()

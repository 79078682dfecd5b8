"""Which module a name means, looked at without running it. Lazy ones: see `test_imports`."""

from __future__ import annotations

import sys
import types

import pytest

from xpc_agent.targets.module import find_module, main_names


def test_the_main_module_goes_by_the_name_under_which_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    main.__spec__ = None
    main.__file__ = "/srv/shop_script.py"
    assert find_module("shop_script") is main
    main.__spec__ = types.SimpleNamespace(name="shop_pkg.__main__")  # type: ignore[assignment]
    assert main_names() == ("shop_pkg.__main__", "shop_pkg")
    assert find_module("shop_pkg") is main
    assert find_module("shop_script") is None
    main.__spec__ = None
    del main.__file__
    assert main_names() == ()

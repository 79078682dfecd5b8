"""The table of probe points: what becomes of them as modules run, and that all is put back. Registrations: see `test_registrations`."""

from __future__ import annotations

import sys
import types
from typing import Any, Callable, Dict, Iterator

import pytest

from xpc_agent.points.table import ProbeTable
from xpc_instrument.core.config.file import from_probes
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import Mode

NAME = "shop_of_the_table"


@pytest.fixture
def shop() -> Iterator[Any]:
    """An empty module."""
    module = sys.modules[NAME] = types.ModuleType(NAME)
    yield module
    del sys.modules[NAME]


class Forward:
    """A hook that forwards and counts."""

    mode = Mode.AROUND

    def __init__(self) -> None:
        self.calls = 0

    def shown_in(self, form: Any) -> None:
        """It looks at no argument."""

    def not_placed(self, why: str) -> None:
        self.why = why

    def placed(self, resolved: Any, code: Any) -> None:
        """Nor at the function."""

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        self.calls += 1
        return proceed(*args, **kwargs)

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        raise AssertionError("no coroutine function is called here")


def test_a_glob_over_ten_thousand_functions_resolves_them_all_and_arms_none(shop: Any) -> None:
    source = "".join(f"def function_{number}(a):\n    return a\n" for number in range(10_000))
    namespace: Dict[str, Any] = {"__name__": NAME}
    exec(source, namespace)
    shop.__dict__.update(namespace)
    codes = {name: value.__code__ for name, value in vars(shop).items() if name.startswith("function_")}
    table = ProbeTable(from_probes("shop", [f"{NAME}:function_*"]))
    table.module_imported(shop)
    assert table.any_ready
    assert not table.points
    assert table.find_point(f"{NAME}:function_7").state == "ready"
    assert len(table.points) == 1
    assert len(table.every_point()) == len(table.points) == 10_000
    assert {point.state for point in table.points.values()} == {"ready"}
    assert all(getattr(shop, name).__code__ is code for name, code in codes.items())
    table.restore_all()


def test_a_target_that_a_glob_covers_and_its_module_has_not_is_missing_once_the_module_has_run(shop: Any) -> None:
    module = sys.modules.pop(NAME)
    table = ProbeTable(from_probes("shop", [f"{NAME}:*"]))
    promised = table.find_point(f"{NAME}:charg")
    with pytest.raises(TargetError, match="is no probe point"):
        table.find_point(f"{NAME}:*")
    assert promised.state == "pending"
    exec("def charge(): pass", module.__dict__)
    sys.modules[NAME] = module
    table.module_imported(module)
    assert promised.state == "missing"
    assert "charge" in promised.reason
    assert table.find_point(f"{NAME}:charge").state == "ready"
    table.restore_all()


def test_two_accessors_of_a_property_that_wrapt_patches_are_both_put_back(shop: Any) -> None:
    exec("class Box:\n    def get(self): return 1\n    def put(self, x): pass\n    size = property(get, put)\n", shop.__dict__)
    raw = vars(shop.Box)["size"]
    config = from_probes("shop", [f"{NAME}:Box.size.fget", f"{NAME}:Box.size.fset"])
    for probe in config.probes:
        object.__setattr__(probe, "patcher", "wrapt")
    table = ProbeTable(config)
    table.module_imported(shop)
    assert {point.state for point in table.points.values()} == {"ready"}
    table.restore_all()
    assert vars(shop.Box)["size"] is raw


def test_a_pending_hook_whose_target_cannot_be_armed_leaves_the_import_alone(shop: Any) -> None:
    exec(
        "class Own(property):\n    def __init__(self, get): super().__init__(get)\n"
        "class Parent:\n    @Own\n    def size(self): return 1\nclass Child(Parent): pass\n",
        shop.__dict__,
    )
    table = ProbeTable(from_probes("shop", [f"{NAME}:Child.size"]))
    sys.modules.pop(NAME)
    point = table.find_point(f"{NAME}:Child.size")
    sys.modules[NAME] = shop
    waiting: Any = Forward()
    point.hooks = [waiting]
    table.module_imported(shop)
    assert (point.state, point.patch) == ("unpatchable", None)
    assert "cannot be made" in point.reason
    assert waiting.why == point.reason


@pytest.mark.parametrize(("name", "patcher"), [("charge", "code"), ("charge", "wrapt"), ("cached", "wrapt"), ("clock", "wrapt")])
def test_a_target_whose_module_runs_again_is_hooked_again(shop: Any, name: str, patcher: str) -> None:
    source = "import functools, time\ndef charge(): return 1\ncached = functools.lru_cache()(lambda: 1)\nclock = time.monotonic\n"
    exec(source, shop.__dict__)
    config = from_probes("shop", [f"{NAME}:{name}"])
    object.__setattr__(config.probes[0], "patcher", patcher)
    table = ProbeTable(config)
    table.module_imported(shop)
    # What others may have taken a copy of by the time that somebody asks is wrapped at once.
    assert bool(table.points) is (patcher == "wrapt")
    point = table.find_point(f"{NAME}:{name}")
    hook: Any = Forward()
    point.hooks = [hook]
    point.refresh()
    for calls in (1, 2):
        getattr(shop, name)()
        assert hook.calls == calls
        # A second look without a reload in between changes nothing.
        table.module_imported(shop)
    exec(source, shop.__dict__)
    table.module_imported(shop)
    getattr(shop, name)()
    assert hook.calls == 3
    table.restore_all()
    getattr(shop, name)()
    assert hook.calls == 3


def test_a_point_is_pending_until_its_module_has_run_and_missing_if_it_has_no_such_name(shop: Any) -> None:
    table = ProbeTable(from_probes("shop", [f"{NAME}:charge", f"{NAME}:absent", f"{NAME}:later"]))
    sys.modules.pop(NAME)
    assert {point.state for point in table.every_point()} == {"pending"}
    sys.modules[NAME] = shop
    first_ready = []
    table.on_first_ready = lambda: first_ready.append(table.any_ready)
    exec("def charge(): pass\n", shop.__dict__)
    table.module_imported(shop)
    states = {name.partition(":")[2]: point.state for name, point in table.points.items()}
    assert states == {"charge": "ready", "absent": "missing", "later": "missing"}
    # The main module defines as it runs: a missing one is looked for again.
    exec("def later(): pass\n", shop.__dict__)
    assert table.find_point(f"{NAME}:later").state == "ready"
    assert first_ready == [True]
    table.restore_all()


def test_a_glob_is_a_row_of_its_own_until_a_function_matches(shop: Any) -> None:
    table = ProbeTable(from_probes("shop", [f"{NAME}:ch*", f"{NAME}:charge"]))
    # The target that is named beside it is not there either.
    assert [(point.target, point.state) for point in table.every_point()] == [(f"{NAME}:charge", "missing"), (f"{NAME}:ch*", "pending")]
    table = ProbeTable(from_probes("shop", [f"{NAME}:ch*"]))
    assert [(point.target, point.state) for point in table.every_point()] == [(f"{NAME}:ch*", "pending")]
    exec("def charge(): pass\n", shop.__dict__)
    table.module_imported(shop)
    assert [(point.target, point.state) for point in table.every_point()] == [(f"{NAME}:charge", "ready")]
    table.restore_all()

"""From a target to what it names: every kind of attribute, with the reason where it cannot be hooked."""

from __future__ import annotations

import functools
import sys
from typing import Any

import pytest

from xpc_agent.targets.glob import expand
from xpc_agent.targets.resolve import Binding, Kind, UnpatchableError, resolve
from xpc_instrument.core.model.errors import TargetError


@pytest.mark.parametrize(
    ("name", "kind", "binding", "inherited"),
    [
        ("charge", Kind.SYNC, Binding.NONE, False),
        ("coroutine", Kind.COROUTINE, Binding.NONE, False),
        ("generator", Kind.GENERATOR, Binding.NONE, False),
        ("async_generator", Kind.ASYNC_GENERATOR, Binding.NONE, False),
        ("cached", Kind.SYNC, Binding.NONE, False),
        ("bound", Kind.SYNC, Binding.NONE, False),
        ("Base.__init__", Kind.SYNC, Binding.INSTANCE, False),
        ("Base.post", Kind.SYNC, Binding.INSTANCE, False),
        ("Base.static", Kind.SYNC, Binding.NONE, False),
        ("Base.make", Kind.SYNC, Binding.CLASS, False),
        ("Base.Inner.deep", Kind.SYNC, Binding.INSTANCE, False),
        ("Sub.post", Kind.SYNC, Binding.INSTANCE, True),
        ("Sub.make", Kind.SYNC, Binding.CLASS, True),
        ("Sub.Inner.deep", Kind.SYNC, Binding.INSTANCE, False),
        ("Meta.register", Kind.SYNC, Binding.INSTANCE, False),
        ("Slotted.grow", Kind.SYNC, Binding.INSTANCE, False),
        ("Mapping.get", Kind.SYNC, Binding.INSTANCE, True),
        ("Made.__new__", Kind.SYNC, Binding.CLASS, False),
    ],
)
def test_what_a_target_names(shop: Any, name: str, kind: Kind, binding: Binding, inherited: bool) -> None:
    resolved = resolve(f"shop_of_targets:{name}")
    assert (resolved.kind, resolved.binding, resolved.inherited, resolved.accessor) == (kind, binding, inherited, "")
    path, _, last = name.rpartition(".")
    owner = functools.reduce(getattr, path.split("."), shop) if path else shop
    assert resolved.owner is owner
    assert resolved.attribute == last
    if not inherited:
        assert resolved.raw is vars(owner)[last]
    assert resolved.function is getattr(resolved.raw, "__func__", resolved.raw) or name == "bound"


def test_a_private_name_is_found_as_the_compiler_has_stored_it(shop: Any) -> None:
    assert resolve("shop_of_targets:Base.__sign").attribute == "_Base__sign"
    assert resolve("shop_of_targets:Base._Base__sign").function is vars(shop.Base)["_Base__sign"]
    assert resolve("shop_of_targets:Base.__Hidden.deep").owner is vars(shop.Base)["_Base__Hidden"]
    assert resolve("shop_of_targets:__.__private").attribute == "__private"


@pytest.mark.parametrize(("name", "accessor"), [("url", "fget"), ("url.fget", "fget"), ("url.fset", "fset")])
@pytest.mark.parametrize("cls", ["Base", "Sub"])
def test_a_property_is_named_by_itself_or_by_its_accessors(shop: Any, cls: str, name: str, accessor: str) -> None:
    resolved = resolve(f"shop_of_targets:{cls}.{name}")
    url = vars(shop.Base)["url"]
    assert (resolved.raw, resolved.accessor, resolved.attribute) == (url, accessor, "url")
    assert resolved.function is getattr(url, accessor)
    assert resolved.inherited == (cls == "Sub")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Base.url.fdel", "the property url has no fdel"),
        ("LIMIT", "is an object of type int, which cannot be called"),
        ("LIMIT.real", "LIMIT is an object of type int, expected a class"),
        ("Base.__doc__", "is an object of type str"),
        ("Slotted.size", "is an object of type member_descriptor, which cannot be called"),
        ("Base", r"name its constructor, shop_of_targets:Base\.__init__$"),
        ("Made", r"name its constructor, shop_of_targets:Made\.__new__$"),
        ("Plain", "is a class: name one of its methods"),
        ("Plain.__init__", "has no __init__ of its own.*hook one of its methods"),
        ("Made.__init__", "has no __init__ of its own.*hook __new__"),
        ("Base.__new__", "has no __new__ of its own.*hook __init__"),
        ("collections.OrderedDict", "is a class"),
        ("collections.OrderedDict.get", "built-in or extension type"),
        ("Base.post.fget", "Base.post is an object of type function, expected a class"),
    ],
)
def test_what_cannot_be_hooked_says_why(shop: Any, name: str, reason: str) -> None:
    with pytest.raises(UnpatchableError, match=reason):
        resolve(f"shop_of_targets:{name}")


@pytest.mark.skipif(sys.version_info < (3, 10), reason="immutable heap types are new in Python 3.10")
def test_an_immutable_type_of_the_standard_library_cannot_be_hooked() -> None:
    with pytest.raises(UnpatchableError, match=r"re:Pattern\.search: .*Pattern is an? (immutable|built-in)"):
        resolve("re:Pattern.search")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop_of_targets:chrge", "the module shop_of_targets has no 'chrge'; the nearest names are shop_of_targets:charge"),
        ("shop_of_targets:Base.pots", "shop_of_targets:Base has no 'pots'; the nearest names are shop_of_targets:Base.post"),
        ("shop_of_targets:Sub.pots", "shop_of_targets:Sub has no 'pots'; the nearest names are shop_of_targets:Sub.post"),
        ("shop_of_targets:Bsae.post", "the nearest names are shop_of_targets:Base"),
        ("shop_of_targets:Base.Iner.deep", "shop_of_targets:Base has no 'Iner'; the nearest names are shop_of_targets:Base.Inner"),
        ("shop_of_targets.gateway:post", "the module shop_of_targets.gateway is not imported"),
        ("shop_of_targets:zzz", "has no 'zzz'"),
    ],
)
def test_a_target_that_does_not_exist_names_the_nearest(shop: Any, target: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(target)
    assert not isinstance(caught.value, UnpatchableError)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{target}: ")


@pytest.mark.parametrize("target", ["", "shop", ":charge", "shop:", "shop:a:b"])
def test_what_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(TargetError, match=r"expected package\.module:Qualified\.name"):
        resolve(target)


def test_a_mock_is_a_plain_callable(shop: Any) -> None:
    from unittest.mock import MagicMock

    shop.mock = MagicMock()
    resolved = resolve("shop_of_targets:mock")
    assert (resolved.kind, resolved.binding, shop.mock.mock_calls) == (Kind.SYNC, Binding.NONE, [])


def test_a_bound_method_has_the_kind_of_its_function_and_binds_nothing_more(shop: Any) -> None:
    class Client:
        async def get(self, url: str) -> None: ...

    shop.get = shop.Plain.get = Client().get
    for name in ("get", "Plain.get"):
        resolved = resolve(f"shop_of_targets:{name}")
        assert (resolved.kind, resolved.binding) == (Kind.COROUTINE, Binding.NONE)


@pytest.mark.parametrize("descriptor", [property(lambda self: 1), classmethod(lambda cls: 1)])
def test_a_descriptor_in_a_module_is_no_function(shop: Any, descriptor: Any) -> None:
    shop.lonely = descriptor
    with pytest.raises(UnpatchableError, match="which cannot be called"):
        resolve("shop_of_targets:lonely")
    assert "shop_of_targets:lonely" not in expand("shop_of_targets:*", (), shop, "shop_of_targets")


@pytest.mark.parametrize("slotted", [False, True])
def test_what_stands_in_a_modules_place_is_looked_at_like_one(monkeypatch: pytest.MonkeyPatch, slotted: bool) -> None:
    class Settings:
        if slotted:
            __slots__ = ()

    settings = Settings()
    monkeypatch.setitem(sys.modules, "settings_of_targets", settings)
    if not slotted:
        vars(settings)["reload"] = len
        assert resolve("settings_of_targets:reload").function is len
    with pytest.raises(TargetError, match="has no 'absent'"):
        resolve("settings_of_targets:absent")
    assert expand("settings_of_targets:*", (), settings, "settings_of_targets") == []

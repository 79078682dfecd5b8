"""From a target to what it names: every kind of attribute, with the reason where it cannot be hooked, and no code of the application run."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any, Iterator, List

import pytest

from xpc_agent.targets import resolve as targets
from xpc_agent.targets.resolve import Binding, Kind, UnpatchableError, expand, find_module, resolve, signature_spec
from xpc_instrument.core.model.errors import TargetError

pytestmark = pytest.mark.no_process

SOURCE = """
import collections, functools
from json import dumps
import json as reexported

def charge(order, /, amount=1, *rest, currency, note="", **more): pass
async def coroutine(x): pass
def generator(): yield
async def async_generator(): yield

def decorate(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)
    return wrapper

@decorate
def decorated(a, b=2): pass

cached = functools.lru_cache(maxsize=1)(charge)
LIMIT = 3

class Meta(type):
    def register(cls): pass

class Base(metaclass=Meta):
    "A gateway."
    def __init__(self, url): pass
    def post(self, data): pass
    def __sign(self): pass
    @staticmethod
    def static(a): pass
    @classmethod
    def make(cls, a): pass
    @property
    def url(self): return 1
    @url.setter
    def url(self, value): pass
    class Inner:
        def deep(self): pass
    class __Hidden:
        def deep(self): pass

class Sub(Base):
    pass

class Slotted:
    __slots__ = ("size",)
    def grow(self): pass

class __:
    def __private(self): pass

class Mapping(dict):
    pass

class Plain:
    "Without a constructor."

class Made:
    def __new__(cls, a): return object.__new__(cls)

bound = Plain().__repr__
"""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return load(monkeypatch, "shop_of_targets", SOURCE)


def load(monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(source, vars(module))
    return module


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


# code of the application --------------------------------------------------------------------------------------------------

TOUCHY = """
armed = False

def touched(*args, **kwargs):
    raise SystemError("code of the application ran") if armed else AttributeError()

class Touchy:
    "Says nothing without running: a proxy, a lazy object, a mock."
    __getattr__ = __getattribute__ = __eq__ = __call__ = __get__ = touched
    __hash__ = None

class Descriptor:
    def __get__(self, instance, owner): touched()

class Meta(type):
    __getattribute__ = touched
    __name__ = __mro__ = __dict__ = __flags__ = property(touched)

class Gateway(metaclass=Meta):
    computed = Descriptor()
    def post(self): pass

proxy = Touchy()

class Holder:
    static = staticmethod(proxy)
    klass = classmethod(proxy)

def __getattr__(name): touched()

def function(): pass
function.__wrapped__ = proxy
"""


@pytest.fixture
def touchy(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    class Module(types.ModuleType):
        armed = False

        def __getattribute__(self, name: str) -> Any:
            if Module.armed:
                raise SystemError("code of the application ran")
            return super().__getattribute__(name)

    module = Module("touchy")
    exec(TOUCHY, vars(module))
    vars(module)["armed"] = Module.armed = True
    monkeypatch.setitem(sys.modules, "touchy", module)
    yield module
    Module.armed = False


def test_looking_for_a_target_runs_no_code_of_the_application(touchy: Any) -> None:
    namespace = types.ModuleType.__getattribute__(touchy, "__dict__")
    gateway = namespace["Gateway"]
    post = resolve("touchy:Gateway.post")
    assert post.function is type.__getattribute__(gateway, "post")
    assert resolve("touchy:proxy").raw is namespace["proxy"]
    assert resolve("touchy:Holder.static").function is namespace["proxy"]
    assert resolve("touchy:Holder.klass").function is namespace["proxy"]
    assert signature_spec(resolve("touchy:function")) is None
    for missing in ("touchy:absent", "touchy:Gateway.absent"):
        with pytest.raises(TargetError, match="has no 'absent'"):
            resolve(missing)
    for unpatchable in ("touchy:proxy.name", "touchy:Gateway.computed", "touchy:Gateway"):
        with pytest.raises(UnpatchableError):
            resolve(unpatchable)


def test_expanding_a_glob_runs_no_code_of_the_application(touchy: Any) -> None:
    found = expand("touchy:*", ["*touched"], touchy, "touchy")
    assert sorted(found) == ["touchy:Gateway.post", "touchy:Holder.klass", "touchy:Holder.static", "touchy:function"]


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


def test_the_main_module_goes_by_the_name_under_which_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    main.__spec__ = None
    main.__file__ = "/srv/shop_script.py"
    assert find_module("shop_script") is main
    main.__spec__ = types.SimpleNamespace(name="shop_pkg.__main__")  # type: ignore[assignment]
    assert targets.main_names() == ("shop_pkg.__main__", "shop_pkg")
    assert find_module("shop_pkg") is main
    assert find_module("shop_script") is None
    main.__spec__ = None
    del main.__file__
    assert targets.main_names() == ()


# globs --------------------------------------------------------------------------------------------------------------------


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


# signatures ---------------------------------------------------------------------------------------------------------------


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

"""Looking at a target runs no code of the application."""

from __future__ import annotations

import sys
import types
from typing import Any, Iterator

import pytest

from xpc_agent.targets.glob import expand
from xpc_agent.targets.resolve import UnpatchableError, resolve
from xpc_agent.targets.signature import signature_spec
from xpc_instrument.core.model.errors import TargetError

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

"""In one process: what a hookable function costs while no hook is armed, and what the armed path costs without the crossing.

The bare function is measured twice, as two functions with equal code: their ratio is the noise floor.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Tuple

from xpc_agent.dispatch import Dispatcher, Invocation, Plan
from xpc_agent.patching import Patch, make_patch
from xpc_agent.targets import resolve
from xpc_instrument.modes import Mode

from .measure import Comparison, Group, TimeFunction, timer


class Forward:
    """An `around` hook in the application's own process that only proceeds."""

    mode = Mode.AROUND

    def observe(self, invocation: Invocation) -> None:
        pass

    async def observe_async(self, invocation: Invocation) -> None:
        pass

    def replace(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        return proceed(*args, **kwargs)

    async def replace_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        return await proceed(*args, **kwargs)


# kind -> its target and the statement that calls it; `order` is an instance, `Order` its class.
KINDS: Dict[str, Tuple[str, str]] = {
    "function": ("function", 'function(12, "USD")'),
    "closure": ("closure", 'closure(12, "USD")'),
    "method": ("Order.method", 'order.method(12, "USD")'),
    "class method": ("Order.class_method", 'Order.class_method(12, "USD")'),
    "static method": ("Order.static_method", 'Order.static_method(12, "USD")'),
    "property": ("Order.value", "order.value"),
    "`async def`": ("coroutine", 'drive(coroutine(12, "USD"))'),
    "generator": ("generator", "next(generator(12))"),
    "C function": ("clock", "clock()"),
}
# What cannot be patched by code swap: its disarmed cost is wrapt's.
_IN_C = ("C function",)


def drive(coroutine: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        pass


def _load(name: str) -> Any:
    """A copy of the module `kinds`, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("kinds.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _patched(stack: ExitStack, target: str, patcher: str, dispatcher: Dispatcher) -> Patch:
    patch = make_patch(resolve(target), dispatcher, patcher)
    patch.install()
    stack.callback(patch.uninstall)
    return patch


def _timers(way: str, module: Any, kinds: Iterable[str]) -> Dict[str, TimeFunction]:
    names = {**vars(module), "order": module.Order(), "drive": drive}
    return {f"{kind}, {way}": timer(KINDS[kind][1], **names) for kind in kinds}


@contextmanager
def _disarmed() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for way, patcher in (("bare", ""), ("bare again", ""), ("code", "code"), ("wrapt", "wrapt")):
            module = _load(f"benchmarks_{way.replace(' ', '_')}")
            stack.callback(sys.modules.pop, module.__name__)
            kinds = [kind for kind in KINDS if patcher != "code" or kind not in _IN_C]
            for kind in kinds if patcher else ():
                patch = _patched(stack, f"{module.__name__}:{KINDS[kind][0]}", patcher, Dispatcher())
                # Armed once: what is measured is a function that was hooked and is so no more.
                patch.arm()
                patch.disarm()
            ways.update(_timers(way, module, kinds))
        yield ways


def _closure(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@contextmanager
def _forwarding() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        dispatcher = Dispatcher()
        dispatcher.plan = Plan([Forward()])
        kinds = ("function", "method")
        ways: Dict[str, TimeFunction] = {}
        for way, patcher in (("bare", ""), ("closure", ""), ("code", "code"), ("wrapt", "wrapt")):
            module = _load(f"benchmarks_{way}")
            stack.callback(sys.modules.pop, module.__name__)
            if way == "closure":
                module.function = _closure(module.function)
                module.Order.method = _closure(module.Order.method)
            for kind in kinds if patcher else ():
                _patched(stack, f"{module.__name__}:{KINDS[kind][0]}", patcher, dispatcher).arm()
            ways.update(_timers(way, module, kinds))
        yield ways


def _disarmed_rows(kind: str) -> Iterator[Comparison]:
    bare = f"{kind}, bare"
    yield Comparison(f"{kind}: bare (the noise floor)", f"{kind}, bare again", bare)
    if kind not in _IN_C:
        yield Comparison(f"{kind}: disarmed, code swap", f"{kind}, code", bare, below=2)
    yield Comparison(f"{kind}: disarmed, wrapt{'' if kind in _IN_C else ' (the old way)'}", f"{kind}, wrapt", bare)


def _forwarding_rows(kind: str) -> Iterator[Comparison]:
    bare, closure = f"{kind}, bare", f"{kind}, closure"
    yield Comparison(f"{kind}: closure `*args, **kwargs`", closure, bare)
    # What each adds to the bare call is compared, not the calls.
    yield Comparison(f"{kind}: armed, only forwarding, code swap", f"{kind}, code", closure, below=2.5, beyond=bare)
    yield Comparison(f"{kind}: armed, only forwarding, wrapt", f"{kind}, wrapt", closure, beyond=bare)


DISARMED = Group("disarmed", _disarmed, tuple(row for kind in KINDS for row in _disarmed_rows(kind)), share=0.2)
FORWARDING = Group("forwarding", _forwarding, tuple(row for kind in ("function", "method") for row in _forwarding_rows(kind)), share=0.5)

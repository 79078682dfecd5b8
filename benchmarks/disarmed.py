"""In one process: what a hookable function costs while no hook is armed, and what the armed path costs without the crossing.

The bare function is measured twice, as two functions with equal code: their ratio is the noise floor.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping

from xpc_agent.dispatch import Dispatcher, Invocation, Plan
from xpc_agent.patching import Patch, make_patch
from xpc_agent.targets import resolve
from xpc_instrument.modes import Mode

from . import targets
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


def _call(function: Callable[..., Any]) -> TimeFunction:
    assert function(12, "USD") == 12
    return timer('function(12, "USD")', function=function)


def _call_method(name: str) -> TimeFunction:
    order = targets.Order()
    assert getattr(order, name)(12, "USD") == 12
    return timer(f'order.{name}(12, "USD")', order=order)


def _patched(stack: ExitStack, target: str, patcher: str, dispatcher: Dispatcher) -> Patch:
    patch = make_patch(resolve(f"{targets.__name__}:{target}"), dispatcher, patcher)
    patch.install()
    stack.callback(patch.uninstall)
    return patch


@contextmanager
def _disarmed() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        for owner in ("", "Order."):
            for name, patcher in (("swapped", "code"), ("wrapped", "wrapt")):
                patch = _patched(stack, owner + name, patcher, Dispatcher())
                # Armed once: what is measured is a function that was hooked and is so no more.
                patch.arm()
                patch.disarm()
        ways: Dict[str, TimeFunction] = {}
        names: List[str] = ["bare", "bare_again", "swapped", "wrapped"]
        for name in names:
            ways[f"function, {name}"] = _call(getattr(targets, name))
            ways[f"method, {name}"] = _call_method(name)
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
        for name, patcher in (("swapped", "code"), ("wrapped", "wrapt")):
            _patched(stack, name, patcher, dispatcher).arm()
        yield {
            "bare": _call(targets.bare),
            "closure": _call(_closure(targets.bare_again)),
            "swapped": _call(targets.swapped),
            "wrapped": _call(targets.wrapped),
        }


DISARMED = Group(
    "disarmed",
    _disarmed,
    tuple(
        comparison
        for kind in ("function", "method")
        for comparison in (
            Comparison(f"bare {kind} (the noise floor)", f"{kind}, bare_again", f"{kind}, bare"),
            Comparison(f"disarmed {kind}, code swap", f"{kind}, swapped", f"{kind}, bare", below=2),
            Comparison(f"disarmed {kind}, wrapt (the old way)", f"{kind}, wrapped", f"{kind}, bare"),
        )
    ),
)

FORWARDING = Group(
    "forwarding",
    _forwarding,
    (
        Comparison("closure `*args, **kwargs`", "closure", "bare"),
        Comparison("armed, only forwarding, code swap", "swapped", "closure"),
        Comparison("armed, only forwarding, wrapt", "wrapped", "closure"),
    ),
)

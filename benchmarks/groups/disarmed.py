"""In one process: what a hookable function costs while no hook is armed, and what the armed path costs without the crossing.

The bare function is measured twice, as two functions with equal code: their ratio is the noise floor. What else one would use stands
beside it: wrapt's FunctionWrapper, a closure, and a callback of `sys.monitoring`. These three are always on.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

import wrapt

from xpc_agent.hooks.alone import around
from xpc_agent.hooks.dispatch import Dispatcher, HookChain, Invocation
from xpc_agent.hooks.entrance import Entrance
from xpc_agent.hooks.gate import ALWAYS, Proceeding, Way
from xpc_agent.patching import Patch, make_patch
from xpc_agent.patching.inside.versions import interpreter_unknown
from xpc_agent.targets.resolve import Kind, resolve
from xpc_instrument.core.calls.outcome import Arguments, Outcome
from xpc_instrument.core.model.target import Mode

from ..measure.timing import Comparison, Group, Line, Plot, TimeFunction, timer
from ..processes.monitoring import monitored
from ..processes.peers import ROOT


class Waits(Proceeding):
    """Where such a hook stands while the body runs that it is inside of: it makes nothing of the outcome."""

    changed: Optional[Arguments] = None

    def tell(self, outcome: Outcome) -> Outcome:
        return outcome

    def abandon(self) -> None:
        pass


class Forward:
    """An `around` hook in the application's own process that only proceeds."""

    mode = Mode.AROUND
    waits = Waits()

    def __init__(self) -> None:
        self.way = Way(ALWAYS, around(self))
        self.alone: Optional[Way] = self.way

    def goes_inside(self, kind: Kind) -> bool:
        return True

    def cross(self, args: Any, kwargs: Any, bound: bool, number: int = 0) -> Waits:
        return self.waits

    def call_observer(self, invocation: Invocation) -> None:
        pass

    async def call_observer_async(self, invocation: Invocation) -> None:
        pass

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        return proceed(*args, **kwargs)

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        return await proceed(*args, **kwargs)


class Idle(Forward):
    """A hook that the function's code calls when it begins and when it ends, and that has nothing to do."""

    def __init__(self) -> None:
        self.way = Way(ALWAYS)
        self.way.entrance = Entrance("an idle hook", {"begun": (None, (None,))}, "return begun", "_, ", "pass", "pass")
        self.alone = self.way


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
_FORWARDED = ("function", "method")
_RAISING = "function that raises"
_RAISED = {_RAISING: ("raising", 'caught(12, "USD")')}
# With so many hooks in the same process.
_HOOKS = (1, 2, 5)
# Hooks go inside of functions from there on.
INSIDE = "Python 3.11" if interpreter_unknown() else ""
_IDLE = "inside, idle"
_MONITORING = "" if hasattr(sys, "monitoring") else "Python 3.12"


def drive(coroutine: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        pass


def load_kinds(name: str, file: str = "benchmarks/processes/kinds.py") -> Any:
    """A copy of the module `kinds`, or of another, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, ROOT / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def patched(stack: ExitStack, target: str, patcher: str, dispatcher: Dispatcher) -> Patch:
    """Make a target hookable, until the stack is closed."""
    patch = make_patch(resolve(target), dispatcher, patcher)
    patch.install()
    stack.callback(patch.uninstall)
    return patch


def timers(way: str, module: Any, kinds: Iterable[str]) -> Dict[str, TimeFunction]:
    """A way for each kind that the module has."""
    names = {**vars(module), "order": module.Order(), "drive": drive}
    return {f"{kind}, {way}": timer({**KINDS, **_RAISED}[kind][1], **names) for kind in kinds}


@contextmanager
def _disarmed() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for way, patcher in (("bare", ""), ("bare again", ""), ("code", "code"), ("wrapt", "wrapt")):
            module = load_kinds(f"benchmarks_{way.replace(' ', '_')}")
            stack.callback(sys.modules.pop, module.__name__)
            kinds = [kind for kind in KINDS if patcher != "code" or kind not in _IN_C]
            for kind in kinds if patcher else ():
                patch = patched(stack, f"{module.__name__}:{KINDS[kind][0]}", patcher, Dispatcher())
                # Armed once: what is measured is a function that was hooked and is so no more.
                patch.arm()
                patch.disarm()
            ways.update(timers(way, module, kinds))
        for way, wrap in (("closure", closure_around), ("FunctionWrapper", _function_wrapper)):
            module = load_kinds(f"benchmarks_{way}")
            stack.callback(sys.modules.pop, module.__name__)
            for kind in KINDS:
                replace(module, KINDS[kind][0], wrap)
            ways.update(timers(way, module, KINDS))
        if not _MONITORING:
            module = load_kinds("benchmarks_monitoring")
            stack.callback(sys.modules.pop, module.__name__)
            kinds = [kind for kind in KINDS if kind not in _IN_C]
            stack.enter_context(monitored([function_of(module, KINDS[kind][0]) for kind in kinds]))
            ways.update(timers("monitoring", module, kinds))
        yield ways


def closure_around(function: Callable[..., Any]) -> Callable[..., Any]:
    """What anyone would write."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def _function_wrapper(function: Callable[..., Any]) -> Any:
    def wrapper(wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    return wrapt.FunctionWrapper(function, wrapper)


def replace(module: Any, target: str, wrap: Callable[[Callable[..., Any]], Any]) -> None:
    """Put what `wrap` makes of a function in its place. What holds a function, such as a class method, is made anew around it."""
    *owners, name = target.split(".")
    owner = getattr(module, owners[0]) if owners else module
    raw = vars(owner)[name]
    if isinstance(raw, (classmethod, staticmethod)):
        setattr(owner, name, type(raw)(wrap(raw.__func__)))
    elif isinstance(raw, property):
        setattr(owner, name, property(wrap(raw.fget)))  # type: ignore[arg-type]
    else:
        setattr(owner, name, wrap(raw))


def function_of(module: Any, target: str) -> Any:
    """The plain function of a target."""
    found: List[Any] = []
    replace(module, target, lambda function: found.append(function) or function)  # type: ignore[func-returns-value]
    return found[0]


@contextmanager
def _forwarding() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        ways: Dict[str, TimeFunction] = {}
        for way, patcher, hooks in [
            ("bare", "", 0),
            ("closure", "", 0),
            *((_way_of("code", hooks), "code", hooks) for hooks in _HOOKS),
            *((_way_of("inside", hooks), "inside", hooks) for hooks in _HOOKS if not INSIDE),
            *((_IDLE, "inside", 1) for _ in [1] if not INSIDE),
            ("wrapt", "wrapt", 1),
        ]:
            module = load_kinds(f"benchmarks_{way.replace(' ', '_')}")
            stack.callback(sys.modules.pop, module.__name__)
            for target, _ in ({**KINDS, **_RAISED}[kind] for kind in (*_FORWARDED, _RAISING)):
                if way == "closure":
                    replace(module, target, closure_around)
                elif patcher:
                    dispatcher = Dispatcher()
                    dispatcher.chain = HookChain([Idle() if way == _IDLE else Forward() for _ in range(hooks)])
                    patched(stack, f"{module.__name__}:{target}", patcher, dispatcher).arm()
            ways.update(timers(way, module, (*_FORWARDED, _RAISING)))
        yield ways


def _way_of(patcher: str, hooks: int) -> str:
    return patcher if hooks == 1 else f"{patcher} {hooks}"


def _disarmed_rows(kind: str) -> Iterator[Comparison]:
    bare = f"{kind}, bare"
    yield Comparison(f"{kind}: bare (the noise floor)", f"{kind}, bare again", bare)
    if kind not in _IN_C:
        yield Comparison(f"{kind}: disarmed, code swap", f"{kind}, code", bare, below=2)
    yield Comparison(f"{kind}: disarmed, wrapt{'' if kind in _IN_C else ' (the old way)'}", f"{kind}, wrapt", bare)
    yield Comparison(f"{kind}: wrapt's FunctionWrapper", f"{kind}, FunctionWrapper", bare)
    yield Comparison(f"{kind}: closure `*args, **kwargs`", f"{kind}, closure", bare)
    if kind not in _IN_C:
        yield Comparison(f"{kind}: `sys.monitoring`, `PY_START`", f"{kind}, monitoring", bare, needs=_MONITORING)


def _forwarding_rows(kind: str) -> Iterator[Comparison]:
    bare, closure = f"{kind}, bare", f"{kind}, closure"
    yield Comparison(f"{kind}: closure `*args, **kwargs`", closure, bare)
    # What each adds to the bare call is compared, not the calls.
    yield Comparison(f"{kind}: armed, only forwarding, inside", f"{kind}, {_IDLE}", closure, below=1.2, beyond=bare, needs=INSIDE)
    if kind == _RAISING:
        return
    for hooks in _HOOKS:
        more = f", {hooks} hooks" if hooks > 1 else ""
        way = f"{kind}, {_way_of('inside', hooks)}"
        yield Comparison(f"{kind}: `around` that proceeds, inside{more}", way, closure, beyond=bare, needs=INSIDE)
        way = f"{kind}, {_way_of('code', hooks)}"
        yield Comparison(f"{kind}: armed, only forwarding, code swap{more}", way, closure, below=2.5 if hooks == 1 else None, beyond=bare)
    yield Comparison(f"{kind}: armed, only forwarding, wrapt", f"{kind}, wrapt", closure, beyond=bare)


def _bar(kind: str, label: str, way: str, ours: bool = False) -> Line:
    return Line(f"{kind}: {label}", ((0.0, f"{kind}, {way}"),), ours, over=f"{kind}, bare")


def _peer_bars(kind: str) -> Iterator[Line]:
    yield _bar(kind, "bare again (noise)", "bare again")
    yield _bar(kind, "disarmed (code swap)", "code", ours=True)
    yield _bar(kind, "a closure", "closure")
    yield _bar(kind, "wrapt's FunctionWrapper", "FunctionWrapper")
    yield _bar(kind, "sys.monitoring callback", "monitoring")


def _kind_bars() -> Iterator[Line]:
    for kind in KINDS:
        ours = "wrapt" if kind in _IN_C else "code"
        yield _bar(kind, f"disarmed ({'wrapt' if kind in _IN_C else 'code swap'})", ours, ours=True)
        yield _bar(kind, "wrapt's FunctionWrapper", "FunctionWrapper")


_RATIO = "time for one call, over the bare call"

DISARMED = Group(
    "disarmed",
    _disarmed,
    tuple(row for kind in KINDS for row in _disarmed_rows(kind)),
    share=0.2,
    title="Hookable, and no hook is armed",
    about="""\
Callables that are hookable and have been armed once, over the bare ones. Two equal bare ones over each other show the noise. Code swap
puts the original code object back; what has no code object, such as a C function, goes through wrapt. Beside them stands what else one
would put between a caller and a function, which is always on: a closure, wrapt's FunctionWrapper, and a callback of `sys.monitoring`
that is told when the one code object begins.""",
    why="""\
A C function has no code that could be swapped, so its name is bound to a wrapper, which asks in C whether a hook is armed. Rows of
wrapt on Python functions are what `patcher = "wrapt"` costs; `auto` does not choose it for them.""",
    plots=(
        Plot(
            "disarmed",
            "Nothing armed: what a call costs",
            tuple(bar for kind in _FORWARDED for bar in _peer_bars(kind)),
            y=_RATIO,
            log_y=True,
        ),
        Plot("disarmed-kinds", "Nothing armed: every kind of callable", tuple(_kind_bars()), y=_RATIO, log_y=True),
    ),
)

FORWARDING = Group(
    "forwarding",
    _forwarding,
    tuple(row for kind in (*_FORWARDED, _RAISING) for row in _forwarding_rows(kind)),
    share=0.5,
    title="Armed, without leaving the process",
    about="""\
Hooks in the same process that only proceed: what the armed path costs before anything crosses. What each adds to the bare call is held
against what a plain closure `def w(*a, **k): return f(*a, **k)` adds to it. Inside of a function's code that is the call when it begins and
the one when it ends, of a hook that is alone and has nothing to do; an `around` that proceeds is one that may proceed again, or with
other arguments, as one of another process may.""",
    why="""\
The trampoline packs the arguments and looks which hook is alone, and the hook's own frame packs and unpacks them once more. With several
hooks a closure is made for each of them in each call. Inside a function's own code an `around` leaves a note of where it stands, which is
found again when the body has ended: that takes longer than a frame around the original, and is what leaves none.""",
    plots=(
        Plot(
            "forwarding",
            "Hooks in the same process that only forward",
            (
                *(
                    Line(f"{kind}: armed, {way}", tuple((float(hooks), f"{kind}, {_way_of(way, hooks)}") for hooks in _HOOKS), ours=True)
                    for kind in _FORWARDED
                    for way in ("inside", "code")
                ),
                *(Line(f"{kind}: a closure", ((1.0, f"{kind}, closure"),)) for kind in _FORWARDED),
                *(Line(f"{kind}: armed, wrapt", ((1.0, f"{kind}, wrapt"),)) for kind in _FORWARDED),
                *(Line(f"{kind}: bare", ((1.0, f"{kind}, bare"),)) for kind in _FORWARDED),
            ),
            x="hooks",
            log_y=True,
        ),
    ),
)

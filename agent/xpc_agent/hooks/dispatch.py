"""The per-call path of an armed probe point: which hooks run, in which order, and what the application gets.

Rules:
- The order stands once, in `_ORDER`: functions, `async def` functions, generator functions and async generator functions differ in how
  the hooks and the original are waited for, and in nothing else.
- One snapshot of the hooks per invocation: what is registered or removed meanwhile counts from the next one.
- `before` hooks run in the order registered; `around` and `instead` nest, the newest outermost; `after` hooks run in reverse order and see
  what the application gets.
- The original runs in the caller's own thread and context. It runs once, unless an `around` hook proceeds more than once, or never.
- While a thread does work of ours (pickling, answering a reference) probe points that it hits pass through.
- For generators `before` fires when the iteration starts, `after` when it ends; what `proceed` gives is the iterator, and what an
  `around` or `instead` hook returns is iterated.
"""

from __future__ import annotations

import itertools
import sys
from time import perf_counter
from typing import Any, AsyncGenerator, Callable, Dict, Optional, Protocol, Sequence, Tuple, TypeVar, cast

from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.unpatched import get_ident

from ..generated import compiled
from ..guard import guard  # noqa: F401 - used in `_ORDER`

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]
Way = TypeVar("Way", bound=Callable[..., Any])

# What runs before the guard is set is taken by its own name here: any of it may be a target, and would lead back into itself.
next_number = itertools.count(1).__next__


def split(args: Args, bound: bool) -> Tuple[Any, Args]:
    """The instance (None if there is none) and the arguments behind it."""
    # Called as `Class.method(self=obj)` there is nothing to split off. None can be passed as the first argument, but not bound.
    if bound and args and args[0] is not None:
        return args[0], args[1:]
    return None, args


class Invocation:
    """One invocation of a probe point, as a hook sees it: `args` without the instance; `duration` is in seconds."""

    __slots__ = ("args", "duration", "exception", "instance", "kwargs", "number", "result", "thread")

    def __init__(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> None:
        self.instance, self.args = split(args, bound)
        self.kwargs = kwargs
        self.number = number or next_number()
        self.thread = get_ident()
        self.result: Any = None
        self.exception: Optional[BaseException] = None
        self.duration = 0.0


class DispatchedHook(Protocol):
    """A hook as dispatch sees it. What it raises is what the application is to get; an `after` hook raises nothing.

    `call_replacing` gets what is inside of it, to be called as `proceed(*args, **kwargs)`; with `bound` the first of `args` is the
    instance. Plain values, since making an `Invocation` costs more than all else that dispatch does.
    """

    mode: Mode

    def call_observer(self, invocation: Invocation) -> None: ...

    async def call_observer_async(self, invocation: Invocation) -> None: ...

    def call_replacing(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any: ...

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool, number: int = 0) -> Any: ...


class HookChain:
    """The hooks of a probe point in the order in which they run (`nest` from the inside out); immutable.

    `sole` is the `call_replacing` of a hook that is alone, and so the whole chain, or what such an observer has to the same end;
    `sole_async` the `call_replacing_async`. `observed` says whether there are `before` or `after` hooks: only they need an `Invocation`.
    """

    __slots__ = ("after", "before", "hooks", "nest", "observed", "sole", "sole_async")

    def __init__(self, hooks: Sequence[DispatchedHook]) -> None:
        self.hooks = tuple(hooks)
        self.before = tuple(hook for hook in hooks if hook.mode is Mode.BEFORE)
        self.nest = tuple(hook for hook in hooks if hook.mode in (Mode.AROUND, Mode.INSTEAD))
        self.after = tuple(hook for hook in reversed(hooks) if hook.mode is Mode.AFTER)
        self.observed = bool(self.before or self.after)
        self.sole = self.sole_async = None
        if len(self.hooks) == 1:
            self.sole_async = self.nest[0].call_replacing_async if self.nest else None
            self.sole = self.nest[0].call_replacing if self.nest else getattr(self.hooks[0], "sole", None)

    def around(self, original: Callable[..., Any], bound: bool, number: int) -> Callable[..., Any]:
        """The original inside of all hooks that nest."""
        run = original
        for hook in self.nest:
            run = _inside(hook.call_replacing, run, bound, number)
        return run

    def around_async(self, original: Callable[..., Any], bound: bool, number: int) -> Callable[..., Any]:
        """The same for an `async def` original."""
        run = original
        for hook in self.nest:
            run = _inside(hook.call_replacing_async, run, bound, number)
        return run


def _inside(replace: Callable[..., Any], inner: Callable[..., Any], bound: bool, number: int) -> Callable[..., Any]:
    def proceed(*args: Any, **kwargs: Any) -> Any:
        return replace(inner, args, kwargs, bound, number)

    return proceed


# The order: the text of which the four methods of `Dispatcher` are made when this is imported, which takes 0.7 ms. As a generator of
# steps with a driver for each kind of function it would cost each call half a microsecond.
_ORDER = """
{define} {name}(self, original, args, kwargs, bound):
    chain = self._chain
    if chain is None or guard.on:
{disarmed}
{short_cut}
    invocation = Invocation(args, kwargs, bound)
    for hook in chain.before:
        {wait}hook.{observer}(invocation)
{unwatched}
    started = perf_counter()
    try:
{run}
    except {ends} as error:
        _ended(invocation, started, None, error)
        for hook in {after}:
            {wait}hook.{observer}(invocation)
        invocation.exception = None  # its traceback holds this frame
        raise
    _ended(invocation, started, result, None)
    for hook in {after}:
        {wait}hook.{observer}(invocation)
    return{value}
"""

# Without an `Invocation` where no hook needs one.
_SHORT_CUT = """
    if chain.{sole} is not None:
        return {wait}chain.{sole}(original, args, kwargs, bound)
    if not chain.observed:
        return {wait}chain.{around}(original, bound, next_number())(*args, **kwargs)
"""

_UNWATCHED = """
    if not chain.after:
        return {wait}chain.{around}(original, bound, invocation.number)(*args, **kwargs)
"""

# An iteration may end in the middle of our work: what is pickled closes it, or a garbage collection does.
_AFTER_ITERATION = "() if guard.on else chain.after"

# The `yield from` of async generators, of which Python has none. What is thrown in is thrown on outside of the `except`: in there it would
# be the context of all that the original raises from then on.
YIELD_FROM = """
        {inner} = {iterator}
        try:
            {value} = await {first_step}({inner})
            while True:
                {thrown} = None
                try:
                    {sent} = yield {value}
                except BaseException as {error}:
                    {thrown} = {error}
                if {thrown} is None:
                    {value} = await {inner}.asend({sent})
                else:
                    {value} = await {inner}.athrow({thrown})
        except StopAsyncIteration:
            pass
"""


def _function(name: str, define: str, wait: str, suffix: str) -> str:
    """For what is called and gives a value."""
    words = {"wait": wait, "sole": f"sole{suffix}", "around": f"around{suffix}"}
    return _ORDER.format(
        name=name,
        define=define,
        observer=f"call_observer{suffix}",
        disarmed=f"        return {wait}original(*args, **kwargs)",
        short_cut=_SHORT_CUT.format(**words),
        unwatched=_UNWATCHED.format(**words),
        run="        result = {wait}chain.{around}(original, bound, invocation.number)(*args, **kwargs)".format(**words),
        ends="Exception",
        after="chain.after",
        value=" result",
        wait=wait,
    )


def _generator(name: str) -> str:
    return _ORDER.format(
        name=name,
        define="def",
        observer="call_observer",
        disarmed="        return (yield from original(*args, **kwargs))",
        short_cut="",
        unwatched="",
        run="        result = yield from chain.around(original, bound, invocation.number)(*args, **kwargs)",
        ends="(Exception, GeneratorExit)",
        after=_AFTER_ITERATION,
        value=" result",
        wait="",
    )


def _async_generator(name: str) -> str:
    """Its iterator is had by a coroutine: hooks that nest are awaited before the iteration starts."""
    mine = {one: one for one in ("error", "first_step", "inner", "sent", "thrown", "value")}
    inner = "_as_async_generator(await chain.around_async(_awaited(original), bound, invocation.number)(*args, **kwargs))"
    return _ORDER.format(
        name=name,
        define="async def",
        observer="call_observer_async",
        disarmed=YIELD_FROM.format(iterator="original(*args, **kwargs)", **mine) + "        return",
        short_cut="",
        unwatched="",
        run=YIELD_FROM.format(iterator=inner, **mine) + "        result = None",
        ends="(Exception, GeneratorExit)",
        after=_AFTER_ITERATION,
        value="",
        wait="await ",
    )


_MADE = compiled(
    __name__,
    globals(),
    _function("call", "def", "", "")
    + _function("call_async", "async def", "await ", "_async")
    + _generator("call_generator")
    + _async_generator("call_async_generator"),
)


def _generated(declared: Way) -> Way:
    """The way into an armed function that is declared here, made from the one order."""
    made = _MADE[declared.__name__]
    made.__doc__, made.__qualname__ = declared.__doc__, declared.__qualname__
    return cast(Way, made)


class Dispatcher:
    """The handler of one probe point. `chain` is None while it is disarmed; it is swapped, never changed. `sole` is the chain's."""

    __slots__ = ("_chain", "sole")

    def __init__(self) -> None:
        self.chain = None

    @property
    def chain(self) -> Optional[HookChain]:
        """What an invocation that begins now goes by."""
        return self._chain

    @chain.setter
    def chain(self, chain: Optional[HookChain]) -> None:
        # Not one step, but each of the two is a whole chain, the old one or the new.
        self._chain = chain
        self.sole = None if chain is None else chain.sole

    @_generated
    def call(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """A function."""

    @_generated
    def call_async(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """An `async def` function; the hooks are awaited on the running loop."""

    @_generated
    def call_generator(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """A generator function: runs when the iteration starts."""

    @_generated
    def call_async_generator(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """An async generator function: runs when the iteration starts. No context variable is set across a `yield`."""


def first_step(iterator: Any) -> Any:
    """The first `__anext__` of an async generator that another one runs; the event loop is to know, and close, only that one."""
    known = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return iterator.__anext__()
    finally:
        sys.set_asyncgen_hooks(*known)


_isinstance = isinstance  # the builtin may be the very target, and no guard is up here


def _ended(invocation: Invocation, started: float, result: Any, error: Optional[BaseException]) -> None:
    invocation.duration = perf_counter() - started
    invocation.result = result
    # An iteration that is closed has ended without an outcome.
    invocation.exception = error if _isinstance(error, Exception) else None


def _awaited(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same for hooks that await what they proceed to."""

    async def make(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return make


def _as_async_generator(value: Any) -> Any:
    """An async generator as it is; any other iterable, as a hook may return, as one."""
    if hasattr(value, "asend"):
        return value
    return _iterate(value)


async def _iterate(value: Any) -> AsyncGenerator[Any, Any]:
    if hasattr(value, "__aiter__"):
        async for item in value:
            yield item
        return
    for item in value:
        yield item

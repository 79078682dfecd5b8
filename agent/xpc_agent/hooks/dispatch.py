"""The per-call path of an armed probe point: which hooks run, in which order, and what the application gets.

Rules:
- The order stands once, in `HookChain` and `_ORDER`: functions, `async def` functions, generator functions and async generator functions
  differ in how the hooks and the original are waited for, and in nothing else. Where the hooks are inside the function's own code
  (`Passage`), the same steps are taken in two halves, before the body and after it.
- All hooks of a probe point go one way: inside where each of them can (`HookChain.inside`), and else around the original.
- One snapshot of the hooks per invocation: what is registered or removed meanwhile counts from the next one.
- `before` hooks run in the order registered; `around` and `instead` nest, the newest outermost; `after` hooks run in reverse order and see
  what the application gets.
- The original runs in the caller's own thread and context. It runs once, unless an `around` hook proceeds more than once, or never.
- While a thread does work of ours (pickling, answering a reference) probe points that it hits pass through.
- For generators `before` fires when the iteration starts, `after` when it ends; what `proceed` gives is the iterator, and what an
  `around` or `instead` hook returns is iterated.
"""

from __future__ import annotations

import sys
from typing import Any, AsyncGenerator, Callable, Optional, TypeVar, cast

from xpc_instrument.core.unpatched import perf_counter  # noqa: F401 - used in `_ORDER`

from ..generated import compiled
from ..guard import guard  # noqa: F401 - used in `_ORDER`
from .chain import AFTER_ITERATION, TELL_AFTER, TELL_BEFORE, DispatchedHook, HookChain, ended  # noqa: F401 - used in `_ORDER`
from .gate import Args, Kwargs
from .invocation import Invocation, next_number

__all__ = ["DispatchedHook", "Dispatcher", "HookChain", "Invocation", "first_step", "next_number"]

Generated = TypeVar("Generated", bound=Callable[..., Any])

# The order: the text of which the four methods of `Dispatcher` are made when this is imported, which takes 0.7 ms. As a generator of
# steps with a driver for each kind of function it would cost each call half a microsecond.
_ORDER = """
{define} {name}(self, original, args, kwargs, bound):
    chain = self._chain
    if chain is None or guard.on:
{disarmed}
{short_cut}
    invocation = Invocation(args, kwargs, bound)
{before}
{unwatched}
    started = perf_counter()
    try:
{run}
    except {ends} as error:
{after_error}
        invocation.exception = None  # its traceback holds this frame
        raise
{after}
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


def _order(wait: str, observer: str, hooks: str, **parts: str) -> str:
    words = {"wait": wait, "observer": observer, "hooks": hooks}
    return _ORDER.format(
        before=TELL_BEFORE.format(**words),
        after=TELL_AFTER.format(result="result", error="None", **words),
        after_error=TELL_AFTER.format(result="None", error="error", **words).replace("\n    ", "\n        "),
        wait=wait,
        **parts,
    )


def _function(name: str, define: str, wait: str, suffix: str) -> str:
    """For what is called and gives a value."""
    words = {"wait": wait, "sole": f"sole{suffix}", "around": f"around{suffix}"}
    return _order(
        name=name,
        define=define,
        observer=f"call_observer{suffix}",
        disarmed=f"        return {wait}original(*args, **kwargs)",
        short_cut=_SHORT_CUT.format(**words),
        unwatched=_UNWATCHED.format(**words),
        run="        result = {wait}chain.{around}(original, bound, invocation.number)(*args, **kwargs)".format(**words),
        ends="Exception",
        hooks="chain.after",
        value=" result",
        wait=wait,
    )


def _generator(name: str) -> str:
    return _order(
        name=name,
        define="def",
        observer="call_observer",
        disarmed="        return (yield from original(*args, **kwargs))",
        short_cut="",
        unwatched="",
        run="        result = yield from chain.around(original, bound, invocation.number)(*args, **kwargs)",
        ends="(Exception, GeneratorExit)",
        hooks=AFTER_ITERATION,
        value=" result",
        wait="",
    )


def _async_generator(name: str) -> str:
    """Its iterator is had by a coroutine: hooks that nest are awaited before the iteration starts."""
    mine = {one: one for one in ("error", "first_step", "inner", "sent", "thrown", "value")}
    inner = "_as_async_generator(await chain.around_async(_awaited(original), bound, invocation.number)(*args, **kwargs))"
    return _order(
        name=name,
        define="async def",
        observer="call_observer_async",
        disarmed=YIELD_FROM.format(iterator="original(*args, **kwargs)", **mine) + "        return",
        short_cut="",
        unwatched="",
        run=YIELD_FROM.format(iterator=inner, **mine) + "        result = None",
        ends="(Exception, GeneratorExit)",
        hooks=AFTER_ITERATION,
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


def _generated(declared: Generated) -> Generated:
    """The way into an armed function that is declared here, made from the one order."""
    made = _MADE[declared.__name__]
    made.__doc__, made.__qualname__ = declared.__doc__, declared.__qualname__
    return cast(Generated, made)


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

"""The per-call path of an armed probe point: which hooks run, in which order, and what the application gets.

Rules:
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
from typing import Any, AsyncGenerator, Callable, Dict, Generator, Optional, Protocol, Sequence, Tuple

from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.unpatched import get_ident

from ..guard import guard

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]

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


class Dispatcher:
    """The entry of one probe point. `chain` is None while it is disarmed; it is swapped, never changed. `sole` is the chain's."""

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

    def call(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """A function."""
        chain = self._chain
        if chain is None or guard.on:
            return original(*args, **kwargs)
        if chain.sole is not None:
            return chain.sole(original, args, kwargs, bound)
        if not chain.observed:
            return chain.around(original, bound, next_number())(*args, **kwargs)
        invocation = Invocation(args, kwargs, bound)
        for hook in chain.before:
            hook.call_observer(invocation)
        run = chain.around(original, bound, invocation.number)
        if not chain.after:
            return run(*args, **kwargs)
        started = perf_counter()
        try:
            result = run(*args, **kwargs)
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in chain.after:
                hook.call_observer(invocation)
            invocation.exception = None  # its traceback holds this frame
            raise
        _ended(invocation, started, result, None)
        for hook in chain.after:
            hook.call_observer(invocation)
        return result

    async def call_async(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Any:
        """An `async def` function; the hooks are awaited on the running loop."""
        chain = self._chain
        if chain is None or guard.on:
            return await original(*args, **kwargs)
        if chain.sole_async is not None:
            return await chain.sole_async(original, args, kwargs, bound)
        if not chain.observed:
            return await chain.around_async(original, bound, next_number())(*args, **kwargs)
        invocation = Invocation(args, kwargs, bound)
        for hook in chain.before:
            await hook.call_observer_async(invocation)
        run = chain.around_async(original, bound, invocation.number)
        if not chain.after:
            return await run(*args, **kwargs)
        started = perf_counter()
        try:
            result = await run(*args, **kwargs)
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in chain.after:
                await hook.call_observer_async(invocation)
            invocation.exception = None  # its traceback holds this frame
            raise
        _ended(invocation, started, result, None)
        for hook in chain.after:
            await hook.call_observer_async(invocation)
        return result

    def call_generator(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> Generator[Any, Any, Any]:
        """A generator function: runs when the iteration starts."""
        chain = self._chain
        if chain is None or guard.on:
            return (yield from original(*args, **kwargs))
        invocation = Invocation(args, kwargs, bound)
        for hook in chain.before:
            hook.call_observer(invocation)
        started = perf_counter()
        try:
            result = yield from chain.around(original, bound, invocation.number)(*args, **kwargs)
        except GeneratorExit:
            _ended(invocation, started, None, None)
            for hook in chain.after:
                hook.call_observer(invocation)
            raise
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in chain.after:
                hook.call_observer(invocation)
            invocation.exception = None  # its traceback holds this frame
            raise
        _ended(invocation, started, result, None)
        for hook in chain.after:
            hook.call_observer(invocation)
        return result

    async def call_async_generator(self, original: Callable[..., Any], args: Args, kwargs: Kwargs, bound: bool) -> AsyncGenerator[Any, Any]:
        """An async generator function: runs when the iteration starts. No context variable is set across a `yield`."""
        chain = None if guard.on else self._chain
        invocation = Invocation(args, kwargs, bound)
        after: Tuple[DispatchedHook, ...] = ()
        if chain is not None:
            after = chain.after
            for hook in chain.before:
                await hook.call_observer_async(invocation)
        started = perf_counter()
        try:
            if chain is None:
                iterator = original(*args, **kwargs)
            else:

                async def make(*new_args: Any, **new_kwargs: Any) -> Any:
                    return original(*new_args, **new_kwargs)

                iterator = _as_async_generator(await chain.around_async(make, bound, invocation.number)(*args, **kwargs))
            try:
                value = await first_step(iterator)
                while True:
                    thrown: Optional[BaseException] = None
                    try:
                        sent = yield value
                    except BaseException as error:
                        # Thrown on below: in here it would be the context of all that the original raises from now on.
                        thrown = error
                    if thrown is None:
                        value = await iterator.asend(sent)
                    else:
                        value = await iterator.athrow(thrown)
            except StopAsyncIteration:
                pass
        except GeneratorExit:
            _ended(invocation, started, None, None)
            for hook in after:
                await hook.call_observer_async(invocation)
            raise
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in after:
                await hook.call_observer_async(invocation)
            invocation.exception = None  # its traceback holds this frame
            raise
        _ended(invocation, started, None, None)
        for hook in after:
            await hook.call_observer_async(invocation)


def first_step(iterator: Any) -> Any:
    """The first `__anext__` of an async generator that another one runs; the event loop is to know, and close, only that one."""
    known = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return iterator.__anext__()
    finally:
        sys.set_asyncgen_hooks(*known)


def _ended(invocation: Invocation, started: float, result: Any, error: Optional[BaseException]) -> None:
    invocation.duration = perf_counter() - started
    invocation.result = result
    invocation.exception = error


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

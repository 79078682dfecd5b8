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
import threading
from threading import get_ident
from time import perf_counter
from typing import Any, AsyncGenerator, Callable, Dict, Generator, Optional, Protocol, Sequence, Tuple

from xpc_instrument.modes import Mode

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]

# What runs before `busy` is set is taken by its own name here: any of it may be a target, and would lead back into itself.
_next_number = itertools.count(1).__next__


class _Busy(threading.local):
    on = False


busy = _Busy()


class Invocation:
    """One invocation of a probe point; `duration` is in seconds."""

    __slots__ = ("args", "duration", "exception", "instance", "kwargs", "number", "result", "thread")

    def __init__(self, instance: Any, args: Args, kwargs: Kwargs, number: int = 0) -> None:
        self.instance = instance
        self.args = args
        self.kwargs = kwargs
        self.number = number or _next_number()
        self.thread = get_ident()
        self.result: Any = None
        self.exception: Optional[BaseException] = None
        self.duration = 0.0


class Hook(Protocol):
    """A hook as dispatch sees it. What it raises is what the application is to get; an `after` hook raises nothing."""

    mode: Mode

    def observe(self, invocation: Invocation) -> None: ...

    async def observe_async(self, invocation: Invocation) -> None: ...

    def replace(self, invocation: Invocation, proceed: Callable[..., Any]) -> Any: ...

    async def replace_async(self, invocation: Invocation, proceed: Callable[..., Any]) -> Any: ...


class Plan:
    """The hooks of a probe point in the order in which they run; immutable."""

    __slots__ = ("after", "before", "hooks", "nest")

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = tuple(hooks)
        self.before = tuple(hook for hook in hooks if hook.mode is Mode.BEFORE)
        self.nest = tuple(hook for hook in reversed(hooks) if hook.mode in (Mode.AROUND, Mode.INSTEAD))
        self.after = tuple(hook for hook in reversed(hooks) if hook.mode is Mode.AFTER)


def _nested(nest: Tuple[Hook, ...], invocation: Invocation, original: Callable[..., Any]) -> Callable[..., Any]:
    """What `proceed` of the hook outside all of `nest` calls."""
    if not nest:
        return original
    hook, inner = nest[0], nest[1:]

    def proceed(*args: Any, **kwargs: Any) -> Any:
        seen = Invocation(invocation.instance, args, kwargs, invocation.number)
        return hook.replace(seen, _nested(inner, seen, original))

    return proceed


def _nested_async(nest: Tuple[Hook, ...], invocation: Invocation, original: Callable[..., Any]) -> Callable[..., Any]:
    if not nest:
        return original
    hook, inner = nest[0], nest[1:]

    async def proceed(*args: Any, **kwargs: Any) -> Any:
        seen = Invocation(invocation.instance, args, kwargs, invocation.number)
        return await hook.replace_async(seen, _nested_async(inner, seen, original))

    return proceed


class Dispatcher:
    """The entry of one probe point. `plan` is None while it is disarmed; it is swapped, never changed."""

    __slots__ = ("plan",)

    def __init__(self) -> None:
        self.plan: Optional[Plan] = None

    def call(self, original: Callable[..., Any], instance: Any, args: Args, kwargs: Kwargs) -> Any:
        """A function."""
        plan = self.plan
        if plan is None or busy.on:
            return original(*args, **kwargs)
        invocation = Invocation(instance, args, kwargs)
        for hook in plan.before:
            hook.observe(invocation)
        nest = plan.nest
        if not plan.after:
            if not nest:
                return original(*args, **kwargs)
            # The most frequent way, without the closure and the second record that `proceed` of an outer hook needs.
            return nest[0].replace(invocation, original if len(nest) == 1 else _nested(nest[1:], invocation, original))
        run = _nested(nest, invocation, original)
        started = perf_counter()
        try:
            result = run(*args, **kwargs)
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in plan.after:
                hook.observe(invocation)
            raise
        _ended(invocation, started, result, None)
        for hook in plan.after:
            hook.observe(invocation)
        return result

    async def call_async(self, original: Callable[..., Any], instance: Any, args: Args, kwargs: Kwargs) -> Any:
        """An `async def` function; the hooks are awaited on the running loop."""
        plan = self.plan
        if plan is None or busy.on:
            return await original(*args, **kwargs)
        invocation = Invocation(instance, args, kwargs)
        for hook in plan.before:
            await hook.observe_async(invocation)
        run = _nested_async(plan.nest, invocation, original)
        if not plan.after:
            return await run(*args, **kwargs)
        started = perf_counter()
        try:
            result = await run(*args, **kwargs)
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in plan.after:
                await hook.observe_async(invocation)
            raise
        _ended(invocation, started, result, None)
        for hook in plan.after:
            await hook.observe_async(invocation)
        return result

    def call_generator(self, original: Callable[..., Any], instance: Any, args: Args, kwargs: Kwargs) -> Generator[Any, Any, Any]:
        """A generator function: runs when the iteration starts."""
        plan = self.plan
        if plan is None or busy.on:
            return (yield from original(*args, **kwargs))
        invocation = Invocation(instance, args, kwargs)
        for hook in plan.before:
            hook.observe(invocation)
        started = perf_counter()
        try:
            result = yield from _nested(plan.nest, invocation, original)(*args, **kwargs)
        except GeneratorExit:
            _ended(invocation, started, None, None)
            for hook in plan.after:
                hook.observe(invocation)
            raise
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in plan.after:
                hook.observe(invocation)
            raise
        _ended(invocation, started, result, None)
        for hook in plan.after:
            hook.observe(invocation)
        return result

    async def call_async_generator(
        self, original: Callable[..., Any], instance: Any, args: Args, kwargs: Kwargs
    ) -> AsyncGenerator[Any, Any]:
        """An async generator function: runs when the iteration starts. No context variable is set across a `yield`."""
        plan = None if busy.on else self.plan
        invocation = Invocation(instance, args, kwargs)
        after: Tuple[Hook, ...] = ()
        if plan is not None:
            after = plan.after
            for hook in plan.before:
                await hook.observe_async(invocation)
        started = perf_counter()
        try:
            if plan is None:
                iterator = original(*args, **kwargs)
            else:

                async def make(*new_args: Any, **new_kwargs: Any) -> Any:
                    return original(*new_args, **new_kwargs)

                iterator = _as_async_generator(await _nested_async(plan.nest, invocation, make)(*args, **kwargs))
            try:
                value = await iterator.__anext__()
                while True:
                    try:
                        sent = yield value
                    except GeneratorExit:
                        await iterator.aclose()
                        raise
                    except BaseException as thrown:
                        value = await iterator.athrow(thrown)
                    else:
                        value = await iterator.asend(sent)
            except StopAsyncIteration:
                pass
        except GeneratorExit:
            _ended(invocation, started, None, None)
            for hook in after:
                await hook.observe_async(invocation)
            raise
        except Exception as error:
            _ended(invocation, started, None, error)
            for hook in after:
                await hook.observe_async(invocation)
            raise
        _ended(invocation, started, None, None)
        for hook in after:
            await hook.observe_async(invocation)


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

"""The per-call path on plain data: order, one snapshot, the guard, and what the application gets of every kind of callable."""

from __future__ import annotations

import contextvars
import linecache
import threading
import types
from typing import Any, AsyncGenerator, Callable, Generator, List, Optional

import pytest

from xpc_agent.guard import guard
from xpc_agent.hooks.dispatch import Dispatcher, HookChain, Invocation
from xpc_instrument.core.model.target import Mode

Replace = Callable[[Invocation, Callable[..., Any]], Any]


class Hook:
    """A hook that notes when it runs; `act` is what an `around` or `instead` hook does, by default to proceed."""

    def __init__(self, mode: Mode, name: str, log: List[str], act: Optional[Replace] = None) -> None:
        self.mode = mode
        self.name = name
        self.log = log
        self.act = act or (lambda invocation, proceed: proceed(*invocation.args, **invocation.kwargs))
        self.seen: List[Invocation] = []
        self.outcomes: List[Any] = []
        self.exceptions: List[Any] = []

    def call_observer(self, invocation: Invocation) -> None:
        self.log.append(self.name)
        self.seen.append(invocation)
        self.outcomes.append((invocation.result, type(invocation.exception)))
        self.exceptions.append(invocation.exception)

    async def call_observer_async(self, invocation: Invocation) -> None:
        self.call_observer(invocation)

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        self.log.append(f"{self.name} in")
        invocation = Invocation(args, kwargs, bound, number)
        proceed = proceed if invocation.instance is None else types.MethodType(proceed, invocation.instance)
        self.seen.append(invocation)
        try:
            return self.act(invocation, proceed)
        finally:
            self.log.append(f"{self.name} out")

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        self.log.append(f"{self.name} in")
        invocation = Invocation(args, kwargs, bound, number)
        proceed = proceed if invocation.instance is None else types.MethodType(proceed, invocation.instance)
        self.seen.append(invocation)
        try:
            value = self.act(invocation, proceed)
            return await value if hasattr(value, "__await__") else value
        finally:
            self.log.append(f"{self.name} out")


class Scene:
    """A dispatcher with hooks, and a log of what happened in which order."""

    def __init__(self) -> None:
        self.log: List[str] = []
        self.hooks: List[Hook] = []
        self.dispatcher = Dispatcher()

    def add(self, mode: Mode, name: str, act: Optional[Replace] = None) -> Hook:
        hook = Hook(mode, name, self.log, act)
        self.hooks.append(hook)
        self.dispatcher.chain = HookChain(self.hooks)
        return hook

    def remove(self, hook: Hook) -> None:
        self.hooks.remove(hook)
        self.dispatcher.chain = HookChain(self.hooks) if self.hooks else None

    def call(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.dispatcher.call(original, args, kwargs, False)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def drive(coroutine: Any) -> Any:
    """The result of a coroutine, each of whose waits is answered with None; there is no loop."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as stop:
        return stop.value


@types.coroutine
def pause(value: Any = None) -> Generator[Any, Any, Any]:
    """What a coroutine waits for, here: whoever drives it gets `value`, and what it sends is the result."""
    return (yield value)


# order and snapshot ---------------------------------------------------------------------------------------------------------


def add_some_of_each(scene: Scene) -> None:
    for mode, name in [
        (Mode.AFTER, "after 1"),
        (Mode.AROUND, "around 1"),
        (Mode.BEFORE, "before 1"),
        (Mode.AROUND, "around 2"),
        (Mode.AFTER, "after 2"),
        (Mode.BEFORE, "before 2"),
    ]:
        scene.add(mode, name)


ORDER = ["before 1", "before 2", "around 2 in", "around 1 in", "original", "around 1 out", "around 2 out", "after 2", "after 1"]
# What `proceed` of a generator gives is the iterator, which runs when the hooks have returned it.
LAZY_ORDER = ["before 1", "before 2", "around 2 in", "around 1 in", "around 1 out", "around 2 out", "original", "after 2", "after 1"]


def test_hooks_of_a_function_run_in_their_order(scene: Scene) -> None:
    add_some_of_each(scene)
    scene.call(lambda: scene.log.append("original"))
    assert scene.log == ORDER


def test_hooks_of_a_coroutine_run_in_their_order(scene: Scene) -> None:
    add_some_of_each(scene)

    async def original() -> None:
        scene.log.append("original")

    drive(scene.dispatcher.call_async(original, (), {}, False))
    assert scene.log == ORDER


def test_hooks_of_generators_run_in_their_order_once_the_iteration_starts(scene: Scene) -> None:
    add_some_of_each(scene)

    def original() -> Any:
        scene.log.append("original")
        yield 1

    iterator = scene.dispatcher.call_generator(original, (), {}, False)
    assert scene.log == []
    assert list(iterator) == [1]
    assert scene.log == LAZY_ORDER


def test_hooks_of_async_generators_run_in_their_order_once_the_iteration_starts(scene: Scene) -> None:
    add_some_of_each(scene)

    async def original() -> Any:
        scene.log.append("original")
        yield 1

    iterator = scene.dispatcher.call_async_generator(original, (), {}, False)
    assert scene.log == []
    assert drive(collect(iterator)) == [1]
    assert scene.log == LAZY_ORDER


async def collect(iterator: Any) -> List[Any]:
    return [item async for item in iterator]


def test_instead_ends_the_chain_and_after_sees_what_the_application_gets(scene: Scene) -> None:
    scene.add(Mode.AROUND, "never", lambda invocation, proceed: pytest.fail("inside of the stand-in"))
    scene.add(Mode.INSTEAD, "stand-in", lambda invocation, proceed: "other")
    scene.add(Mode.AROUND, "outer", lambda invocation, proceed: proceed() + "!")
    after = scene.add(Mode.AFTER, "after")
    assert scene.call(lambda: pytest.fail("the original ran")) == "other!"
    assert after.outcomes == [("other!", type(None))]


def test_arguments_that_an_outer_hook_changes_reach_the_inner_one_and_the_original(scene: Scene) -> None:
    inner = scene.add(Mode.AROUND, "inner")
    scene.add(Mode.AROUND, "outer", lambda invocation, proceed: proceed(7, b=8))
    assert scene.dispatcher.call(lambda self, a, b: (self, a, b), ("instance", 1), {"b": 2}, True) == ("instance", 7, 8)
    seen = inner.seen[0]
    assert (seen.instance, seen.args, seen.kwargs) == ("instance", (7,), {"b": 8})
    assert seen.number == scene.hooks[1].seen[0].number


def test_every_hook_of_an_invocation_sees_the_same_number_and_each_invocation_another(scene: Scene) -> None:
    before, around, after = (scene.add(mode, mode.value) for mode in (Mode.BEFORE, Mode.AROUND, Mode.AFTER))
    scene.call(lambda: None)
    scene.call(lambda: None)
    numbers = [[invocation.number for invocation in hook.seen] for hook in (before, around, after)]
    assert numbers[0] == numbers[1] == numbers[2]
    assert len(set(numbers[0])) == 2
    assert before.seen[0].thread == threading.get_ident()


def test_a_hook_that_is_registered_or_removed_during_an_invocation_counts_from_the_next_one(scene: Scene) -> None:
    def change(invocation: Invocation, proceed: Callable[..., Any]) -> Any:
        scene.remove(leaving)
        scene.add(Mode.AFTER, "new")
        scene.remove(changing)
        return proceed()

    leaving = scene.add(Mode.AFTER, "leaving")
    changing = scene.add(Mode.AROUND, "changing", change)
    scene.call(lambda: None)
    assert scene.log == ["changing in", "changing out", "leaving"]
    scene.log.clear()
    scene.call(lambda: None)
    assert scene.log == ["new"]


def test_a_target_that_is_disarmed_during_an_iteration_still_tells_its_after_hooks(scene: Scene) -> None:
    after = scene.add(Mode.AFTER, "after")
    iterator = scene.dispatcher.call_generator(lambda: iter([1, 2]), (), {}, False)
    assert next(iterator) == 1
    scene.dispatcher.chain = None
    assert list(iterator) == [2]
    assert len(after.seen) == 1


def test_a_disarmed_target_that_is_reached_all_the_same_runs_the_original(scene: Scene) -> None:
    async def coroutine() -> int:
        return 1

    async def numbers() -> Any:
        yield 1

    assert scene.call(lambda: 1) == 1
    assert drive(scene.dispatcher.call_async(coroutine, (), {}, False)) == 1
    assert list(scene.dispatcher.call_generator(lambda: iter([1]), (), {}, False)) == [1]
    assert drive(collect(scene.dispatcher.call_async_generator(numbers, (), {}, False))) == [1]


def test_a_target_that_calls_itself_has_hooks_at_every_level(scene: Scene) -> None:
    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")

    def factorial(n: int) -> int:
        return n * int(scene.call(factorial, n - 1)) if n else 1

    assert scene.call(factorial, 5) == 120
    assert [outcome[0] for outcome in after.outcomes] == [1, 1, 2, 6, 24, 120]
    assert scene.log.count("around in") == 6


@pytest.mark.parametrize("way", ["call", "call_async", "call_generator", "call_async_generator"])
def test_a_traceback_through_the_generated_order_shows_its_source(way: str) -> None:
    code = getattr(Dispatcher, way).__code__
    first = linecache.getline(code.co_filename, code.co_firstlineno)
    assert first.strip() == f"{'async ' if 'async' in way else ''}def {way}(self, original, args, kwargs, bound):"
    assert getattr(Dispatcher, way).__qualname__ == f"Dispatcher.{way}"


# the guard ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ours() -> Any:
    """This thread does work of ours."""
    guard.on = True
    yield
    guard.on = False


@pytest.mark.usefixtures("ours")
def test_probe_points_pass_through_while_the_thread_does_our_work(scene: Scene) -> None:
    add_some_of_each(scene)

    async def coroutine() -> int:
        return 1

    async def numbers() -> Any:
        yield 1

    assert scene.call(lambda: 1) == 1
    assert drive(scene.dispatcher.call_async(coroutine, (), {}, False)) == 1
    assert list(scene.dispatcher.call_generator(lambda: iter([1]), (), {}, False)) == [1]
    assert drive(collect(scene.dispatcher.call_async_generator(numbers, (), {}, False))) == [1]
    assert scene.log == []


# exceptions -----------------------------------------------------------------------------------------------------------------


def test_an_exception_passes_through_as_the_same_object_and_after_sees_it(scene: Scene) -> None:
    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")
    error = ValueError("no")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="no") as caught:
        scene.call(fail)
    assert caught.value is error
    assert after.exceptions == [error]
    assert after.seen[0].exception is None  # forgotten, since its traceback holds what holds the invocation
    assert after.seen[0].result is None
    assert after.seen[0].duration > 0


def test_an_around_hook_may_turn_an_exception_into_a_result_and_a_result_into_one(scene: Scene) -> None:
    def forgive(invocation: Invocation, proceed: Callable[..., Any]) -> Any:
        try:
            return proceed()
        except ZeroDivisionError:
            return "forgiven"

    def refuse(invocation: Invocation, proceed: Callable[..., Any]) -> Any:
        raise TimeoutError(proceed())

    forgiving = scene.add(Mode.AROUND, "forgiving", forgive)
    assert scene.call(lambda: 1 // 0) == "forgiven"
    scene.remove(forgiving)
    scene.add(Mode.AROUND, "refusing", refuse)
    after = scene.add(Mode.AFTER, "after")
    with pytest.raises(TimeoutError, match="5"):
        scene.call(lambda: 5)
    assert after.outcomes == [(None, TimeoutError)]


def test_an_around_hook_may_proceed_several_times_or_never(scene: Scene) -> None:
    runs: List[int] = []
    hook = scene.add(Mode.AROUND, "twice", lambda invocation, proceed: (proceed(1), proceed(2)))
    assert scene.call(lambda n: runs.append(n) or n, 0) == (1, 2)
    scene.remove(hook)
    scene.add(Mode.AROUND, "never", lambda invocation, proceed: None)
    scene.call(runs.append, 0)
    assert runs == [1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_thread_passes_without_after_hooks(scene: Scene, error: Any) -> None:
    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")

    def leave() -> None:
        raise error

    async def leave_async() -> None:
        raise error

    with pytest.raises(error):
        scene.call(leave)
    with pytest.raises(error):
        drive(scene.dispatcher.call_async(leave_async, (), {}, False))
    assert after.seen == []


def test_the_hooks_leave_no_trace_in_the_exception_but_frames(scene: Scene) -> None:
    add_some_of_each(scene)
    with pytest.raises(KeyError) as caught:
        scene.call({}.__getitem__, "k")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# coroutines -----------------------------------------------------------------------------------------------------------------


async def talk(*greetings: str) -> List[Any]:
    return [await pause(greeting) for greeting in greetings]


def test_a_coroutine_waits_and_is_answered_as_without_hooks(scene: Scene) -> None:
    add_some_of_each(scene)
    coroutine = scene.dispatcher.call_async(talk, ("a", "b"), {}, False)
    assert coroutine.send(None) == "a"
    assert coroutine.send(1) == "b"
    with pytest.raises(StopIteration) as stop:
        coroutine.send(2)
    assert stop.value.value == [1, 2]


def test_what_is_thrown_into_a_coroutine_arrives_in_the_original(scene: Scene) -> None:
    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")
    coroutine = scene.dispatcher.call_async(talk, ("a",), {}, False)
    coroutine.send(None)
    error = ValueError("thrown")
    with pytest.raises(ValueError, match="thrown") as caught:
        coroutine.throw(error)
    assert caught.value is error
    assert after.outcomes == [(None, ValueError)]


def test_a_coroutine_that_is_closed_or_cancelled_cleans_up_without_after_hooks(scene: Scene) -> None:
    cleaned: List[str] = []

    async def careful() -> None:
        try:
            await pause()
        finally:
            cleaned.append("clean")

    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")
    closed = scene.dispatcher.call_async(careful, (), {}, False)
    closed.send(None)
    closed.close()
    assert cleaned == ["clean"]
    assert after.seen == []


# generators -----------------------------------------------------------------------------------------------------------------


def echo(log: List[Any]) -> Generator[Any, Any, str]:
    """Yields what it is sent, survives a ValueError, cleans up, and returns a value."""
    got: Any = "start"
    try:
        while got != "stop":
            try:
                got = yield got
            except ValueError as error:
                got = f"caught {error}"
        return "returned"
    finally:
        log.append("clean")


async def async_echo(log: List[Any]) -> AsyncGenerator[Any, Any]:
    got: Any = "start"
    try:
        while got != "stop":
            try:
                got = yield got
            except ValueError as error:
                got = f"caught {error}"
    finally:
        await pause()
        log.append("clean")


def test_a_generator_keeps_send_throw_and_its_return_value(scene: Scene) -> None:
    cleaned: List[Any] = []
    add_some_of_each(scene)
    iterator = scene.dispatcher.call_generator(echo, (cleaned,), {}, False)
    assert next(iterator) == "start"
    assert iterator.send("hi") == "hi"
    assert iterator.throw(ValueError("no")) == "caught no"
    with pytest.raises(StopIteration) as stop:
        iterator.send("stop")
    assert stop.value.value == "returned"
    assert cleaned == ["clean"]
    after = scene.hooks[0]
    assert after.outcomes == [("returned", type(None))]


def test_a_generator_that_is_closed_early_cleans_up_and_tells_its_after_hooks(scene: Scene) -> None:
    cleaned: List[Any] = []
    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")
    iterator = scene.dispatcher.call_generator(echo, (cleaned,), {}, False)
    next(iterator)
    iterator.close()
    assert cleaned == ["clean"]
    assert after.outcomes == [(None, type(None))]
    assert list(iterator) == []


def test_a_generator_that_is_never_started_fires_nothing(scene: Scene) -> None:
    add_some_of_each(scene)
    scene.dispatcher.call_generator(echo, ([],), {}, False).close()
    drive(scene.dispatcher.call_async_generator(async_echo, ([],), {}, False).aclose())
    assert scene.log == []


def test_an_exception_of_an_iteration_is_seen_by_after_hooks_and_one_that_ends_the_thread_is_not(scene: Scene) -> None:
    after = scene.add(Mode.AFTER, "after")
    for error in (KeyError("k"), KeyboardInterrupt()):
        iterator = scene.dispatcher.call_generator(echo, ([],), {}, False)
        next(iterator)
        with pytest.raises(type(error)) as caught:
            iterator.throw(error)
        assert caught.value is error
        other = scene.dispatcher.call_async_generator(async_echo, ([],), {}, False)
        drive(other.__anext__())
        with pytest.raises(type(error)) as caught:
            drive(other.athrow(error))
        assert caught.value is error
    assert after.outcomes == [(None, KeyError)] * 2


def test_what_a_hook_gives_in_an_iterators_place_is_iterated(scene: Scene) -> None:
    scene.add(Mode.INSTEAD, "instead", lambda invocation, proceed: [1, 2])
    assert list(scene.dispatcher.call_generator(echo, ([],), {}, False)) == [1, 2]
    assert drive(collect(scene.dispatcher.call_async_generator(async_echo, ([],), {}, False))) == [1, 2]


def test_duration_covers_the_iteration(scene: Scene) -> None:
    after = scene.add(Mode.AFTER, "after")
    iterator = scene.dispatcher.call_generator(echo, ([],), {}, False)
    next(iterator)
    begun = [iterator.send(n) for n in range(1000)]
    iterator.close()
    assert len(begun) == 1000
    inner = scene.dispatcher.call_generator(lambda: iter(()), (), {}, False)
    list(inner)
    assert after.seen[0].duration > after.seen[1].duration > 0


# async generators -----------------------------------------------------------------------------------------------------------


def test_an_async_generator_keeps_asend_and_athrow(scene: Scene) -> None:
    cleaned: List[Any] = []
    add_some_of_each(scene)
    iterator = scene.dispatcher.call_async_generator(async_echo, (cleaned,), {}, False)
    assert drive(iterator.__anext__()) == "start"
    assert drive(iterator.asend("hi")) == "hi"
    assert drive(iterator.athrow(ValueError("no"))) == "caught no"
    with pytest.raises(StopAsyncIteration):
        drive(iterator.asend("stop"))
    assert cleaned == ["clean"]
    assert scene.hooks[0].outcomes == [(None, type(None))]


def test_an_async_generator_that_is_closed_early_cleans_up_and_tells_its_after_hooks(scene: Scene) -> None:
    cleaned: List[Any] = []
    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")
    iterator = scene.dispatcher.call_async_generator(async_echo, (cleaned,), {}, False)
    drive(iterator.__anext__())
    drive(iterator.aclose())
    assert cleaned == ["clean"]
    assert after.outcomes == [(None, type(None))]


def test_a_context_variable_that_an_async_generator_sets_can_be_reset_in_its_finally(scene: Scene) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def original() -> AsyncGenerator[int, None]:
        token = variable.set(5)
        try:
            yield variable.get()
            yield variable.get() + 1
        finally:
            variable.reset(token)

    add_some_of_each(scene)

    def scenario() -> None:
        iterator = scene.dispatcher.call_async_generator(original, (), {}, False)
        assert drive(iterator.__anext__()) == 5
        assert variable.get() == 5
        drive(iterator.aclose())
        assert variable.get() == 0

    contextvars.copy_context().run(scenario)


def test_a_before_hook_that_keeps_the_original_from_running_ends_the_invocation_without_after_hooks(scene: Scene) -> None:
    class Refusing(Hook):
        def call_observer(self, invocation: Invocation) -> None:
            raise PermissionError("not now")

    scene.hooks.append(Refusing(Mode.BEFORE, "refusing", scene.log))
    after = scene.add(Mode.AFTER, "after")
    dispatcher = scene.dispatcher
    with pytest.raises(PermissionError):
        scene.call(print)
    with pytest.raises(PermissionError):
        drive(dispatcher.call_async(talk, (), {}, False))
    with pytest.raises(PermissionError):
        next(dispatcher.call_generator(echo, ([],), {}, False))
    with pytest.raises(PermissionError):
        drive(dispatcher.call_async_generator(async_echo, ([],), {}, False).__anext__())
    assert after.seen == []

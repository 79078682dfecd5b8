"""Hooks inside functions of this module, each kind of function and each answer of `enter`, before they go into any of the application's.

An interpreter that does not stand it is not gone into, whatever its version. It takes two or three milliseconds.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Callable, Generator, List, Tuple

from .insertion import inserted
from .instructions import decoded, encoded


class _Later:
    """What can be awaited once, and iterated asynchronously."""

    def __init__(self) -> None:
        self.left = 2

    def __await__(self) -> Generator[str, None, None]:
        yield "awaited"

    def __aiter__(self) -> _Later:
        return self

    async def __anext__(self) -> int:
        self.left -= 1
        if self.left < 0:
            raise StopAsyncIteration
        return self.left

    async def __aenter__(self) -> _Later:
        return self

    async def __aexit__(self, *error: object) -> bool:
        return error[0] is KeyError

    def __enter__(self) -> _Later:
        return self

    def __exit__(self, *error: object) -> bool:
        return error[0] is KeyError


def _plain(a: Any, /, b: Any = 2, *rest: Any, c: Any = 3, **more: Any) -> Any:
    found: List[Any] = []
    with _Later():
        for one in rest:
            try:
                found.append(a / one)
            except ZeroDivisionError:
                if c is None:
                    raise
                continue
            finally:
                found.extend((b, one) for _ in range(1))
            if one == 2:
                return found, c, more
        while c:
            c -= 1
            if c == 1:
                raise KeyError(c)
    return [a, b, rest, c, sorted(more), found]


def _generator(a: Any, b: Any = 1) -> Any:
    got = yield a
    try:
        for one in range(b):
            got = yield (one, got)
    except ValueError:
        yield "caught"
    return (a, b, got)


async def _coroutine(a: Any, b: Any = 1) -> Any:
    found = [a]
    async with _Later() as later:
        await later
        async for one in later:
            found.append(one)
        if b == 0:
            raise KeyError(b)
    return found, 1 / b


async def _async_generator(a: Any, b: Any = 1) -> Any:
    try:
        for one in range(b):
            await _Later()
            yield (a, one)
    finally:
        await _Later()


def _stepped(iterator: Any) -> List[Any]:
    """All that a generator or a coroutine gives, and how it ends."""
    given = []
    try:
        while True:
            given.append(iterator.send(None))
    except StopIteration as end:
        return [*given, end.value]


async def _all_of(iterator: Any) -> List[Any]:
    return [one async for one in iterator]


def _thrown(iterator: Any, error: BaseException) -> Any:
    next(iterator)
    next(iterator)
    return iterator.throw(error), iterator.close()


_Call = Callable[[Any], Any]
# Of each function, calls whose outcomes have to be as without hooks.
_CALLS: List[Tuple[Callable[..., Any], List[_Call]]] = [
    (
        _plain,
        [
            lambda f: f(1),
            lambda f: f(1, 5, 0, 2, 3, c=7, x=1),
            lambda f: f(1, 2, 0, c=None),
            lambda f: f(1, 2, "x", c=1),
            lambda f: f(),
        ],
    ),
    (
        _generator,
        [
            lambda f: _stepped(f(1, b=3)),
            lambda f: _thrown(f(1, 3), ValueError()),
            lambda f: _thrown(f(1, 3), KeyError()),
            lambda f: f(1).close(),
        ],
    ),
    (_coroutine, [lambda f: _stepped(f(1)), lambda f: _stepped(f(1, 0)), lambda f: _stepped(f(1, "x"))]),
    (_async_generator, [lambda f: _stepped(_all_of(f(1, 3))), lambda f: _stepped(_all_of(f(1, "x")))]),
]

_PASSED = ("passed",)


def problem() -> str:
    """What does not work on this interpreter; "" where all does. Whatever is raised in it is a problem too, but for interrupts."""
    try:
        for function, calls in _CALLS:
            assert isinstance(function, types.FunctionType)
            found = _try(function, calls)
            if found:
                return f"the trial of hooks inside a function failed: {function.__name__}: {found}"
    except Exception as error:
        return f"the trial of hooks inside a function failed: {type(error).__name__}: {error}"
    return ""


class _Hooks:
    """What the hooks of a trial say, and how they were called."""

    def __init__(self) -> None:
        self.on_enter: Callable[..., Any] = _nothing
        self.on_leave: Callable[..., Any] = _same
        self.on_failed: Callable[..., Any] = _nothing
        self.calls: List[str] = []

    def enter(self, *values: Any) -> Any:
        self.calls.append("enter")
        return self.on_enter(*values)

    def leave(self, token: Any, value: Any) -> Any:
        self.calls.append(token)
        return self.on_leave(token, value)

    def failed(self, token: Any, error: BaseException) -> Any:
        self.calls.append(token)
        return self.on_failed(token, error)


def _nothing(*_: Any) -> None:
    return None


def _same(token: Any, value: Any) -> Any:
    return value


def _token(*_: Any) -> Any:
    return None, "token"


def _error(*_: Any) -> Any:
    raise LookupError("of a hook")


def _copied(function: types.FunctionType, code: types.CodeType) -> types.FunctionType:
    copy = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _try(function: types.FunctionType, calls: List[_Call]) -> str:
    code = function.__code__
    again = encoded(decoded(code), code)
    for name in ("co_code", "co_exceptiontable"):
        if getattr(again, name) != getattr(code, name):
            return f"its {name} does not come out as it went in"
    hooks = _Hooks()
    whole = _copied(function, inserted(code, hooks.enter, hooks.leave, hooks.failed))
    prologue = _copied(function, inserted(code, hooks.enter))
    expected = [_outcome(call, function) for call in calls]
    for armed, saying, calls_of_hooks, what in (
        (prologue, _nothing, ["enter"], "a prologue only"),
        (whole, _nothing, ["enter"], "nothing to do at the end"),
        (whole, _token, ["enter", "token"], "a token"),
        (whole, lambda *values: (values, "token"), ["enter", "token"], "arguments set"),
    ):
        hooks.on_enter = saying
        hooks.calls.clear()
        if [_outcome(call, armed) for call in calls] != expected:
            return f"another outcome with {what}"
        if not hooks.calls or hooks.calls != calls_of_hooks * hooks.calls.count("enter"):
            return f"with {what} the hooks are called as {hooks.calls}"
    return _try_answers(function, whole, hooks)


def _try_answers(function: types.FunctionType, whole: types.FunctionType, hooks: _Hooks) -> str:
    """Hooks that change the outcome, with a call that returns and one that raises."""
    # An asynchronous generator returns nothing.
    returns = function is not _async_generator
    value = "value" if returns else None

    def run(one: Callable[..., Any], *arguments: Any) -> Any:
        made = one(*arguments)
        return made if function is _plain else _stepped(made if returns else _all_of(made))

    def well(one: Callable[..., Any]) -> Any:
        return run(one, 1)

    def wrongly(one: Callable[..., Any]) -> Any:
        return run(one, "x", "y", 3) if function is _plain else run(one, "x", "y")

    def changed(call: _Call, on_enter: Callable[..., Any] = _token, on_leave: Any = _error, on_failed: Any = _error) -> Any:
        hooks.on_enter, hooks.on_leave, hooks.on_failed = on_enter, on_leave, on_failed
        return _outcome(call, whole)[0]

    for what, outcome in (
        ("a value at once", changed(well, lambda *_: ((value,), None))),
        ("another value", changed(well, on_leave=lambda *_: value)),
        ("a value instead of an error", changed(wrongly, on_failed=lambda *_: (value,))),
    ):
        if outcome[0] != "value" or (returns and "value" not in outcome[1]):
            return f"{what} gives {outcome}"
    for what, outcome in (
        ("enter", changed(wrongly, _error)),
        ("leave", changed(well)),
        ("failed", changed(wrongly)),
    ):
        if outcome[0] != "error" or outcome[1][0] is not LookupError or outcome[1][-1][-1] != function.__code__.co_firstlineno:
            return f"an error of {what} gives {outcome}"
    if changed(wrongly, on_failed=_nothing) != _outcome(wrongly, function)[0]:
        return "an error does not go on as it was"
    return ""


def _outcome(call: _Call, function: Callable[..., Any]) -> Any:
    """What comes of a call: the value, or the exception with the lines that it went through, and that none is handled any more."""
    before = sys.exc_info()[1]
    try:
        outcome = ("value", call(function))
    except Exception as error:
        trace, lines = error.__traceback__, []
        while trace is not None:
            lines.append(trace.tb_lineno)
            trace = trace.tb_next
        outcome = ("error", (type(error), str(error), repr(error.__context__), lines))
    return outcome, sys.exc_info()[1] is before

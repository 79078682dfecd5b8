"""What hooks of patches and spies call: mocks with the parameters of their targets, and what notes each call and its outcome.

Rules:
- A mock cannot cross: one that nobody has configured is answered as None; one that somebody has is a mistake of the test.
- The mock has the parameters that the target has over there, from the first moment where its module is imported by then, else from the
  first call on. A call that does not fit them raises `TypeError` in the application, as the original would.
- What the stand-in raises is its answer, and reaches the application. An `assert` that fails in a `side_effect` function, or a list of
  outcomes that is used up, is a mistake of the test besides, and fails it.
- One call at a time goes through a mock, since mocks count without a lock; not so where its `side_effect` is a function, which may wait.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any, Callable, Dict, Optional, Union
from unittest import mock as mocks

import pytest

from ..script.awaiting import collect, collect_async
from ..script.call import Call
from ..script.session import Session
from ..script.targets import Described, described
from .compare import compare_calls
from .seen import Noted, Seen, short_name, shown_call

Mock = Union[mocks.MagicMock, mocks.AsyncMock]

_COROUTINE = "coroutine function"

# What pytest shows its own difference of arguments for.
_ASSERTIONS = ("assert_called_with", "assert_called_once_with", "assert_any_call", "assert_awaited_with", "assert_awaited_once_with")

_MISTAKES = (AssertionError, pytest.fail.Exception, pytest.skip.Exception)


class Specced:
    """A mock that has the parameters of a target, once they are known."""

    def __init__(self, session: Session, target: str, seen: Seen, autospec: bool, configuration: Dict[str, Any]) -> None:
        self.seen = seen
        self._name = short_name(target)
        self._autospec = autospec
        found = described(session, target)
        self._signature: Optional[inspect.Signature] = None
        self.is_async = found is not None and found.kind == _COROUTINE
        make = mocks.AsyncMock if self.is_async else mocks.MagicMock
        self.mock: Mock = make(name=self._name, **configuration)
        self._specify(found)
        for assertion in _ASSERTIONS:
            if hasattr(self.mock, assertion):
                setattr(self.mock, assertion, compare_calls(self.mock, assertion))

    def _specify(self, found: Optional[Described]) -> None:
        if not self._autospec or found is None or found.signature is None:
            return
        self._signature = self.seen.signature = found.signature
        self.mock.mock_add_spec(_pattern(found.signature, self.is_async))

    def _fits(self, call: Call) -> Optional[TypeError]:
        """What is wrong with the arguments, if the parameters are known."""
        if self._signature is None and self._autospec and call._signature is not None:
            self._specify(Described(call.target, _COROUTINE if self.is_async else "function", call._signature))
        if self._signature is None:
            return None
        try:
            self._signature.bind(*call.args, **call.kwargs)
        except TypeError as error:
            return TypeError(f"{self._name}() {error}")
        return None


class Replacing:
    """The hook of a patch: what notes each call and its outcome. `_answer` gives what the application gets, or raises it."""

    seen: Seen

    def _answer(self, call: Call) -> Any:
        raise NotImplementedError

    def _is_mistake(self, error: BaseException) -> bool:
        raise NotImplementedError

    def call(self, call: Call) -> Any:
        """The hook."""
        noted = Noted(self.seen, call)
        try:
            value = self._answer(call)
            # Run here, not by who sends the answer: an `assert` of it is the test's.
            if inspect.isgenerator(value):
                value = collect(value)
            elif inspect.isasyncgen(value) or inspect.iscoroutine(value):
                return self._awaited(noted, value)
            value = self._crossing(call, value)
        except BaseException as error:
            self._raised(noted, error)
            raise
        noted.ended(value)
        return value

    async def call_async(self, call: Call) -> Any:
        """The hook where the answer is awaited."""
        return await self._awaited(Noted(self.seen, call))

    async def _awaited(self, noted: Noted, answer: Any = None) -> Any:
        try:
            answer = self._answer(noted.call) if answer is None else answer
            value = self._crossing(noted.call, await (collect_async(answer) if inspect.isasyncgen(answer) else answer))
        except BaseException as error:
            self._raised(noted, error)
            raise
        noted.ended(value)
        return value

    def _crossing(self, call: Call, value: Any) -> Any:
        """What the application gets for an answer. Raises `TypeError` for a mock that says what it is to do."""
        if not isinstance(value, mocks.NonCallableMock):
            return value
        if not value._mock_children and value._mock_return_value is mocks.DEFAULT and getattr(value, "side_effect", None) is None:
            return None
        text = f"{short_name(call.target)}: its answer is a mock, which lives here and cannot be had in the application: expected a value"
        self.seen.add_mistake(AssertionError(f"{text} (return_value=), or a function that gives one (side_effect=)"))
        raise TypeError(text)

    def _raised(self, noted: Noted, error: BaseException) -> None:
        call = noted.call
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            used_up = f"the outcomes of its side_effect are used up: {shown_call(short_name(call.target), call.args, call.kwargs)}"
            self.seen.add_mistake(AssertionError(used_up))
        elif isinstance(error, _MISTAKES) and self._is_mistake(error):
            self.seen.add_mistake(error)
        noted.ended(None, error)


class StandIn(Specced, Replacing):
    """What a patch has called: a mock."""

    def __init__(self, session: Session, target: str, seen: Seen, autospec: bool, configuration: Dict[str, Any]) -> None:
        super().__init__(session, target, seen, autospec, configuration)
        self._lock = threading.Lock()

    def _answer(self, call: Call) -> Any:
        wrong = self._fits(call)
        if wrong is not None:
            raise wrong
        if _runs_code(self.mock):
            return self.mock(*call.args, **call.kwargs)
        with self._lock:
            return self.mock(*call.args, **call.kwargs)

    def _is_mistake(self, error: BaseException) -> bool:
        return _runs_code(self.mock)


class New(Replacing):
    """What a patch has called: a stand-in of the test's own. A function is bound to the instance, as it would be in the class."""

    def __init__(self, new: Callable[..., Any], seen: Seen) -> None:
        self.seen = seen
        self._new = new
        self._binds = inspect.isfunction(new)
        self.is_async = inspect.iscoroutinefunction(new)

    def _answer(self, call: Call) -> Any:
        bound = (call.instance,) if self._binds and call.instance is not None else ()
        return self._new(*bound, *call.args, **call.kwargs)

    def _is_mistake(self, error: BaseException) -> bool:
        return True


class Spy(Specced):
    """What a spy has called, and what it notes."""

    def __init__(self, session: Session, target: str, seen: Seen, autospec: bool) -> None:
        super().__init__(session, target, seen, autospec, {})
        self._lock = threading.Lock()
        self.mock.spy_return = self.mock.spy_exception = self.mock.spy_duration = None
        self.mock.spy_return_list = []

    def saw(self, call: Call) -> None:
        """The hook."""
        # For the parameters, which may not be known yet; the original has raised where they do not fit.
        self._fits(call)
        noted = Noted(self.seen, call, call.duration)
        with self._lock:
            called = self.mock(*call.args, **call.kwargs)
            if asyncio.iscoroutine(called):
                _finish(called)
            self.mock.spy_exception = call.exception
            self.mock.spy_duration = call.duration
            if call.exception is None:
                self.mock.spy_return = call.result
                self.mock.spy_return_list.append(call.result)
        noted.ended(call.result, call.exception)


def _finish(coroutine: Any) -> None:
    """Run what an `AsyncMock` gives to its end; it waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()


def _pattern(signature: inspect.Signature, is_async: bool) -> Callable[..., Any]:
    """A function with these parameters, for a mock to be specified by."""

    def function(*args: Any, **kwargs: Any) -> None: ...

    async def coroutine_function(*args: Any, **kwargs: Any) -> None: ...

    pattern: Any = coroutine_function if is_async else function
    pattern.__signature__ = signature
    return pattern  # type: ignore[no-any-return]


def _runs_code(mock: Mock) -> bool:
    """Whether calling the mock calls a function of the test."""
    effect = mock.side_effect
    return callable(effect) and not (isinstance(effect, type) and issubclass(effect, BaseException))

"""This process as a place in which recorded calls are run again.

Rules:
- What stands in does so in the function itself, by its code, so that it does not matter under which name it is called. What is no function
  of Python's is replaced where it lies.
- Such code is shared by all threads: one call at a time is run again, whoever asks.
"""

from __future__ import annotations

import importlib
import inspect
import threading
import types
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Tuple

from ..core.model.errors import TargetError
from ..core.replay.finding import Found
from ..core.replay.standing import Standing, signature_of

ONE_AT_A_TIME = threading.RLock()


class Here:
    """This process, as `core.replay.running.Place`; modules are imported."""

    has_main = False

    def module(self, name: str) -> Any:
        return importlib.import_module(name)

    @contextmanager
    def in_place_of(self, target: str, found: Found, standing: Standing) -> Iterator[None]:
        function = found.function
        if isinstance(function, types.FunctionType):
            code, names = function.__code__, signature_of(_copy(function))

            def called(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
                return standing.answer(target, names, args, kwargs, found.is_bound)

            key = _register(called)
            function.__code__ = _stand_in(code, key)
            try:
                yield
            finally:
                function.__code__ = code
                del _called[key]
            return
        names = signature_of(function)
        # A bound method of C's gets its instance by itself.
        is_bound = found.is_bound and not isinstance(found.raw, types.MethodType)

        def instead(*args: Any, **kwargs: Any) -> Any:
            return standing.answer(target, names, args, kwargs, is_bound)

        try:
            setattr(found.owner, found.name, instead)
        except TypeError as error:
            raise TargetError(f"{target}: nothing can stand in for it: {error}") from None
        try:
            yield
        finally:
            setattr(found.owner, found.name, found.raw)


def _copy(function: types.FunctionType) -> types.FunctionType:
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


_called: Dict[int, Callable[[Tuple[Any, ...], Dict[str, Any]], Any]] = {}


def _register(called: Callable[[Tuple[Any, ...], Dict[str, Any]], Any]) -> int:
    key = max(_called, default=0) + 1
    _called[key] = called
    return key


def answer(key: int, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    """What a function that is stood in for gives; called by the code that is in its place."""
    return _called[key](args, kwargs)


def _stand_in(code: types.CodeType, key: int) -> types.CodeType:
    """Code that may be a function's in the place of its own: it closes over as many names."""
    define = "async def" if code.co_flags & inspect.CO_COROUTINE else "def"
    free = [f"free_{place}" for place in range(len(code.co_freevars))]
    text = "def around():\n"
    text += "".join(f"    {name} = None\n" for name in free)
    text += f"    {define} instead(*args, **kwargs):\n"
    text += f"        if 0: ({', '.join(free)},)\n" if free else ""
    text += f"        from {__name__} import answer\n        return answer({key}, args, kwargs)\n    return instead\n"
    namespace: Dict[str, Any] = {}
    exec(compile(text, f"<stand-in for {code.co_name}>", "exec"), namespace)  # noqa: S102 - the text above
    made: types.CodeType = namespace["around"]().__code__
    return made.replace(co_name=code.co_name)

"""Recorded calls run again in this process, with what was recorded in the place of what they call.

Rules:
- Of a file only the names of its targets are believed: their modules are imported, and values are made again of their packages alone
  (`rebuilding.py`). A target of the standard library is not called, since a file could name any function of it there.
- What was recorded inside of a call stands in for the real function while the call runs: in the function itself, so that it does not matter
  under which name it is called. A call of it that was not recorded raises `NotRecordedError`, and is told whatever becomes of that.
- Whether a call differs is told by its trees: the values of both runs are compared as they would be recorded.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import sysconfig
import types
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..core.model.errors import TargetError, XpcError
from ..core.model.record import Record
from ..core.model.target import split_target
from ..core.values.typed import Encoder, Tree
from .differing import NOTHING, Difference, arguments_text, differences, ignoring
from .rebuilding import CannotRebuildError, Rebuilder, cut_text
from .recorded import InnerCall, RecordedCall


class NotRecordedError(XpcError):
    """A function that is stood in for was called as it was not when the call was recorded."""


class Replayed(Record):
    """What came of one recorded call that was run again."""

    call: RecordedCall
    differences: Tuple[Difference, ...] = ()
    skipped: str = ""
    """Why it was not run, if it was not."""


class _Found(NamedTuple):
    """What a target names: `owner.name` is `raw`, and `function` is what runs."""

    owner: Any
    name: str
    raw: Any
    function: Any
    is_bound: bool


def replay_call(call: RecordedCall, inside: Sequence[str], *, ignore: Sequence[str], times: int, allow: Sequence[str]) -> Replayed:
    """Run one call again; a target that is not there any more is a difference. Raises `TargetError` where it is not to be called."""
    targets = list(dict.fromkeys([*(one.target for one in call.inner), *inside]))
    packages = {split_target(one)[0].partition(".")[0] for one in (call.target, *targets) if "*" not in one}
    maker = Rebuilder({one for one in packages if not is_standard(one)} | set(allow))
    try:
        found = _find(call.target, allow)
    except _GoneError as error:
        return Replayed(call, (Difference(call.id, call.target, "target", call.target, str(error)),))
    why = _why_not(call, maker)
    if why:
        return Replayed(call, (), why)
    is_ignored = ignoring(ignore)
    for _ in range(max(1, times)):
        told = [
            Difference(call.id, call.target, path, was, now)
            for path, was, now in _run(call, found, [one for one in targets if "*" not in one], maker, is_ignored)
            if not is_ignored(path)
        ]
        if told:
            return Replayed(call, tuple(told))
    return Replayed(call)


def why_not(call: RecordedCall, allow: Sequence[str] = ()) -> str:
    """Why a call cannot be run again for what it holds alone, or "": a value that is not there. Nothing is imported."""
    for where, tree in _needed(call):
        for path in _cuts(tree, where):
            return path
    return "too many calls inside of it" if call.left_out else ""


def _needed(call: RecordedCall) -> Iterator[Tuple[str, Tree]]:
    """The values that have to be made again: those of the arguments, and what the inner calls gave."""
    yield from call.arguments.items()
    for place, one in enumerate(call.inner):
        yield f"inner[{place}].{'exception' if one.raised else 'result'}", one.outcome


def _cuts(tree: Tree, where: str) -> Iterator[str]:
    if isinstance(tree, list):
        for place, one in enumerate(tree):
            yield from _cuts(one, f"{where}[{place}]")
    elif isinstance(tree, dict):
        if "cut" in tree and "type" in tree:
            if tree["cut"] != "redacted":
                yield f"{where}: {cut_text(tree)}"
            return
        inner = {**tree, **tree.get("fields", {}), **tree.get("tuple", {})} if "type" in tree else tree
        for name, one in inner.items():
            if name not in ("fields", "tuple"):
                yield from _cuts(one, f"{where}[...]" if name in ("items", "args") else f"{where}.{name}")


def _why_not(call: RecordedCall, maker: Rebuilder) -> str:
    if call.left_out:
        return why_not(call)
    try:
        for where, tree in _needed(call):
            maker.value(tree, where)
    except CannotRebuildError as error:
        return str(error)
    return ""


# finding ----------------------------------------------------------------------------------------------------------------


def is_standard(package: str) -> bool:
    """Whether a top-level package is of the standard library."""
    if package in sys.builtin_module_names:
        return True
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return package in names
    spec = find_spec(package)
    origin = "" if spec is None else spec.origin or ""
    return origin == "frozen" or (origin.startswith(sysconfig.get_path("stdlib") + os.sep) and "-packages" not in origin)


class _GoneError(TargetError):
    """A target that is not there any more."""


def _find(target: str, allow: Sequence[str] = (), is_inner: bool = False) -> _Found:
    module, qualified = split_target(target)
    package = module.partition(".")[0]
    if not is_inner and package not in allow and is_standard(package):
        raise TargetError(
            f"{target}: it is of the standard library, and is not called for a file: a recording could name any function there"
        )
    try:
        owner: Any = importlib.import_module(module)
    except Exception as error:
        raise TargetError(f"{target}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    parts = qualified.split(".")
    accessor = parts.pop() if parts[-1] in ("fget", "fset", "fdel") else "fget"
    for part in parts[:-1]:
        owner = inspect.getattr_static(owner, part, None)
        if isinstance(owner, types.ModuleType):
            # What a module has imported is as good as named by the recording: `shop:os.system`.
            raise TargetError(f"{target}: {part} is a module, and no part of {module}; expected a function or a class of it")
    raw = None if owner is None else inspect.getattr_static(owner, parts[-1], None)
    function = getattr(raw, accessor) if isinstance(raw, property) else getattr(raw, "__func__", raw)
    if not callable(function):
        raise _GoneError(f"{target}: there is no such function")
    for one in () if is_inner else (owner, function):
        home = getattr(one, "__module__", None)
        home = home.partition(".")[0] if isinstance(home, str) else ""
        if home and home != package and home not in allow and is_standard(home):
            raise TargetError(f"{target}: it is {home}'s, of the standard library, and is not called for a file unless {home} is allowed")
    return _Found(owner, parts[-1], raw, function, isinstance(owner, type) and not isinstance(raw, staticmethod))


# running ----------------------------------------------------------------------------------------------------------------

Told = Tuple[str, Any, Any]


def _run(call: RecordedCall, found: _Found, targets: Sequence[str], maker: Rebuilder, is_ignored: Callable[[str], Any]) -> List[Told]:
    args, kwargs = _form(call, maker)
    encoder = Encoder()
    standing = _Standing(call.inner, maker, encoder, is_ignored)
    error: Optional[BaseException] = None
    result: Any = None
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(standing.in_place_of(target))
        try:
            result = asyncio.run(_awaited(found.function, args, kwargs)) if _is_async(found.function) else found.function(*args, **kwargs)
        except (Exception, SystemExit, asyncio.CancelledError) as raised:
            # The last two would end who replays, and not as a difference.
            error = raised
    told = standing.told()
    if isinstance(error, NotRecordedError) and told:
        return told
    return [*told, *_outcome(call, encoder.encode(result if error is None else error), error is not None)]


def _outcome(call: RecordedCall, tree: Tree, raised: bool) -> Iterator[Told]:
    if raised is not call.raised:
        yield "outcome", call.outcome, tree
    else:
        yield from differences(call.outcome, tree, "exception" if raised else "result")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function)


async def _awaited(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return await function(*args, **kwargs)


def _form(call: RecordedCall, maker: Rebuilder) -> Tuple[List[Any], Dict[str, Any]]:
    """The arguments as they are passed."""
    args: List[Any] = []
    kwargs: Dict[str, Any] = {}
    left = call.positional
    for place, (name, tree) in enumerate(call.arguments.items()):
        value = maker.value(tree, name)
        if name.startswith("**"):
            kwargs.update(value)
        elif name.startswith("*"):
            args.extend(value)
        elif name == "self" and place == 0:
            args.append(value)
            # What a function has by that name is no instance, and is counted.
            left -= "." not in call.target.partition(":")[2]
        elif left > 0:
            args.append(value)
            left -= 1
        else:
            kwargs[name] = value
    return args, kwargs


class _Standing:
    """What stands in for the functions that a call has called, as it was recorded."""

    def __init__(self, expected: Sequence[InnerCall], maker: Rebuilder, encoder: Encoder, is_ignored: Callable[[str], Any]) -> None:
        self._expected = expected
        self._maker = maker
        self._encoder = encoder
        self._is_ignored = is_ignored
        self._used: Set[int] = set()
        self._told: List[Told] = []
        self._is_out_of_order = False

    @contextmanager
    def in_place_of(self, target: str) -> Iterator[None]:
        """Stand in for one function until the end."""
        try:
            found = _find(target, is_inner=True)
        except TargetError:
            # It is not there any more: what was called is told as what is not called now.
            yield
            return
        function = found.function
        if isinstance(function, types.FunctionType):
            code, names = function.__code__, _signature(_copy(function))

            def called(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
                return self._answer(target, names, args, kwargs, found.is_bound)

            key = _register(called)
            function.__code__ = _stand_in(code, key)
            try:
                yield
            finally:
                function.__code__ = code
                del _called[key]
            return
        names = _signature(function)

        def instead(*args: Any, **kwargs: Any) -> Any:
            return self._answer(target, names, args, kwargs, found.is_bound)

        try:
            setattr(found.owner, found.name, instead)
        except TypeError as error:
            raise TargetError(f"{target}: nothing can stand in for it: {error}") from None
        try:
            yield
        finally:
            setattr(found.owner, found.name, found.raw)

    def _answer(self, target: str, names: Optional[inspect.Signature], args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool) -> Any:
        arguments = self._trees(names, args, kwargs, bound)
        left = [place for place in range(len(self._expected)) if place not in self._used]
        nearest: Optional[Tuple[int, List[Told]]] = None
        for place in (one for one in left if self._expected[one].target == target):
            told = list(self._compared(place, arguments))
            if nearest is None or not told:
                nearest = place, told
            if not told:
                break
        if nearest is None:
            self._told.append(("inner", NOTHING, _Text(arguments_text(target, arguments))))
            raise NotRecordedError(f"{arguments_text(target, arguments)} was not called when this was recorded")
        place, told = nearest
        self._used.add(place)
        self._told += told
        if place != left[0] and not self._is_out_of_order:
            self._is_out_of_order = True
            first = self._expected[left[0]]
            self._told.append(
                ("inner.order", _Text(arguments_text(first.target, first.arguments)), _Text(arguments_text(target, arguments)))
            )
        one = self._expected[place]
        value = self._maker.value(one.outcome, f"inner[{place}]")
        if one.raised:
            raise value
        return value

    def _compared(self, place: int, arguments: Mapping[str, Tree]) -> Iterator[Told]:
        was = dict(self._expected[place].arguments)
        for name in [*was, *(name for name in arguments if name not in was)]:
            for path, old, new in differences(was.get(name, NOTHING), arguments.get(name, NOTHING), f"inner[{place}].{name}"):
                if not self._is_ignored(path):
                    yield path, old, new

    def _trees(self, names: Optional[inspect.Signature], args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool) -> Dict[str, Tree]:
        room = self._encoder.room()
        if names is None:
            own = args[1:] if bound else args
            return {"*args": room.value(own), "**kwargs": room.value(kwargs)}
        given = names.bind(*args, **kwargs)
        given.apply_defaults()
        stars: Dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        found = {}
        for place, (name, parameter) in enumerate(names.parameters.items()):
            if place or not bound:
                found[stars.get(parameter.kind, "") + name] = room.named(name, given.arguments[name])
        return found

    def told(self) -> List[Told]:
        """What was called otherwise than it was recorded, and what was not called any more."""
        missing = [
            (f"inner[{place}]", _Text(arguments_text(one.target, one.arguments)), NOTHING)
            for place, one in enumerate(self._expected)
            if place not in self._used
        ]
        return [*self._told, *missing]


class _Text(str):
    """A text that is shown as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _copy(function: types.FunctionType) -> types.FunctionType:
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _signature(function: Any) -> Optional[inspect.Signature]:
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return None


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

"""A recorded call run again, with what was recorded in the place of what it calls; and what differs.

Rules:
- Of a file only the names of its targets are believed: values are made again of their packages alone (`rebuilding.py`). A target of the
  standard library is not called, since a file could name any function of it there (`finding.py`).
- What was recorded inside of a call stands in for the real function while the call runs. A call of it that was not recorded raises
  `NotRecordedError`, and is told whatever becomes of that (`standing.py`). How it gets in the place of the function is the place's to know.
- Whether a call differs is told by its trees: the values of both runs are compared as they would be recorded.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from contextlib import ExitStack
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Mapping, Optional, Protocol, Sequence, Tuple

from ..model.errors import TargetError
from ..model.record import Record
from ..model.target import split_target
from ..node.threads import start_seen
from ..values.redaction import Redaction
from ..values.typed import Encoder, Tree
from .calls import RecordedCall
from .differing import Difference, differences, ignoring
from .finding import Found, GoneError, find_target, is_standard
from .rebuilding import CannotRebuildError, Rebuilder, cut_text
from .standing import NotRecordedError, Standing, Told
from .trees import children

# What is given and does nothing before somebody awaits it, or iterates over it.
_UNRUN = {
    "coroutine": "a coroutine, whose result was not recorded",
    "generator": "a generator: what it yields was not recorded",
    "async_generator": "an async generator: what it yields was not recorded",
}


class Replayed(Record):
    """What came of one recorded call that was run again."""

    call: RecordedCall
    differences: Tuple[Difference, ...] = ()
    skipped: str = ""
    """Why it was not run, if it was not."""


class Place(Protocol):
    """Where calls are run again."""

    has_main: bool
    """Whether its main module is the application's."""

    def module(self, name: str) -> Any:
        """The module of that name. Raises what keeps it from being there."""

    def in_place_of(self, target: str, found: Found, standing: Standing) -> ContextManager[object]:
        """Have `standing` answer for a function until the end. Raises `TargetError` where nothing can stand in."""


def replay_call(
    call: RecordedCall,
    inside: Sequence[str],
    place: Place,
    *,
    ignore: Sequence[str] = (),
    times: int = 1,
    allow: Sequence[str] = (),
    redaction: Optional[Redaction] = None,
) -> Replayed:
    """Run one call again. A target that is not there any more is a difference; one that is not to be called is skipped."""
    # Before anything is looked for: `__main__` is another module here.
    why = why_not(call, place.has_main)
    if why:
        return Replayed(call, (), why)
    targets = [one for one in dict.fromkeys([*(one.target for one in call.inner), *inside]) if "*" not in one]
    packages = {split_target(one)[0].partition(".")[0] for one in (call.target, *targets)}
    maker = Rebuilder({one for one in packages if not is_standard(one)} | set(allow), place.module)
    try:
        found = find_target(call.target, place.module, allow)
    except GoneError as error:
        return Replayed(call, (Difference(call.id, call.target, "target", call.target, str(error)),))
    except TargetError as error:
        return Replayed(call, (), str(error))
    is_ignored = ignoring(ignore)
    for _ in range(times):
        try:
            for where, tree in _given_inside(call):
                maker.value(tree, where)
            told = _run(call, found, targets, maker, place, is_ignored, Encoder(redaction))
        except (CannotRebuildError, TargetError) as error:
            # Of what it needs, before it was called.
            return Replayed(call, (), str(error))
        told = [one for one in told if not is_ignored(one[0])]
        if told:
            return Replayed(call, tuple(Difference(call.id, call.target, *one) for one in told))
    return Replayed(call)


# what cannot be run -----------------------------------------------------------------------------------------------------


def why_not(call: RecordedCall, has_main: bool = False) -> str:
    """Why a call cannot be run again for what it holds alone, or "": a value that is not there. Nothing is imported."""
    for target in (call.target, *(one.target for one in call.inner)):
        if not has_main and split_target(target)[0] == "__main__":
            return f"{target} is of the application's main module, which is another one elsewhere"
    if call.left_out:
        return "not all that was called inside of it was recorded"
    for where, tree in (*call.arguments.items(), *_given_inside(call)):
        for text in _cuts(tree, where):
            return text
    if not call.raised and isinstance(call.outcome, dict) and "cut" in call.outcome and call.outcome.get("type") in _UNRUN:
        return f"result: {_UNRUN[call.outcome['type']]}"
    return ""


def _given_inside(call: RecordedCall) -> Iterator[Tuple[str, Tree]]:
    """What the inner calls gave, which has to be made again."""
    for place, one in enumerate(call.inner):
        yield f"inner[{place}].{'exception' if one.raised else 'result'}", one.outcome


def _cuts(tree: Tree, where: str) -> Iterator[str]:
    if isinstance(tree, dict) and "cut" in tree and "type" in tree:
        if tree["cut"] != "redacted":
            yield f"{where}: {cut_text(tree)}"
        return
    for place, one in children(tree, where):
        yield from _cuts(one, place)


# running ----------------------------------------------------------------------------------------------------------------


def _run(
    call: RecordedCall,
    found: Found,
    targets: Sequence[str],
    maker: Rebuilder,
    place: Place,
    is_ignored: Callable[[str], Any],
    encoder: Encoder,
) -> List[Told]:
    args, kwargs = _arguments_of(call, maker)
    standing = Standing(call.inner, maker, encoder, is_ignored)
    error: Optional[BaseException] = None
    result: Any = None
    with ExitStack() as stack:
        for target in targets:
            try:
                inner = find_target(target, place.module, is_inner=True)
            except TargetError:
                # It is not there any more: what was called is told as what is not called now.
                continue
            stack.enter_context(place.in_place_of(target, inner, standing))
        try:
            result = _called(found.function, args, kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            # What would end who replays is a difference too.
            error = raised
    told = standing.told()
    if isinstance(error, NotRecordedError) and told:
        return told
    tree = encoder.encode(result if error is None else error)
    if inspect.iscoroutine(result):
        result.close()  # or it is warned of
    return [*told, *_outcome(call, tree, error is not None)]


def _outcome(call: RecordedCall, tree: Tree, raised: bool) -> Iterator[Told]:
    if raised is not call.raised:
        yield "outcome", call.outcome, tree
    else:
        yield from differences(call.outcome, tree, "exception" if raised else "result")


def _called(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if not inspect.iscoroutinefunction(function):
        return function(*args, **kwargs)
    if asyncio._get_running_loop() is None:
        return asyncio.run(_awaited(function, args, kwargs))
    # The caller is in a loop of its own, as in an `async def` test: this one runs in another thread.
    done: List[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.append((context.run(asyncio.run, _awaited(function, args, kwargs)), None))
        except BaseException as error:
            done.append((None, error))

    start_seen(run, name="replay").join()
    result, error = done[0]
    if error is not None:
        raise error
    return result


async def _awaited(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return await function(*args, **kwargs)


def _arguments_of(call: RecordedCall, maker: Rebuilder) -> Tuple[List[Any], Dict[str, Any]]:
    """The arguments as they are passed. Raises `CannotRebuildError`."""
    args: List[Any] = []
    kwargs: Dict[str, Any] = {}
    left = call.positional
    for place, (name, tree) in enumerate(call.arguments.items()):
        value = maker.value(tree, name)
        if name.startswith("*") and not isinstance(value, dict if name.startswith("**") else (tuple, list)):
            raise CannotRebuildError(f"{name}: {type(value).__name__} is nothing that a call has there")
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
    if not all(isinstance(name, str) for name in kwargs):
        raise CannotRebuildError("**kwargs: a name that is no text")
    return args, kwargs

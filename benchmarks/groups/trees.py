"""In one process: what a call costs in an invocation that has a tree, and what another thread pays meanwhile."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import FunctionType
from typing import Any, Callable, Dict, Iterator, List, Mapping

from xpc_agent.monitoring import Monitoring
from xpc_agent.trees.codes import Codes
from xpc_agent.trees.forest import forest
from xpc_instrument.core.model.pattern import compiled

from ..measure.timing import Comparison, Group, TimeFunction, timer

# In seconds, for a call of a function that returns its argument, more than without a tree.
_MOST = 4e-6
# The same in another thread that runs the same code: none where only the one thread is told of.
_MOST_BESIDE = 1e-6 if Monitoring.IS_THERE else 0.02e-6


class TreeError(Exception):
    """A tree did not grow where it should."""


def _function(module: str) -> FunctionType:
    made: Dict[str, Any] = {"__name__": module}
    exec("def leaf(value):\n    return value\n", made)
    function: FunctionType = made["leaf"]
    return function


def _growing(time: TimeFunction, codes: Codes, root: FunctionType, calls: bool) -> TimeFunction:
    """The same while a tree grows of an invocation in this thread."""

    def timed(loops: int) -> float:
        growing = forest.begin(root.__code__, codes, 0, False, [])
        if isinstance(growing, str):
            raise TreeError(f"no tree grows: {growing}")
        try:
            measured = float(time(loops))  # type: ignore[arg-type]
        finally:
            forest.end(growing)
        if calls != bool(growing.growth.calls):
            raise TreeError(f"{growing.growth.calls} calls in the tree of {loops} that were made")
        return measured

    return timed


def _elsewhere(time: TimeFunction) -> TimeFunction:
    """The same in another thread, which nobody hinders."""

    def timed(loops: int) -> float:
        measured: List[float] = []
        thread = threading.Thread(target=lambda: measured.append(float(time(loops))))  # type: ignore[arg-type]
        thread.start()
        thread.join()
        return measured[0]

    return timed


@contextmanager
def _trees() -> Iterator[Mapping[str, TimeFunction]]:
    mine, library, root = _function("shop"), _function("library"), _function("shop")
    codes = Codes("shop", compiled(("shop",)))
    if codes.wants(mine.__code__, "shop"):
        codes.found.append(mine.__code__)
    call: Callable[[FunctionType], TimeFunction] = lambda function: timer("function(1)", function=function)  # noqa: E731
    yield {
        "bare": call(mine),
        "in a tree": _growing(call(mine), codes, root, True),
        "bare elsewhere": _elsewhere(call(mine)),
        "library elsewhere": _growing(_elsewhere(call(library)), codes, root, False),
        "same elsewhere": _growing(_elsewhere(call(mine)), codes, root, False),
    }


TREES = Group(
    "trees",
    _trees,
    (
        Comparison("a call in a tree", "in a tree", "bare", more=_MOST),
        Comparison("another thread meanwhile, other code", "library elsewhere", "bare elsewhere", below=1.1),
        Comparison("another thread meanwhile, the same code", "same elsewhere", "bare elsewhere", more=_MOST_BESIDE),
    ),
    share=0.3,
    title="A tree of calls",
    about="""\
A function that returns its argument, called in an invocation that `trace` shows, and in another thread meanwhile. Code that cannot be
in the tree runs as ever.""",
    why="""\
From Python 3.12 on code tells each thread that runs it, and the callback sees that it is another's; up to 3.11 only the one thread is
told of. In the tree, a call is looked up among those of its parent, and the clock is read twice.""",
)

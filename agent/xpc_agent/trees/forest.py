"""The one tree that grows in this process, and what a hook needs to let one grow.

Rules:
- At most one grows at a time, so that what a tree costs is bounded, and its callbacks are its own. Who comes meanwhile goes without.
- A tree that has begun ends once: with its invocation, with its hook, or in a forked child, whichever comes first. From then on nothing of
  it is left in the interpreter; up to Python 3.11 that may take to the next call in its thread.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union
from weakref import WeakValueDictionary

from xpc_instrument.core.model.pattern import compiled
from xpc_instrument.core.unpatched import perf_counter
from xpc_instrument.core.wire.hubs import GREENLET, getcurrent

from ..monitoring import Monitoring, monitoring
from .codes import Codes
from .growth import Growth
from .monitored import Monitored
from .profiled import Profiled

PER_CALL = 1.5e-6
"""What a call in a tree costs beside itself, in seconds: measured by `benchmarks` on the machine of its figures."""

# Code is found by walking where it has to be known before it runs, and where it does not know its own qualified name.
_WALKS = Monitoring.IS_THERE or sys.version_info < (3, 11)

Source = Union[Monitored, Profiled]


class Growing:
    """A tree that grows. `cost` is what it has taken so far, in seconds of the processor's."""

    __slots__ = ("_source", "cost", "growth")

    def __init__(self, growth: Growth, source: Source) -> None:
        self.growth = growth
        self.cost = 0.0
        # Taken out by who ends it, in one step.
        self._source: List[Source] = [source]

    def stop(self) -> bool:
        """Look no more; False if that was done before."""
        try:
            source = self._source.pop()
        except IndexError:
            return False
        began = perf_counter()
        source.end()
        self.cost += perf_counter() - began
        return True


class Forest:
    """The trees of this process."""

    def __init__(self) -> None:
        # Taken out by who lets a tree grow, in one step.
        self._room: List[None] = [None]
        self._now: Optional[Growing] = None
        # As long as hooks have them.
        self._kept: WeakValueDictionary[Tuple[str, Tuple[str, ...]], Codes] = WeakValueDictionary()

    @staticmethod
    def check() -> None:
        """Raise `TargetError` if no tree can grow in this process."""
        if Monitoring.IS_THERE:
            monitoring.check()

    def codes(self, package: str, include: Sequence[str]) -> Codes:
        """The code that is in trees of a target in that package; walks over all modules the first time, which takes a while."""
        key = package, tuple(include)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = Codes(package, compiled(tuple(include)))
        if _WALKS and not found.is_current:
            found.look()
        return found

    @property
    def busy(self) -> bool:
        """Whether one grows."""
        return not self._room

    def begin(self, code: CodeType, codes: Codes, depth: int, is_called: bool, also: Sequence[CodeType]) -> Union[Growing, str]:
        """Let a tree grow of an invocation that runs this code in this thread, or if it `is_called`, is about to; or why not.

        `also` is code that `codes` could not find, since it stands in for what it has found.
        """
        began = perf_counter()
        growth = Growth(code, depth)
        current: Optional[Callable[[], Any]] = getcurrent if GREENLET in sys.modules else None
        source = _source(growth, codes, [code, *also], current)
        growing = Growing(growth, source)
        try:
            self._room.pop()
        except IndexError:
            return "busy"
        self._now = growing
        try:
            why = source.begin()
        except BaseException:
            self.end(growing)
            raise
        if why:
            self.end(growing)
            return why
        growing.cost = perf_counter() - began
        growth.begin(is_called)
        return growing

    def end(self, growing: Growing) -> bool:
        """It is over; False if it was over before."""
        first = growing.stop()
        if first:
            self._now = None
            self._room.append(None)
        return first

    def reset_after_fork(self) -> None:
        """In a forked child: the invocation is the parent's."""
        monitoring.reset_after_fork()
        if self._now is not None:
            self.end(self._now)


def _source(growth: Growth, codes: Codes, also: Sequence[CodeType], current: Optional[Callable[[], Any]]) -> Source:
    """What tells a tree of what its thread does."""
    return Monitored(growth, [*codes.found, *also], current) if Monitoring.IS_THERE else Profiled(growth, codes, current)


forest = Forest()

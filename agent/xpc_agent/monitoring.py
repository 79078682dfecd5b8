"""Our tool of `sys.monitoring`, which Python 3.12 and later have: all of the agent that asks to be told what code does asks here.

Rules:
- There is one tool id for all of it, taken while somebody needs it. It is none of those that debuggers, coverage and profilers are told to
  use, and one that nobody has.
- The local events of a code object are the union of what was added. So whoever adds lines to a function does not take the calls away that
  somebody else looks at, and the other way round. Who adds events to a code object keeps it alive until they are dropped.
- Threads of the application come here too, where a tree grows: where another one has the lock for long, they go on without. What is told of
  a code object is put together anew whenever it changes, so that holds then too, unless two change it in the same moment.
- Events have one callback each. It is called for each thread that runs such code, and sees to it itself that it has nothing to do there.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Set

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.unpatched import Brief

# Those without a meaning of their own come first.
_IDS = (4, 3, 5)

# Absent before Python 3.12.
_tools: Any = getattr(sys, "monitoring", None)


class Monitoring:
    """The tool id and what it is told of. `IS_THERE` says whether this Python has it."""

    IS_THERE = _tools is not None

    def __init__(self) -> None:
        self._owners: Set[str] = set()
        self._changing = Brief()
        # By the number of a code object, and by owner.
        self._added: Dict[int, Dict[str, int]] = {}
        # Those that a tree has added, to many thousands of code objects, for as long as it grows.
        self._passing = 0
        self.id: Optional[int] = None
        """The tool id, while we have one."""

    def check(self) -> None:
        """Raise `TargetError` if there is no tool id to be had, naming those who have them."""
        if self.id is None and self._free() is None:
            others = ", ".join(f"{one}: {_tools.get_tool(one)}" for one in _IDS)
            raise TargetError(
                f"other tools have all ids of sys.monitoring that we could take ({others}); end one of them in the application"
            )

    @staticmethod
    def _free() -> Optional[int]:
        return next((one for one in _IDS if _tools.get_tool(one) is None), None)

    def acquire(self, owner: str) -> None:
        """Take a tool id for `owner`, who releases it. Raises `TargetError` if there is none."""
        with self._changing():
            if self.id is None:
                self.check()
                free = self._free()
                _tools.use_tool_id(free, "xpc-instrument")
                self.id = free
            self._owners.add(owner)

    def release(self, owner: str) -> None:
        """`owner` needs it no more, and has dropped its events. Harmless if it has not taken it."""
        with self._changing():
            self._owners.discard(owner)
            if not self._owners and self.id is not None:
                _tools.free_tool_id(self.id)
                self.id = None

    def listen(self, event: int, callback: Optional[Callable[..., Any]]) -> None:
        """From now on `callback` is called with that event, or nothing is."""
        _tools.register_callback(self.id, event, callback)

    def add(self, codes: Iterable[CodeType], events: int, owner: str) -> None:
        """Be told of these events in these code objects, too."""
        with self._changing():
            for code in codes:
                mine = self._added.setdefault(id(code), {})
                mine[owner] = mine.get(owner, 0) | events
                self._tell(code, mine)

    def drop(self, codes: Iterable[CodeType], events: int, owner: str) -> None:
        """Be told of them no more, unless another owner has added them."""
        with self._changing():
            for code in codes:
                mine = self._added.get(id(code), {})
                mine[owner] = mine.get(owner, 0) & ~events
                if not mine[owner]:
                    del mine[owner]
                    if not mine:
                        self._added.pop(id(code), None)
                self._tell(code, mine)

    def add_for_now(self, codes: Iterable[CodeType], events: int) -> None:
        """Be told of these events in all these code objects until `drop_for_now`, by one part of the agent at a time."""
        number, put, added = self.id, _tools.set_local_events, self._added
        with self._changing():
            self._passing = events
            for code in codes:
                put(number, code, events | _union(added[id(code)]) if id(code) in added else events)

    def drop_for_now(self, codes: Iterable[CodeType]) -> None:
        """Be told of them no more."""
        number, put, added = self.id, _tools.set_local_events, self._added
        with self._changing():
            self._passing = 0
            for code in codes:
                put(number, code, _union(added[id(code)]) if id(code) in added else 0)

    def _tell(self, code: CodeType, added: Mapping[str, int]) -> None:
        passing = _tools.get_local_events(self.id, code) & self._passing if self._passing else 0
        _tools.set_local_events(self.id, code, _union(added) | passing)

    def everywhere(self, events: int) -> None:
        """Be told of these events, and no others, in all code: for those that are rare, and cannot be had for some code only."""
        _tools.set_events(self.id, events)

    def reset_after_fork(self) -> None:
        """In a forked child, where another thread of the parent may have held the lock; what was added stays."""
        self._changing = Brief()


def _union(added: Mapping[str, int]) -> int:
    events = 0
    for one in added.values():
        events |= one
    return events


monitoring = Monitoring()

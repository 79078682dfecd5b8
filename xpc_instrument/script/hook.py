"""A hook that a session has registered: the callable, and what is left of its terms."""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional, Sequence, Set, Tuple, Type

from ..core.calls.batch import ARGS
from ..core.model.errors import XpcError
from ..core.model.target import Mode, is_selection
from ..core.model.terms import Terms
from ..core.unpatched import monotonic
from .handle import Handle


class Hook:
    """`raises` are the types of what it may raise into the application; `remove` is what its handle calls to have it removed."""

    __slots__ = (
        "_lock",
        "accepted",
        "callback",
        "deadline",
        "expires",
        "failure",
        "handle",
        "left",
        "mode",
        "module",
        "raises",
        "refusal",
        "said",
        "target",
        "terms",
        "waits",
    )

    def __init__(
        self,
        number: int,
        mode: Mode,
        target: str,
        callback: Callable[..., Any],
        terms: Terms,
        raises: Tuple[Type[Exception], ...],
        remove: Callable[[Handle], None],
    ) -> None:
        self.handle = Handle(number, mode, target, remove, self.over)
        self.mode = mode
        # "" if it stands for several: then each call says which.
        self.target = "" if is_selection(target) else target
        if self.target:
            self.handle._note_targets([target])
        self.callback = callback
        self.terms = terms
        self.raises = raises
        # In seconds, as a process has said; what the config of all says, as a rule.
        self.deadline = terms.timeout
        # What is logged once, and has been.
        self.said: Set[object] = set()
        # Each process counts its own calls; what counts for all of them is this.
        self.left = terms.limit
        self._lock = threading.Lock()
        self.expires = None if terms.expires is None else monotonic() + terms.expires
        module = getattr(callback, "__module__", None)
        self.module = module if isinstance(module, str) else ""
        # Whether a process has it, whether one waits for the module of its target, why the first that refused it did, and what went wrong
        # in the first in which something did.
        self.accepted = False
        self.waits = False
        self.refusal: Optional[XpcError] = None
        self.failure: Optional[XpcError] = None

    @property
    def has_place(self) -> bool:
        """Whether a process has it, or waits for the module of its target and none that has that refuses it."""
        return self.accepted or (self.waits and self.refusal is None)

    def over(self) -> str:
        """Which of its terms is over, if one is."""
        if self.left == 0:
            return "limit"
        return "expires" if self.expires is not None and monotonic() >= self.expires else ""

    def says_first(self, what: object) -> bool:
        """Whether this is the first time that it is said."""
        with self._lock:
            first = what not in self.said
            self.said.add(what)
        return first

    def take_event(self, event: Sequence[Any]) -> bool:
        """The same as `take` for an event. What a local hook tells beside its terms has a second argument, and is not counted."""
        return (self.terms.local is not None and len(event[ARGS]) > 1) or self.take()

    def take_some(self, count: int) -> int:
        """Count so many calls; gives how many of them were left."""
        if self.left is None:
            return count
        with self._lock:
            taken = min(count, self.left)
            self.left -= taken
            return taken

    def take(self) -> bool:
        """Count one call; False if there is none left."""
        if self.left is None:
            return True
        with self._lock:
            if self.left <= 0:
                return False
            self.left -= 1
            return True

"""What a session knows of its hooks and of the processes that it has joined."""

from __future__ import annotations

import inspect
import threading
import time
from typing import Any, Callable, Dict, Optional

from .channel.joiner import Joiner, python_version
from .hooks import Handle
from .pickling import Traits
from .terms import Terms


class Hook:
    """A registered hook."""

    __slots__ = ("_lock", "callback", "expires", "handle", "left", "mode", "module", "terms")

    def __init__(self, handle: Handle, callback: Callable[..., Any], terms: Terms) -> None:
        self.handle = handle
        self.mode = handle.mode
        self.callback = callback
        self.terms = terms
        # Each process counts its own calls; what counts for all of them is this.
        self.left = terms.limit
        self._lock = threading.Lock()
        self.expires = None if terms.expires is None else time.monotonic() + terms.expires
        module = getattr(callback, "__module__", None)
        self.module = module if isinstance(module, str) else ""

    @property
    def used_up(self) -> bool:
        """Whether its calls or its time are over."""
        return self.left == 0 or (self.expires is not None and time.monotonic() >= self.expires)

    def take(self) -> bool:
        """Count one call; False if there is none left."""
        if self.left is None:
            return True
        with self._lock:
            if self.left <= 0:
                return False
            self.left -= 1
            return True


class Member:
    """One process of the application."""

    __slots__ = ("_lock", "_traits", "joiner", "name", "signatures")

    def __init__(self, joiner: Joiner, name: str) -> None:
        self.joiner = joiner
        self.name = name
        self.signatures: Dict[str, Optional[inspect.Signature]] = {}
        self._traits: Optional[Traits] = None
        self._lock = threading.Lock()

    @property
    def traits(self) -> Traits:
        """How values are pickled for the process. Invocations that waited for this session come while it is still joining."""
        traits = self._traits
        if traits is None:
            with self._lock:
                traits = self._traits
                if traits is None:
                    welcome = self.joiner.welcome
                    traits = self._traits = Traits(welcome.python, python_version(), welcome.max_payload)
        return traits

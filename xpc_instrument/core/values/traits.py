"""What is known of the Python at the other end, which decides how values are pickled for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Dict, FrozenSet, Tuple

if TYPE_CHECKING:
    from .ancestry import Ancestry


def python_version() -> str:
    """The minor version of this Python, such as "3.11": pickles that hold code cross only between equal ones."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


class PeerProfile:
    """What is known of the other side, and so decides how values are pickled for it.

    `by_value` says whether code may cross (equal minor versions), `limit` is in bytes, `foreign` names top-level modules of this process
    that the other side cannot import, and so nothing in them. `ancestries` has, by full name, the classes of the other side that were
    asked for.
    """

    __slots__ = ("_foreign_bytes", "ancestries", "by_value", "foreign", "limit", "python")

    def __init__(self, python: str, own_python: str, limit: int, foreign: FrozenSet[str] = frozenset()) -> None:
        self.python = python
        self.by_value = python == own_python
        self.limit = limit
        self.ancestries: Dict[str, Ancestry] = {}
        self.foreign: FrozenSet[str] = frozenset()
        self._foreign_bytes: Tuple[bytes, ...] = (b"__main__",)
        for module in foreign:
            self.add_foreign(module)

    def add_foreign(self, module: str) -> None:
        """The other side cannot import the package of `module`: from now on, what lives there crosses by value."""
        top = module.partition(".")[0]
        if top in self.foreign or top == "__main__":
            return
        self.foreign |= {top}
        self._foreign_bytes += (top.encode(),)

    def names_foreign(self, piece: bytes) -> bool:
        """Whether a piece of a pickle seems to name a module that the other side cannot import."""
        for name in self._foreign_bytes:  # noqa: SIM110 - a generator for any() costs more than the search
            if name in piece:
                return True
        return False

"""What the table asks of whoever has hooks to come on functions of modules that are not imported yet."""

from __future__ import annotations

from typing import Any, List, Mapping, Protocol, Tuple


class Awaiting(Protocol):
    """Whoever has hooks to come on functions of modules that are not imported yet."""

    def covers_module(self, name: str) -> bool:
        """Whether functions of that module are awaited."""

    def module_ran(self, name: str) -> None:
        """The module has run, or a part of the main program has. Raises `BusyError` if some of it is to be done again."""

    def unmatched(self) -> List[Tuple[str, Mapping[str, Any]]]:
        """The patterns that stand for nothing yet, each with what a report says of its hook."""


class Nobody:
    """Where nobody has."""

    def covers_module(self, name: str) -> bool:
        return False

    def module_ran(self, name: str) -> None:
        """Nothing is to be done."""

    def unmatched(self) -> List[Tuple[str, Mapping[str, Any]]]:
        return []

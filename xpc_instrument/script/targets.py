"""What an application tells of a target before it is hooked: what calling it gives, and its parameters."""

from __future__ import annotations

import inspect
from typing import Any, List, Mapping, NamedTuple, Optional, Protocol

from .call import signature_from_spec


class Searching(Protocol):
    """A session, as far as it asks for targets."""

    def _search(self, pattern: str) -> List[Mapping[str, Any]]: ...


class Described(NamedTuple):
    """A target, as a process of the application has it."""

    target: str
    kind: str
    """``function``, ``coroutine function``, ``generator function`` or ``async generator function``."""

    signature: Optional[inspect.Signature]
    """Its parameters without the bound one, with ``...`` for each default, which stays there; None of what was not written in Python."""

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Described:
        """What a process has told of it."""
        return cls(told["target"], told["kind"], signature_from_spec(told["signature"]))


def described(session: Searching, target: str) -> Optional[Described]:
    """What the first process that has the target tells of it; None where its module is not imported yet, or has no such function.

    Raises ``TargetError`` for a text that cannot be a target, ``ChannelError`` if a process that lives does not answer.
    """
    for one in session._search(target):
        if one["target"] == target and one["kind"]:
            return Described.read(one)
    return None

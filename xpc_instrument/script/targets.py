"""What an application tells of a target before it is hooked: what calling it gives, and its parameters."""

from __future__ import annotations

import inspect
from typing import NamedTuple, Optional

from .call import signature_from_spec
from .session import Session


class Described(NamedTuple):
    """A target, as a process of the application has it."""

    target: str
    kind: str
    """``function``, ``coroutine function``, ``generator function`` or ``async generator function``."""

    signature: Optional[inspect.Signature]
    """Its parameters without the bound one, and ``None`` for each default; None of what was not written in Python."""


def described(session: Session, target: str) -> Optional[Described]:
    """What the first process that has the target tells of it; None where its module is not imported yet, or has no such function.

    Raises ``TargetError`` for a text that cannot be a target, ``ChannelError`` if a process that lives does not answer.
    """
    for one in session._search(target):
        if one["target"] == target and one["kind"]:
            return Described(target, one["kind"], signature_from_spec(one["signature"]))
    return None

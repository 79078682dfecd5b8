"""Answering the calls of plain callbacks, which have a name and no target."""

from __future__ import annotations

from typing import Any, Callable

from ..model.errors import PayloadError
from ..protocol.codec import Frame
from ..protocol.connection import State
from ..values.traits import PeerProfile
from ..wire.wire import Wire
from .callee import Incoming


def answer(wire: Wire, frame: Frame, profile: PeerProfile, callback: Callable[..., Any]) -> None:
    """Run a plain callback for a call that arrived, and answer it."""
    incoming = Incoming(wire, frame, profile)
    try:
        args, kwargs = incoming.plain_arguments(callback, incoming.record())
        value = callback(*args, **kwargs)
    except Exception as error:
        if wire.connection.state is not State.CALLEE_RUNNING:
            raise  # the lane broke while the callback asked back: nobody waits for an answer
        incoming.throw(error)
        return
    except BaseException as error:
        incoming.throw(RuntimeError(f"the callback ended with {type(error).__name__}"))
        raise
    try:
        incoming.give(value)
    except PayloadError as error:
        incoming.throw(error)

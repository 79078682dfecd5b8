"""Registrations that take long, as of a pattern that stands for hundreds of functions, in slices: others are served in between.

Rules:
- A registration is a generator that yields wherever it may pause and returns its answer. One that takes no longer than a slice is done at
  once; the others go on in turn, a slice in each turn of the service thread.
- Who is not there any more, or has removed its hook meanwhile, has no registration that goes on. To close the generator is harmless: what
  it has put on is taken off by whoever ends it.
- That a session has registered all that it wants counts once all of it is done.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Callable, Deque, Generator, Optional, Set, Tuple, TypeVar

from xpc_instrument.core.model.errors import XpcError
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.protocol.messages import Answer, Register
from xpc_instrument.core.unpatched import monotonic

log = logging.getLogger("xpc_agent")

T = TypeVar("T")
Steps = Generator[None, None, T]

# Seconds of one slice. Where four threads compute, a turn of the service thread costs as much: after each step of I/O it waits for the GIL.
_SLICE = 0.1


def finished(steps: Steps[T]) -> T:
    """What comes of it, without a pause. Raises what it raises."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


class Slices:
    """The registrations that go on. `synced` is called with a session that has registered all that it wants to, once that is done."""

    def __init__(self, synced: Callable[[Peer], None]) -> None:
        self._going: Deque[Tuple[Peer, Register, Steps[Optional[Answer]]]] = deque()
        self._synced = synced
        self._waiting: Set[str] = set()

    def begin(self, peer: Peer, message: Register, steps: Steps[Optional[Answer]]) -> Optional[Answer]:
        """Do it, or the first slice of it; returns the answer, if there is one yet. Raises what it raises."""
        return self._slice(peer, message, steps)

    def _slice(self, peer: Peer, message: Register, steps: Steps[Optional[Answer]]) -> Optional[Answer]:
        until = monotonic() + _SLICE
        try:
            while True:
                next(steps)
                if monotonic() >= until:
                    self._going.append((peer, message, steps))
                    return None
        except StopIteration as end:
            answer: Optional[Answer] = end.value
            return answer

    @property
    def due(self) -> bool:
        """Whether there is something to go on with."""
        return bool(self._going)

    def go_on(self) -> None:
        """One slice of what has waited longest."""
        if not self._going:
            return
        peer, message, steps = self._going.popleft()
        answer: Optional[Answer]
        try:
            answer = self._slice(peer, message, steps)
        except XpcError as error:
            answer = Answer(message.request, False, type(error).__name__, str(error))
        except Exception as error:
            log.exception("registering %.200s failed", message.name)
            answer = Answer(message.request, False, "XpcError", f"{type(error).__name__}: {error}")
        if answer is not None:
            peer.post(answer)
        self._tell_synced(peer)

    def wait(self, peer: Peer) -> bool:
        """Whether `synced` will be called for a session later, which has said so now."""
        if not any(one is peer for one, _, _ in self._going):
            return False
        self._waiting.add(peer.session)
        return True

    def _tell_synced(self, peer: Peer) -> None:
        if peer.session in self._waiting and not any(one is peer for one, _, _ in self._going):
            self._waiting.discard(peer.session)
            self._synced(peer)

    def end(self, peer: Peer, hook: int) -> None:
        """A hook is removed: it is put on nothing more."""
        for one in [one for one in self._going if one[0] is peer and one[1].hook == hook]:
            self._going.remove(one)
            one[2].close()
            peer.post(Answer(one[1].request, False, "TargetError", f"{one[1].name:.200}: the hook has been removed"))
        self._tell_synced(peer)

    def left(self, peer: Peer) -> None:
        """A session has ended."""
        self._waiting.discard(peer.session)
        for one in [one for one in self._going if one[0] is peer]:
            self._going.remove(one)
            one[2].close()

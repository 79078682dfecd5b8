"""The registry of callbacks that one process hosts: who registered what, and the calls and relays through it.

Rules:
- A name belongs to one node at a time; a node may register its own name again, which replaces the callback.
- Calls between two joined nodes are relayed as opaque bytes, which are never unpickled on the way.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

from ..model.errors import ChannelError, RemoteProtocolError, TargetError
from ..model.limits import Limits
from ..model.target import is_target
from ..model.terms import Terms
from ..node.peer import Peer, Policy
from ..protocol.codec import Frame
from ..protocol.messages import Answer, Hello, Opcode, Query, Register, Unregister
from ..unpatched import allocate_lock, monotonic
from ..values.traits import PeerProfile, python_version
from ..wire.wire import Wire

_FINAL = frozenset({Opcode.RETURN, Opcode.RETURN_SAME, Opcode.RAISE, Opcode.RAISE_SAME, Opcode.FAILED, Opcode.NOT_FOUND})


class Registration:
    """A name that can be called. `peer` is None for a callback of the host itself."""

    __slots__ = ("callback", "expires", "hook", "left", "lock", "peer")

    def __init__(
        self,
        callback: Optional[Callable[..., Any]],
        peer: Optional[Peer],
        hook: int,
        terms: Terms = Terms(),  # noqa: B008 - it is frozen
    ) -> None:
        self.callback = callback
        self.peer = peer
        self.hook = hook
        self.left = terms.limit
        self.expires = None if terms.expires is None else monotonic() + terms.expires
        self.lock = allocate_lock()

    def lost(self, caller: Wire) -> None:
        """Answer a call whose callee is gone: whoever is gone has registered nothing."""
        caller.send_frame(Opcode.NOT_FOUND, 0, b"", None)

    def take(self) -> bool:
        """Count one call; False if the registration has ended."""
        if self.expires is not None and monotonic() >= self.expires:
            return False
        if self.left is None:
            return True
        with self.lock:
            if self.left <= 0:
                return False
            self.left -= 1
            return True


class Registry(Policy):
    """The host's names, and the calls and relays through them."""

    def __init__(self, limits: Limits, relayed: Optional[Callable[[str], Optional[Registration]]] = None) -> None:
        """`relayed` finds who is called by a name that begins with a zero byte; without it such a name is like any other."""
        self._relayed = relayed
        self._names: Dict[str, Registration] = {}
        self._lock = allocate_lock()
        self._limits = limits

    def put(self, name: str, registration: Registration) -> bool:
        """Register; False if the name belongs to another live node."""
        with self._lock:
            held = self._names.get(name)
            if held is not None and held.peer is not registration.peer and not self._ended(held):
                return False
            self._names[name] = registration
            return True

    def take_away(self, name: str, peer: Optional[Peer]) -> bool:
        """Unregister a name that `peer` holds."""
        with self._lock:
            held = self._names.get(name)
            if held is None or held.peer is not peer:
                return False
            del self._names[name]
            return not self._ended(held)

    def find(self, name: str) -> Optional[Registration]:
        """The live registration of a name, with one call counted."""
        if self._relayed is not None and name.startswith("\0"):
            return self._relayed(name)
        registration = self._names.get(name)
        if registration is None:
            return None
        if registration.take():
            return registration
        with self._lock:
            if self._names.get(name) is registration:
                del self._names[name]
        return None

    @staticmethod
    def _ended(registration: Registration) -> bool:
        return registration.left == 0 or (registration.expires is not None and monotonic() >= registration.expires)

    # policy of the host ------------------------------------------------------------------------------------------------

    def left(self, peer: Peer) -> None:
        with self._lock:
            for name in [name for name, registration in self._names.items() if registration.peer is peer]:
                del self._names[name]

    def register(self, peer: Peer, message: Register) -> Optional[Answer]:
        if is_target(message.name) and message.style != "plain":
            raise TargetError(f"{message.name}: the process at the other end is a plain manager, not an instrumented application")
        registration = Registration(None, peer, message.hook, read_terms(message))
        return Answer(message.request, True, data={"registered": self.put(message.name, registration)})

    def unregister(self, peer: Peer, message: Unregister) -> Optional[Answer]:
        for name, registration in self._names.copy().items():
            if registration.peer is peer and registration.hook == message.hook:
                return Answer(message.request, True, data={"unregistered": self.take_away(name, peer)})
        return Answer(message.request, True, data={"unregistered": False})

    def query(self, peer: Peer, message: Query) -> Answer:
        return Answer(message.request, True, data={"names": sorted(self._names)})

    def serve(self, wire: Wire, hello: Hello) -> None:
        # Late: few applications have callbacks of their own, and values need much.
        from .answering import answer

        profile = PeerProfile(hello.python, python_version(), self._limits.max_payload)
        while True:
            frame = wire.recv_frame(None)
            if frame.opcode not in (Opcode.CALL_NAMED, Opcode.EVENTS) or not frame.buffers:
                raise RemoteProtocolError(f"{frame.opcode.name} on a lane that calls by name")
            registration = self.find(bytes(frame.buffers[0]).decode("utf-8", "replace"))
            if registration is None:
                wire.send_frame(Opcode.NOT_FOUND, 0, b"", None)
            elif registration.peer is None:
                if frame.opcode is Opcode.EVENTS:
                    raise RemoteProtocolError("EVENTS for a callback of this process")
                assert registration.callback is not None
                answer(wire, frame, profile, registration.callback)
            else:
                self._relay(wire, frame, registration)

    def _relay(self, caller: Wire, frame: Frame, registration: Registration) -> None:
        """Pass a call on to the node that registered the name, and its questions and answer back, as the bytes that they are."""
        peer = registration.peer
        assert peer is not None
        try:
            lane = peer.lanes.take(monotonic() + self._limits.connect_timeout)
        except ChannelError:
            registration.lost(caller)
            return
        opcode = Opcode.EVENTS if frame.opcode is Opcode.EVENTS else Opcode.CALL
        body, buffers = frame.body, frame.buffers[1:]
        ident = registration.hook
        try:
            while True:
                try:
                    lane.send_frame(opcode, ident, body, None, buffers)
                    back = lane.recv_frame(None)
                except ChannelError:
                    peer.lanes.drop(lane)
                    registration.lost(caller)
                    return
                if back.opcode in _FINAL:
                    peer.lanes.give(lane)
                    caller.send_frame(back.opcode, 0, back.body, None, back.buffers)
                    return
                caller.send_frame(back.opcode, 0, back.body, None, back.buffers)
                question = caller.recv_frame(None)
                opcode, ident, body, buffers = question.opcode, question.ident, question.body, question.buffers
        except BaseException:
            # The caller is gone in the middle of its call: what the callee still says would answer nobody.
            peer.lanes.drop(lane)
            raise


def read_terms(message: Register) -> Terms:
    """The terms of a registration that arrived. Raises `RemoteProtocolError`."""
    try:
        return Terms.from_json(message.terms)
    except ValueError as error:
        raise RemoteProtocolError(f"REGISTER: {error!s:.200}") from None


def check_callback(name: Any, callback: Any) -> None:
    """Raises `TypeError` for what cannot be registered."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"name: expected a non-empty str, got {name!r:.80}")
    if not callable(callback):
        raise TypeError(f"{name}: expected something that can be called, got {type(callback).__name__}")

"""The node that listens: it keeps the control connections of the nodes that have joined it, and their lanes.

Rules:
- One service thread does this, with non-blocking sockets and one `poll`. It runs no callback of a user and waits for no peer: a thread
  that calls a hook reads and writes the lane itself.
- The thread can be paused around a fork and resumed after it (`ServiceThread`), since a child must not inherit a half-done step. When it is
  resumed in the parent, it first waits until the child has announced itself.
- What waits to be sent to a peer is bounded; a peer that does not read is gone.
- What one peer sends never ends the service of the others: an unexpected error ends the session of that peer alone.
- An unexpected error that is no peer's does not end the service either: the next turn follows. After very many in a row all hooks are
  disarmed.
"""

from __future__ import annotations

import logging
import os
import selectors
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional

from ..model.errors import ChannelError, LocalProtocolError, RemoteProtocolError, XpcError
from ..model.limits import Limits
from ..protocol.codec import Bytes
from ..protocol.messages import Hello, Role, Welcome
from ..unpatched import Selector, close, monotonic, sleep
from ..wire.held import close_lost
from ..wire.wire import Wire
from .acceptor import Acceptor
from .address import NO_PROTECTION, Address, Protection, named
from .listen import adopt, listen
from .peer import Peer, Policy
from .served import ServedLanes
from .threads import PAUSE_TIMEOUT, Run, ServiceThread
from .throttle import LogThrottle
from .unauthenticated import UnauthenticatedClient
from .wake import WakePipe

# How long the service thread waits for a forked child to announce itself, in seconds.
_BIRTH_TIMEOUT = 1.0
# After how many pauses in a row, each of which came before all were served that had called, a fork waits for that; and how long at most, in
# seconds.
_CUT_SHORT = 3
_TURN = 0.1
# So many turns may fail in a row, and how long the service thread rests after each, in seconds: an error may pass, such as of memory.
_FAILURES = 20
_FAILURE_REST = 0.05


class Host:
    """A listening node. `start` binds and serves in a thread; `stop` ends it; both may be repeated.

    `logger` gets a line for what a peer does wrong, unless there are very many; `refused` counts the connections that were refused,
    `failures` the turns of the service thread that ended in an error that nobody thought of.
    """

    def __init__(
        self,
        address: Address,
        key: bytes,
        policy: Policy,
        *,
        app: str,
        python: str,
        limits: Limits,
        logger: logging.Logger,
        protection: Protection = NO_PROTECTION,
    ) -> None:
        self.address = address
        self.limits = limits
        self.peers: Dict[str, Peer] = {}
        self.failures = 0
        self._key = key
        self._protection = protection
        self._policy = policy
        self._app = app
        self._python = python
        # For all that a peer can cause.
        self._log = LogThrottle(logger)
        self._logger = logger
        self._inode = 0
        self._selector: Optional[Selector] = None
        self._acceptor: Optional[Acceptor] = None
        self._refused_before = 0
        self._served = ServedLanes(address, self._serve, self._log)
        self._pipe = WakePipe()
        self._thread = ServiceThread(self._run, self.wake)
        self._expelled: Deque[Any] = deque()
        self._owner = 0
        self._births: List[int] = []
        self._cut_short = 0
        # Loaded with the first lane that may be hot.
        self._welcome: Optional[Callable[..., Wire]] = None

    # life --------------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._acceptor is not None

    @property
    def refused(self) -> int:
        """How many connections have been refused."""
        return self._refused_before + (0 if self._acceptor is None else self._acceptor.refused)

    def start(self, descriptor: int = -1) -> None:
        """Listen and serve; with the `descriptor` of a socket that listens there already, take it over.

        Raises `AddressInUseError` or `ChannelError`.
        """
        if self._acceptor is not None:
            raise LocalProtocolError(f"this node already listens at {self.address}")
        listener = listen(self.address, self._key, self._protection) if descriptor < 0 else adopt(descriptor)
        try:
            self._serve_at(listener)
        except BaseException:
            self._unlink()
            self._close_all(abandon=False)
            listener.close()
            raise

    def _serve_at(self, listener: Any) -> None:
        if self.address.is_unix:
            self._inode = os.stat(self.address.path).st_ino
        self._owner = os.getpid()
        self._pipe.open()
        self._selector = Selector()
        self._selector.register(self._pipe.read_end, selectors.EVENT_READ, None)
        self._acceptor = Acceptor(
            self.address,
            self._key,
            self._protection,
            self.limits,
            self._log,
            welcome=Welcome("", self._owner, self._python, self._app, self.limits.max_payload),
            admit=self._admit,
            full=self._full,
        )
        self._acceptor.open(listener, self._selector)
        self.resume()

    @property
    def in_service_thread(self) -> bool:
        """Whether the calling thread is the one that serves."""
        return self._thread.is_this_thread

    def wake(self) -> None:
        """Have the service thread look at everything again."""
        self._pipe.wake()

    def pause(self, timeout: float = PAUSE_TIMEOUT) -> bool:
        """End the service thread but keep everything open, for the moment of a fork. Returns whether it has within `timeout` seconds."""
        return self._thread.end(timeout)

    def let_serve(self) -> None:
        """Where one fork follows the other, wait for those that call to be served, before the next one: else nobody ever would be."""
        if self._cut_short <= _CUT_SHORT or self._selector is None or not self._selector.is_called():
            return
        deadline = monotonic() + _TURN
        while self._cut_short and monotonic() < deadline:
            sleep(_TURN / 200)
        # In vain, or not: the next ones do not wait again.
        self._cut_short = 0

    def resume(self) -> None:
        """Start the service thread (again)."""
        if self._acceptor is None:
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ChannelError(f"no thread can be started: {error}") from error

    def await_birth(self, descriptor: int) -> None:
        """Once resumed, answer nobody before `descriptor`, the reading end of a pipe, is at its end; then close it.

        So whoever gets an answer finds the children announced that were forked before it, or they inherit what it registered.
        """
        if self._acceptor is None:
            close(descriptor)
        else:
            self._births.append(descriptor)

    def stop(self) -> None:
        """Close the listener, all connections and lanes, and end the service thread. A unix socket of ours is unlinked."""
        if self._acceptor is None:
            return
        self._thread.end(0.0 if self.in_service_thread else 5.0)
        for peer in list(self.peers.values()):
            # The last words: there is nobody else who could send them now.
            peer.flush()
        self._unlink()
        self._close_all(abandon=False)

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors and leave all else to the parent."""
        self._thread.forget()
        self._close_all(abandon=True)

    def _unlink(self) -> None:
        if not self.address.is_unix or self._owner != os.getpid():
            return
        try:
            # Another node may have taken the name since, if somebody removed ours.
            if os.stat(self.address.path).st_ino == self._inode:
                os.unlink(self.address.path)
        except OSError as error:
            self._logger.debug("the socket %s was already gone: %s", self.address.path, error)

    def _close_all(self, abandon: bool) -> None:
        close_lost()
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            self._refused_before += acceptor.refused
            acceptor.close(abandon)
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        self._pipe.close()
        while self._births:
            close(self._births.pop())
        self._served.close(abandon)
        for peer in list(self.peers.values()):
            if abandon:
                peer.gone = True
                peer.wire.abandon()
                peer.lanes.abandon()
            else:
                self._drop_peer(peer)
        self.peers.clear()

    # the service thread ------------------------------------------------------------------------------------------------

    def _run(self, run: Run) -> None:
        self._policy.entered_thread()
        self._cut_short += 1
        try:
            self._await_births(run)
            in_a_row = 0
            while run.due and in_a_row < _FAILURES:
                try:
                    self._turn(run)
                    in_a_row = 0
                except Exception as error:
                    in_a_row += 1
                    self._survive(error, in_a_row)
        except Exception:
            self._logger.exception("the service thread of %s failed; no new session can join", self.address)

    def _survive(self, error: Exception, in_a_row: int) -> None:
        """A turn has failed: go on with the next one, or, after very many, leave the application as it was."""
        self.failures += 1
        if in_a_row == 1:
            self._logger.error("a turn of the service thread of %s failed; it goes on", self.address, exc_info=error)
        if in_a_row < _FAILURES:
            sleep(_FAILURE_REST)
            return
        self._logger.error(
            "%d turns in a row of the service thread of %s failed, the last with %s: %s; all hooks are disarmed, and no session can join",
            *(in_a_row, self.address, type(error).__name__, error),
        )
        # Nothing is closed: if the application has closed our descriptors, as a daemon does, their numbers are its own by now.
        for peer in list(self.peers.values()):
            peer.gone = True
            try:
                self._policy.left(peer)
            except Exception:
                self._logger.exception("the hooks of %s could not be removed", peer.who)

    def _await_births(self, run: Run) -> None:
        deadline = monotonic() + _BIRTH_TIMEOUT
        waited = bool(self._births)
        while self._births and run.due:
            with Selector() as selector:
                selector.register(self._pipe.read_end, selectors.EVENT_READ)
                selector.register(self._births[-1], selectors.EVENT_READ)
                ready = [key.fd for key, _ in selector.select(max(0.0, deadline - monotonic()))]
            if self._pipe.read_end in ready:
                self._pipe.drain()
            if not ready or self._births[-1] in ready:
                close(self._births.pop())
        if waited and run.due:
            # The wake-ups that were read here were meant for a turn.
            self.wake()

    def _turn(self, run: Run) -> None:
        selector, acceptor = self._selector, self._acceptor
        assert selector is not None and acceptor is not None
        events = selector.select(self._patience())
        if all(key.data is None for key, _ in events):
            self._cut_short = 0
        for key, mask in events:
            if not run.due:
                return
            owner = key.data
            if owner is None:
                self._pipe.drain()
            elif isinstance(owner, Peer):
                if mask & selectors.EVENT_READ:
                    self._read_peer(owner)
            else:
                acceptor.handle(owner if isinstance(owner, UnauthenticatedClient) else None)
        if run.due:
            self._cut_short = 0
            self._look_after(monotonic())

    def _patience(self) -> Optional[float]:
        """Seconds until something is due even if nothing arrives; None if nothing is."""
        due = [peer.last_heard + self.limits.silence for peer in self.peers.values()]
        if self._acceptor is not None:
            due += self._acceptor.due()
        first = self._policy.due()
        if first is not None:
            due.append(first)
        return max(0.0, min(due) - monotonic()) if due else None

    def _look_after(self, now: float) -> None:
        """Time-outs, peers that block, the acceptor."""
        selector, acceptor = self._selector, self._acceptor
        assert selector is not None and acceptor is not None
        close_lost()
        self._policy.look_after(now)
        while self._expelled:
            peer, why = self._expelled.popleft()
            self._lose(peer, why)
        for peer in list(self.peers.values()):
            if now - peer.last_heard > self.limits.silence:
                self._lose(peer, f"nothing was heard of it for {self.limits.silence} s")
                continue
            if peer.blocked:
                peer.flush()
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.blocked else 0)
            if selector.get_key(peer.wire.sock).events != wanted:
                selector.modify(peer.wire.sock, wanted, peer)
            if peer.blocked:
                peer.flush()
        acceptor.look_after(now)

    def expel(self, peer: Peer, why: str) -> None:
        """Have the service thread end a session."""
        self._expelled.append((peer, why))
        self.wake()

    # connections that have proved the key -----------------------------------------------------------------------------

    def _full(self) -> int:
        return len(self.peers) if len(self.peers) >= self.limits.max_sessions else 0

    def _admit(self, wire: Wire, welcome: List[Bytes]) -> None:
        """The key is proved: make of the connection what its role says."""
        hello = wire.connection.hello
        assert hello is not None
        if hello.role == Role.CONTROL.value:
            self._join(wire, hello, welcome)
        elif hello.role == Role.SERVE.value:
            peer = self.peers.get(hello.session)
            wire = self._welcome_lane(wire, hello, welcome)
            if peer is None or not peer.lanes.add(wire):
                wire.close()
        else:
            self._served.add(wire, hello, welcome, self.peers.get(hello.session))

    def _join(self, wire: Wire, hello: Hello, welcome: List[Bytes]) -> None:
        sessions = self._full()
        known = hello.session in self.peers
        if known or sessions:
            why = "it has joined already" if known else f"{sessions} sessions have joined, the limit (max-sessions)"
            self._refused_before += 1
            who = named(wire.sock, hello.pid)
            self._log.log("session", logging.WARNING, "refused the session of %s at %s: %s", who, self.address, why)
            wire.transmit_some(wire.connection.turn_away("busy", why))
            wire.close()
            return
        peer = self.peers[hello.session] = Peer(self, wire, hello)
        assert self._selector is not None
        self._selector.register(wire.sock, selectors.EVENT_READ, peer)
        # WELCOME goes first: whatever the policy says to the newcomer comes after it.
        peer.send(welcome)
        try:
            self._policy.joined(peer)
        except Exception as error:
            self._fail(peer, error)

    def _welcome_lane(self, wire: Wire, hello: Hello, welcome: List[Bytes]) -> Wire:
        """Transmit WELCOME on a lane; returns the lane, which is hot if both sides can have that."""
        if hello.hot and self.address.is_unix and self.limits.hot_lanes:
            try:
                self._welcome = self._welcome or self._policy.load(_welcome_with_memory)
            except Exception as error:
                # Removed or replaced since this process began, or out of reach.
                wire.plain = f"what hot lanes need cannot be loaded in the application: {type(error).__name__}: {error}"
            else:
                return self._welcome(wire, welcome, self.limits)
        else:
            wire.plain = "hot-lanes = false" if not self.limits.hot_lanes else "the script cannot have hot lanes"
        wire.transmit(welcome, monotonic())
        return wire

    def _serve(self, wire: Wire, hello: Hello) -> None:
        self._policy.entered_thread()
        self._policy.serve(wire, hello)

    # peers -------------------------------------------------------------------------------------------------------------

    def _read_peer(self, peer: Peer) -> None:
        if peer.gone:
            return
        try:
            frames = peer.wire.recv_frames()
        except (OSError, XpcError) as error:
            self._lose(peer, str(error))
            return
        peer.last_heard = monotonic()
        try:
            for frame in frames:
                peer.obey(frame, self._policy, self._log)
        except (RemoteProtocolError, LocalProtocolError) as error:
            self._log.log("broken", logging.WARNING, "the session of %s broke the protocol: %s", peer.who, error)
            self._lose(peer, str(error))
        except Exception as error:
            self._fail(peer, error)

    def _fail(self, peer: Peer, error: Exception) -> None:
        text = "what the session of %s sent could not be dealt with; it is gone"
        self._log.log("failed", logging.ERROR, text, peer.who, exc_info=error)
        self._lose(peer, f"{type(error).__name__}: {error}")

    def _lose(self, peer: Peer, why: str) -> None:
        if self.peers.get(peer.session) is not peer:
            return
        self._log.log("ended", logging.DEBUG, "the session of %s ended: %s", peer.who, why)
        if self._selector is not None:
            self._selector.unregister(peer.wire.sock)
        self._drop_peer(peer)

    def _drop_peer(self, peer: Peer) -> None:
        self.peers.pop(peer.session, None)
        peer.gone = True
        peer.wire.close()
        self._served.drop(peer.session)
        try:
            self._policy.left(peer)
        finally:
            peer.lanes.close()


def _welcome_with_memory() -> Callable[..., Wire]:
    # Late: who only looks at an application has no lane.
    from ..wire.opening import welcome_with_memory

    return welcome_with_memory

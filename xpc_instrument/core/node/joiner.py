"""The node that dials: one control connection to a host, lanes on which it answers, lanes on which it calls.

Rules:
- Everything is dialled from here; the host never dials back.
- Each lane that answers has a thread, which runs the callbacks of that lane one after another.
- A request is sent by `begin_*`, which never waits for the host, and its answer waited for apart, so that many hosts can be asked at once.
  The host deals with the requests of one node in the order in which they were begun, but for a first registration: it follows when its
  lane is open.
- When the control connection ends, all lanes end, and `on_lost` is called once, from the thread that noticed.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Union

from ..model import errors
from ..model.errors import AuthenticationError, ChannelError, DeadlineError, RemoteProtocolError, XpcError
from ..model.limits import Limits
from ..protocol.codec import Frame
from ..protocol.connection import new_nonce
from ..protocol.messages import (
    PROTOCOL_VERSION,
    Answer,
    Hello,
    LanesWanted,
    Message,
    Notice,
    Ping,
    Query,
    Register,
    Role,
    Synced,
    Unregister,
    Welcome,
)
from ..values.traits import python_version
from ..wire.memory import why_plain
from ..wire.wire import Wire
from .address import NO_PROTECTION, Address, Protection, dial


class Joiner:
    """A node that joins the host at `address`.

    `serve(wire, frame)` answers a CALL that arrived on a lane, in that lane's thread. `on_notice(notice)` and `on_lost(reason)`
    run in the control thread.
    """

    def __init__(
        self,
        address: Address,
        key: bytes,
        *,
        limits: Limits,
        serve: Optional[Callable[[Wire, Frame], None]] = None,
        on_notice: Optional[Callable[[Notice], object]] = None,
        on_lost: Optional[Callable[[str], None]] = None,
        session: str = "",
        protection: Protection = NO_PROTECTION,
    ) -> None:
        self.address = address
        self.limits = limits
        self.session = session or secrets.token_hex(16)
        self.lost = ""
        self._key = key
        self._protection = protection
        self._serve = serve
        self._on_notice = on_notice
        self._on_lost = on_lost
        self._control: Optional[Wire] = None
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._requests: Dict[int, Asked] = {}
        # The requests that nobody waits for any more, and that are not answered yet.
        self._late: Set[int] = set()
        # Held by whoever dials the first lane that answers.
        self._opening = threading.Lock()
        self._number = 0
        self._serving: Dict[Wire, threading.Thread] = {}
        self._idle_calls: List[Wire] = []
        self._busy_calls: Dict[int, Wire] = {}
        self._closed = False
        # Lanes that the host wants and nobody dials yet, and whether a thread is dialling.
        self._wanted = 0
        self._dialling = False
        self._thread: Optional[threading.Thread] = None
        self._last_heard = 0.0

    # life --------------------------------------------------------------------------------------------------------------

    def connect(self, deadline: float) -> Welcome:
        """Join. Raises what `transport.dial` raises."""
        wire = self._dial(Role.CONTROL, deadline)
        assert wire.connection.welcome is not None
        self._control = wire
        self._last_heard = time.monotonic()
        self._thread = threading.Thread(target=self._listen, name="xpc-instrument control", daemon=True)
        self._thread.start()
        return wire.connection.welcome

    @property
    def welcome(self) -> Welcome:
        """What the host said about itself."""
        if self._control is None or self._control.connection.welcome is None:
            raise ChannelError(f"not connected to {self.address}")
        return self._control.connection.welcome

    @property
    def alive(self) -> bool:
        return self._control is not None and not self._closed and not self.lost

    def close(self) -> None:
        """Leave: the host forgets all registrations of this node. Waits, at most a second, for threads that run no callback."""
        self._end("closed by this process")
        me = threading.current_thread()
        threads = [thread for thread in (self._thread, *list(self._serving.values())) if thread not in (None, me)]
        deadline = time.monotonic() + 1.0
        for thread in threads:
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors and leave the connections to the parent."""
        self._closed = True
        self.lost = "the connection belongs to the parent process"
        for wire in [self._control, *self._serving, *self._idle_calls, *self._busy_calls.values()]:
            if wire is not None:
                wire.abandon()
        self._serving.clear()
        self._idle_calls.clear()
        self._busy_calls.clear()

    def _dial(self, role: Role, deadline: float) -> Wire:
        hello = Hello(
            version=PROTOCOL_VERSION,
            role=role.value,
            session=self.session,
            nonce=new_nonce(),
            pid=os.getpid(),
            python=python_version(),
            hot=role is Role.SERVE and self.address.is_unix and self.limits.hot_lanes and not why_plain(),
            program=os.path.basename(sys.argv[0] or "python")[:200] if getattr(sys, "argv", None) else "python",
        )
        return dial(self.address, self._key, hello, deadline, self.limits, self._protection)

    def _end(self, reason: str) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.lost = reason
            pending = list(self._requests.values())
            self._requests.clear()
            wires = [*self._serving, *self._idle_calls, *self._busy_calls.values()]
            self._idle_calls = []
        if self._control is not None:
            self._control.close()
        for wire in wires:
            wire.close()
        for waiting in pending:
            waiting.settle(ChannelError(f"the connection to {self.address} ended: {reason}"))
        if self._on_lost is not None:
            self._on_lost(reason)

    # control -----------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        wire = self._control
        assert wire is not None
        reason = "the host closed the connection"
        try:
            while not self._closed:
                try:
                    frame = wire.recv_frame(time.monotonic() + self.limits.heartbeat)
                except DeadlineError:
                    if time.monotonic() - self._last_heard > self.limits.silence:
                        reason = f"nothing was heard of {self.address} for {self.limits.silence} s"
                        break
                    self._say(Ping())
                    continue
                self._last_heard = time.monotonic()
                self._obey(wire.connection.read(frame))
        except (OSError, XpcError) as error:
            reason = str(error)
        except Exception as error:
            # A control connection that nobody reads any more must not be taken for alive.
            reason = f"{type(error).__name__}: {error}"
        self._end(reason)

    def _obey(self, message: Any) -> None:
        if isinstance(message, Answer):
            with self._lock:
                pending = self._requests.pop(message.request, None)
                self._late.discard(message.request)
            if pending is not None:
                pending.settle(message)
        elif isinstance(message, LanesWanted):
            # In a thread of its own: a handshake needs the host's answer, and this thread must go on reading.
            try:
                self._want_lanes(message.count)
            except RuntimeError as error:
                self._missed(message.count, f"no thread can be started for a lane: {error}")
        elif isinstance(message, Notice) and self._on_notice is not None:
            self._on_notice(message)

    @property
    def behind(self) -> bool:
        """Whether the host has been given up waiting for: it may not even read, and then one more request has to wait to be sent."""
        return bool(self._late) or self._sending.locked()

    def _say(self, message: Message, deadline: Optional[float] = None) -> None:
        wire = self._control
        if wire is None or self._closed:
            raise ChannelError(f"not connected to {self.address}: {self.lost or 'call connect first'}")
        with self._sending:
            try:
                wire.send_message(message, time.monotonic() + self.limits.connect_timeout if deadline is None else deadline)
            except ChannelError as error:
                # Noticed here before the control thread, which now finds the connection closed: nobody may take it for alive meanwhile.
                self.lost = self.lost or str(error)
                wire.close()
                raise

    def _expect(self) -> Asked:
        with self._lock:
            self._number += 1
            asked = self._requests[self._number] = Asked(self, self._number)
        return asked

    def _send(self, asked: Asked, message: Message, deadline: float) -> Asked:
        """Send a request; what keeps it from being sent is raised where its answer is waited for."""
        try:
            self._say(message, deadline)
        except Exception as error:
            asked.settle(error)
        return asked

    def forget(self, asked: Asked) -> None:
        """Nobody waits for the answer any more."""
        with self._lock:
            if self._requests.pop(asked.number, None) is not None and not asked.settled:
                self._late.add(asked.number)

    def begin_register(
        self,
        name: str,
        hook: int,
        style: str,
        *,
        terms: Optional[Mapping[str, Any]] = None,
        module: str = "",
        deadline: float,
    ) -> Asked:
        """Register callback number `hook` under `name`. Where there is no lane yet on which it is called, a thread opens one first."""
        asked = self._expect()
        message = Register(asked.number, name, hook, style, terms or {}, module)
        if self._has_lane:
            return self._send(asked, message, deadline)
        try:
            threading.Thread(
                target=self._open_and_send, args=(asked, message, deadline), name="xpc-instrument dialling", daemon=True
            ).start()
        except RuntimeError as error:
            asked.settle(ChannelError(f"no thread can be started for a lane: {error}"))
        return asked

    def _open_and_send(self, asked: Asked, message: Message, deadline: float) -> None:
        try:
            self.ensure_lane(deadline)
        except Exception as error:
            asked.settle(error)
            return
        with self._lock:
            wanted = asked.number in self._requests
        if wanted:
            self._send(asked, message, deadline)

    def begin_unregister(self, hook: int, deadline: float, within: float = 0.0) -> Asked:
        """End a registration; the host may take up to `within` seconds for what is still to be delivered."""
        asked = self._expect()
        return self._send(asked, Unregister(asked.number, hook, within), deadline)

    def begin_query(self, what: str, deadline: float) -> Asked:
        """Ask the host about itself."""
        asked = self._expect()
        return self._send(asked, Query(asked.number, what), deadline)

    def register(
        self,
        name: str,
        hook: int,
        style: str,
        *,
        terms: Optional[Mapping[str, Any]] = None,
        module: str = "",
        timeout: float,
    ) -> Answer:
        """Register callback number `hook` under `name`; returns the host's answer, or raises what `Asked.answer` raises."""
        deadline = time.monotonic() + timeout
        self.ensure_lane(deadline)
        return self.begin_register(name, hook, style, terms=terms, module=module, deadline=deadline).answer(deadline)

    def unregister(self, hook: int, timeout: float, within: float = 0.0) -> Answer:
        """`begin_unregister`, and its answer."""
        deadline = time.monotonic() + timeout
        return self.begin_unregister(hook, deadline, within).answer(deadline)

    def query(self, what: str, timeout: float) -> Answer:
        """`begin_query`, and its answer."""
        deadline = time.monotonic() + timeout
        return self.begin_query(what, deadline).answer(deadline)

    def notify(self, kind: str, **data: Any) -> None:
        """Tell the host something that needs no answer."""
        self._say(Notice(kind, data))

    def synced(self) -> None:
        """Tell the host that all registrations are in place."""
        self._say(Synced())

    # lanes that answer ---------------------------------------------------------------------------------------------------

    @property
    def _has_lane(self) -> bool:
        with self._lock:
            return bool(self._serving)

    def ensure_lane(self, deadline: float) -> None:
        """Open a lane on which this node answers if there is none. Raises what `transport.dial` raises."""
        if self._has_lane:
            return
        if not self._opening.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise DeadlineError(f"no lane to {self.address} could be opened in time")
        try:
            if not self._has_lane:
                self._open_lane(deadline)
        finally:
            self._opening.release()

    def _want_lanes(self, count: int) -> None:
        """Dial so many, one after the other, since a crowd at the door turns away all others. Raises `RuntimeError`."""
        with self._lock:
            self._wanted += count
            if self._dialling:
                return
            self._dialling = True
        try:
            threading.Thread(target=self._dial_lanes, name="xpc-instrument dialling", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._wanted -= count
                self._dialling = False
            raise

    def _dial_lanes(self) -> None:
        while True:
            with self._lock:
                count, self._wanted = self._wanted, 0
                if not count:
                    self._dialling = False
                    return
            self._open_lanes(count)

    def _open_lanes(self, count: int) -> None:
        wanted = min(count, self.limits.max_lanes - len(self._serving))
        opened = 0
        try:
            while opened < wanted and not self._closed:
                self._open_lane(time.monotonic() + self.limits.connect_timeout)
                opened += 1
        except (OSError, AuthenticationError, RemoteProtocolError) as error:
            self._missed(count - opened, str(error))
            return
        if opened < count:
            self._missed(count - opened, "")

    def _missed(self, count: int, why: str) -> None:
        """Tell the host that so many lanes will not come, lest it wait for them and never ask for others; and this side, why."""
        if self._closed:
            return
        if why and self._on_notice is not None:
            self._on_notice(Notice("no-lane", {"message": why}))
        try:
            self.notify("no-lane", count=count)
        except ChannelError:
            pass  # the host is gone, which the control thread sees too

    def _open_lane(self, deadline: float) -> None:
        wire = self._dial(Role.SERVE, deadline)
        thread = threading.Thread(target=self._serve_lane, args=(wire,), name="xpc-instrument lane", daemon=True)
        with self._lock:
            if self._closed:
                wire.close()
                return
            # Started before anybody can find it, since `close` joins what it finds.
            try:
                thread.start()
            except RuntimeError as error:
                wire.close()
                raise ChannelError(f"no thread can be started for a lane: {error}") from error
            self._serving[wire] = thread

    def _serve_lane(self, wire: Wire) -> None:
        try:
            while not self._closed:
                frame = wire.recv_frame(None)
                assert self._serve is not None
                self._serve(wire, frame)
        except ChannelError:
            # The host took the lane away: past its deadline, or gone altogether, which the control thread reports.
            pass
        finally:
            with self._lock:
                self._serving.pop(wire, None)
            wire.close()

    # lanes that call -----------------------------------------------------------------------------------------------------

    def take_call_lane(self, deadline: float) -> Wire:
        """A lane on which this node may call; to be given back."""
        while True:
            with self._lock:
                if self._closed:
                    raise ChannelError(f"not connected to {self.address}: {self.lost}")
                wire = self._idle_calls.pop() if self._idle_calls else None
                if wire is not None:
                    self._busy_calls[id(wire)] = wire
            if wire is None:
                wire = self._dial(Role.CALL, deadline)
                with self._lock:
                    self._busy_calls[id(wire)] = wire
                return wire
            if _is_fresh(wire):
                return wire
            self.drop_call_lane(wire)

    def call_lanes(self) -> List[Wire]:
        """The lanes on which this node calls, in use or idle."""
        with self._lock:
            return [*self._idle_calls, *self._busy_calls.values()]

    def give_call_lane(self, wire: Wire) -> None:
        """Put a lane back after a call that ended well."""
        with self._lock:
            self._busy_calls.pop(id(wire), None)
            if not self._closed and not wire.closed:
                self._idle_calls.append(wire)
                return
        wire.charge(None)
        wire.close()

    def drop_call_lane(self, wire: Wire) -> None:
        """Close a lane whose call did not end well."""
        wire.charge(None)
        with self._lock:
            self._busy_calls.pop(id(wire), None)
        wire.close()


class Asked:
    """A request to a host, whose answer comes later. For one thread that waits."""

    __slots__ = ("_began", "_done", "_joiner", "_outcome", "number")

    def __init__(self, joiner: Joiner, number: int) -> None:
        self.number = number
        self._joiner = joiner
        self._began = time.monotonic()
        self._done = threading.Event()
        self._outcome: Union[Answer, BaseException, None] = None

    def settle(self, outcome: Union[Answer, BaseException]) -> None:
        """The answer has come, or it is known why it will not."""
        if not self._done.is_set():
            self._outcome = outcome
            self._done.set()

    @property
    def settled(self) -> bool:
        """Whether `answer` would not wait."""
        return self._done.is_set()

    def give_up(self) -> bool:
        """Nobody waits for the answer any more; whether none has come. What was not sent yet will not be."""
        self._joiner.forget(self)
        return not isinstance(self._outcome, Answer)

    def answer(self, deadline: float) -> Answer:
        """Wait for the answer. Raises the error that the host names, `DeadlineError`, `ChannelError`, or what dialling a lane raises."""
        try:
            if not self._done.wait(max(0.0, deadline - time.monotonic())):
                raise DeadlineError(f"{self._joiner.address} did not answer within {deadline - self._began:.3g} s")
        finally:
            self._joiner.forget(self)
        outcome = self._outcome
        if not isinstance(outcome, Answer):
            assert outcome is not None
            raise outcome
        if not outcome.ok:
            kind = getattr(errors, outcome.error, XpcError)
            raise kind(outcome.message)
        return outcome


def _is_fresh(wire: Wire) -> bool:
    """Whether an idle lane is still connected: the host may have gone, or started again, since it was last used."""
    try:
        return not wire.recv_frames() and wire.connection.reader.idle
    except ChannelError:
        return False

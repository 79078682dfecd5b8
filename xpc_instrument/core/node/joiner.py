"""The node that dials: one control connection to a host, and requests over it.

Rules:
- Everything is dialled from here; the host never dials back.
- A request is sent by `begin_*`, which never waits for the host, and its answer waited for apart, so that many hosts can be asked at once.
  The host deals with the requests of one node in the order in which they were begun, but for a first registration: it follows when its
  lane is open.
- When the control connection ends, all lanes end, and `on_lost` is called once, from the thread that noticed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, Mapping, Optional, Set

from ..model.errors import ChannelError, DeadlineError, XpcError
from ..model.limits import Limits
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
from ..unpatched import RLock, monotonic
from ..values.traits import python_version
from ..wire.memory import why_plain
from ..wire.wire import Wire
from .address import NO_PROTECTION, Address, Protection
from .dial import dial
from .dialled import AnsweringLanes, CallingLanes, CutOff, Serve
from .request import PendingRequest
from .threads import start_seen

# How long the end of the control connection may take to be noticed after a lane could not be dialled, in seconds.
_ENDING = 1.0


class Joiner:
    """A node that joins the host at `address`.

    `serve(wire, frame)` answers a CALL that arrived on a lane, in that lane's thread. `on_notice(notice)` and `on_lost(reason)`
    run in the control thread, `on_cut_off(wire, seconds, since)` in the thread of a lane that the host has taken
    away.
    """

    def __init__(
        self,
        address: Address,
        key: bytes,
        *,
        limits: Limits,
        serve: Optional[Serve] = None,
        on_notice: Optional[Callable[[Notice], object]] = None,
        on_lost: Optional[Callable[[str], None]] = None,
        on_cut_off: Optional[CutOff] = None,
        session: str = "",
        protection: Protection = NO_PROTECTION,
    ) -> None:
        self.address = address
        self.limits = limits
        self.session = session or os.urandom(16).hex()
        self.lost = ""
        self._key = key
        self._protection = protection
        self._on_notice = on_notice
        self._on_lost = on_lost
        self._control: Optional[Wire] = None
        # A lock that waits as the threads of this program do, and goes with the thread that is interrupted right where it takes it.
        self._sending = RLock(threading.Lock)
        self._saying: Deque[None] = deque()
        self._lock = threading.Lock()
        self.answering = AnsweringLanes(address, limits, self._dial, serve, self._missed, on_cut_off)
        self.calling = CallingLanes(address, limits.max_lanes, self._dial)
        self._requests: Dict[int, PendingRequest] = {}
        # The requests that nobody waits for any more, and that are not answered yet.
        self._late: Set[int] = set()
        self._number = 0
        self._closed = False
        self._thread: Optional[threading.Thread] = None
        self._last_heard = 0.0

    # life --------------------------------------------------------------------------------------------------------------

    def connect(self, deadline: float) -> Welcome:
        """Join. Raises what `dial` raises."""
        wire = self._dial(Role.CONTROL, deadline)
        assert wire.connection.welcome is not None
        self._control = wire
        self._last_heard = monotonic()
        self._thread = start_seen(self._listen, name="control")
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
        deadline = monotonic() + 1.0
        for thread in (self._thread, *self.answering.close()):
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - monotonic()))

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors and leave the connections to the parent."""
        self._closed = True
        self.lost = "the connection belongs to the parent process"
        if self._control is not None:
            self._control.abandon()
        self.answering.abandon()
        self.calling.abandon(self.lost)

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
        if self._control is not None:
            self._control.close()
        self.answering.close()
        self.calling.close(reason)
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
            due = monotonic() + self.limits.heartbeat
            while not self._closed:
                try:
                    frame = wire.recv_frame(due)
                except DeadlineError:
                    if monotonic() - self._last_heard > self.limits.silence:
                        reason = f"nothing was heard of {self.address} for {self.limits.silence} s"
                        break
                else:
                    self._last_heard = monotonic()
                    self._obey(wire.connection.read(frame))
                # Also where the host says something all the time: it hears of us by nothing else.
                if monotonic() >= due:
                    self._say(Ping())
                    due = monotonic() + self.limits.heartbeat
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
            self.answering.want(message.count)
        elif isinstance(message, Notice) and self._on_notice is not None:
            self._on_notice(message)

    @property
    def behind(self) -> bool:
        """Whether the host has been given up waiting for: it may not even read, and then one more request has to wait to be sent."""
        return bool(self._late) or bool(self._saying)

    def _say(self, message: Message, deadline: Optional[float] = None) -> None:
        wire = self._control
        if wire is None or self._closed:
            raise ChannelError(f"not connected to {self.address}: {self.lost or 'call connect first'}")
        deadline = monotonic() + self.limits.connect_timeout if deadline is None else deadline
        sending = self._sending()
        if not sending.acquire(timeout=max(0.0, deadline - monotonic())):
            raise DeadlineError(f"another thread has not ended to say something to {self.address}")
        try:
            self._saying.append(None)
            wire.send_message(message, deadline)
        except ChannelError as error:
            # Noticed here before the control thread, which now finds the connection closed: nobody may take it for alive meanwhile.
            self.lost = self.lost or str(error)
            wire.close()
            raise
        finally:
            self._saying.clear()
            sending.release()

    def _expect(self) -> PendingRequest:
        with self._lock:
            self._number += 1
            request = self._requests[self._number] = PendingRequest(self._number, self.address, self._forget)
        return request

    def _send(self, request: PendingRequest, message: Message, deadline: float) -> PendingRequest:
        """Send a request; what keeps it from being sent is raised where its answer is waited for."""
        try:
            self._say(message, deadline)
        except Exception as error:
            request.settle(error)
        return request

    def _forget(self, request: PendingRequest) -> None:
        """Nobody waits for the answer any more."""
        with self._lock:
            if self._requests.pop(request.number, None) is not None and not request.settled:
                self._late.add(request.number)

    def begin_register(
        self,
        name: str,
        hook: int,
        style: str,
        *,
        terms: Optional[Mapping[str, Any]] = None,
        module: str = "",
        deadline: float,
    ) -> PendingRequest:
        """Register callback number `hook` under `name`. Where there is no lane yet on which it is called, a thread opens one first."""
        request = self._expect()
        message = Register(request.number, name, hook, style, terms or {}, module)
        if self.answering:
            return self._send(request, message, deadline)
        try:
            start_seen(self._open_and_send, request, message, deadline, name="dialling")
        except RuntimeError as error:
            request.settle(ChannelError(f"no thread can be started for a lane: {error}"))
        return request

    def _open_and_send(self, request: PendingRequest, message: Message, deadline: float) -> None:
        try:
            self.answering.ensure(deadline)
        except Exception as error:
            # The host may be gone, of which the end of the control connection has not told yet: then that settles all requests.
            request.settle_within(_ENDING, error)
            return
        with self._lock:
            wanted = request.number in self._requests
        if wanted:
            self._send(request, message, deadline)

    def begin_unregister(self, hook: int, deadline: float, within: float = 0.0) -> PendingRequest:
        """End a registration; the host may take up to `within` seconds for what is still to be delivered."""
        request = self._expect()
        return self._send(request, Unregister(request.number, hook, within), deadline)

    def begin_query(self, what: str, deadline: float) -> PendingRequest:
        """Ask the host about itself."""
        request = self._expect()
        return self._send(request, Query(request.number, what), deadline)

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
        """Register callback number `hook` under `name`; returns the host's answer, or raises what `PendingRequest.answer` raises."""
        deadline = monotonic() + timeout
        self.answering.ensure(deadline)
        return self.begin_register(name, hook, style, terms=terms, module=module, deadline=deadline).answer(deadline)

    def unregister(self, hook: int, timeout: float, within: float = 0.0) -> Answer:
        """`begin_unregister`, and its answer."""
        deadline = monotonic() + timeout
        return self.begin_unregister(hook, deadline, within).answer(deadline)

    def query(self, what: str, timeout: float) -> Answer:
        """`begin_query`, and its answer."""
        deadline = monotonic() + timeout
        return self.begin_query(what, deadline).answer(deadline)

    def _missed(self, count: int, why: str) -> None:
        """Tell the host that so many lanes will not come, and this side, why."""
        if self._closed:
            return
        if why and self._on_notice is not None:
            self._on_notice(Notice("no-lane", {"message": why}))
        try:
            self.notify("no-lane", count=count)
        except ChannelError:
            pass  # the host is gone, which the control thread sees too

    def notify(self, kind: str, **data: Any) -> None:
        """Tell the host something that needs no answer."""
        self._say(Notice(kind, data))

    def synced(self) -> None:
        """Tell the host that all registrations are in place."""
        self._say(Synced())

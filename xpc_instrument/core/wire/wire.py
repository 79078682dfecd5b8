"""The wire: the conversation of one connection over its stream, frame by frame, and who pays for it.

Rules:
- A frame is sent and received only where the state machine of the connection allows it.
- What crosses, and the time that is waited for it, is counted here, where one thread at a time works, so that it takes no lock; `charge`
  says for whom.
"""

from __future__ import annotations

import socket
from sys import modules
from typing import Any, Optional, Sequence, Union

from ..model.errors import ChannelError, DeadlineError
from ..protocol.codec import HEADER, Bytes, Frame, encode
from ..protocol.connection import Connection
from ..protocol.messages import Message, Opcode
from ..unpatched import monotonic
from .arrivals import Wait, arrivals_here
from .hubs import trio
from .stream import PATIENCE, TOO_LATE, Stream, broken

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_CALL, _RETURN, _WAKE = Opcode.CALL, Opcode.RETURN, Opcode.WAKE
_pack = HEADER.pack
# A longer body does not go with its header in one piece: joining the two would copy it.
_SMALL = 4096


class Wire(Stream):
    """One connection: a socket and its state machine. One thread (or task) at a time uses it, but any may close it."""

    __slots__ = ("account", "arrived", "longest", "peer", "plain", "serving", "since", "stopped_in", "waited")

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__(sock, connection)
        self.peer: Any = None
        # Why it is no hot lane, if somebody asked whether it could be one.
        self.plain = ""
        # Counted since the account was opened, beside bytes: seconds waited for what has a deadline, in all and at most at once.
        self.account: Any = None
        self.waited = self.longest = 0.0
        # When the last wait without a deadline began, which is when the call before it was answered; and, kept by who serves calls here,
        # what serves the last one and when that arrived.
        self.since = self.arrived = 0.0
        self.serving: Any = None
        # The thread that is to come back to a call of it, when the original which it is inside of has ended; 0 where there is none.
        self.stopped_in = 0

    def charge(self, account: Any) -> None:
        """What is counted from now on is for `account`; the one before settles for what was counted so far. Called by the wire's user."""
        before, self.account = self.account, account
        if before is not None:
            counted = self.sent, self.received, self.waited, self.longest
            self.open_account()
            before.settle(*counted)

    def open_account(self, waited: float = 0.0) -> None:
        """Count anew, from so many seconds on that were waited for the lane itself."""
        self.sent = self.received = 0
        self.waited = self.longest = waited

    def _has_waited(self, seconds: float) -> None:
        self.waited += seconds
        if seconds > self.longest:  # noqa: PLR1730 - each call on a lane comes here, and `max` takes longer than all the rest
            self.longest = seconds

    # conversation ------------------------------------------------------------------------------------------------------

    def send_frame(self, opcode: Opcode, ident: int, body: Bytes, deadline: Optional[float], buffers: Sequence[Bytes] = ()) -> None:
        """Transmit one frame of a lane. Raises `LocalProtocolError` where the state does not allow it, and what `transmit` raises."""
        self.connection.sending(opcode)
        if buffers or len(body) > _SMALL:
            self.transmit(encode(opcode, ident, body, buffers), deadline)
        else:
            self._push(_pack(opcode, 0, 0, ident, len(body)) + body, deadline)

    def send_message(self, message: Message, deadline: Optional[float]) -> None:
        """Transmit one control message."""
        self.transmit(self.connection.send_message(message), deadline)

    def call(self, ident: int, body: bytes, deadline: float) -> Union[bytes, Frame]:
        """Send a small CALL and receive what comes back: the body alone of a RETURN that came in one piece, or else the frame."""
        self.send_frame(_CALL, ident, body, deadline)
        frame = self.recv_frame(deadline)
        if frame.opcode is _RETURN and type(frame.body) is bytes and not frame.buffers:
            return frame.body
        return frame

    def recv_frame(self, deadline: Optional[float]) -> Frame:
        """The next frame. Raises `RemoteProtocolError` if the state does not allow it, and what `receive` raises."""
        started = monotonic()
        if deadline is None:
            self.since = started
            frame = self._next(started, None)
        elif started >= deadline:
            # Also if a frame is there: a hostile side has the next question there whenever the last one is answered.
            raise DeadlineError(TOO_LATE)
        else:
            try:
                frame = self._next(started, deadline)
            finally:
                self._has_waited(monotonic() - started)
        return self.connection.accept(frame)

    def _next(self, _: float, deadline: Optional[float]) -> Frame:
        """The next frame, waiting in `recv` first, since an instant that is given."""
        frame = None
        if self.connection.reader.idle and self._may_be_patient(deadline, PATIENCE):
            frame = self._read_patiently()
        return self.receive(deadline) if frame is None else frame

    async def recv_frame_async(self, deadline: Optional[float]) -> Frame:
        """Like `recv_frame`, without blocking the running loop."""
        started = monotonic()
        if deadline is not None and started >= deadline:
            raise DeadlineError(TOO_LATE)
        connection = self.connection
        frame: Optional[Frame] = None
        try:
            while frame is None:
                arrivals = None
                if connection.reader.idle and ("trio" not in modules or trio() is None):
                    arrivals = arrivals_here(started)
                if arrivals is None:
                    frame = await self.receive_async(deadline)
                else:
                    frame = await Wait(self, arrivals, deadline)
                if frame.opcode is _WAKE:
                    frame = self._unless_wake(frame)
        except ChannelError:
            raise
        except (OSError, ValueError) as error:
            raise broken(error) from error
        finally:
            self._has_waited(monotonic() - started)
        return connection.accept(frame)

    def _unless_wake(self, frame: Frame) -> Optional[Frame]:
        """The frame; see `hot`."""
        return frame

"""Hot lanes: a lane whose small frames travel through memory that both processes share, for as long as calls follow each other closely.

The socket stays. It carries what is large, what is sent to a side that does not poll the memory, what wakes such a side, and the end of
the other process.

How it works
- Each direction has a slot for one frame, a byte with the number of the frame in it, and a byte in which its reader says that it polls:
  that it will look into the memory before it sleeps (`memory` has the layout). The two sides take turns on a lane, so one slot is enough.
- A frame that goes through the memory has a number, from 1 to 255 and round again. It is there if the byte says its number; its reader
  then sets the byte to 0, before it answers, and so before the other side can put the next frame there.
- What is for a side that does not poll goes over the socket, as on any lane: so calls that come now and then cost what they cost there,
  and nobody spins.
- `polling` says when a side polls. It does so for `Limits.hot_spin` seconds at most, and yields its processor once, when no answer has
  come soon; then it says that it does not poll any more, looks once more, and waits on its socket.
- Only one thread of a process polls at a time, no greenlet does, and none where the process could run on one processor only when the lane
  was opened: else it would keep from the processor, or from the interpreter, whoever it waits for.
- After a fork the memory is the parent's, as the socket is: the child lets go of both.

Why no frame is lost (x86-64 only; elsewhere lanes are plain)
- Stores of one processor are seen by all others in their order, and loads happen in theirs (Intel SDM volume 3A, 9.2.3; the same holds
  for AMD). The frame is copied first, then the byte of its number is stored, by a separate instruction, which is what 9.2.4 asks for
  behind a copy that may use string instructions. A store of one byte cannot be torn. So who sees the number sees the frame.
- A load may overtake an older store to another place. Who says that it does not poll and then looks for a frame, and who puts a frame and
  then looks whether the other one polls, must not both see the old state: each has a full barrier between the two. Taking and releasing a
  lock that nobody else has is one: both are locked instructions (a semaphore's before Python 3.13, a mutex' from then on).
- Who has put a frame may leave the barrier, and the look behind it, for later: until before it waits on its socket (`_make_sure`). If it
  finds an answer before, the frame was seen. So a call between two sides that poll has no barrier at all.
- So at least one of the two sees what the other has done, and whoever put the frame sends WAKE. One that comes too late is ignored.
  tests/unit/core/wire/test_memory_model.py tries all interleavings, with store buffers, and finds the loss if a barrier or that look is
  left out.

What the other side may do to the memory: anything, at any time. Every header is copied once and checked as a copy, the body is copied and
loaded as a copy, and nothing else is read but single bytes that are compared. What is wrong ends the lane.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
from sys import modules
from typing import Callable, List, Optional, Sequence

from ..model.errors import ChannelError, RemoteProtocolError
from ..model.limits import DEFAULT_LIMITS, Limits
from ..protocol.codec import HEADER, OPCODES_BY_NUMBER, Bytes, Frame
from ..protocol.connection import State
from ..protocol.messages import Opcode
from ..unpatched import allocate_lock, monotonic
from .hubs import GREENLET, hub
from .memory import LONGEST_BODY, LONGEST_FRAME, NUMBERS, POLLS, SLOTS, SPIN, TAKEN, THREAD, let_go
from .polling import IN_VAIN, LATE, LOST_PROCESSOR, Bounds, Neighbour, Pauses
from .stream import broken
from .wire import Wire

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_WAKE = Opcode.WAKE
_CALLER_IDLE, _CALLEE_IDLE = State.CALLER_IDLE, State.CALLEE_IDLE
# Absent where there are no hot lanes either, such as on Windows.
get_native_id: Callable[[], int] = getattr(threading, "get_native_id", threading.get_ident)
_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
_AT_ONCE: int = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
_HEADER_SIZE = HEADER.size
_unpack_from = HEADER.unpack_from
_WAKE_FRAME = HEADER.pack(_WAKE, 0, 0, 0, 0)
# Seconds for which a side may poll at most, as `hot-spin` in a config file.
LONGEST_SPIN = 0.001
# How often the memory is looked at before the processor is yielded: for some 10 µs, in which most answers come. And then between two looks
# at the clock. The processor is yielded once only: Linux 6.18 has each yield cost a slice of time where another program is runnable, and
# who yields again and again is not run for tens of milliseconds.
_FIRST_LOOKS = (None,) * 300
_LOOKS = (None,) * 12

# The wire whose thread polls: one of this process, as a rule. Not a lock, which a thread that is interrupted as it takes or releases it
# would keep: it leaves its wire here, but that is closed then, and gives way.
_polling: Optional[HotWire] = None


class HotWire(Wire):
    """A lane of which small frames may go through a memory; takes the socket of `wire` over. `listening` says which side this is."""

    __slots__ = (
        "_barrier",
        "_calls_are_close",
        "_in",
        "_memory",
        "_neighbour",
        "_out",
        "_pauses",
        "_polls",
        "_put",
        "_spin",
        "_taken",
        "_told",
        "_unseen",
    )

    def __init__(self, wire: Wire, memory: mmap.mmap, listening: bool, limits: Limits) -> None:
        super().__init__(wire.sock, wire.connection)
        wire.give_away()
        self._memory = memory
        if self._held is not None:
            self._held.memory = memory
        mine, other = (0, 1) if listening else (1, 0)
        # Of the direction in which this side writes, and of the other: (byte of the number, byte of its reader, slot).
        self._out = (NUMBERS[mine], POLLS[mine], SLOTS[mine])
        self._in = (NUMBERS[other], POLLS[other], SLOTS[other])
        self._barrier = allocate_lock()
        # Frames that were put into the memory, and that were taken out of it.
        self._put = self._taken = 0
        # Whether this side polls, whether what it sent last went through the memory, and whether it has to look once more.
        self._polls = self._told = self._unseen = False
        # Whether this side is to poll for the next call.
        self._calls_are_close = False
        self._spin = limits.hot_spin
        if not listening:
            # What the application's config says holds for its scripts too, within what any config may say.
            self._spin = min(int.from_bytes(memory[SPIN : SPIN + 8], "little") / 1e9, max(LONGEST_SPIN, limits.hot_spin))
            memory[TAKEN] = 1
        # Where the config has a side poll for longer than is usual, a wait that takes as long is short too.
        self._pauses = Pauses(max(limits.hot_short, self._spin) if self._spin > DEFAULT_LIMITS.hot_spin else limits.hot_short)
        self._neighbour = None if listening else Neighbour()

    @property
    def passed(self) -> int:
        """Frames that have gone through the memory, in either direction."""
        return self._put + self._taken

    @property
    def is_declined(self) -> bool:
        """Whether the other side, which has answered on this lane, has not taken the memory. It takes it before it answers, if at all."""
        try:
            return self._memory[TAKEN] != 1 and self.account is not None and self.connection.state is _CALLER_IDLE
        except ValueError:
            # It is closed.
            return False

    def close(self) -> None:
        super().close()
        # A thread that is about to use it finds that out, as it would of the socket.
        let_go(self._memory)

    def abandon(self) -> None:
        super().abandon()
        # The thread that forked may be in the middle of using it, interrupted by a signal: what it did there, it would do to its parent.
        let_go(self._memory)

    # sending -----------------------------------------------------------------------------------------------------------

    def _push(self, data: Bytes, deadline: Optional[float]) -> None:
        memory = self._memory
        at, reader, slot = self._out
        size = len(data)
        try:
            if memory[reader] != 1 or size > LONGEST_FRAME:
                self._told = False
                Wire._push(self, data, deadline)
                return
            memory[slot : slot + size] = data
            # Before the number: the other side may answer at once.
            polls = self._polls or (self._pauses.is_over() and self._start_polling())
            put = self._put
            memory[at] = put % 255 + 1
            self._put = put + 1
            self.sent += size
            self._told = True
            if not polls:
                # It will not look, and so not come to `stop_polling`, before it sleeps.
                self._make_sure()
        except ValueError as error:
            # The memory is closed, and so is the wire.
            raise broken(error) from error

    def transmit(self, pieces: Sequence[Bytes], deadline: Optional[float]) -> None:
        # What has buffers of its own says so in its second byte, and goes over the socket.
        if pieces[0][1] == 0 and sum(map(len, pieces)) <= LONGEST_FRAME:
            self._push(pieces[0] if len(pieces) == 1 else b"".join(pieces), deadline)
        else:
            self._told = False
            super().transmit(pieces, deadline)

    # receiving ---------------------------------------------------------------------------------------------------------

    def _next(self, started: float, deadline: Optional[float]) -> Frame:
        idle = self.connection.state is _CALLEE_IDLE
        try:
            if self._polls or (idle and self._calls_are_close and self._start_polling()):
                # A greenlet does not poll on a lane that a thread without a hub had before: that would stop all others.
                if (idle or self._told) and (GREENLET not in modules or hub() is None) and self._poll(started, deadline):
                    return self._take()
                self.stop_polling()
            if self._unseen:
                self._unseen = False
                frame = self._look()
                if frame is not None:
                    return frame
            frame = Wire._next(self, started, deadline)
            while frame.opcode is _WAKE:
                frame = self._unless_wake(frame) or Wire._next(self, started, deadline)
        except ValueError as error:
            raise broken(error) from error
        if idle:
            self._calls_are_close = self._pauses.has_waited(monotonic() - started)
        return frame

    def recv_frames(self) -> List[Frame]:
        return [frame for frame in super().recv_frames() if frame.opcode is not _WAKE]

    def _unless_wake(self, frame: Frame) -> Optional[Frame]:
        """What came over the socket; for WAKE what it is about, None if that has been taken already."""
        return self._look() if frame.opcode is _WAKE else frame

    def _look(self) -> Optional[Frame]:
        """The frame in the memory, or None."""
        return self._take() if self._memory[self._in[0]] == self._taken % 255 + 1 else None

    def _take(self) -> Frame:
        """The frame that is in the memory, as a copy."""
        memory, (at, _, slot) = self._memory, self._in
        # Each field is copied once; what is checked is the copy.
        opcode, count, zero, ident, length = _unpack_from(memory, slot)
        known = OPCODES_BY_NUMBER.get(opcode)
        # A lane has room for what fits into the memory, whatever its limit: see LANE_SLACK.
        if known is None or count or zero or length > LONGEST_BODY:
            raise RemoteProtocolError(f"no small frame in the memory: opcode {opcode}, {count} buffers, {length} bytes")
        slot += _HEADER_SIZE
        body = memory[slot : slot + length]
        self._taken += 1
        # Before the answer, and so before the next frame. Else it would be taken for the one of that number in the next round.
        memory[at] = 0
        self.received += _HEADER_SIZE + length
        return Frame(known, ident, body)

    # polling -----------------------------------------------------------------------------------------------------------

    def _start_polling(self) -> bool:
        """Say that this side polls; a greenlet does not."""
        if GREENLET in modules and hub() is not None:
            return False
        if self._neighbour is None:
            self._memory[THREAD : THREAD + 4] = get_native_id().to_bytes(4, "little")
        self._polls = True
        self._memory[self._in[1]] = 1
        return True

    def _poll(self, started: float, deadline: Optional[float]) -> bool:
        """Look again and again, for a while that began at `started`: whether there is a frame."""
        global _polling
        if _polling is not None and not _polling.closed:
            # Two threads of this process wait at once, and one of them polls.
            self._pause(IN_VAIN)
            return False
        _polling = self
        try:
            neighbour = self._neighbour
            if neighbour is not None and neighbour.suspected:
                self._leave(neighbour)
            memory, at, number = self._memory, self._in[0], self._taken % 255 + 1
            for _ in _FIRST_LOOKS:
                if memory[at] == number:
                    return True
            return self._poll_on(number, started, deadline)
        finally:
            _polling = None

    def _poll_on(self, number: int, started: float, deadline: Optional[float]) -> bool:
        memory, at = self._memory, self._in[0]
        end = started + self._spin
        if deadline is not None and deadline < end:
            end = deadline
        _yield()
        soon = True
        bounds: Optional[Bounds] = IN_VAIN
        while bounds is not None:
            for _ in _LOOKS:
                if memory[at] == number:
                    bounds = None
                    if self._neighbour is not None:
                        self._neighbour.answered(soon)
                    break
            soon = False
            now = monotonic()
            if now >= end or self.closed:
                break
        if now - end > LATE:
            bounds = LOST_PROCESSOR
        if bounds is not None:
            self._pause(bounds)
        return bounds is None or memory[at] == number

    def _leave(self, neighbour: Neighbour) -> None:
        welcome = self.connection.welcome
        if welcome is not None:
            neighbour.leave(welcome.pid, int.from_bytes(self._memory[THREAD : THREAD + 4], "little"))

    def _pause(self, bounds: Bounds) -> None:
        self._pauses.begin(bounds, self.passed)
        self._calls_are_close = False
        self.stop_polling()

    def stop_polling(self) -> None:
        if self._polls:
            self._polls = False
            # Whoever goes on to the socket looks once more: the other side may have found this one polling a moment before.
            self._unseen = True
            try:
                self._memory[self._in[1]] = 0
                self._make_sure()
            except ValueError as error:
                raise broken(error) from error

    def _make_sure(self) -> None:
        """After a store to the memory, and before a wait that nothing but the socket ends."""
        with self._barrier:
            pass
        memory, (at, reader, _) = self._memory, self._out
        if memory[at] and memory[reader] != 1:
            # What this side has put is still there, and the other side may have stopped polling before it could see it.
            self._send_wake()

    def _send_wake(self) -> None:
        """Never waits: where there is no room for WAKE, the other side has not read what wakes it as well."""
        try:
            sent = self.sock.send(_WAKE_FRAME, _AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            raise broken(error) from error
        if sent != len(_WAKE_FRAME):
            raise ChannelError("a part of WAKE did not fit into the buffer of a socket")
        self.sent += sent


def _fork() -> None:
    """In a child: the thread that polls is not there."""
    global _polling
    _polling = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)

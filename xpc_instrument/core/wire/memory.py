"""Hot lanes: a lane whose small frames travel through memory that both processes share, for as long as calls follow each other closely.

The socket stays. It carries what is large, what is said to a side that sleeps, the doorbell, and the end of the other process.

How it works
- The memory is a memfd, made and sealed against resizing by the listening side and passed to the dialling one with WELCOME. Each direction
  has a slot for one frame, a byte with the number of the last frame that was put there, and a byte in which its reader says that it is
  awake: that it will look into the memory before it sleeps. The two sides take turns on a lane, so one slot is enough.
- A frame that goes through the memory has a number, from 1 to 255 and round again. It is there if the byte says its number; its reader
  then sets the byte to 0, before it answers, and so before the other side can put the next frame there.
- Who is not awake is told over the socket, as on any lane: so calls that come now and then cost what they cost there, and nobody spins.
- The side that answers calls wakes when several calls in a row came soon after it began to wait. The side that calls is awake while it
  waits for an answer to what it has put into the memory. Who is awake looks again and again, for `Limits.hot_spin` seconds at most; then it
  says that it sleeps, looks once more, and waits on its socket. Each time that this was in vain, or that another thread of its process
  was looking already, it stays asleep for twice as many waits.
- The dialling side leaves the processor of the listening one, after an answer. The application is never moved.
- Who has lost its processor, or the interpreter, to others while it looked stays with its socket for a time (`_give_way`).
- Only one thread of a process looks again and again at a time, no greenlet does, and none where the process could run on one processor
  only when the lane was opened: else it would keep from the processor, or from the interpreter, whoever it waits for.
- After a fork the memory is the parent's, as the socket is: the child lets go of both.

Why no frame is lost (x86-64 only; elsewhere lanes are plain)
- Stores of one processor are seen by all others in their order, and loads happen in theirs (Intel SDM volume 3A, 9.2.3; the same holds
  for AMD). The frame is copied first, then the byte of its number is stored, by a separate instruction, which is what 9.2.4 asks for
  behind a copy that may use string instructions. A store of one byte cannot be torn. So who sees the number sees the frame.
- A load may overtake an older store to another place. Who says that it sleeps and then looks for a frame, and who puts a frame and then
  looks whether the other one sleeps, must not both see the old state: each has a full barrier between the two. Taking and releasing a
  lock that nobody else has is one: both are locked instructions (a semaphore's before Python 3.13, a mutex' from then on).
- Who has put a frame may leave the barrier, and the look behind it, for later: until before it waits on its socket (`_make_sure`). If it
  finds an answer before, the frame was seen. So a call between two sides that are awake has no barrier at all.
- So at least one of the two sees what the other has done, and whoever put the frame rings. A doorbell that comes too late is ignored.
  tests/unit/core/wire/test_memory_model.py tries all interleavings, with store buffers, and finds the loss if a barrier or that look is
  left out.

What the other side may do to the memory: anything, at any time. Every header is copied once and checked as a copy, the body is copied and
loaded as a copy, and nothing else is read but single bytes that are compared. What is wrong ends the lane.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import socket
import sys
import threading
from sys import modules
from time import monotonic
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from ..model.errors import ChannelError, DeadlineError, RemoteProtocolError
from ..model.limits import DEFAULT_LIMITS, Limits
from ..protocol.codec import HEADER, OPCODES_BY_NUMBER, Bytes, Frame
from ..protocol.connection import Connection, State
from ..protocol.messages import Opcode
from ..unpatched import allocate_lock
from .hubs import GREENLET, hub
from .wire import TOO_LATE, Wire, _broken

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_CALL, _RETURN, _WAKE = Opcode.CALL, Opcode.RETURN, Opcode.WAKE
_CALLER_IDLE, _CALLER_WAITING, _CALLEE_IDLE = State.CALLER_IDLE, State.CALLER_WAITING, State.CALLEE_IDLE
# Absent where there are no hot lanes either, such as in WebAssembly, and on Windows.
get_native_id: Callable[[], int] = getattr(threading, "get_native_id", threading.get_ident)
_AT_ONCE: int = getattr(socket, "MSG_DONTWAIT", 0)
_RING: int = _AT_ONCE | getattr(socket, "MSG_NOSIGNAL", 0)

try:
    import fcntl
except ImportError:  # not on this system, where lanes are plain
    fcntl = None  # type: ignore[assignment,unused-ignore]

# Where things are in the memory. Each byte has a cache line of its own, and a slot begins with a page.
_NUMBERS = (0, 64)
_AWAKE = (128, 192)
_THREAD = 256  # the native identifier of the listening side's thread, in 4 bytes
_TAKEN = 320  # 1 once the dialling side has the memory
_SPIN = 384  # the listening side's `hot_spin` in nanoseconds, in 8 bytes
_SLOTS = (4096, 4096 + 68 * 1024)
# Room for a body of 64 KiB behind its header.
SLOT = 68 * 1024
SIZE = 4096 + 2 * SLOT
_HEADER_SIZE = HEADER.size
_pack, _unpack_from = HEADER.pack, HEADER.unpack_from
_LONGEST_BODY = 64 * 1024
_ROOM = _HEADER_SIZE + _LONGEST_BODY
_CHUNK = 16 * 1024
_INT = array.array("i").itemsize
# Descriptors that the dialling side takes, of which one is right.
_MOST = 4
# Seconds for which a side may look at most, as `hot-spin` in a config file.
LONGEST_SPIN = 0.001
# How often the memory is looked at between two looks at the clock.
_LOOKS = (None,) * 12
# Waits in a row that were short, before the side that answers wakes.
_STREAK = 3
# A frame that comes after the processor was yielded so often at most was put by one that had to wait for it. After so many such frames in a
# row the dialling side asks on which processors the two run: it reads two files for that, which costs some 100 µs. Each time in vain, it
# asks half as often.
_FEW_YIELDS = 2
_SPREAD_AFTER, _SPREAD_LATEST = 24, 1 << 12
# Waits that a side sleeps through at most after it has spun in vain.
_LONGEST_PAUSE = 256
# A look that ends so many seconds late has given its processor to another program for a slice of time: there are more of them than
# processors. The side then sleeps in all waits for a time, twice as long each time that this follows soon on the last.
_LATE = 0.0005
_RETREAT, _LONGEST_RETREAT, _SOON = 0.064, 1.0, 4.0


def why_plain() -> str:
    """Why this process cannot have hot lanes as it is now; empty if it can."""
    if not sys.platform.startswith("linux") or not hasattr(os, "memfd_create") or not hasattr(fcntl, "F_ADD_SEALS"):
        return "this system has no sealed memory (memfd)"
    # Not `platform.machine()`: before Python 3.10 that module loads `subprocess` into the application.
    machine = os.uname().machine
    if machine != "x86_64":
        return f"the order of stores on {machine} is not what hot lanes rely on"
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        # The mapping is used without a lock of its own, and may be let go of by another thread.
        return "this Python runs without the GIL of CPython"
    if len(os.sched_getaffinity(0)) < 2:
        return "this process may run on one processor only"
    return ""


_seals = 0 if fcntl is None else getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0) | getattr(fcntl, "F_SEAL_SEAL", 0)


# Before Python 3.13 a mapping keeps a descriptor of its own.
_NO_DESCRIPTOR: Dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def _mapped(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, SIZE, **_NO_DESCRIPTOR)


def make_memory() -> Tuple[int, mmap.mmap]:
    """A new sealed memory: its descriptor, to be passed on and closed, and the mapping. Raises `OSError`."""
    import resource

    longest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if longest != resource.RLIM_INFINITY and longest < SIZE:
        # Whoever asks for more gets a signal, which ends a process that does not ignore it as Python does.
        raise OSError(errno.EFBIG, f"files of this process may have {longest} bytes (RLIMIT_FSIZE), and it needs {SIZE}")
    descriptor = os.memfd_create("xpc-instrument lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # All of it now: a page that cannot be had later, where memory is short, would end this process with a signal.
        os.posix_fallocate(descriptor, 0, SIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals)
        return descriptor, _mapped(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def take_memory(descriptor: int) -> mmap.mmap:
    """The mapping of a memory that came from the other side; closes the descriptor. Raises `ChannelError` if it is not as it must be."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        if seals & _seals != _seals or os.fstat(descriptor).st_size != SIZE:
            # One that can shrink would end this process with a signal.
            raise ChannelError("the other side passed a memory that is not sealed, or has another size")
        return _mapped(descriptor)
    except OSError as error:
        raise ChannelError(f"the other side passed no memory that can be mapped: {error}") from error
    finally:
        os.close(descriptor)


class OpeningWire(Wire):
    """A wire in its handshake, on the dialling side: with WELCOME a memory may come."""

    __slots__ = ("_descriptors",)

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__(sock, connection)
        self._descriptors: List[int] = []

    def _read_some(self, flags: int = _AT_ONCE) -> Optional[Frame]:
        if self.connection.open:
            return super()._read_some(flags)
        # Room for more than is expected, since what does not fit would be closed without a word.
        data, ancillary, _, _ = self.sock.recvmsg(_CHUNK, socket.CMSG_SPACE(_MOST * _INT), flags | socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors += array.array("i", content[: len(content) - len(content) % _INT])
        # Whoever sends some with each piece of each message must not fill the table of this process.
        _close(self._descriptors, _MOST)
        if not data:
            raise ChannelError("the other side closed the connection")
        return self.connection.reader.feed(data)

    def opened(self, limits: Limits) -> Wire:
        """The lane, once its handshake has ended: hot if exactly one memory came that is as it must be."""
        descriptors, self._descriptors = self._descriptors, []
        try:
            if len(descriptors) == 1:
                return HotWire(self, take_memory(descriptors.pop()), False, limits)
            self.plain = f"the other side passed {len(descriptors) or 'no'} descriptors; expected that of one memory"
        except ChannelError as error:
            # The other side sees that nobody looks into it.
            self.plain = str(error)
        finally:
            _close(descriptors)
        return self

    def close(self) -> None:
        super().close()
        _close(self._descriptors)


def _close(descriptors: List[int], but: int = 0) -> None:
    while len(descriptors) > but:
        os.close(descriptors.pop())


def welcome_with_memory(wire: Wire, pieces: Sequence[Bytes], limits: Limits) -> Wire:
    """Listening side: transmit WELCOME, with a memory if one can be had; returns the lane. Raises `OSError` if the other side is gone."""
    wire.plain = why_plain()
    if not wire.plain:
        try:
            descriptor, memory = make_memory()
        except OSError as error:
            wire.plain = f"no memory could be made: {error}"
        else:
            # Before it is passed on: the other side may be faster than this thread.
            memory[_SPIN : _SPIN + 8] = int(limits.hot_spin * 1e9).to_bytes(8, "little")
            try:
                passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
                sent = wire.sock.sendmsg(pieces, [passed], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError as error:
                # Too many are under way (ETOOMANYREFS), or a rule of this system forbids it: without one, unless the other side is gone.
                wire.plain = f"the memory could not be passed: {error}"
            else:
                if sent != sum(map(len, pieces)):
                    raise ChannelError("WELCOME did not fit into the empty buffer of a socket")
                return HotWire(wire, memory, True, limits)
            finally:
                os.close(descriptor)
    if wire.transmit_some(pieces):
        raise ChannelError("WELCOME did not fit into the empty buffer of a socket")
    return wire


# The wire whose thread looks again and again: one of this process. Not a lock, which a thread that is interrupted as it takes or releases
# it would keep: it leaves its wire here, but that is closed then, and gives way.
_looking: Dict[None, HotWire] = {}

_yield = os.sched_yield

_WAKE_FRAME = HEADER.pack(_WAKE, 0, 0, 0, 0)


class HotWire(Wire):
    """A lane of which small frames may go through a memory; takes the socket of `wire` over. `listening` says which side this is."""

    __slots__ = (
        "_awake",
        "_barrier",
        "_crowded",
        "_in",
        "_memory",
        "_next_in",
        "_out",
        "_pause",
        "_penalty",
        "_put",
        "_retreat",
        "_retreat_until",
        "_short",
        "_spin",
        "_spread_after",
        "_spread_in",
        "_streak",
        "_told",
        "_unseen",
        "passed",
    )

    def __init__(self, wire: Wire, memory: mmap.mmap, listening: bool, limits: Limits) -> None:
        super().__init__(wire.sock, wire.connection)
        wire.given_away = True
        self._memory = memory
        mine, other = (0, 1) if listening else (1, 0)
        # Of the direction in which this side writes, and of the other: (byte of the number, byte of its reader, slot).
        self._out = (_NUMBERS[mine], _AWAKE[mine], _SLOTS[mine])
        self._in = (_NUMBERS[other], _AWAKE[other], _SLOTS[other])
        self._barrier = allocate_lock()
        # The numbers of the last frame that was put, and of the next one to be taken.
        self._put = 0
        self._next_in = 1
        self._awake = self._told = self._unseen = False
        self._streak = self._pause = 0
        self._penalty = 1
        self._retreat = _RETREAT
        self._retreat_until = 0.0
        # Frames that went through the memory, in either direction.
        self.passed = 0
        self._spin = limits.hot_spin
        if not listening:
            # What the application's config says holds for its scripts too, within what any config may say.
            self._spin = min(int.from_bytes(memory[_SPIN : _SPIN + 8], "little") / 1e9, max(LONGEST_SPIN, limits.hot_spin))
            memory[_TAKEN] = 1
        # Where the config has a side look for longer than is usual, that long is short too.
        self._short = max(limits.hot_short, self._spin) if self._spin > DEFAULT_LIMITS.hot_spin else limits.hot_short
        # After how many frames in a row to look on which processor the other side is; 0 for never, since the application stays where it is.
        self._spread_in = self._spread_after = 0 if listening else _SPREAD_AFTER
        # To look there before the next wait.
        self._crowded = False

    @property
    def is_declined(self) -> bool:
        """Whether the other side, which has answered on this lane, has not taken the memory. It takes it before it answers, if at all."""
        try:
            return self._memory[_TAKEN] != 1 and self.account is not None and self.connection.state is _CALLER_IDLE
        except ValueError:
            # It is closed.
            return False

    def close(self) -> None:
        super().close()
        # A thread that is about to use it finds that out, as it would of the socket.
        self._memory.close()

    def abandon(self) -> None:
        super().abandon()
        # The thread that forked may be in the middle of using it, interrupted by a signal: what it did there, it would do to its parent.
        self._memory.close()

    # sending -----------------------------------------------------------------------------------------------------------

    def _push(self, data: Bytes, deadline: Optional[float]) -> None:
        memory = self._memory
        at, reader, slot = self._out
        size = len(data)
        self._told = False
        try:
            if size > _ROOM or memory[reader] != 1:
                Wire._push(self, data, deadline)
                return
            memory[slot : slot + size] = data
            if not self._awake:
                self._wake_unless_paused()
            memory[at] = self._put = self._put % 255 + 1
            self.sent += size
            self.passed += 1
            self._told = True
            if not self._awake:
                # It will not look, and so not come to `stop_polling`, before it sleeps.
                self._make_sure()
        except ValueError as error:
            # The memory is closed, and so is the wire.
            raise _broken(error) from error

    def send_frame(self, opcode: Opcode, ident: int, body: Bytes, deadline: Optional[float]) -> None:
        memory, connection = self._memory, self.connection
        at, reader, slot = self._out
        size = _HEADER_SIZE + len(body)
        try:
            if not self._awake or size > _ROOM or memory[reader] != 1 or opcode not in connection.state.sends:
                if memory[reader] == 1:
                    super().send_frame(opcode, ident, body, deadline)
                    return
                # The other side sleeps: what `Wire` does, in fewer steps.
                self._told = False
                if opcode not in connection.state.sends:
                    connection.sending(opcode)
                connection.state = connection.state.sends[opcode]
                Wire._push(self, _pack(opcode, 0, 0, ident, size - _HEADER_SIZE) + body, deadline)
                return
            # What that and `_push` do where both sides are awake, in fewer steps.
            memory[slot : slot + size] = _pack(opcode, 0, 0, ident, size - _HEADER_SIZE) + body
            connection.state = connection.state.sends[opcode]
            memory[at] = self._put = self._put % 255 + 1
            self.sent += size
            self.passed += 1
            self._told = True
        except ValueError as error:
            raise _broken(error) from error

    def call(self, ident: int, body: bytes, deadline: float) -> Union[bytes, Frame]:
        memory, connection = self._memory, self.connection
        at, reader, slot = self._out
        size = _HEADER_SIZE + len(body)
        try:
            if (
                not self._awake
                or size > _ROOM
                or connection.state is not _CALLER_IDLE
                or memory[reader] != 1
                or (GREENLET in modules and hub() is not None)
            ):
                return super().call(ident, body, deadline)
            # What `send_frame` and `recv_frame` do where both sides are awake, in fewer steps.
            started = monotonic()
            if started >= deadline:
                raise DeadlineError(TOO_LATE)
            memory[slot : slot + size] = _pack(_CALL, 0, 0, ident, size - _HEADER_SIZE) + body
            connection.state = _CALLER_WAITING
            memory[at] = self._put = self._put % 255 + 1
            self.sent += size
            self.passed += 1
            self._told = True
            try:
                if self._look_again(started, deadline):
                    opcode, number, answer = self._take()
                    if opcode is _RETURN:
                        connection.state = _CALLER_IDLE
                        return answer
                    frame = Frame(opcode, number, answer)
                else:
                    frame = self._recv_asleep(deadline)
            finally:
                seconds = monotonic() - started
                self.waited += seconds
                if seconds > self.longest:  # noqa: PLR1730 - as in `_has_waited`
                    self.longest = seconds
            return connection.accept(frame)
        except ValueError as error:
            raise _broken(error) from error

    def transmit(self, pieces: Sequence[Bytes], deadline: Optional[float]) -> None:
        # What has buffers of its own says so in its second byte, and goes over the socket.
        if pieces[0][1] == 0 and sum(map(len, pieces)) <= _ROOM:
            self._push(pieces[0] if len(pieces) == 1 else b"".join(pieces), deadline)
        else:
            self._told = False
            super().transmit(pieces, deadline)

    # receiving ---------------------------------------------------------------------------------------------------------

    def recv_frame(self, deadline: Optional[float]) -> Frame:
        connection = self.connection
        idle = connection.state is _CALLEE_IDLE
        try:
            if not self._awake and idle and self._streak >= _STREAK:
                self._wake_unless_paused()
            started = monotonic()
            if deadline is not None and started >= deadline:
                # Before anything is looked for: a hostile side has the next question there whenever the last one is answered.
                raise DeadlineError(TOO_LATE)
            try:
                if (
                    self._awake
                    and (idle or self._told)
                    # A greenlet, on a lane that a thread without a hub had before: to look again and again would stop all others.
                    and (GREENLET not in modules or hub() is None)
                    and self._look_again(started, deadline)
                ):
                    frame = Frame(*self._take())
                elif self._awake or self._unseen:
                    frame = self._recv_asleep(deadline)
                else:
                    frame = self._recv_socket(deadline)
            finally:
                if deadline is not None:
                    seconds = monotonic() - started
                    self.waited += seconds
                    if seconds > self.longest:  # noqa: PLR1730 - as in `_has_waited`
                        self.longest = seconds
        except ValueError as error:
            raise _broken(error) from error
        try:
            # What `accept` does, one call less.
            connection.state = connection.state.receives[frame.opcode]
        except KeyError:
            connection.accept(frame)
        return frame

    def _recv_asleep(self, deadline: Optional[float]) -> Frame:
        """The next frame, after a last look."""
        self.stop_polling()
        self._unseen = False
        frame = self._look()
        return self._recv_socket(deadline) if frame is None else frame

    def recv_frames(self) -> List[Frame]:
        return [frame for frame in super().recv_frames() if frame.opcode is not _WAKE]

    def stop_polling(self) -> None:
        if self._awake:
            self._awake = False
            # Whoever goes on to the socket looks once more: the other side may have found this one awake a moment before.
            self._unseen = True
            try:
                self._memory[self._in[1]] = 0
                self._make_sure()
            except ValueError as error:
                raise _broken(error) from error

    def _make_sure(self) -> None:
        """After a store to the memory, and before a wait that nothing but the socket ends."""
        with self._barrier:
            pass
        memory, (at, reader, _) = self._memory, self._out
        if memory[at] and memory[reader] != 1:
            # What this side has put is still there, and the other side may have slept before it could see it.
            self._send_wake()

    def _send_wake(self) -> None:
        """Never waits: where there is no room for a doorbell, the other side has not read what wakes it as well."""
        try:
            sent = self.sock.send(_WAKE_FRAME, _RING)
        except BlockingIOError:
            return
        except OSError as error:
            raise _broken(error) from error
        if sent != len(_WAKE_FRAME):
            raise ChannelError("a part of a doorbell did not fit into the buffer of a socket")
        self.sent += sent

    def _wake_unless_paused(self) -> None:
        if self._pause:
            self._pause -= 1
        elif self._retreat_until and monotonic() < self._retreat_until:
            pass
        elif GREENLET not in modules or hub() is None:
            if not self._spread_after:
                self._memory[_THREAD : _THREAD + 4] = get_native_id().to_bytes(4, "little")
            self._awake = True
            self._memory[self._in[1]] = 1

    def _look(self) -> Optional[Frame]:
        """The frame in the memory, or None."""
        if self._memory[self._in[0]] != self._next_in:
            return None
        return Frame(*self._take())

    def _take(self) -> Tuple[Opcode, int, bytes]:
        """Opcode, number and body of the frame that is in the memory, as copies."""
        memory, (at, _, slot) = self._memory, self._in
        # Each field is copied once; what is checked is the copy.
        opcode, count, zero, ident, length = _unpack_from(memory, slot)
        known = OPCODES_BY_NUMBER.get(opcode)
        # A lane has room for what fits into the memory, whatever its limit: see LANE_SLACK.
        if known is None or count or zero or length > _LONGEST_BODY:
            raise RemoteProtocolError(f"no small frame in the memory: opcode {opcode}, {count} buffers, {length} bytes")
        slot += _HEADER_SIZE
        body = memory[slot : slot + length]
        self._next_in = self._next_in % 255 + 1
        # Before the answer, and so before the next frame. Else it would be taken for the one of that number in the next round.
        memory[at] = 0
        self.received += _HEADER_SIZE + length
        self.passed += 1
        return known, ident, body

    def _look_again(self, started: float, deadline: Optional[float]) -> bool:
        """Look again and again, for a while that began at `started`: whether there is a frame."""
        holder = _looking.setdefault(None, self)
        if holder is not self:
            if holder.closed:
                _looking.clear()
            else:
                # Two threads of this process wait at once, and one of them looks.
                self._rest()
            return False
        try:
            if self._crowded:
                # Now that the other side has what it waited for, and goes on as soon as this thread is off its processor. Before, it would
                # look in vain meanwhile and sleep; and the kernel wakes whom a socket wakes on the processor of who wakes him.
                self._crowded = False
                self._spread()
            memory, at, number = self._memory, self._in[0], self._next_in
            for _ in _LOOKS:
                if memory[at] == number:
                    self._penalty = 1
                    self._spread_in = self._spread_after
                    return True
            return self._look_on(started, deadline)
        finally:
            if _looking.get(None) is self:
                _looking.clear()

    def _look_on(self, started: float, deadline: Optional[float]) -> bool:
        memory, at, number = self._memory, self._in[0], self._next_in
        end = started + self._spin
        if deadline is not None and deadline < end:
            end = deadline
        yields = 0
        while True:
            now = monotonic()
            if now >= end or self.closed:
                break
            _yield()
            yields += 1
            for _ in _LOOKS:
                if memory[at] == number:
                    self._penalty = 1
                    now = monotonic()
                    if now - end > _LATE:
                        self._give_way(now)
                    if yields <= _FEW_YIELDS:
                        self._spread_in -= 1
                        self._crowded = not self._spread_in
                    else:
                        self._spread_in = self._spread_after
                    return True
        if now - end > _LATE:
            self._give_way(now)
        self._rest()
        return False

    def _rest(self) -> None:
        """Do not wake in the next waits: twice as many each time."""
        self._pause = self._penalty = min(2 * self._penalty, _LONGEST_PAUSE)
        self._streak = 0

    def _give_way(self, now: float) -> None:
        """Stay out of the memory for a time: others want the processors, and whoever yields to them waits for a slice of theirs."""
        self._retreat = min(2 * self._retreat, _LONGEST_RETREAT) if now - self._retreat_until < _SOON else _RETREAT
        self._retreat_until = now + self._retreat
        self.stop_polling()

    def _spread(self) -> None:
        """Leave the processor on which the other side runs: the kernel keeps two that take turns together, where they take turns only."""
        welcome = self.connection.welcome
        thread = int.from_bytes(self._memory[_THREAD : _THREAD + 4], "little")
        moved = False
        try:
            here = _processor("/proc/thread-self/stat")
            if welcome is not None and here == _processor(f"/proc/{welcome.pid}/task/{thread}/stat"):
                allowed = os.sched_getaffinity(0)
                if len(allowed) > 1:
                    try:
                        os.sched_setaffinity(0, allowed - {here})
                    finally:
                        os.sched_setaffinity(0, allowed)
                    moved = True
        except (OSError, ValueError, IndexError):
            # Not to be known here, in a container of its own say: the kernel spreads them in time.
            self._spread_after = _SPREAD_LATEST
        if not moved:
            self._spread_after = min(2 * self._spread_after, _SPREAD_LATEST)
        self._spread_in = self._spread_after

    def _recv_socket(self, deadline: Optional[float]) -> Frame:
        idle = self.connection.state is _CALLEE_IDLE
        started = monotonic() if idle else 0.0
        frame = self._next(deadline)
        while frame.opcode is _WAKE:
            frame = self._unless_wake(frame) or self._next(deadline)
        if idle:
            self._streak = self._streak + 1 if monotonic() - started < self._short else 0
        return frame

    def _unless_wake(self, frame: Frame) -> Optional[Frame]:
        """What came over the socket; for a doorbell what it rings for, None if that has been taken already."""
        return self._look() if frame.opcode is _WAKE else frame


def _processor(path: str) -> int:
    """The processor that a thread runs on, or ran last; proc(5), field 39. The second field is a name in parentheses."""
    with open(path, "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[36])


def _fork() -> None:
    """In a child: the thread that looks is not there."""
    _looking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)

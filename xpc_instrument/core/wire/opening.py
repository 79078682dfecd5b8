"""How a lane gets its memory: the listening side passes it with WELCOME, and either side goes on without where that cannot be."""

from __future__ import annotations

import array
import socket
from typing import List, Optional, Sequence

from ..model.errors import ChannelError
from ..model.limits import Limits
from ..protocol.codec import Bytes, Frame
from ..protocol.connection import Connection
from ..unpatched import close
from .hot import HotWire
from .memory import SPIN, make_memory, take_memory, why_plain
from .wire import Wire

_AT_ONCE: int = getattr(socket, "MSG_DONTWAIT", 0)
_CHUNK = 16 * 1024
_INT = array.array("i").itemsize
# Descriptors that the dialling side takes, of which one is right.
_MOST = 4


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
        close(descriptors.pop())


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
            memory[SPIN : SPIN + 8] = int(limits.hot_spin * 1e9).to_bytes(8, "little")
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
                close(descriptor)
    if wire.transmit_some(pieces):
        raise ChannelError("WELCOME did not fit into the empty buffer of a socket")
    return wire

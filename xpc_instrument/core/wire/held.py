"""The sockets of streams, which are closed when their stream has gone without having been closed.

A thread that a time limit of the application's interrupts may have a lane in its hands to which nobody else refers. A `__del__` that closed
it would be Python code that runs in that thread: the next time limit might come in there, where Python prints what is raised, and goes on
as if it had not been.

Rules:
- That a stream has gone is noted by C, the `append` of a deque, as the callback of a weak reference. No code of ours runs then.
- The socket of such a stream is closed by whoever looks next (`close_lost`): the service thread in each of its turns, or a thread that
  needs a lane. Until then it is kept, since a socket that is dropped while it is open warns of that.
- A stream that has let go of its socket is not looked after any more.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Any, Deque, Dict
from weakref import ref

from ..model.interrupts import raise_interrupt
from ..unpatched import close as close_descriptor
from .memory import let_go


class Held(ref):  # type: ignore[type-arg] # no parameters before Python 3.9 at run time, and none are of use here
    """The socket of one stream, what tells it from a later file of that number, its memory, and the `Arrivals` in whose epoll it is."""

    __slots__ = ("identity", "memory", "sock", "watched")

    identity: Any
    memory: Any
    sock: socket.socket
    watched: Any


_held: Dict[int, Held] = {}
_lost: Deque[Held] = deque()


def hold(stream: object, sock: socket.socket) -> Held:
    """Look after the socket of a stream from now on."""
    held = Held(stream, _lost.append)
    held.sock, held.identity, held.memory, held.watched = sock, identity_of(sock), None, None
    _held[id(held)] = held
    return held


def release(held: Held) -> None:
    """Look after it no more: it is closed, or another stream's. The stream has to drop it, or it would be taken for lost later."""
    _held.pop(id(held), None)


def close_lost() -> None:
    """Close the sockets whose streams have gone; from any thread. Interrupted, it goes on where it is called next."""
    while _lost:
        try:
            held = _lost[0]
        except IndexError:
            return  # another thread was faster
        close(held)
        release(held)
        try:
            _lost.remove(held)
        except ValueError:
            pass


def close(held: Held) -> None:
    """Close the descriptor, unless the application has closed it: what has its number since is a file of the application's."""
    sock = held.sock
    if identity_of(sock) == held.identity:
        if held.watched is not None:
            held.watched.drop(sock.fileno())
        sock.close()
    else:
        sock.detach()
    if held.memory is not None:
        let_go(held.memory)


def end(held: Held) -> None:
    """In a forked child: have the descriptor be at its end, and open; whoever waits for it sees that, and closes it."""
    if identity_of(held.sock) == held.identity:
        here, there = os.pipe()
        close_descriptor(there)
        os.dup2(here, held.sock.fileno(), inheritable=False)
        close_descriptor(here)
        held.identity = identity_of(held.sock)


def identity_of(sock: socket.socket) -> Any:
    """What tells a socket from whatever has its number later; None if there is none, or on a system that does not tell."""
    try:
        facts = os.fstat(sock.fileno())
    except OSError as error:
        raise_interrupt(error, of_values=True)
        return None
    return facts.st_dev, facts.st_ino

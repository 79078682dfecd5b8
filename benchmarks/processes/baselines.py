"""What the crossing is held against, both ends of each: a bare ping-pong with pickles (from one thread, from several, on an event
loop, with messages of any size), the least exchange of pickles through memory, the sending of large bytes, and the seed's connection for
each call.

`python -m benchmarks.processes.baselines ping-pong FD,FD,...`, `... framed FD`, `... exchange FD`, `... sink FD SIZE` and
`... per-call PATH` are the far ends.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import pickle
import socket
import struct
import sys
import threading
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, Iterator, List, Tuple

from . import targets
from .peers import Peer

_PROTOCOL = 5
_KEY = b"the key of the benchmark"
# Each message of the ping-pong is far smaller, so one read brings it whole.
_CHUNK = 16 * 1024


# The length of a message that may be larger, before it.
_LENGTH = struct.Struct("!Q")


def _stand_in(amount: Any = 0, currency: str = "EUR") -> Dict[str, Any]:
    return targets.STAND_IN


# ping-pong: one connection, blocking sockets, no frames, no deadline, no state ----------------------------------------------------


def _pair(tcp: bool) -> Tuple[socket.socket, socket.socket]:
    if not tcp:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


@contextmanager
def _far_end(
    runtime_dir: Path, kind: str, *words: str, tcp: bool = False, pin: bool = False, count: int = 1
) -> Iterator[List[socket.socket]]:
    """So many connections to one process that plays the far end of each; the near ends."""
    with ExitStack() as stack:
        pairs = [_pair(tcp) for _ in range(count)]
        near = [stack.enter_context(ends[0]) for ends in pairs]
        with ExitStack() as theirs:
            fds = [theirs.enter_context(ends[1]).fileno() for ends in pairs]
            numbers = ",".join(map(str, fds))
            peer = Peer(__name__, kind, numbers, *words, runtime_dir=runtime_dir, pass_fds=fds, pin=pin)
        with peer:
            try:
                yield near
            finally:
                # What the far end takes for its end; it would be waited for in vain otherwise.
                for end in near:
                    end.shutdown(socket.SHUT_RDWR)


def _caller(near: socket.socket) -> Callable[..., Any]:
    send, receive, dumps, loads = near.send, near.recv, pickle.dumps, pickle.loads

    def call(*args: Any, **kwargs: Any) -> Any:
        send(dumps((args, kwargs), _PROTOCOL))
        return loads(receive(_CHUNK))

    return call


@contextmanager
def ping_pong(runtime_dir: Path, *, tcp: bool = False, pin: bool = False) -> Iterator[Callable[..., Any]]:
    """A function that has its arguments pickled, sent, and the pickled result sent back."""
    with _far_end(runtime_dir, "ping-pong", tcp=tcp, pin=pin) as (near,):
        yield _caller(near)


@contextmanager
def ping_pongs(runtime_dir: Path, count: int, *, tcp: bool = False) -> Iterator[List[Callable[..., Any]]]:
    """So many such functions, each with a connection, and a thread over there in the one far process."""
    with _far_end(runtime_dir, "ping-pong", tcp=tcp, count=count) as near:
        yield [_caller(end) for end in near]


@contextmanager
def streams(runtime_dir: Path, loop: asyncio.AbstractEventLoop, count: int) -> Iterator[Callable[..., Awaitable[Any]]]:
    """The same for any number of tasks of an event loop: an `async def` that waits for one of `count` connections, of asyncio's streams."""
    with _far_end(runtime_dir, "ping-pong", count=count) as near:

        async def connect() -> List[Tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
            # The streams close what they are given; the near ends themselves are shut down at the end.
            return [await asyncio.open_connection(sock=end.dup()) for end in near]

        async def close() -> None:
            for _, writer in free:
                writer.close()
                await writer.wait_closed()

        free = loop.run_until_complete(connect())

        async def make_semaphore() -> asyncio.Semaphore:
            # Made on the loop, which Python 3.9 wants.
            return asyncio.Semaphore(count)

        room = loop.run_until_complete(make_semaphore())

        async def call(*args: Any, **kwargs: Any) -> Any:
            async with room:
                reader, writer = pair = free.pop()
                writer.write(pickle.dumps((args, kwargs), _PROTOCOL))
                answer = pickle.loads(await reader.read(_CHUNK))
                free.append(pair)
                return answer

        try:
            yield call
        finally:
            loop.run_until_complete(close())


def _serve_ping_pong(sock: socket.socket) -> None:
    with sock:
        while True:
            data = sock.recv(_CHUNK)
            if not data:
                return
            args, kwargs = pickle.loads(data)
            sock.send(pickle.dumps(_stand_in(*args, **kwargs), _PROTOCOL))


def _serve_ping_pongs(fds: List[int]) -> None:
    first, *others = [socket.socket(fileno=fd) for fd in fds]
    threads = [threading.Thread(target=_serve_ping_pong, args=(sock,)) for sock in others]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    _serve_ping_pong(first)
    for thread in threads:
        thread.join()


# ping-pong with messages of any size: their length before them, and large ones read into a buffer of that size ---------------------------


@contextmanager
def framed(runtime_dir: Path) -> Iterator[Callable[..., Any]]:
    """The same as `ping_pong`, for arguments of any size."""
    with _far_end(runtime_dir, "framed") as (near,):

        def call(*args: Any, **kwargs: Any) -> Any:
            _send_framed(near, (args, kwargs))
            return pickle.loads(_receive_framed(near))

        yield call


def _send_framed(sock: socket.socket, value: Any) -> None:
    data = pickle.dumps(value, _PROTOCOL)
    if len(data) < _CHUNK:
        sock.sendall(_LENGTH.pack(len(data)) + data)
    else:
        sock.sendall(_LENGTH.pack(len(data)))
        sock.sendall(data)


def _receive_framed(sock: socket.socket) -> memoryview:
    """A message, empty at the end."""
    head = sock.recv(_CHUNK)
    if not head:
        return memoryview(b"")
    while len(head) < _LENGTH.size:
        head += sock.recv(_CHUNK)
    length = _LENGTH.unpack_from(head)[0]
    first = memoryview(head)[_LENGTH.size :]
    if len(first) == length:
        return first
    data = memoryview(bytearray(length))
    data[: len(first)] = first
    rest = data[len(first) :]
    while rest:
        rest = rest[sock.recv_into(rest) :]
    return data


def _serve_framed(fd: int) -> None:
    with socket.socket(fileno=fd) as sock:
        print("ready", flush=True)
        while True:
            data = _receive_framed(sock)
            if not data:
                return
            args, kwargs = pickle.loads(data)
            _send_framed(sock, _stand_in(*args, **kwargs))


# the least exchange through memory: a byte that says whose turn it is, and a pickle behind it; both ends look without pause --------------

_CALLED, _ANSWERED, _OVER = 1, 2, 3
_EXCHANGE_SIZE, _EXCHANGE_AT = 8192, 64


@contextmanager
def exchange(runtime_dir: Path) -> Iterator[Tuple[Callable[..., Any], Callable[[], AbstractContextManager[None]]]]:
    """A function that has its arguments pickled, put into memory, and the pickled result found there; and a context, in which the far end
    looks for them: it keeps a processor busy."""
    fd = os.memfd_create("exchange")
    try:
        os.truncate(fd, _EXCHANGE_SIZE)
        with mmap.mmap(fd, _EXCHANGE_SIZE) as memory, memoryview(memory) as whole, whole[_EXCHANGE_AT:] as message:
            dumps, loads = pickle.dumps, pickle.loads

            def call(*args: Any, **kwargs: Any) -> Any:
                data = dumps((args, kwargs), _PROTOCOL)
                message[: len(data)] = data
                memory[0] = _CALLED
                while memory[0] != _ANSWERED:
                    pass
                return loads(message)

            with Peer(__name__, "exchange", str(fd), runtime_dir=runtime_dir, pass_fds=[fd]) as peer:

                @contextmanager
                def looking() -> Iterator[None]:
                    memory[0] = 0
                    peer.ask("look")
                    try:
                        yield
                    finally:
                        memory[0] = _OVER

                yield call, looking
    finally:
        os.close(fd)


def _serve_exchange(fd: int) -> None:
    print("ready", flush=True)
    with mmap.mmap(fd, _EXCHANGE_SIZE) as memory, memoryview(memory) as whole, whole[_EXCHANGE_AT:] as message:
        for _ in sys.stdin:
            print("looks", flush=True)
            _look_for_calls(memory, message)


def _look_for_calls(memory: mmap.mmap, message: memoryview) -> None:
    dumps, loads = pickle.dumps, pickle.loads
    while True:
        turn = memory[0]
        if turn == _CALLED:
            args, kwargs = loads(message)
            data = dumps(_stand_in(*args, **kwargs), _PROTOCOL)
            message[: len(data)] = data
            memory[0] = _ANSWERED
        elif turn == _OVER:
            return


# large bytes: nothing but what `sendall` and `recv_into` copy -----------------------------------------------------------------------


@contextmanager
def sink(runtime_dir: Path, size: int, *, tcp: bool = False) -> Iterator[Callable[[Any], None]]:
    """A function that sends an object's bytes, of that size, and waits for one byte that says that they have arrived."""
    with _far_end(runtime_dir, "sink", str(size), tcp=tcp) as (near,):

        def call(data: Any) -> None:
            near.sendall(data)
            near.recv(1)

        yield call


def _serve_sink(fd: int, size: int) -> None:
    with socket.socket(fileno=fd) as sock:
        print("ready", flush=True)
        while True:
            # A fresh one for each message, as one who keeps the bytes needs.
            view = memoryview(bytearray(size))
            while view:
                count = sock.recv_into(view)
                if not count:
                    return
                view = view[count:]
            sock.send(b"!")


# the seed's way: for each call a connection, a challenge both ways, and a thread over there ----------------------------------------


@contextmanager
def per_call(runtime_dir: Path) -> Iterator[Callable[..., Any]]:
    """A function that makes a connection for each of its calls. On a unix socket: cheaper than the seed's TCP."""
    path = str(runtime_dir / "per-call.sock")

    def call(*args: Any, **kwargs: Any) -> Any:
        with Client(path, authkey=_KEY) as connection:
            connection.send(("instead", args, kwargs))
            return connection.recv()

    with Peer(__name__, "per-call", path, runtime_dir=runtime_dir):
        yield call


def _serve_per_call(path: str) -> None:
    def answer(connection: Connection) -> None:
        with connection:
            _, args, kwargs = connection.recv()
            connection.send(_stand_in(*args, **kwargs))

    def accept(listener: Listener) -> None:
        while True:
            threading.Thread(target=answer, args=(listener.accept(),), daemon=True).start()

    with Listener(path, authkey=_KEY) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "ping-pong":
        _serve_ping_pongs([int(fd) for fd in sys.argv[2].split(",")])
    elif sys.argv[1] == "framed":
        _serve_framed(int(sys.argv[2]))
    elif sys.argv[1] == "exchange":
        _serve_exchange(int(sys.argv[2]))
    elif sys.argv[1] == "sink":
        _serve_sink(int(sys.argv[2]), int(sys.argv[3]))
    else:
        _serve_per_call(sys.argv[2])

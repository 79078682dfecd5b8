"""What the crossing is held against, both ends of each: a bare ping-pong with pickles, and the seed's connection for each call.

`python -m benchmarks.baselines ping-pong FD` and `... per-call PATH` are the far ends.
"""

from __future__ import annotations

import pickle
import socket
import sys
import threading
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

from . import targets
from .peers import Peer

_PROTOCOL = 5
_KEY = b"the key of the benchmark"
# Each message of the ping-pong is far smaller, so one read brings it whole.
_CHUNK = 16 * 1024


def _stand_in(amount: int, currency: str = "EUR") -> Dict[str, Any]:
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
def ping_pong(runtime_dir: Path, *, tcp: bool = False) -> Iterator[Callable[..., Any]]:
    """A function that has its arguments pickled, sent, and the pickled result sent back."""
    near, far = _pair(tcp)
    with near:
        with far:
            peer = Peer(__name__, "ping-pong", str(far.fileno()), runtime_dir=runtime_dir, pass_fds=[far.fileno()])
        send, receive, dumps, loads = near.send, near.recv, pickle.dumps, pickle.loads

        def call(*args: Any, **kwargs: Any) -> Any:
            send(dumps((args, kwargs), _PROTOCOL))
            return loads(receive(_CHUNK))

        with peer:
            yield call
            near.shutdown(socket.SHUT_RDWR)


def _serve_ping_pong(fd: int) -> None:
    with socket.socket(fileno=fd) as sock:
        print("ready", flush=True)
        while True:
            data = sock.recv(_CHUNK)
            if not data:
                return
            args, kwargs = pickle.loads(data)
            sock.send(pickle.dumps(_stand_in(*args, **kwargs), _PROTOCOL))


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
        _serve_ping_pong(int(sys.argv[2]))
    else:
        _serve_per_call(sys.argv[2])

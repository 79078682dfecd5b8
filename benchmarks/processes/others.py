"""What else one would use to call a function of another process, both ends of each: managers, rpyc, Pyro5, execnet, ZeroMQ.

Each as its own documentation would have it for two processes of one machine: a unix socket where it knows them, one connection that stays,
the proxy kept, no compression, the fastest of its serializers that takes these values. `python -m benchmarks.processes.others NAME PATH`
is the far end, but that execnet starts its own.

They are imported by name where they are used: none is needed for anything else, and each may be missing.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import socket
import sys
import threading
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

from . import targets
from .peers import Peer

Call = Callable[..., Any]

_KEY = b"the key of the benchmark"
_PROTOCOL = 5
# Below so many bytes ZeroMQ copies a message anyway, and a frame that tells when it has been sent costs more than the copy.
_COPIED = 64 * 1024


def _stand_in(data: Any = b"", currency: str = "EUR") -> Dict[str, Any]:
    return targets.STAND_IN


def _address(runtime_dir: Path, name: str) -> str:
    return str(runtime_dir / f"{name}.sock")


# multiprocessing.managers: pickles; a thread over there for each connection ----------------------------------------------------------


class Service:
    def answer(self, *args: Any, **kwargs: Any) -> Dict[str, Any]:
        return _stand_in(*args, **kwargs)


class _Manager(BaseManager):
    pass


_Manager.register("service", Service)


@contextmanager
def _managers(runtime_dir: Path) -> Iterator[Call]:
    address = _address(runtime_dir, "managers")
    with Peer(__name__, "managers", address, runtime_dir=runtime_dir):
        manager: Any = _Manager(address, authkey=_KEY)
        manager.connect()
        service = manager.service()
        try:
            yield service.answer
        finally:
            # What the end of a proxy does, here while the other side is still there.
            service._close()


def _serve_managers(path: str) -> None:
    server = _Manager(path, authkey=_KEY).get_server()
    print("ready", flush=True)
    server.serve_forever()


# rpyc: what is immutable crosses by value, all else as a proxy ------------------------------------------------------------------------


@contextmanager
def _rpyc(runtime_dir: Path) -> Iterator[Call]:
    rpyc: Any = import_module("rpyc")
    address = _address(runtime_dir, "rpyc")
    with Peer(__name__, "rpyc", address, runtime_dir=runtime_dir):
        channel = rpyc.Channel(rpyc.SocketStream.unix_connect(address), compress=False)
        connection = rpyc.utils.factory.connect_channel(channel)
        # Looked up once: each time would be a round trip more.
        answer = connection.root.answer
        try:
            # A dict would come as a proxy, with a round trip for each look into it; a tuple comes whole.
            yield lambda *args, **kwargs: dict(answer(*args, **kwargs))
        finally:
            connection.close()


def _serve_rpyc(path: str) -> None:
    rpyc: Any = import_module("rpyc")

    def exposed_answer(self: Any, *args: Any, **kwargs: Any) -> Tuple[Any, ...]:
        return tuple(_stand_in(*args, **kwargs).items())

    service = type("Service", (rpyc.Service,), {"exposed_answer": exposed_answer})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        near, _ = listener.accept()
    # What a thread of its `ThreadedServer` does, without the threads.
    rpyc.utils.factory.connect_channel(rpyc.Channel(rpyc.SocketStream(near), compress=False), service).serve_all()


# Pyro5: marshal is the fastest of its serializers, and takes bytes as they are ---------------------------------------------------------


@contextmanager
def _pyro(runtime_dir: Path) -> Iterator[Call]:
    api: Any = import_module("Pyro5.api")
    address = _address(runtime_dir, "pyro")
    api.config.SERIALIZER = "marshal"
    with Peer(__name__, "pyro", address, runtime_dir=runtime_dir), api.Proxy(f"PYRO:service@./u:{address}") as proxy:
        yield proxy.answer


def _serve_pyro(path: str) -> None:
    api: Any = import_module("Pyro5.api")
    api.config.SERIALIZER = "marshal"
    with api.Daemon(unixsocket=path) as daemon:
        daemon.register(api.expose(Service)(), "service")
        print("ready", flush=True)
        daemon.requestLoop()


# execnet: a gateway in a process of its own, over pipes ----------------------------------------------------------------------------------

_EXECNET = f"""
def stand_in(data=b"", currency="EUR"):
    return {targets.STAND_IN!r}

for args, kwargs in channel:
    channel.send(stand_in(*args, **kwargs))
"""


@contextmanager
def _execnet(runtime_dir: Path) -> Iterator[Call]:
    execnet: Any = import_module("execnet")
    group = execnet.Group()
    try:
        channel = group.makegateway("popen").remote_exec(_EXECNET)

        def call(*args: Any, **kwargs: Any) -> Any:
            channel.send((args, kwargs))
            return channel.receive()

        yield call
    finally:
        group.terminate(timeout=10)


# ZeroMQ: REQ and REP over ipc, with pickles -----------------------------------------------------------------------------------------------


@contextmanager
def _zeromq(runtime_dir: Path) -> Iterator[Call]:
    zmq: Any = import_module("zmq")
    address = _address(runtime_dir, "zeromq")
    with Peer(__name__, "zeromq", address, runtime_dir=runtime_dir), zmq.Context() as context, context.socket(zmq.REQ) as requests:
        requests.linger = 0
        requests.connect(f"ipc://{address}")
        send, receive, dumps, loads = requests.send, requests.recv, pickle.dumps, pickle.loads

        def call(*args: Any, **kwargs: Any) -> Any:
            data = dumps((args, kwargs), _PROTOCOL)
            send(data, copy=len(data) < _COPIED)
            return loads(receive())

        yield call


def _serve_zeromq(path: str) -> None:
    zmq: Any = import_module("zmq")
    replies = zmq.Context().socket(zmq.REP)
    replies.bind(f"ipc://{path}")
    print("ready", flush=True)
    send, receive = replies.send, replies.recv
    while True:
        args, kwargs = pickle.loads(receive())
        send(pickle.dumps(_stand_in(*args, **kwargs), _PROTOCOL))


# ------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """`connect` gives a function that has one over there called with its arguments; `about` says how it is set up."""

    name: str
    module: str
    package: str
    about: str
    connect: Callable[[Path], AbstractContextManager[Call]]

    @property
    def needs(self) -> str:
        """What is missing here and how to get it; empty if it can be measured."""
        return "" if importlib.util.find_spec(self.module) else f"{self.module}: pip install {self.package}"


OTHERS: Tuple[Other, ...] = (
    Other("managers", "multiprocessing", "", "a `BaseManager` proxy on a unix socket", _managers),
    Other(
        "rpyc",
        "rpyc",
        "rpyc",
        "a service on a unix socket, uncompressed, with one connection as its `ThreadedServer` serves it; "
        "the remote function is looked up once and answers with a tuple, which crosses by value where a dict would be a proxy",
        _rpyc,
    ),
    Other("Pyro5", "Pyro5", "Pyro5", "a daemon on a unix socket, with the serializer `marshal`, its fastest", _pyro),
    Other("execnet", "execnet", "execnet", "one channel to a `popen` gateway, over pipes", _execnet),
    Other("ZeroMQ", "zmq", "pyzmq", "REQ and REP over `ipc`, with pickles; large ones are sent without a copy", _zeromq),
)

_FAR_ENDS: Dict[str, Callable[[str], None]] = {
    "managers": _serve_managers,
    "rpyc": _serve_rpyc,
    "pyro": _serve_pyro,
    "zeromq": _serve_zeromq,
}


def _leave_with_standard_input() -> None:
    sys.stdin.read()
    # Whatever the others' threads are at.
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_leave_with_standard_input, daemon=True).start()
    _FAR_ENDS[sys.argv[1]](sys.argv[2])

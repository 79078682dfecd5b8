"""Another user of the host, who does not hold the key, listens where a script might call."""

from __future__ import annotations

import socket
from typing import Any, Iterator, List

import pytest

from xpc_instrument import Manager, find_free_port

KEY = "not known to the impostor"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port at which an impostor listens, of the "localhost" that is `::1` first, as on most systems."""
    resolve = socket.getaddrinfo

    def both(host: Any, port: Any, family: int = 0, *args: Any, **options: Any) -> List[Any]:
        if host == "localhost" and not family:
            return [*resolve("::1", port, 0, *args, **options), *resolve("127.0.0.1", port, 0, *args, **options)]
        return resolve(host, port, family, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    port = find_free_port("127.0.0.1")
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as impostor:
        impostor.bind(("::1", port))
        impostor.listen()
        impostor.setblocking(False)
        yield port
        with pytest.raises(BlockingIOError):
            impostor.accept()


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")
def test_a_script_at_localhost_calls_the_address_at_which_its_application_listens(port: int) -> None:
    """Whoever listens at the other one could pass the handshake on, and run code on both sides after it."""
    with Manager(("localhost", port), KEY) as host:
        host.register("double", lambda x: 2 * x)
        script = Manager(("localhost", port), KEY)
        script.connect(timeout=10)
        assert script.call("double", 21) == (42, True)
        script.shutdown()


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")
def test_nor_does_it_call_the_other_one_if_the_application_does_not_listen(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        Manager(("localhost", port), KEY).connect()

"""What a host leaves behind that cannot start, and whom it serves between forks."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from pathlib import Path

import pytest

from xpc_instrument.core.calls.registry import Registry
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import Address
from xpc_instrument.core.node.host import Host


def test_one_that_fails_to_start_leaves_no_socket_and_no_descriptor(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    limits = Limits()
    address = Address(path=str(runtime_dir / "shop.sock"))
    host = Host(address, b"", Registry(limits), app="shop", python="3", limits=limits, logger=logging.getLogger("test"))
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            host.start()
    assert os.listdir("/proc/self/fd") == before
    assert list(runtime_dir.iterdir()) == []
    host.start()
    host.stop()


def test_who_calls_is_served_where_one_pause_follows_the_other(runtime_dir: Path) -> None:
    limits = Limits()
    address = Address(path=str(runtime_dir / "shop.sock"))
    host = Host(address, b"", Registry(limits), app="shop", python="3", limits=limits, logger=logging.getLogger("test"))
    host.start()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.path)
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            # It is told to pause before its thread has had its turn, and nothing else lets that run.
            for _ in range(400):
                host.let_serve()
                assert host.pause(30)
                host.resume()
            assert host.pause(30)
            assert select.select([client], [], [], 0)[0]
            host.resume()
        began = time.monotonic()
        for _ in range(5):
            # Nobody calls: nothing is waited for.
            host.let_serve()
            assert host.pause(30)
            host.resume()
        assert time.monotonic() - began < 30
    finally:
        host.stop()

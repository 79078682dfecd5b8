"""What a host leaves behind that cannot start."""

from __future__ import annotations

import errno
import logging
import os
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

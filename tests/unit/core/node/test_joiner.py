"""The node that dials, beside a real host: what becomes of its requests."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from xpc_instrument import Limits, Manager
from xpc_instrument.core.model.errors import ChannelError
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.joiner import Joiner


def test_a_host_that_dies_while_a_lane_is_dialled_is_gone_and_not_one_that_refuses(runtime_dir: Path) -> None:
    path = str(runtime_dir / "host.sock")
    host = Manager(address=path, authkey="key")
    host.start()
    joiner = Joiner(parse_address(path), b"key", limits=Limits())
    try:
        deadline = time.monotonic() + 20
        joiner.connect(deadline)
        # Whoever looks for applications removes what a dead one has left, maybe before its end is noticed here.
        os.unlink(path)
        request = joiner.begin_register("name", 1, "call", deadline=deadline)
        host.shutdown()
        with pytest.raises(ChannelError, match=r"the connection to .* ended"):
            request.answer(deadline)
        assert not joiner.alive
    finally:
        joiner.close()
        host.shutdown()

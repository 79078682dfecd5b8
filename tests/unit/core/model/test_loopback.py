"""Which hosts are this machine alone."""

from __future__ import annotations

import pytest

from xpc_instrument.core.model.loopback import is_beyond_loopback, is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::1%lo", True),
        ("0.0.0.0", False),
        ("", False),
        ("::", False),
        ("128.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::127.0.0.1", False),
        ("localhost", False),  # a name: what it resolves to is what counts
    ],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("host", ["", "localhost", "a.name.to.resolve.later"])
def test_what_is_no_numeric_address_is_neither(host: str) -> None:
    assert not is_loopback(host)
    assert not is_beyond_loopback(host)

"""HMAC-SHA256 against the standard library's."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from xpc_instrument.core.protocol.digest import hmac_sha256


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_it_is_what_the_standard_library_says(key: bytes, message: bytes) -> None:
    assert hmac_sha256(key, message) == hmac.new(key, message, "sha256").digest()


def test_a_key_of_a_block_is_taken_as_it_is_and_a_longer_one_is_hashed() -> None:
    for length in (0, 63, 64, 65, 1000):
        assert hmac_sha256(b"k" * length, b"m") == hmac.new(b"k" * length, b"m", "sha256").digest()

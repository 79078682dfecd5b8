"""HMAC-SHA256, of the interpreter's own SHA-256.

`hmac` and `hashlib` would bring OpenSSL into the application, which takes 3 ms to load. An interpreter that was built without
its own SHA-256 has `hashlib`'s. Imported at once: a fork in the middle of an import by a thread of ours would
leave the child with half of it.
"""

from __future__ import annotations

import importlib
from _operator import _compare_digest as compare_digest  # what `hmac.compare_digest` is
from typing import Any, Callable

__all__ = ["compare_digest", "hmac_sha256"]

_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def _own_sha256() -> Callable[[bytes], Any]:
    # `_sha2` from Python 3.12 on.
    for name in ("_sha2", "_sha256", "hashlib"):
        try:
            found: Callable[[bytes], Any] = importlib.import_module(name).sha256
        except (ImportError, AttributeError):
            continue
        return found
    raise ImportError("this interpreter has no SHA-256")


_sha256 = _own_sha256()


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """As RFC 2104 says."""
    if len(key) > _BLOCK:
        key = _sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    inner: bytes = _sha256(key.translate(_INNER) + message).digest()
    outer: bytes = _sha256(key.translate(_OUTER) + inner).digest()
    return outer

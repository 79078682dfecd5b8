"""Large arguments, by what a row calls them."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any, Dict

SIZES: Dict[str, int] = {"64KB": 64 * 1024, "1MB": 1024 * 1024, "80MB": 80_000_000}
# Those of `hot`, which go through memory where lanes are hot, and what is too large for that.
SMALL: Dict[str, int] = {"1KB": 1024, "4KB": 4096, "16KB": 16 * 1024, "64KB": 64 * 1024}
# What is an array of numpy's; the others are `bytes`.
ARRAYS = ("80MB",)


def has_numpy() -> bool:
    """Whether numpy, which the extra `benchmarks` brings, is installed."""
    return importlib.util.find_spec("numpy") is not None


@functools.cache
def noise(size: int) -> bytes:
    """So many bytes that cannot be compressed: none of those who carry them is helped by doing so."""
    return os.urandom(size)


def data_of(kind: str) -> Any:
    """An argument of that size, none of its pages still to be made."""
    if kind not in ARRAYS:
        return b"x" * {**SIZES, **SMALL}[kind]
    import numpy

    return numpy.ones(SIZES[kind] // 8)

"""A function with lines to look at. The benchmark loads this file several times, so that each way has a function of its own."""

from __future__ import annotations


def function(amount: int, currency: str) -> int:
    if amount < 0:
        raise ValueError(currency)
    kept = amount + 1
    return kept - 1

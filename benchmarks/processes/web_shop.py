"""What the web applications of the benchmark have in common: the functions that each request calls, and the other probe points."""

from __future__ import annotations

import importlib
from typing import Any, Dict

from .catalogue import NAME

# All but one of the probe points.
catalogue = importlib.import_module(NAME)

ORIGINAL = {"price": 12, "from": "the original"}


def price(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


async def price_async(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL

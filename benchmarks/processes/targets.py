"""The application's functions that a hook in another process is registered on: they do next to nothing."""

from __future__ import annotations

from typing import Any, Dict

# The answers of originals and stand-ins differ, so that a hook that failed open is noticed.
ORIGINAL = {"ok": True, "from": "the original"}
STAND_IN = {"ok": True, "from": "the script"}


def before(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


def around(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


def instead(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


def unwaited(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


def sized(data: bytes = b"") -> Dict[str, Any]:
    return ORIGINAL


def large(data: Any) -> Dict[str, Any]:
    return ORIGINAL


def idle(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


def crowded(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


async def awaited(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


async def replaced(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


async def unarmed(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


# Those that are named for the mode of their hook.
MODES = ("before", "around", "instead")

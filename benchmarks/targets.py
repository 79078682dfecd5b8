"""What is called and hooked in the benchmarks: functions and methods that do next to nothing, one of each for each way to hook them."""

from __future__ import annotations

from typing import Any, Dict


def bare(amount: int, currency: str) -> int:
    return amount


def bare_again(amount: int, currency: str) -> int:
    return amount


def swapped(amount: int, currency: str) -> int:
    return amount


def wrapped(amount: int, currency: str) -> int:
    return amount


class Order:
    """One method for each way."""

    def bare(self, amount: int, currency: str) -> int:
        return amount

    def bare_again(self, amount: int, currency: str) -> int:
        return amount

    def swapped(self, amount: int, currency: str) -> int:
        return amount

    def wrapped(self, amount: int, currency: str) -> int:
        return amount


# Those that a hook in another process is registered on are named for its mode. The answers of originals and stand-ins differ, so that a
# hook that failed open is noticed.
ORIGINAL = {"ok": True, "from": "the original"}
STAND_IN = {"ok": True, "from": "the script"}


def before(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


def around(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


def instead(amount: int, currency: str = "EUR") -> Dict[str, Any]:
    return ORIGINAL


MODES = ("before", "around", "instead")

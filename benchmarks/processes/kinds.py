"""One callable of each kind. The benchmarks load this file several times, so that each way to hook has functions of its own."""

from __future__ import annotations

import time
from typing import Any, Iterator

clock = time.monotonic


def function(amount: int, currency: str) -> int:
    return amount


def raising(amount: int, currency: str) -> int:
    raise ValueError


def caught(amount: int, currency: str) -> None:
    try:
        raising(amount, currency)
    except ValueError:
        pass


async def coroutine(amount: int, currency: str) -> int:
    return amount


def generator(amount: int) -> Iterator[int]:
    yield amount


def _made(rate: int) -> Any:
    def closure(amount: int, currency: str) -> int:
        return amount * rate

    return closure


closure = _made(1)


class Order:
    def method(self, amount: int, currency: str) -> int:
        return amount

    @classmethod
    def class_method(cls, amount: int, currency: str) -> int:
        return amount

    @staticmethod
    def static_method(amount: int, currency: str) -> int:
        return amount

    @property
    def value(self) -> int:
        return 12

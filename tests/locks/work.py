"""What is hooked."""

from __future__ import annotations

from typing import Any, Iterator


def plain(value: Any) -> Any:
    made = [value, {}]
    made.append(made)
    return value


class Thing:
    def method(self, value: Any, *more: Any) -> Any:
        return deep(3)


def deep(depth: int, value: Any = 0) -> int:
    return depth and 1 + deep(depth - 1)


def items(value: Any) -> Iterator[Any]:
    for _ in range(3):
        yield value

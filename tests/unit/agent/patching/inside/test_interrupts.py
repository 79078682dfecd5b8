"""What a signal's handler raises is never lost, and each token that was handed out is told.

At most one interrupt comes in each invocation: after a random time, so that it falls anywhere in `enter`, the body, `leave`, `failed` and
between them.
"""

from __future__ import annotations

import random
import signal
import sys
from typing import Any, Callable, Dict, List, Tuple

import pytest

from xpc_agent.patching.inside import inserted

pytestmark = [
    pytest.mark.version,
    pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.11 is the oldest whose code is gone into"),
]


class Interrupt(BaseException):
    pass


class Token:
    def __init__(self) -> None:
        self.told: List[str] = []


class Scene:
    """Hooks that count. The last thing that `enter` does is to hand out a token, as what `insertion` says asks of it."""

    def __init__(self) -> None:
        self.tokens: List[Token] = []
        self.ends: Dict[str, int] = {"leave": 0, "failed": 0, "raised": 0}

    def enter(self, *values: Any) -> Tuple[Any, Token]:
        token = Token()
        self.tokens += (token,)
        return None, token

    def leave(self, token: Token, value: Any) -> Any:
        token.told += ("leave",)
        return value

    def failed(self, token: Token, error: BaseException) -> None:
        token.told += ("failed",)

    def raised(self, token: Any, error: BaseException) -> None:
        if token is not None and not token.told:
            token.told += ("raised",)

    def settle(self) -> None:
        """Each token was told once, of what has come to an end."""
        for token in self.tokens:
            assert len(token.told) == 1
            self.ends[token.told[0]] += 1
        self.tokens.clear()


def plain(n: int) -> int:
    total = 0
    for i in range(n % 5):
        total += i
    if n % 7 == 0:
        raise ValueError
    return total


def handling(n: int) -> int:
    try:
        return plain(n)
    except ValueError:
        return 0
    finally:
        n += 1


def generating(n: int) -> Any:
    for i in range(n % 5):
        yield i * 2
    if n % 7 == 0:
        raise ValueError


CALLS: List[Tuple[Any, Callable[[Any, int], Any]]] = [
    (plain, lambda f, n: f(n)),
    (handling, lambda f, n: f(n)),
    (generating, lambda f, n: list(f(n))),
]


def armed(function: Any, scene: Scene) -> Any:
    copy = type(function)(function.__code__, function.__globals__)
    copy.__code__ = inserted(function.__code__, scene.enter, scene.leave, scene.failed, scene.raised)
    return copy


@pytest.mark.parametrize(("function", "call"), CALLS, ids=[function.__name__ for function, _ in CALLS])
def test_a_signal_in_any_place_is_not_lost_and_each_token_is_told(function: Any, call: Callable[[Any, int], Any]) -> None:
    scene = Scene()
    f = armed(function, scene)
    sent = caught = 0
    chance = random.Random(5)

    def handler(number: int, frame: Any) -> None:
        nonlocal sent
        sent += 1
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for n in range(4000):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 60e-6))
                try:
                    for _ in range(3):
                        call(f, n)
                except ValueError:
                    pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                caught += 1
            scene.settle()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught == sent > 0
    assert scene.ends["leave"] > 0 and scene.ends["failed"] > 0

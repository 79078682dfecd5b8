"""A probe script of the soak: hooks in all modes that answer, proceed, raise, dawdle, give what cannot cross, and come and go."""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from typing import Any, Callable, Dict, List

import xpc_instrument
from xpc_instrument import Handle, Session, XpcError

TARGETS = ("pay", "fail", "large", "Till.pay", "pay_async", "count")


class Oops(Exception):
    """As the application's; it crosses as that, by its name."""


def behaviours(choose: random.Random, target: str, timeout: float) -> Dict[str, Callable[..., Any]]:
    """What a hook does, by name; each gets a `Call` or, as a stand-in, the arguments."""
    plain: Any = {"large": b"hooked", "count": ["hooked"]}.get(target, "hooked")

    def injects(*_: Any) -> Any:
        sys.path.insert(0, os.environ["SOAK_FOLDER"])
        import application

        raise application.Oops("injected")

    return {
        "answers": lambda *_: plain,
        "injects": injects,
        "exits": lambda *_: sys.exit(1),
        "dawdles": lambda *_: time.sleep(timeout * choose.uniform(0.5, 1.5)) or plain,
        "gives a lock": lambda *_: threading.Lock(),
        "gives too much": lambda *_: b"x" * 70_000_000 if choose.random() < 0.02 else plain,
        "dies": lambda *_: os.kill(os.getpid(), 9) if choose.random() < 0.01 else plain,
    }


def around(choose: random.Random, target: str, timeout: float) -> Dict[str, Callable[..., Any]]:
    """What only an `around` hook does."""

    def late(call: Any) -> Any:
        value = call.proceed()
        time.sleep(timeout * choose.uniform(0.5, 1.5))
        return value

    def before(call: Any) -> Any:
        time.sleep(timeout * choose.uniform(0.5, 1.5))
        return call.proceed()

    def dies(call: Any) -> Any:
        value = call.proceed()
        if choose.random() < 0.02:
            os.kill(os.getpid(), 9)
        return value

    def exits(call: Any) -> Any:
        call.proceed()
        sys.exit(1)

    def bug(call: Any) -> Any:
        return call.nothing_of_that_name

    def bug_afterwards(call: Any) -> Any:
        call.proceed()
        return call.nothing_of_that_name

    return {
        "proceeds": lambda call: call.proceed(),
        "late": late,
        "before": before,
        "dies": dies,
        "exits": exits,
        "has a bug": bug,
        "has a bug afterwards": bug_afterwards,
    }


def register(session: Session, choose: random.Random, timeout: float) -> Handle:
    """One hook, by chance."""
    target = choose.choice(TARGETS)
    mode = choose.choice(["before", "after", "around", "around", "instead"])
    ways = behaviours(choose, target, timeout)
    if mode == "around":
        ways = {**ways, **around(choose, target, timeout)}
    name = choose.choice(sorted(ways))
    options: Dict[str, Any] = {"raises": Exception} if (mode, name) == ("around", "injects") else {}
    handle: Handle = getattr(session, mode)(f"application:{target}", ways[name], **options)
    return handle


def main() -> None:
    seed, timeout = int(sys.argv[1]), float(sys.argv[2])
    logging.getLogger("xpc_instrument").setLevel(logging.CRITICAL)
    choose = random.Random(seed)
    session = xpc_instrument.connect("soak", timeout=20)
    handles: List[Handle] = [register(session, choose, timeout)]
    os.write(1, b"ready\n")
    for line in sys.stdin:
        word = line.strip()
        try:
            if word == "register" and len(handles) < 2:
                handles.append(register(session, choose, timeout))
            elif word == "remove" and handles:
                handles.pop(choose.randrange(len(handles))).remove()
            elif word == "close":
                break
            os.write(1, b"did\n")
        except (XpcError, OSError) as error:
            # The application is restarted, or has no descriptors: a clear error is what a script is to get.
            os.write(1, f"refused {type(error).__name__}: {error}\n".encode()[:500])
    session.close()


if __name__ == "__main__":
    main()

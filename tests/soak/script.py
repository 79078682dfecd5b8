"""A probe script of the soak: hooks in all modes that answer, proceed, raise, dawdle, give what cannot cross, and come and go.

It is run as `python -W error script.py SEED TIMEOUT SEAT [first]`, blocks SIGUSR1 and waits for it with `sigwait`, and ends as it is told: by closing
its session, by just ending, by `os._exit`, or by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import application
from books import Pages, answer_of, number_in

import xpc_instrument
from xpc_instrument import Handle, Session, XpcError

TARGETS = ("pay", "fail", "large", "Till.pay", "pay_async", "count")

# What half of the hooks do. Others are soon suspended, and then no call reaches them for a while.
GOOD = ("answers", "awaits", "awaits the original", "injects", "proceeds", "replaces afterwards", "uses a pool")

pool = concurrent.futures.ThreadPoolExecutor(2)


class Hook:
    """What one hook does with a call, and its pages in the books."""

    def __init__(self, pages: Pages, of_the_seat: int, target: str, mode: str, choose: random.Random, timeout: float) -> None:
        self.pages = pages
        self.place = pages.hook(of_the_seat)
        self.target = target
        self.mode = mode
        self.choose = choose
        self.timeout = timeout

    def number(self, args: Any) -> Optional[int]:
        """The number of the call, which is written down as one that reaches this hook."""
        number = number_in((args if self.mode == "instead" else args[0].args)[-1])
        if number is not None:
            self.pages.called(number, self.place)
        return number

    def answer(self, number: Optional[int], how: str = "outright") -> str:
        """A text that nobody else gives, written down as what this hook gives."""
        if number is not None:
            self.pages.answers(number, self.place)
        return answer_of(number or 0, self.place, how)

    def value(self, number: Optional[int], how: str = "outright") -> Any:
        """The same, of the type that the target gives."""
        text = self.answer(number, how)
        return {"large": text.encode(), "count": [text]}.get(self.target, text)

    def dawdle(self) -> None:
        time.sleep(self.timeout * self.choose.uniform(0.5, 1.5))


def ways(hook: Hook) -> Dict[str, Callable[..., Any]]:
    """What hooks of all modes do, by name; they get a `Call` or, as a stand-in, the arguments."""

    def answers(*args: Any) -> Any:
        return hook.value(hook.number(args))

    def injects(*args: Any) -> Any:
        raise application.Oops(hook.answer(hook.number(args)))

    def exits(*args: Any) -> Any:
        hook.number(args)
        sys.exit(1)

    def dawdles(*args: Any) -> Any:
        number = hook.number(args)
        hook.dawdle()
        return hook.value(number)

    def gives_a_lock(*args: Any) -> Any:
        hook.number(args)
        return threading.Lock()

    def gives_too_much(*args: Any) -> Any:
        number = hook.number(args)
        return b"x" * 70_000_000 if hook.choose.random() < 0.02 else hook.value(number)

    def dies(*args: Any) -> Any:
        number = hook.number(args)
        if hook.choose.random() < 0.01:
            os.kill(os.getpid(), signal.SIGKILL)
        return hook.value(number)

    def pooled(*args: Any) -> Any:
        return pool.submit(hook.value, hook.number(args)).result()

    async def awaits(*args: Any) -> Any:
        number = hook.number(args)
        await asyncio.sleep(0)
        return hook.value(number)

    return {
        "answers": answers,
        "injects": injects,
        "exits": exits,
        "dawdles": dawdles,
        "gives a lock": gives_a_lock,
        "gives too much": gives_too_much,
        "dies": dies,
        "uses a pool": pooled,
        "awaits": awaits,
    }


def around(hook: Hook) -> Dict[str, Callable[..., Any]]:
    """What only an `around` hook does."""

    def proceeds(call: Any) -> Any:
        hook.number([call])
        return call.proceed()

    def late(call: Any) -> Any:
        hook.number([call])
        value = call.proceed()
        hook.dawdle()
        return value

    def before(call: Any) -> Any:
        hook.number([call])
        hook.dawdle()
        return call.proceed()

    def replaces(call: Any) -> Any:
        number = hook.number([call])
        call.proceed()
        # What a generator function gives nobody iterates here, and so its body does not run.
        return hook.value(number, "outright" if hook.target == "count" else "afterwards")

    def dies(call: Any) -> Any:
        hook.number([call])
        value = call.proceed()
        if hook.choose.random() < 0.02:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    def exits(call: Any) -> Any:
        hook.number([call])
        call.proceed()
        sys.exit(1)

    def bug(call: Any) -> Any:
        hook.number([call])
        return call.nothing_of_that_name

    def bug_afterwards(call: Any) -> Any:
        hook.number([call])
        call.proceed()
        return call.nothing_of_that_name

    async def awaits(call: Any) -> Any:
        hook.number([call])
        return await call.proceed_async()

    return {
        "proceeds": proceeds,
        "late": late,
        "before": before,
        "replaces afterwards": replaces,
        "dies": dies,
        "exits": exits,
        "has a bug": bug,
        "has a bug afterwards": bug_afterwards,
        "awaits the original": awaits,
    }


def register(session: Session, pages: Pages, of_the_seat: int, choose: random.Random, timeout: float) -> Handle:
    """One hook, by chance."""
    target = choose.choice(TARGETS)
    mode = choose.choice(["before", "after", "around", "around", "instead"])
    hook = Hook(pages, of_the_seat, target, mode, choose, timeout)
    found = {**ways(hook), **(around(hook) if mode == "around" else {})}
    good = choose.random() < 0.5
    name = choose.choice(sorted(name for name in found if name in GOOD or not good))
    options: Dict[str, Any] = {"raises": Exception} if (mode, name) == ("around", "injects") else {}
    if mode in ("before", "after") and choose.random() < 0.4:
        options["wait"] = False
    elif choose.random() < 0.3:
        options["timeout"] = timeout * choose.uniform(0.2, 1)
    handle: Handle = getattr(session, mode)(f"application:{target}", found[name], **options)
    return handle


def wait_for_signals() -> None:
    """The thread that takes what all others have blocked."""
    while True:
        signal.sigwait({signal.SIGUSR1})
        say("took the signal")


def say(text: str) -> None:
    """One line to the soak, in one write."""
    os.write(1, text.encode()[:500] + b"\n")


def main() -> None:
    seed, timeout, seat = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    if "SOAK_DEAF" not in os.environ:
        # What hooks raise on purpose would be thousands of lines.
        logging.getLogger("xpc_instrument").setLevel(logging.CRITICAL)
    # As at a terminal, also where a shell has started the soak in the background, whose programs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    threading.Thread(target=wait_for_signals, daemon=True).start()
    choose = random.Random(seed)
    pages = Pages(Path(os.environ["SOAK_FOLDER"]), seat)
    session = xpc_instrument.connect("soak", timeout=20, all=True)
    # By which of the seat's two it is.
    handles: Dict[int, Handle] = {}

    def one_more() -> None:
        free: List[int] = [k for k in range(2) if k not in handles]
        if free:
            handles[free[0]] = register(session, pages, free[0], choose, timeout)

    word = "register"
    if sys.argv[4:]:
        # The first of all: what an application has from its first script on is no leak.
        for wait in (False, True):
            session.before("application:pay", lambda call: None, wait=wait)
        word = "nothing more"
    while True:
        try:
            if word == "register":
                one_more()
            elif word == "remove" and handles:
                which = choose.choice(sorted(handles))
                handles[which].remove()
                # Not before it is gone: what two hooks wrote into one byte could not be told apart.
                del handles[which]
            elif word == "close":
                session.close()
                return
            elif word == "end":
                return
            elif word == "exit":
                sys.exit(0)
            elif word == "leave":
                os._exit(0)
            elif word == "run":
                try:
                    say("did run")
                    session.run()
                except KeyboardInterrupt:
                    session.close()  # before it was run, or after
                return
            say("did")
        except (XpcError, OSError) as error:
            # The application is restarted, or has no descriptors: a clear error is what a script is to get.
            say(f"refused {type(error).__name__}: {error}")
        word = sys.stdin.readline().strip() or "close"


if __name__ == "__main__":
    main()

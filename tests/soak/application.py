"""The application of the soak: threads, processes and an event loop that call their targets the whole time and check every result.

Each call says what it is allowed to give; anything else is a violation and ends the soak. The original counts its runs per call, in the
calling thread: it may run once, or not at all where a hook that decides has answered. It is run by `xpc-instrument run` in a folder that
the soak makes, is told what to do by lines on its standard input, and reports by lines of JSON.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import random
import resource
import sys
import threading
import time
from typing import Any, Callable, Dict, List

TIMEOUT = float(os.environ.get("SOAK_TIMEOUT", "0.5"))

# Calls in a row of which one thread of three makes no pause, and as many times that as it takes until its turn comes round.
_IN_A_ROW, _PACES = 200, 4

# How often the original has run in the call that is under way, by thread and task.
_runs: contextvars.ContextVar[List[int]] = contextvars.ContextVar("runs")


def say(**what: Any) -> None:
    """One line to the soak, in one write."""
    os.write(1, b"@" + json.dumps(what).encode() + b"\n")


class Oops(Exception):
    """What the original raises, and what hooks inject."""


# targets -----------------------------------------------------------------------------------------------------------------


def pay(n: int) -> str:
    _runs.get().append(n)
    return f"paid {n}"


def fail(n: int) -> str:
    _runs.get().append(n)
    raise Oops(f"original {n}")


def large(data: bytes) -> bytes:
    _runs.get().append(len(data))
    return data


class Till:
    def __init__(self, name: str) -> None:
        self.name = name

    def pay(self, n: int) -> str:
        _runs.get().append(n)
        return f"paid {n}"


async def pay_async(n: int) -> str:
    _runs.get().append(n)
    await asyncio.sleep(0)
    return f"paid {n}"


def count(n: int) -> Any:
    _runs.get().append(n)
    yield from range(n)


# checking ----------------------------------------------------------------------------------------------------------------


class Tally:
    """What the callers of one process have seen."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = self.replaced = self.injected = self.both = 0
        self.late: List[float] = []
        # How late a thread was woken that only slept: what the machine, and the GIL, cost at that time.
        self.overslept = 0.0

    def take(self, target: str, begun: float, hooks: int, runs: List[int], expected: Any, outcome: Any) -> None:
        took = time.monotonic() - begun
        # Each hook on the way has a time-out of its own; what a call takes beyond all of them together is too late.
        chances = max(hooks, armed(target))
        ours = outcome == expected
        hooked = outcome in ("hooked", b"hooked", ["hooked"], "injected")
        with self.lock:
            self.calls += 1
            self.replaced += not runs
            self.injected += outcome == "injected"
            self.late.append(took - chances * TIMEOUT)
            if len(self.late) > 2000:
                self.late = sorted(self.late)[-50:]
        if len(runs) > 1:
            say(violation=f"the original ran {len(runs)} times: expected {expected!r:.80}, got {outcome!r:.80}")
        elif not ours and not hooked:
            say(violation=f"expected {expected!r:.80} or what a hook gives, got {outcome!r:.200}")
        elif ours and not runs:
            say(violation=f"the original did not run, but its outcome {outcome!r:.80} is there")

    def report(self) -> Dict[str, Any]:
        with self.lock:
            worst = sorted(self.late)[-5:]
            return {"calls": self.calls, "replaced": self.replaced, "injected": self.injected, "worst": worst, "overslept": self.overslept}


tally = Tally()
stopping = threading.Event()


def armed(target: str) -> int:
    """How many hooks there are on a target at the moment."""
    agent = sys.modules["xpc_agent.life.control"].current()
    point = None if agent is None else agent.table.points.get(f"application:{target}")
    return 0 if point is None else len(point.hooks)


def control() -> None:
    """A thread that only sleeps, and says how much too long."""
    nap = threading.Event()
    while not stopping.is_set():
        begun = time.monotonic()
        nap.wait(0.01)
        tally.overslept = max(tally.overslept, time.monotonic() - begun - 0.01)


def outcome_of(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Oops as error:
        return "injected" if str(error) == "injected" else f"raised {error}"


def one_call(choose: random.Random, n: int, till: Till, data: bytes) -> None:
    which = choose.randrange(10)
    large_one = which == 8 and n % 20 == 0
    plans: List[Any] = [("pay", f"paid {n}", pay, n)] * 4
    plans += [("Till.pay", f"paid {n}", till.pay, n)] * 2
    plans += [("fail", f"raised original {n}", fail, n), ("count", [0, 1, 2], lambda k: list(count(k)), 3)]
    plans += [("large", data, large, data) if large_one else plans[0]] * 2
    target, expected, function, argument = plans[which]
    runs: List[int] = []
    _runs.set(runs)
    hooks = armed(target)
    begun = time.monotonic()
    outcome = outcome_of(function, argument)
    tally.take(target, begun, hooks, runs, expected, outcome)


def work(seed: int) -> None:
    """The life of a thread."""
    choose = random.Random(seed)
    till = Till(f"till {seed}")
    data = os.urandom(300_000)
    n = 0
    try:
        while not stopping.is_set():
            n += 1
            one_call(choose, n, till, data)
            # Without a pause the threads would wait for the GIL most of the time, and for nothing else. Now and then one of them makes none,
            # so that its lane is hot when something happens to it.
            if seed % 100 != n // _IN_A_ROW % _PACES:
                time.sleep(0.001)
    except BaseException as error:
        say(violation=f"a thread ended with {type(error).__name__}: {error}")


async def one_task(n: int) -> None:
    runs: List[int] = []
    _runs.set(runs)
    hooks = armed("pay_async")
    begun = time.monotonic()
    try:
        outcome: Any = await pay_async(n)
    except Oops as error:
        outcome = "injected" if str(error) == "injected" else f"raised {error}"
    tally.take("pay_async", begun, hooks, runs, f"paid {n}", outcome)


async def work_async() -> None:
    """The life of the event loop: some tasks at a time, and a heart that beats."""
    n = 0
    while not stopping.is_set():
        tasks = [asyncio.ensure_future(one_task(n + k)) for k in range(5)]
        n += 5
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.001)


def run_loop() -> None:
    try:
        asyncio.run(work_async())
    except BaseException as error:
        say(violation=f"the event loop ended with {type(error).__name__}: {error}")


# faults of the application itself ------------------------------------------------------------------------------------------

taken: List[int] = []


def take_descriptors() -> None:
    """Open all but a few descriptors that are left."""
    try:
        while len(taken) < 1000:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(3):
            os.close(taken.pop())


def give_descriptors() -> None:
    while taken:
        os.close(taken.pop())


def fork_one(choose: random.Random) -> None:
    """A child that calls a few times and leaves, while the threads of its parent are in the middle of their calls."""
    calls = choose.randrange(1, 6)
    pid = os.fork()
    if pid:
        kids.append(pid)
        return
    status = 0
    try:
        global tally
        tally = Tally()
        for n in range(calls):
            one_call(random.Random(n), n + 1, Till("child"), b"x" * 1000)
    except BaseException as error:
        say(violation=f"a child ended with {type(error).__name__}: {error}")
        status = 1
    finally:
        os._exit(status)


kids: List[int] = []


def reap(wait: bool) -> None:
    for pid in list(kids):
        found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
        if found:
            kids.remove(pid)
            if status:
                say(violation=f"a child of the application ended with status {status}")


def resources() -> Dict[str, Any]:
    gc.collect()
    with open("/proc/self/statm") as file:
        memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/maps") as file:
        mapped = file.read().count("memfd:xpc-instrument")
    found: Dict[str, Any] = {
        # Memories of lanes.
        "memories": mapped,
        "fds": len(os.listdir("/proc/self/fd")) - 1 - len(taken),
        "threads": len(os.listdir("/proc/self/task")),
        "rss": memory,
    }
    agent = sys.modules["xpc_agent.life.control"].current()
    if agent is not None:
        # Of the lanes that there are now.
        found["frames"] = sum(one.frames for one in sys.modules["xpc_agent"].lanes())
        found["hooks"] = sum(len(point.hooks) for point in list(agent.table.points.values()))
        failures: Dict[str, int] = {}
        for probe in sys.modules["xpc_agent"].stats():
            for cause, number in probe.failures.items():
                failures[cause] = failures.get(cause, 0) + number
        found["failures"] = failures
    return found


def begin(seed: int) -> List[threading.Thread]:
    """Start all threads."""
    threads = [threading.Thread(target=work, args=(seed * 100 + k,)) for k in range(3)]
    threads += [threading.Thread(target=run_loop), threading.Thread(target=control)]
    for thread in threads:
        thread.start()
    return threads


def main() -> None:
    seed = int(sys.argv[1])
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(400, hard), hard))
    choose = random.Random(seed)
    threads = begin(seed)
    say(ready=os.getpid())
    for line in sys.stdin:
        word = line.strip()
        reap(wait=False)
        if word == "fork":
            fork_one(choose)
        elif word == "take":
            take_descriptors()
        elif word == "give":
            give_descriptors()
        elif word == "stop":
            stopping.set()
            for thread in threads:
                thread.join(60)
            reap(wait=True)
            if any(thread.is_alive() for thread in threads):
                say(violation="a thread of the application does not end")
        elif word == "start":
            # Anew, with as many threads as before.
            stopping.clear()
            threads = begin(seed)
        elif word == "leave":
            # In the middle of everything.
            say(leaving=time.monotonic(), **tally.report(), **resources())
            os._exit(0)
        elif word == "exit":
            stopping.set()
            sys.exit(0)
        say(did=word, **tally.report(), **resources())


if __name__ == "__main__":
    # The targets are those of the module `application`, and not of `__main__`.
    import application

    application.main()

"""The application of `python -m tests.locks`: SECONDS SEED TIMEOUT."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import sys
import threading
import time
from typing import Any, Dict, List

import work

SECONDS, SEED, TIMEOUT = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
# A thread that has the lock may take so long for a call, in seconds: on a crowded machine too far less than for ever.
MOST = 8 * TIMEOUT
# And so long any thread for anything.
FOR_EVER = 60.0

lock = threading.RLock()
taken: Dict[str, int] = {}
over = threading.Event()


def take(where: str) -> None:
    with lock:
        taken[where] = taken.get(where, 0) + 1


class Cyclic:
    """Collected by whatever thread comes to it."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        take("__del__")


class Reduced:
    def __reduce__(self) -> Any:
        take("__reduce__")
        return Reduced, ()

    def __repr__(self) -> str:
        take("__repr__")
        return "Reduced()"

    def __eq__(self, other: object) -> bool:
        take("__eq__")
        return self is other

    def __hash__(self) -> int:
        take("__hash__")
        return 1


def local() -> Any:
    class Local:
        def __reduce__(self) -> Any:
            take("__reduce__ by value")
            return Local, ()

    return Local()


def audited(event: str, _: Any) -> None:
    if event in EVENTS:
        take(event)


# Those that our code causes; not what starts a thread, for which Python itself waits.
EVENTS = {
    "open",
    "compile",
    "exec",
    "code.__new__",
    "object.__setattr__",
    "sys._getframe",
    "import",
    "marshal.dumps",
    "marshal.loads",
    "os.listdir",
}


def collected(phase: str, _: Any) -> None:
    take("gc")


class Worker(threading.Thread):
    def __init__(self, number: int) -> None:
        super().__init__(name=f"worker {number}")
        self.chance = random.Random(SEED + number)
        self.calls = self.held = 0
        self.longest = 0.0
        self.began = time.monotonic()
        self.failed: Dict[str, int] = {}

    def run(self) -> None:
        while not over.is_set():
            Cyclic()
            if self.chance.random() < 0.5:
                with lock:
                    self.began = time.monotonic()
                    self.call()
                    self.longest = max(self.longest, time.monotonic() - self.began)
                    self.held += 1
            else:
                self.began = time.monotonic()
                self.call()
            self.calls += 1
            # Else no other thread would have the lock for long.
            time.sleep(0.001)

    def call(self) -> None:
        value = self.chance.choice([1, "text", [1, 2], Reduced(), local(), Cyclic()])
        try:
            which = self.chance.randrange(4)
            if which == 0:
                work.plain(value)
            elif which == 1:
                work.Thing().method(value, value)
            elif which == 2:
                work.deep(3, value)
            else:
                list(work.items(value))
        except Exception as error:
            name = f"{type(error).__name__}: {error}"
            self.failed[name] = self.failed.get(name, 0) + 1


def fork() -> float:
    """With the lock, lest a child waits for a thread that it does not have."""
    with lock:
        began = time.monotonic()
        child = os.fork()
        if not child:
            over.set()
            for _ in range(2):
                work.plain(1)
            os._exit(0)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.01)
            if time.monotonic() - began > FOR_EVER:
                os.kill(child, 6)
        return time.monotonic() - began


def main() -> int:
    chance = random.Random(SEED)
    faulthandler.enable()
    sys.setswitchinterval(chance.choice([0.005, 0.0005]))
    gc.collect()
    gc.freeze()
    gc.set_threshold(chance.choice([1, 10, 50]), 5, 5)
    gc.callbacks.append(collected)
    sys.addaudithook(audited)
    workers: List[Worker] = [Worker(number) for number in range(4)]
    for worker in workers:
        worker.start()
    print(f"pid {os.getpid()}, threshold {gc.get_threshold()[0]}", flush=True)
    forks, longest_fork = 0, 0.0
    faulthandler.dump_traceback_later(FOR_EVER, exit=True)
    until = time.monotonic() + SECONDS
    status = 0
    while time.monotonic() < until:
        time.sleep(0.3)
        slow = [worker.name for worker in workers if time.monotonic() - worker.began > FOR_EVER / 2]
        if slow:
            print(f"stuck: {slow}", flush=True)
            faulthandler.dump_traceback(all_threads=True)
            os._exit(3)
        faulthandler.dump_traceback_later(FOR_EVER, exit=True)
        if chance.random() < 0.3:
            longest_fork = max(longest_fork, fork())
            forks += 1
    over.set()
    for worker in workers:
        worker.join()
    faulthandler.cancel_dump_traceback_later()
    longest = max(worker.longest for worker in workers)
    calls, held = sum(worker.calls for worker in workers), sum(worker.held for worker in workers)
    print(
        f"{calls} calls, {held} with the lock, the longest {longest:.2f} s; {forks} forks, the longest {longest_fork:.2f} s; taken {taken}"
    )
    for worker in workers:
        for name, count in worker.failed.items():
            print(f"  {worker.name}: {count} {name}")
    return status or int(longest > MOST)


if __name__ == "__main__":
    status = main()
    gc.set_threshold(0)
    sys.exit(status)

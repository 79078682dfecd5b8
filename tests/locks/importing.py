"""The application: `importing.py FOLDER SECONDS PATIENCE [KIND...]`.

The main thread holds a lock while it imports modules of FOLDER, and some of the standard library, and while it calls functions. What runs
in whatever thread comes along, as the kinds say, takes that lock. So it hangs if a thread of the agent has something at such a moment
that the main thread waits for. Where no round comes to its end for PATIENCE seconds, all stacks are printed and it ends with 1.
"""

from __future__ import annotations

import faulthandler
import gc
import sys
import threading
import time
from typing import Any, List

FOLDER, SECONDS, PATIENCE = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
KINDS = sys.argv[4:]
# Of the standard library, some of which the agent needs too.
LIBRARY = [
    "json",
    "secrets",
    "hmac",
    "inspect",
    "dis",
    "ast",
    "pickle",
    "copy",
    "decimal",
    "uuid",
    "tempfile",
    "shlex",
    "queue",
    "csv",
    "configparser",
    "argparse",
    "difflib",
    "pprint",
    "textwrap",
    "string",
    "fractions",
    "statistics",
    "zipfile",
    "gzip",
    "cmd",
    "code",
    "getpass",
    "glob",
    "html",
    "http.client",
    "logging.handlers",
    "mimetypes",
    "netrc",
    "plistlib",
    "ipaddress",
    "selectors",
]
EVENTS = ("object.__setattr__", "import", "code.__new__", "sys._getframe", "object.__getattr__", "compile", "open", "exec", "marshal.loads")

sys.path.insert(0, FOLDER)
lock = threading.RLock()
taken = 0


class Connection:
    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        take()


def take(*_: Any) -> None:
    global taken
    with lock:
        taken += 1


def audit(event: str, _: Any) -> None:
    if event in EVENTS:
        take()


def called(phase: str, _: Any) -> None:
    if phase == "start":
        take()


def charge(number: int) -> int:
    return number + 1


def charge_twice(number: int) -> int:
    return charge(charge(number))


def collected() -> int:
    return sum(one["collections"] for one in gc.get_stats())


def main() -> None:
    gc.set_threshold(50, 5, 5)
    if "audit" in KINDS:
        # Whoever imports has the module's lock while events are told of: two threads that import the same may wait for each other.
        LIBRARY.clear()
        sys.addaudithook(audit)
    if "callback" in KINDS:
        gc.callbacks.append(called)
    begin = last = armed = time.monotonic()
    worst, rounds = 0.0, 0
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    modules: List[Any] = []
    while time.monotonic() - begin < SECONDS:
        name = f"of_{rounds % 100}"
        if rounds % 3 == 0:
            sys.modules.pop(name, None)
        with lock:
            if "finalizer" in KINDS:
                Connection(), Connection()
            time.sleep(0.002)
            modules.append(__import__(name))
            if rounds % 20 == 0 and LIBRARY:
                __import__(LIBRARY.pop())
            assert charge(rounds) == rounds + 1 and charge_twice(rounds) == rounds + 2
            assert all(one.charge(rounds) == rounds + 1 for one in modules[-20:])
        del modules[:-20]
        rounds += 1
        time.sleep(0.002)
        now = time.monotonic()
        worst, last = max(worst, now - last), now
        if now - armed > 1:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            armed = now
    faulthandler.cancel_dump_traceback_later()
    print(f"{rounds} rounds, the longest {worst:.2f} s; {taken} times taken; {collected()} collections; {gc.get_threshold()}", flush=True)
    while not gc.isenabled():
        # A thread of the agent has just had to wait for the lock.
        assert time.monotonic() - last < PATIENCE
        time.sleep(0.01)
    assert gc.get_threshold()[0] == 50


main()

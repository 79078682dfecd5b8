"""`python -m tests.locks [--seconds N] [--address unix|tcp|fixed] [--seed N]`: the application's locks and ours, at random.

An application whose `__del__`s, reducers, audit hook and callback of the garbage collector all take one lock, while its threads call hooked
functions with and without it, and it forks; scripts put hooks of all kinds on and take them off. Without us no thread would ever wait for
long that has the lock: so none may, and if one does the stacks of all threads are printed. The exit status is 1 then.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import xpc_instrument
from xpc_instrument import XpcError, find_free_port
from xpc_instrument.core.discovery.folder import VARIABLE

APPLICATION = Path(__file__).with_name("application.py")
# The deadline of each hook, in seconds.
TIMEOUT = 1.0
KEY = "of the locks"


class Local:
    """Crosses by value to the application, which has no such module."""

    def __init__(self, number: int) -> None:
        self.number = number


def kinds(session: Any, chance: random.Random) -> Dict[str, Callable[[], Any]]:
    """What puts a hook of each kind on."""

    def look(call: Any) -> None:
        repr(call.args)

    def go_on(call: Any) -> Any:
        return call.proceed()

    def broken(call: Any) -> Any:
        raise KeyError("of the hook")

    def slow(call: Any) -> Any:
        time.sleep(TIMEOUT * 1.2)

    def stand_in(*args: Any) -> Any:
        return Local(1) if chance.random() < 0.5 else 1

    one = ["work:plain", "work:Thing.method", "work:deep", "work:items"]
    some = chance.choice(one)
    return {
        "before": lambda: session.before(one, look),
        "after": lambda: session.after(one, look, values=chance.choice(["reference", "copy"])),
        "around": lambda: session.around(one, go_on, values=chance.choice(["reference", "copy"])),
        "instead": lambda: session.instead("work:plain", stand_in),
        "broken": lambda: session.around(one, broken),
        "slow": lambda: session.before(some, slow, limit=3),
        "sample": lambda: session.before(one, look, sample=0.5),
        "terms": lambda: session.after(one, look, rate=50, limit=100),
        "condition": lambda: session.before(some, look, when="value > 3"),
        "unwaited": lambda: session.after(one, look, wait=False),
        "unwaited sample": lambda: session.before(one, look, wait=False, sample=0.3),
        "watch": lambda: session.watch(one, show=["args"], stack=chance.choice([0, 3])),
        "stat": lambda: session.stat(one, by=["thread"]),
        "callers": lambda: session.stat(one, by=["args[0]"]),
        "log": lambda: session.log(f"{APPLICATION.with_name('work.py')}:{LINE}", "{value}"),
        "inject": lambda: session.inject(some, "5*return(1)->10%raise(ValueError)"),
        "delay": lambda: session.inject(some, "10%sleep(0.001)"),
        "record": lambda: session.record("work:plain"),
        "trace": lambda: session.trace(some),
    }


LINE = next(number for number, line in enumerate(APPLICATION.with_name("work.py").read_text().splitlines(), 1) if "return value" in line)


def exercise(address: Any, key: Any, chance: random.Random, until: float, counts: Dict[str, int], faults: Dict[str, str]) -> None:
    """Put hooks on and take them off until then."""
    while time.monotonic() < until:
        try:
            with xpc_instrument.connect(address, authkey=key) as session:
                for _ in range(20):
                    if time.monotonic() >= until:
                        break
                    made = kinds(session, chance)
                    what = chance.choice(list(made))
                    hooks = []
                    for name in {what, chance.choice(list(made))}:
                        try:
                            hooks.append(made[name]())
                            counts[name] = counts.get(name, 0) + 1
                        except XpcError as error:
                            faults[f"{name}: {error}"[:160]] = ""
                    time.sleep(chance.random() * 0.4)
                    if chance.random() < 0.2:
                        session.stacks()
                        session.stats()
                    for hook in hooks:
                        hook.remove()
        except XpcError as error:
            faults[f"session: {error}"[:160]] = ""


def main(arguments: List[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.locks")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--address", choices=["unix", "tcp", "fixed"], default="unix")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--scripts", type=int, default=2)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="xpc-") as folder:
        os.environ[VARIABLE] = folder
        logging.getLogger("xpc_instrument").setLevel(logging.CRITICAL)
        return run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> int:
    address = {"unix": "unix", "tcp": f"tcp:127.0.0.1:{find_free_port()}", "fixed": f"unix:{folder}/fixed.sock"}[options.address]
    (folder / "key").write_text(KEY)
    (folder / "key").chmod(0o600)
    settings = folder / "xpc-instrument.toml"
    settings.write_text(
        f'app = "locks"\non-demand = ["work:**"]\n[manager]\naddress = "{address}"\nauthkey-file = "key"\n'
        f'[defaults]\ntimeout = {TIMEOUT}\nsuspend-for = 0.2\nexpressions = "trusted"\n[[probe]]\ntarget = "work:*"\n'
        '[[probe]]\ntarget = "work:Thing.*"\n'
    )
    words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--config", str(settings), "--"]
    words += [options.python, "-W", "ignore", str(APPLICATION), str(options.seconds), str(options.seed), str(TIMEOUT)]
    application = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert application.stdout is not None
    print(f"seed {options.seed}, {options.address}, {sys.version.split()[0]}: {application.stdout.readline().strip()}", flush=True)
    counts: Dict[str, int] = {}
    faults: Dict[str, str] = {}
    until = time.monotonic() + options.seconds
    threads = [
        threading.Thread(target=exercise, args=("locks", KEY, random.Random(options.seed + number), until, counts, faults))
        for number in range(options.scripts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(application.stdout.read().strip())
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(*sorted(faults), sep="\n")
    return int(application.wait() != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

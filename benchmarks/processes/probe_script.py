"""The probe script: `python -m benchmarks.processes.probe_script TARGET,TARGET,... APPLICATION [KEY]`. It registers a hook on each of
these targets, and answers `counts` with how often each was called, in JSON."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from typing import Any, Callable, Dict

import xpc_instrument

from . import targets


class Counted:
    """Counts in one step: the lanes' threads call their hook at the same time."""

    def __init__(self) -> None:
        self.count = itertools.count().__next__
        self._looked = 0

    def total(self) -> int:
        """How often `count` was called."""
        found = self.count() - self._looked
        self._looked += 1
        return found


def _register(app: Any, name: str) -> Any:
    """Hook a target; returns what counts its calls, or where nobody waits for the hook, the handle that does."""
    target = f"{targets.__name__}:{name}"
    counted = Counted()
    count = counted.count

    def observe(call: Any) -> None:
        count()

    def around(call: Any) -> Any:
        count()
        return call.proceed()

    def instead(amount: int, currency: str = "EUR") -> Dict[str, Any]:
        count()
        return targets.STAND_IN

    def sized(data: bytes = b"") -> Dict[str, Any]:
        count()
        return targets.STAND_IN

    async def awaited(amount: int, currency: str = "EUR") -> Dict[str, Any]:
        count()
        return targets.STAND_IN

    if name == "unwaited":
        return app.before(target, observe, wait=False)
    hooks: Dict[str, Callable[[], Any]] = {
        "before": lambda: app.before(target, observe),
        "around": lambda: app.around(target, around),
        "instead": lambda: app.instead(target, instead),
        "sized": lambda: app.instead(target, sized),
        "large": lambda: app.before(target, observe, values="copy"),
        "replaced": lambda: app.instead(target, instead),
        "awaited": lambda: app.instead(target, awaited),
    }
    hooks[name]()
    return counted


def _settled(handle: Any, expected: int) -> Dict[str, int]:
    """What became of the invocations that nobody waits for, when all have been heard of, or after some seconds."""
    until = time.monotonic() + 5
    while handle.delivered + handle.dropped < expected and time.monotonic() < until:
        time.sleep(0.001)
    return {"delivered": handle.delivered, "dropped": handle.dropped}


def main() -> None:
    names = sys.argv[1].split(",")
    key = sys.argv[3] if len(sys.argv) > 3 else None
    with xpc_instrument.connect(sys.argv[2], authkey=key) as app:
        counted = {name: _register(app, name) for name in names}
        print("ready", flush=True)
        for line in sys.stdin:
            command, *words = line.split()
            answer: Any
            if command == "settled":
                answer = _settled(counted["unwaited"], int(words[0]))
            elif command == "mark":
                # Seen by strace.
                answer = os.access(words[0], os.F_OK)
            else:
                answer = {name: one.total() for name, one in counted.items() if isinstance(one, Counted)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

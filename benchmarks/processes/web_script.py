"""The probe script of a web application: `python -m benchmarks.processes.web_script APPLICATION TARGET HANDLER HOOK`, where HOOK is a mode,
`unwaited`, `none`, or the verb `monitor`, `stat` or `watch`. `ready` is answered with how many probe points are hookable, in all processes
together, and `heard` with how often the hook was called, or how many requests the verb has seen."""

from __future__ import annotations

import sys
import threading
from typing import Any, Callable

import xpc_instrument

from .probe_script import Counted

# The answer of a stand-in; the application's module would need what only the application has.
STAND_IN = {"price": 12, "from": "the script"}


def _register(app: Any, target: str, hook: str, counted: Counted) -> Any:
    count = counted.count

    def observe(call: Any) -> None:
        count()

    def around(call: Any) -> Any:
        count()
        return call.proceed()

    def instead(amount: int, currency: str = "EUR") -> Any:
        count()
        return STAND_IN

    if hook == "unwaited":
        return app.before(target, observe, wait=False)
    hooks = {"before": observe, "after": observe, "around": around, "instead": instead}
    return getattr(app, hook)(target, hooks[hook])


def _heard(app: Any, target: str, handler: str, hook: str) -> Callable[[], int]:
    """Register the hook; returns how often it was called."""
    if hook == "none":
        return lambda: 0
    if hook in ("monitor", "stat"):
        counts = getattr(app, hook)([handler, target])

        def requests() -> int:
            counts.pull()
            # Each comes to the handler and to the function.
            return int(counts.calls) // 2

        return requests
    if hook == "watch":
        stream = app.watch(handler, rate=None)
        threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()
        return lambda: int(stream.handle.delivered + stream.handle.dropped)
    counted = Counted()
    handle = _register(app, target, hook, counted)
    return counted.total if hook != "unwaited" else lambda: int(handle.delivered)


def main() -> None:
    name, target, handler, hook = sys.argv[1:]
    with xpc_instrument.connect(name) as app:
        heard = _heard(app, target, handler, hook)
        print("ready", flush=True)
        for line in sys.stdin:
            if line.strip() == "ready":
                print(sum(point.state in ("ready", "armed") for point in app.stats()), flush=True)
            else:
                print(heard(), flush=True)


if __name__ == "__main__":
    main()

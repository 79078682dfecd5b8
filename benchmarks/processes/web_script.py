"""The probe script of a web application: `python -m benchmarks.processes.web_script APPLICATION TARGET HOOK`, where HOOK is a mode,
`unwaited` or `none`. `ready` is answered with how many probe points are hookable, in all processes together, and `heard` with how often
the hook was called."""

from __future__ import annotations

import sys
from typing import Any

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


def main() -> None:
    name, target, hook = sys.argv[1:]
    with xpc_instrument.connect(name) as app:
        counted = Counted()
        handle: Any = None if hook == "none" else _register(app, target, hook, counted)
        print("ready", flush=True)
        for line in sys.stdin:
            if line.strip() == "ready":
                print(sum(point.state in ("ready", "armed") for point in app.stats()), flush=True)
            elif hook == "unwaited":
                print(handle.delivered, flush=True)
            else:
                print(counted.total(), flush=True)


if __name__ == "__main__":
    main()

"""A probe script that arms and disarms: `python -m benchmarks.processes.arming_script APPLICATION`. `arm` registers a hook and is
answered with the seconds until it was hooked everywhere, `disarm` removes it and is answered with how often it was called meanwhile."""

from __future__ import annotations

import sys
import time
from typing import Any

import xpc_instrument

from . import targets
from .probe_script import Counted

_TARGET = f"{targets.__name__}:before"


def main() -> None:
    with xpc_instrument.connect(sys.argv[1]) as app:
        print("ready", flush=True)
        handle: Any = None
        counted = Counted()
        for line in sys.stdin:
            if line.strip() == "arm":
                counted = Counted()
                count = counted.count

                def observe(call: Any) -> None:
                    count()  # noqa: B023 - it is called before the next turn of the loop, or not at all

                started = time.perf_counter()
                handle = app.before(_TARGET, observe)
                print(time.perf_counter() - started, flush=True)
            else:
                handle.remove()
                print(counted.total(), flush=True)


if __name__ == "__main__":
    main()

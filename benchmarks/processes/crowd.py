"""Probe scripts of which there are many: `python -m benchmarks.processes.crowd APPLICATION COUNT`. So many sessions in one process, each
with a hook on a target that nobody calls."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import xpc_instrument

from . import targets

_TARGET = f"{targets.__name__}:crowded"


def _observe(call: Any) -> None:
    pass


def main() -> None:
    with ExitStack() as stack:
        for _ in range(int(sys.argv[2])):
            app = stack.enter_context(xpc_instrument.connect(sys.argv[1]))
            app.before(_TARGET, _observe, wait=False)
        print("ready", flush=True)
        for _line in sys.stdin:
            print("here", flush=True)


if __name__ == "__main__":
    main()

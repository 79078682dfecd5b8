"""The application: `python -m benchmarks.application CONFIG`. A line `FUNCTION LOOPS` has it call one of the targets; it answers with
the seconds that this took and the last result, in JSON."""

from __future__ import annotations

import json
import sys

import xpc_agent

from . import targets
from .measure import seconds_of


def main() -> None:
    xpc_agent.start(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        name, loops = line.split()
        function = getattr(targets, name)
        print(json.dumps([seconds_of(function, int(loops)), function(12, currency="USD")]), flush=True)
    xpc_agent.stop()


if __name__ == "__main__":
    main()

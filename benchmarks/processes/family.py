"""An application of several processes: `python -m benchmarks.processes.family CONFIG COUNT`. Each line has all of them call the target
once, and is answered with the number of those that did."""

from __future__ import annotations

import os
import sys
from typing import List, Tuple

import xpc_agent

from . import targets


def _child(orders: int, answers: int) -> None:
    """Call for each byte that comes, until the parent is gone."""
    while os.read(orders, 1):
        targets.before(12, currency="USD")
        os.write(answers, b".")


def _fork(ends: List[Tuple[int, int]]) -> Tuple[int, int]:
    """Fork one more process; where it takes orders and answers."""
    orders, answers = os.pipe(), os.pipe()
    if not os.fork():
        try:
            # Its siblings' ends would keep them alive when the parent is gone.
            for one in (*(end for pair in ends for end in pair), orders[1], answers[0]):
                os.close(one)
            _child(orders[0], answers[1])
            xpc_agent.stop()
        finally:
            os._exit(0)
    os.close(orders[0])
    os.close(answers[1])
    return orders[1], answers[0]


def main() -> None:
    xpc_agent.start(sys.argv[1])
    ends: List[Tuple[int, int]] = []
    for _ in range(int(sys.argv[2]) - 1):
        ends.append(_fork(ends))
    print("ready", flush=True)
    for _line in sys.stdin:
        targets.before(12, currency="USD")
        for orders, _ in ends:
            os.write(orders, b".")
        print(1 + sum(len(os.read(answers, 1)) for _, answers in ends), flush=True)
    for orders, _ in ends:
        os.close(orders)
    for _ in ends:
        os.wait()
    xpc_agent.stop()


if __name__ == "__main__":
    main()

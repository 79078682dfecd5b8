"""An application that somebody connects to: it imports Flask if it is told so, and says what its main thread has noticed.

A line on its standard input is a number of seconds to spin; it answers with the longest stop of the main thread meanwhile, in seconds, and
with the processor time of the whole process, in seconds since its start.
"""

from __future__ import annotations

import sys
import time


def spin(seconds: float) -> float:
    """Look at the clock all the time, and return the longest time between two looks."""
    clock = time.perf_counter
    now = last = clock()
    end = now + seconds
    longest = 0.0
    while now < end:
        now = clock()
        longest = max(longest, now - last)
        last = now
    return longest


def main() -> None:
    if "flask" in sys.argv:
        import flask  # noqa: F401
    print("ready", flush=True)
    for line in sys.stdin:
        # Said before it begins, so that somebody can connect while it spins.
        print("spinning", flush=True)
        print(spin(float(line)), time.process_time(), flush=True)


if __name__ == "__main__":
    main()

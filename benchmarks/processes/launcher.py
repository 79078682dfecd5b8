"""Starts programs and says what each took: `python -I -S launcher.py`. A line on its standard input is the words of a command and the
variables of its environment, as a literal of Python; it answers with the status, the seconds, the peak of the memory in bytes, and the
seconds of processor time.

The peak that the kernel reports for a process is at least what its parent had at the fork, so the programs that are measured are started by
this one, which is smaller than any of them: it loads no more than it needs.
"""

from __future__ import annotations

import os
import sys
import time

# `xpc-instrument run` sets it to its own pid, which becomes the program's.
_OWN_PID = "XPC_INSTRUMENT_MAIN_PID"
# What `ru_maxrss` counts in.
_UNIT = 1 if sys.platform == "darwin" else 1024


def launch(words: list[str], environment: dict[str, str]) -> tuple[int, float, int, float]:
    """Run a command and wait for its end; (exit status, seconds, bytes, seconds of processor time)."""
    started = time.perf_counter()
    pid = os.fork()
    if not pid:
        try:
            if _OWN_PID in environment:
                environment[_OWN_PID] = str(os.getpid())
            # What it says must not come between the answers.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.execve(words[0], words, environment)
        finally:
            os._exit(127)
    _, status, used = os.wait4(pid, 0)
    return status, time.perf_counter() - started, used.ru_maxrss * _UNIT, used.ru_utime + used.ru_stime


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        words, environment = eval(line)
        print(*launch(words, environment), flush=True)


if __name__ == "__main__":
    main()

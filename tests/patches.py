"""`python -m tests.patches [--times N] [--workers N] [--most MS]`: what a patch and its undoing cost a test suite over one service.

A service with so many forked workers runs; a mock is put on one function after the other and taken off again, as `xpc` does for a test.
The exit status is 1 if the mean is above `--most` milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import List

from xpc_instrument.pytest_plugin.mocker import Mocker
from xpc_instrument.pytest_plugin.service import Service, Settings

SERVICE = """
import os, signal, sys
import patched
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        break
print("ready", flush=True)
signal.pause()
"""
_FUNCTIONS = 20


def main(arguments: List[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.patches", description="Patch and unpatch, again and again.")
    parser.add_argument("--times", type=int, default=200, help="patches")
    parser.add_argument("--workers", type=int, default=0, help="processes that the service forks")
    parser.add_argument("--most", type=float, default=3.0, help="milliseconds of the mean that are right")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "service.py").write_text(SERVICE)
        (path / "patched.py").write_text("".join(f"def f{number}(a, b=2):\n    return a\n" for number in range(_FUNCTIONS)))
        command = f"{sys.executable} service.py {options.workers}"
        ready = f"/(\\s*ready){{{options.workers + 1}}}/"
        service = Service(Settings(command, ready, 30.0, ("patched:**",), path, "", ""))
        try:
            took = _patched(service, options.times)
        finally:
            service.stop()
    mean = statistics.mean(took) * 1e3
    middle, last = statistics.median(took) * 1e3, statistics.quantiles(took, n=20)[-1] * 1e3
    print(f"{options.times} patches in {options.workers + 1} processes: {mean:.2f} ms each, median {middle:.2f}, 95 % below {last:.2f}")
    return 1 if mean > options.most else 0


def _patched(service: Service, times: int) -> List[float]:
    """The seconds of each patch with its undoing."""
    took = []
    for number in range(times):
        began = time.perf_counter()
        mocker = Mocker(service.session)
        mocker.patch(f"patched:f{number % _FUNCTIONS}", return_value=5)
        mocker.stopall()
        took.append(time.perf_counter() - began)
        assert not mocker.problems(strict=False)
    return took


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The load generator wrk: a burst of requests, and what it says of them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import Dict, Optional, Sequence

from ..measure.timing import Unavailable

# What is missing where it is not installed, as a row of the table says it.
NEEDS = "wrk: apt-get install wrk"
PERCENTILES = (50, 90, 99)

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = r"([0-9.]+)(us|ms|s|m|h)"
_TOTAL = re.compile(rf"^\s*(\d+) requests in {_TIME},", re.MULTILINE)
_PERCENTILE = re.compile(rf"^\s+(\d+)%\s+{_TIME}\s*$", re.MULTILINE)
_WRONG = re.compile(r"^\s*(Non-2xx or 3xx responses: .*|Socket errors: .*)$", re.MULTILINE)
# It ends by itself after this many seconds, should nobody end it.
_AT_MOST = 60
# Seconds that it may take to say what it has seen.
_PATIENCE = 5.0
# How often a burst that could not be interrupted is begun again.
_ATTEMPTS = 3


class LoadError(Exception):
    """The load was not what it should be, or wrk could not tell; the message says what was seen."""


@dataclass(frozen=True)
class Load:
    """So many requests were answered in so many seconds; `latency` in seconds by percentile."""

    requests: int
    seconds: float
    latency: Dict[int, float]


def here() -> bool:
    return shutil.which("wrk") is not None


def burst(url: str, seconds: float, connections: int) -> Load:
    """Send requests over so many connections. Raises `LoadError`, `Unavailable`."""
    path = shutil.which("wrk")
    if path is None:
        raise Unavailable(f"needs {NEEDS}")
    # Its own duration is in whole seconds; interrupted, it says what it has seen until then.
    command = [path, "--threads", "1", "--connections", str(connections), "--duration", f"{_AT_MOST}s", "--latency", url]
    for _attempt in range(_ATTEMPTS):
        output = _interrupted(command, seconds)
        if output is not None:
            return parse(output)
    raise LoadError(f"wrk {url} was not under way after {seconds} s, {_ATTEMPTS} times: the machine is too busy to measure anything")


def _interrupted(command: Sequence[str], seconds: float) -> Optional[str]:
    """What it says when it is interrupted after some seconds; None if it was not sleeping yet. Raises `LoadError`."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            output = _output(process, seconds)
            if output is None:
                process.send_signal(signal.SIGINT)
                # An interrupt that comes before it sleeps ends its threads, and then it sleeps to the end of its time all the same.
                output = _output(process, _PATIENCE)
        finally:
            process.kill()
    if output is None or process.returncode == -signal.SIGINT:
        return None
    if process.returncode:
        raise LoadError(f"{' '.join(command)} ended with {process.returncode}: {output.strip()!r:.400}")
    return output


def _output(process: subprocess.Popen[str], timeout: float) -> Optional[str]:
    """All that it says, if it ends within so many seconds."""
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        return None


def parse(output: str) -> Load:
    """What wrk has printed with `--latency`. Raises `LoadError` if a request failed, or the output has not what is needed."""
    wrong = _WRONG.search(output)
    if wrong is not None:
        raise LoadError(f"wrk saw {wrong[1]!r}; expected that every request is answered with success")
    total = _TOTAL.search(output)
    latency = {int(part): float(number) * _UNITS[unit] for part, number, unit in _PERCENTILE.findall(output)}
    missing = [f"the {part}th percentile" for part in PERCENTILES if part not in latency]
    if total is None or missing:
        raise LoadError(f"wrk said {output.strip()!r:.400}; expected {'N requests in TIME' if total is None else ', '.join(missing)}")
    if not int(total[1]):
        raise LoadError(f"wrk saw no answer within {total[2]}{total[3]}; expected some")
    return Load(int(total[1]), float(total[2]) * _UNITS[total[3]], latency)

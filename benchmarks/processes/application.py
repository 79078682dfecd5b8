"""The application: `python -m benchmarks.processes.application CONFIG`. Each line has it call one of the targets in some way, and it
answers with what that took (`measured`, in seconds), how many calls it made, and the last result, in JSON."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import xpc_agent

from ..measure.loops import OwnLoop
from ..measure.sizes import data_of, noise
from ..measure.timing import (
    TimeFunction,
    seconds_at_a_pace,
    seconds_of,
    seconds_of_each,
    seconds_of_each_awaited,
    seconds_of_sized,
    seconds_of_threads,
    timer,
)
from . import catalogue, targets


def _answer(measured: Any, calls: int, result: Any) -> Dict[str, Any]:
    return {"measured": measured, "calls": calls, "result": result}


def block(name: str, loops: str) -> Dict[str, Any]:
    function = getattr(targets, name)
    return _answer(seconds_of(function, int(loops)), int(loops) + 1, function(12, currency="USD"))


def each(name: str, loops: str) -> Dict[str, Any]:
    function = getattr(targets, name)
    return _answer(seconds_of_each(function, int(loops)), int(loops) + 1, function(12, currency="USD"))


def apart(name: str, gap: str, script: str, loops: str) -> Dict[str, Any]:
    """Calls with so many seconds between them: the median, and what a call and the time before it cost this process and the script's."""
    function = getattr(targets, name)
    times = []
    before = time.process_time() + _processor_seconds(script)
    for _ in range(int(loops)):
        time.sleep(float(gap))
        times += seconds_of_each(function, 1)
    used = time.process_time() + _processor_seconds(script) - before
    figures = {"median": statistics.median(times), "processor": used / int(loops)}
    return _answer(figures, int(loops) + 1, function(12, currency="USD"))


def _processor_seconds(pid: str) -> float:
    """Of all threads of a process; Linux only."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def each_awaited(name: str, loops: str) -> Dict[str, Any]:
    """One task that awaits one call after the other."""
    function = getattr(targets, name)

    async def all_of_them() -> List[float]:
        clock = time.perf_counter
        times = []
        for _ in range(int(loops)):
            started = clock()
            await function(12, currency="USD")
            times.append(clock() - started)
        return times

    times = _own_loop().loop.run_until_complete(all_of_them())
    return _answer(times, int(loops) + 1, _own_loop().loop.run_until_complete(function(12, currency="USD")))


def threads(name: str, count: str, loops: str) -> Dict[str, Any]:
    function = getattr(targets, name)
    seconds = seconds_of_threads([function] * int(count), int(loops))
    return _answer(seconds, -(-int(loops) // int(count)) * int(count) + 1, function(12, currency="USD"))


def large(kind: str, loops: str) -> Dict[str, Any]:
    data = _data_of(kind)
    function = targets.large
    started = time.perf_counter()
    for _ in range(int(loops)):
        function(data)
    return _answer(time.perf_counter() - started, int(loops) + 1, function(data))


_data_of = functools.cache(data_of)


def sized(size: str, loops: str) -> Dict[str, Any]:
    arguments = [noise(int(size))] if int(size) else []
    return _answer(seconds_of_sized(targets.sized, arguments, int(loops)), int(loops) + 1, targets.sized(*arguments))


def awaited(name: str, loops: str) -> Dict[str, Any]:
    function = getattr(targets, name)
    run = _plain_loop().run_until_complete
    return _answer(run(seconds_of_each_awaited(function, int(loops))), int(loops) + 1, run(function(12, currency="USD")))


@functools.cache
def _plain_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def tasks(name: str, count: str) -> Dict[str, Any]:
    function = getattr(targets, name)
    figures, results = _own_loop().blocked_by(function, int(count))
    return _answer(figures, len(results), results[-1])


@functools.cache
def _own_loop() -> OwnLoop:
    return OwnLoop()


def steady(name: str, loops: str) -> Dict[str, Any]:
    function = getattr(targets, name)
    return _answer(seconds_at_a_pace(function, int(loops)), int(loops) + 1, function(12, currency="USD"))


def disarmed(name: str, loops: str) -> Dict[str, Any]:
    """Calls that take nanoseconds."""
    return _answer(_timer_of(name)(int(loops)), 0, getattr(targets, name)(12, currency="USD"))


@functools.cache
def _timer_of(name: str) -> TimeFunction:
    return timer('function(12, currency="USD")', function=getattr(targets, name))


def load(folder: str) -> Dict[str, Any]:
    """Import the module `catalogue` from a folder; the result is how many probe points are hookable after that."""
    sys.path.append(folder)
    importlib.import_module(catalogue.NAME)
    return _answer(0.0, 0, sum(point.state != "pending" for point in xpc_agent.stats()))


def mark(path: str) -> Dict[str, Any]:
    """A system call that strace sees."""
    return _answer(float(os.access(path, os.F_OK)), 0, None)


COMMANDS: Dict[str, Callable[..., Dict[str, Any]]] = {
    "block": block,
    "each": each,
    "apart": apart,
    "each-awaited": each_awaited,
    "threads": threads,
    "large": large,
    "sized": sized,
    "awaited": awaited,
    "tasks": tasks,
    "steady": steady,
    "disarmed": disarmed,
    "load": load,
    "mark": mark,
}


def main() -> None:
    xpc_agent.start(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        print(json.dumps(COMMANDS[command](*words)), flush=True)
    xpc_agent.stop()


if __name__ == "__main__":
    main()

"""`python -m tests.locks.imports [--seconds N] [--kinds KIND...] [--ways WAY...] [--python PATH] [--patience N]`: no thread waits for ever.

Beside `importing.py`, started with the agent or attached to, a script registers and removes hooks of all kinds, and verbs come and go.
The exit status is 1 if the application hangs, does anything wrong, or is not left as it was; each run is a line.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import xpc_instrument
from xpc_instrument.core.discovery.folder import VARIABLE
from xpc_instrument.core.model.errors import XpcError

KINDS = ("finalizer", "callback", "audit")
WAYS = ("run", "attach")
COMMAND = ["-m", "xpc_instrument.cli"]
# How long the longest round may take before it counts as one that hangs.
PATIENCE = 30.0


def main(arguments: List[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.locks.imports", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each run")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds without an end of a round that count as hanging")
    parser.add_argument("--kinds", nargs="*", default=[*KINDS, "+".join(KINDS)], help="finalizer, callback, audit; several with a +")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the application")
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="xpc-") as folder:
        os.environ[VARIABLE] = folder
        for number in range(100):
            (Path(folder) / f"of_{number}.py").write_text("def charge(number):\n    return number + 1\n")
        for way, kinds in itertools.product(options.ways, options.kinds):
            failed += not _run(options, folder, way, kinds.split("+"))
    return 1 if failed else 0


def _run(options: argparse.Namespace, folder: str, way: str, kinds: List[str]) -> bool:
    program = [options.python, str(Path(__file__).with_name("importing.py")), folder, str(options.seconds), str(options.patience), *kinds]
    begin = [options.python, *COMMAND, "run", "--app", "locks", "--on-demand", "**", "--"] if way == "run" else []
    path = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([path, f"{path}/agent"]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*begin, *program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        counts, errors = _use(process, way, options.seconds)
        output = process.communicate()[0]
    well = process.returncode == 0 and not errors
    print(f"{Path(options.python).parts[-3]} {way} {'+'.join(kinds)}: {output.strip() if well else 'FAILED'}; {counts}", flush=True)
    if not well:
        print(output[-6000:], *errors[:5], sep="\n", flush=True)
    return well


def _use(process: subprocess.Popen[str], way: str, seconds: float) -> Tuple[Dict[str, int], List[str]]:
    """Hooks that come and go until the application is about to end; how many of each kind, and what went wrong."""
    until = time.monotonic() + seconds - 2
    counts: Dict[str, int] = {}
    errors: List[str] = []
    if way == "attach":
        attached = subprocess.run([sys.executable, *COMMAND, "attach", str(process.pid)], check=False, capture_output=True, text=True)
        if attached.returncode:
            return counts, [attached.stdout + attached.stderr]
    try:
        with xpc_instrument.connect(process.pid, timeout=30) as session:
            for what, make in _hooks(session):
                if time.monotonic() > until:
                    break
                try:
                    hook = make()
                    time.sleep(0.05)
                    getattr(hook, "remove", getattr(hook, "close", None))()
                    counts[what] = counts.get(what, 0) + 1
                except XpcError as error:
                    if process.poll() is None:
                        errors.append(f"{what}: {type(error).__name__}: {error}")
    except XpcError as error:
        errors.append(f"{type(error).__name__}: {error}")
    return counts, errors


def _hooks(session: Any) -> Iterator[Tuple[str, Callable[[], Any]]]:
    one, many, to_come = "__main__:charge", "__main__:charge*", "of_*:charge"

    def look(call: Any) -> None:
        pass

    makes = {
        "before": lambda: session.before([one, to_come], look),
        "limit": lambda: session.after(one, look, limit=1),
        "limits": lambda: session.after([many, to_come], look, limit=3, wait=False),
        "around": lambda: session.around(many, lambda call: call.proceed()),
        "unwaited": lambda: session.after(["**:charge"], look, wait=False),
        "condition": lambda: session.before(many, look, when="number >= 0"),
        "watch": lambda: session.watch([many, to_come], show=["number"], limit=5),
        "stat": lambda: session.stat([many, to_come]),
        "inject": lambda: session.inject(one, "sleep(1ms)"),
        "record": lambda: session.record(one),
        "trace": lambda: session.trace("__main__:charge_twice"),
        "log": lambda: session.log("importing.py:94", "{number}"),
        "stacks": lambda: (session.stacks(), session.before(one, look))[1],
        "stats": lambda: (session.stats(), session.before(one, look))[1],
    }
    return itertools.cycle(makes.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m tests.starts [--times N] [--busy N] [--seed N]`: programs that somebody connects to at random moments of their start.

Each program imports and forks from its first moment on, with warnings as errors, while so many processes compute beside it. A script connects,
hooks, and the program and its children must go their ways: all exit statuses as without the script, the hook called, and nothing said. The
exit status is 1 if one of them fails; what it has said is printed. It runs on the interpreter that runs this.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Callable, List, Optional

import xpc_instrument
from tests.integration.app_fixture import instrumented
from tests.programs import Program
from xpc_instrument.core.discovery.folder import VARIABLE

LISTED = '[[probe]]\ntarget = "shop:charge"\n'
ON_DEMAND = 'on-demand = ["**"]\n'
SHOP = "def charge(n):\n    return n\n"
# Imports, forks and calls from its first moment on; it says how far it is.
SOURCE = """
import os, sys
print("began", flush=True)
import email.message, http.client, socket, subprocess, threading, json, logging, argparse, decimal, xml.dom.minidom
print("imported", flush=True)
children = []
for number in range(3):
    pid = os.fork()
    if not pid:
        import shop
        sys.exit(0 if shop.charge(number) in (number, "hooked") else 1)
    children.append(pid)
print("forked", flush=True)
import shop, concurrent.futures, asyncio, ctypes, unittest.mock
print([os.waitpid(pid, 0)[1] for pid in children], flush=True)
sys.stdin.readline()
print(shop.charge(1), flush=True)
"""
_SAID = ["began", "imported", "forked", "[0, 0, 0]", "hooked"]
_PATIENCE = 120.0
# A machine that is crowded is no fault of the application's or ours.
_SLOW = "[limits]\nhandshake-timeout = 60.0\n[defaults]\ntimeout = 30.0\n"
_COMPUTE = "while True: pass"


def go_through(program: Program, patience: float = _PATIENCE) -> None:
    """Connect to a program that starts, hook it, and see it end. AssertionError with what it has said if anything is not as it must be."""
    try:
        session = xpc_instrument.connect("shop", timeout=patience)
    except xpc_instrument.XpcError as error:
        program.kill()
        raise AssertionError(f"{error}; the program has said:\n{program.text}") from None
    with session:
        session.instead("shop:charge", lambda n: "hooked")
        if not any("[" in line for line in program.output):
            program.read_until("[", patience)
        program.send_line()
        program.read_until("hooked", patience)
    assert program.wait(patience) == 0, program.text
    # On a crowded machine the script may take more than the second that a start waits for it, which is said.
    said = [line for line in program.output if "told of this process" not in line]
    assert said == _SAID, program.text


def _one(folder: Path, config: str, moment: float) -> str:
    """What went wrong with one program that is connected to after `moment` seconds; "" if nothing did."""
    settings = folder / "xpc-instrument.toml"
    settings.write_text(f'app = "shop"\n{config}{_SLOW}')
    program = Program(folder, command=instrumented(settings, sys.executable, "-W", "error", "starting.py"), cwd=folder)
    try:
        # Not to wait for anything: to come at another moment each time.
        time.sleep(moment)
        go_through(program)
        return ""
    except Exception:
        return f"{traceback.format_exc()}\nThe program has said:\n{program.text}"
    finally:
        program.end()


def _duration(folder: Path) -> float:
    """How long a program takes from its start until it has imported and forked, in seconds, beside what computes."""
    program = Program(folder, command=[sys.executable, "starting.py"], cwd=folder)
    try:
        began = time.monotonic()
        program.read_until("[", _PATIENCE)
        return time.monotonic() - began
    finally:
        program.end()


def main(arguments: Optional[List[str]] = None, say: Callable[..., None] = print) -> int:
    """Run as many as are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.starts", description="Connect to programs at random moments of their start.")
    parser.add_argument("--times", type=int, default=1000, help="programs that are started")
    parser.add_argument("--busy", type=int, default=2, help="processes that compute beside them")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    generator = random.Random(options.seed)
    failed = 0
    busy = [subprocess.Popen([sys.executable, "-S", "-c", _COMPUTE]) for _ in range(options.busy)]
    try:
        with tempfile.TemporaryDirectory(prefix="xpc-") as name:
            folder = Path(name)
            (folder / "runtime").mkdir(mode=0o700)
            os.environ[VARIABLE] = str(folder / "runtime")
            (folder / "shop.py").write_text(SHOP)
            (folder / "starting.py").write_text(SOURCE)
            for number in range(options.times):
                if number % 50 == 0:
                    duration = _duration(folder)
                    say(f"{number} started, {failed} failed; a start takes {duration:.2f} s", flush=True)
                moment = generator.random() * 1.2 * duration
                wrong = _one(folder, (LISTED, ON_DEMAND)[number % 2], moment)
                if wrong:
                    failed += 1
                    say(f"number {number}, {('listed', 'on demand')[number % 2]}, after {moment:.3f} s: {wrong}", flush=True)
    finally:
        for one in busy:
            one.kill()
            one.wait()
    say(f"{sys.version.split()[0]}, seed {options.seed}: {options.times} started, {failed} failed", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

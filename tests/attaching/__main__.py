"""`python -m tests.attaching [--times N] [--kills N] [--moments N] [--kinds KIND...] [--seed N] [--python FILE]`: the long proof.

Each kind of target is attached to, hooked and detached from again and again, in one process; then attachers are killed at random, and
programs are attached to while they start and end. The exit status is 1 if one of them dies, hangs, does its work wrong, or is not as before.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from typing import Dict, List

from tests.attaching import proof, targets
from xpc_instrument.core.discovery.folder import VARIABLE


def main(arguments: List[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py attach", description="Attach to programs of all kinds, again and again.")
    parser.add_argument("--times", type=int, default=200, help="attaches and detaches for each kind")
    parser.add_argument("--kills", type=int, default=500, help="attachers that are killed")
    parser.add_argument("--moments", type=int, default=100, help="programs attached to while they start, and while they end")
    parser.add_argument("--kinds", nargs="*", default=list(targets.KINDS), choices=list(targets.KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the targets")
    options = parser.parse_args(arguments)
    refused = proof.why_not()
    if refused:
        print(f"nothing can be attached to here: {refused}")
        return 2
    with tempfile.TemporaryDirectory(prefix="xpc-") as folder:
        os.environ[VARIABLE] = folder
        return _prove(options)


def _prove(options: argparse.Namespace) -> int:
    failed = 0
    chance = random.Random(options.seed)
    for kind in options.kinds if options.times else ():
        failed += _repeat(kind, options.times, options.python)
    if options.kills:
        failed += _kill(options, chance)
    for moment in ("start", "end") if options.moments else ():
        failed += _moments(moment, options, chance)
    print(f"seed {options.seed}: {failed} failed" if failed else f"seed {options.seed}: all as it was", flush=True)
    return int(bool(failed))


def _repeat(kind: str, times: int, python: str) -> int:
    took: List[float] = []
    memory = 0
    with proof.Target(kind, python) as target:
        try:
            target.wait_ready()
        except AssertionError as error:
            print(f"{kind:20} skipped: {error}", flush=True)
            return 0
        try:
            for number in range(times):
                took.append(proof.go_through(target))
                if number == min(20, times // 2):
                    memory = target.memory()
            grown = target.memory() - memory
        except Exception as error:
            print(f"{kind:20} FAILED after {len(took)} times: {type(error).__name__}: {error}", flush=True)
            return 1
    line = f"{kind:20} {times} times, {statistics.median(took) * 1000:5.0f} ms, at most {max(took) * 1000:5.0f} ms, memory {grown:+} KiB"
    print(line, flush=True)
    return 0


def _kill(options: argparse.Namespace, chance: random.Random) -> int:
    kinds = [kind for kind in ("short_sleeps", "busy", "accept", "compressing", "interval_timer") if kind in options.kinds]
    for kind in kinds:
        with proof.Target(kind, options.python) as target:
            target.wait_ready()
            done = 0
            began = time.monotonic()
            try:
                for done in range(options.kills // len(kinds)):  # noqa: B007
                    proof.kill_attacher(target, 0.03, chance)
                proof.settle(target)
            except Exception as error:
                print(f"{kind:20} FAILED after {done} killed attachers: {type(error).__name__}: {error}", flush=True)
                return 1
            print(f"{kind:20} {options.kills // len(kinds)} attachers killed, in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def _moments(moment: str, options: argparse.Namespace, chance: random.Random) -> int:
    told: Dict[str, int] = {}
    for _ in range(options.moments):
        try:
            what, status = proof.at_random_moment(moment, chance, options.python)
        except Exception as error:
            print(f"{moment:20} FAILED: {type(error).__name__}: {error}", flush=True)
            return 1
        if status:
            print(f"{moment:20} FAILED: the program ended with status {status}; attaching said: {what}", flush=True)
            return 1
        told[what] = told.get(what, 0) + 1
    print(f"{moment:20} {options.moments} times: " + "; ".join(f"{count} {what}" for what, count in told.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m tests.attaching [--times N] [--kills N] [--moments N] [--pairs N] [--traced N] [--kinds KIND...] ...`: the long proof.

Each kind of target is attached to, hooked and detached from again and again, in one process; then attachers are killed at random, two attach
at once, programs are attached to while they start and end, and while other tools trace them, which is refused. The exit status is 1 if one
of them dies, hangs, does its work wrong, or is not as before.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from typing import Dict, List

from tests.attaching import proof, targets
from xpc_instrument.attaching import attach
from xpc_instrument.core.discovery.folder import VARIABLE


def main(arguments: List[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py attach", description="Attach to programs of all kinds, again and again.")
    parser.add_argument("--times", type=int, default=200, help="attaches and detaches for each kind")
    parser.add_argument("--kills", type=int, default=500, help="attachers that are killed")
    parser.add_argument("--moments", type=int, default=100, help="programs attached to while they start, and while they end")
    parser.add_argument("--pairs", type=int, default=50, help="times that two attach at once")
    parser.add_argument("--traced", type=int, default=10, help="times that strace, and gdb, trace a program that is to be refused")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each kind at most, which ends it before its times")
    parser.add_argument("--patience", type=float, default=attach.TIMEOUT, help="seconds to answer in, for a machine that is busy")
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
        attach.TIMEOUT = options.patience
        proof.PATIENCE = max(proof.PATIENCE, options.patience)
        return _prove(options)


def _prove(options: argparse.Namespace) -> int:
    failed = 0
    chance = random.Random(options.seed)
    for kind in options.kinds if options.times else ():
        failed += _repeat(kind, options)
    if options.kills:
        failed += _kill(options, chance)
    if options.pairs:
        failed += _pair(options)
    if options.traced:
        failed += _trace(options)
    for moment in ("start", "end") if options.moments else ():
        failed += _moments(moment, options, chance)
    print(f"seed {options.seed}: {failed} failed" if failed else f"seed {options.seed}: all as it was", flush=True)
    return int(bool(failed))


def _repeat(kind: str, options: argparse.Namespace) -> int:
    took: List[float] = []
    memory = 0
    end = time.monotonic() + options.seconds
    with proof.Target(kind, options.python) as target:
        try:
            target.wait_ready()
            while len(took) < options.times and time.monotonic() < end:
                took.append(proof.go_through(target))
                if len(took) == min(20, 1 + options.times // 2):
                    memory = target.memory()
            grown = target.memory() - (memory or target.memory())
        except proof.MissingError:
            print(f"{kind:20} skipped: what it needs cannot be imported", flush=True)
            return 0
        except Exception as error:
            print(f"{kind:20} FAILED after {len(took)} times: {type(error).__name__}: {error}", flush=True)
            return 1
    median, most = statistics.median(took) * 1000, max(took) * 1000
    print(f"{kind:20} {len(took)} times, {median:5.0f} ms, at most {most:5.0f} ms, memory {grown:+} KiB", flush=True)
    return 0


def _pair(options: argparse.Namespace) -> int:
    done = 0
    with proof.Target("short_sleeps", options.python) as target:
        try:
            target.wait_ready()
            for done in range(options.pairs):  # noqa: B007
                proof.attach_together(target)
        except Exception as error:
            print(f"{'two at once':20} FAILED after {done} times: {type(error).__name__}: {error}", flush=True)
            return 1
    print(f"{'two at once':20} {options.pairs} times", flush=True)
    return 0


def _trace(options: argparse.Namespace) -> int:
    for tool in proof.TRACERS:
        if shutil.which(tool) is None:
            print(f"{tool:20} skipped: it is not installed", flush=True)
            continue
        done = 0
        with proof.Target("timed_lock", options.python) as target:
            try:
                target.wait_ready()
                for done in range(options.traced):  # noqa: B007
                    proof.refuse_traced(target, tool)
                proof.go_through(target)
            except Exception as error:
                print(f"{tool:20} FAILED after {done} times: {type(error).__name__}: {error}", flush=True)
                return 1
        print(f"{tool:20} {options.traced} times refused while it traces, and attached to afterwards", flush=True)
    return 0


def _kill(options: argparse.Namespace, chance: random.Random) -> int:
    kinds = [kind for kind in ("short_sleeps", "busy", "accept", "compressing", "interval_timer") if kind in options.kinds]
    for kind in kinds:
        with proof.Target(kind, options.python) as target:
            try:
                target.wait_ready()
            except proof.MissingError:
                print(f"{kind:20} skipped: what it needs cannot be imported", flush=True)
                continue
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

"""`python3 dev.py fuzz [--minutes N] [TARGET...]`: look for bytes that make the channel do what it must not do.

By coverage, with atheris, where it is installed (`dev.py fuzz` tries to; there are wheels for CPython 3.11 to 3.13 on Linux); else by
changing the same seeds at random, which knows no coverage. The test suite has a short form of its own, with hypothesis. A finding is written to a file, and its path is printed; `--replay FILE` runs it again.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, List, Optional

from tests.fuzz.targets import TARGETS, arm, seeds

_LONGEST = 6000  # bytes of one input: beyond what an unproved peer may send in one frame
_SLOWEST = 5  # seconds that one input may take


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", metavar="TARGET", nargs="*", choices=[[], *TARGETS], help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together; default: 10")
    parser.add_argument("--replay", metavar="FILE", type=Path, help="run one input on the targets")
    parser.add_argument("--without-atheris", action="store_true", help="change seeds at random, even where atheris is there")
    options = parser.parse_args(argv)
    targets = options.targets or list(TARGETS)
    arm()
    if options.replay is not None:
        for target in targets:
            TARGETS[target](options.replay.read_bytes())
        print("no target fails on it")
        return 0
    seconds = options.minutes * 60 / len(targets)
    by_coverage = not options.without_atheris and _has_atheris()
    print(
        f"fuzzing {', '.join(targets)} for {seconds:.0f} s each, {'by coverage, with atheris' if by_coverage else 'at random, without coverage'}"
    )
    results = [(_by_coverage if by_coverage else _by_chance)(target, seconds) for target in targets]
    return max(results)


def _has_atheris() -> bool:
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


def _by_coverage(target: str, seconds: float) -> int:
    """In a process of its own, since libFuzzer never returns."""
    folder = Path(tempfile.mkdtemp(prefix=f"xpc-fuzz-{target}-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()[target]):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [
        f"-max_total_time={seconds:.0f}",
        f"-max_len={_LONGEST}",
        f"-timeout={_SLOWEST}",
        "-rss_limit_mb=512",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz.coverage", target, *flags, str(corpus)]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    lines = done.stdout.splitlines()
    runs = next((line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")), "?")
    peak = next((line.split()[-1] for line in lines if line.startswith("stat::peak_rss_mb")), "?")
    coverage = next((line.partition("cov: ")[2].split()[0] for line in reversed(lines) if "cov: " in line), "?")
    print(f"{target}: {runs} inputs in {time.monotonic() - started:.0f} s, {coverage} edges, at most {peak} MB", flush=True)
    if done.returncode:
        print("\n".join(lines[-40:]))
        print(f"{target}: FAILED; the input is in {folder}")
    return done.returncode


def _by_chance(target: str, seconds: float) -> int:
    """Seeds, changed at random."""
    found = random.Random(int.from_bytes(os.urandom(8), "big"))
    beginnings = seeds()[target]
    deadline = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < deadline:
        data = mutated(found, beginnings)
        runs += 1
        try:
            TARGETS[target](data)
        except BaseException:
            path = Path(tempfile.mkdtemp(prefix=f"xpc-fuzz-{target}-")) / "input"
            path.write_bytes(data)
            print(f"{target}: FAILED; the input is in {path}")
            raise
    print(f"{target}: {runs} inputs in {seconds:.0f} s", flush=True)
    return 0


def mutated(chance: Any, beginnings: List[bytes]) -> bytes:
    """One of the seeds with some bytes changed, doubled, left out or put in."""
    data = bytearray(chance.choice(beginnings))
    for _ in range(chance.randrange(1, 12)):
        position = chance.randrange(len(data) + 1)
        what = chance.randrange(5)
        if what == 0 and data:
            data[position % len(data)] = chance.randrange(256)
        elif what == 1:
            data[position:position] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9)))
        elif what == 2:
            del data[position : position + chance.randrange(1, 17)]
        elif what == 3:
            data[position:position] = data[position : position + chance.randrange(1, 65)] * chance.randrange(1, 9)
        else:
            other = chance.choice(beginnings)
            start = chance.randrange(len(other) + 1)
            data[position:position] = other[start : start + chance.randrange(1, 65)]
    return bytes(data[:_LONGEST])


if __name__ == "__main__":
    sys.exit(main())

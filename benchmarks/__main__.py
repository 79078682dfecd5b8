"""`python -m benchmarks`: measure, and print one table of ratios in Markdown on standard output."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from typing import Dict, List, Optional, Sequence, Union

from .crossings import PEERS
from .disarmed import DISARMED, FORWARDING
from .inflight import ASYNC
from .large import LARGE
from .measure import FAST, FULL, Group, Samples, Unavailable, measure
from .payloads import PAYLOADS
from .report import Row, row, table
from .roundtrip import ROUNDTRIP, TCP
from .steps import STEPS
from .syscalls import SYSCALLS, Tally
from .threads import THREADS
from .unwaited import UNWAITED

GROUPS: Dict[str, Union[Group, Tally]] = {
    group.name: group for group in (DISARMED, FORWARDING, STEPS, ROUNDTRIP, TCP, PEERS, PAYLOADS, THREADS, LARGE, ASYNC, UNWAITED, SYSCALLS)
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Returns 0, or 1 if something could not run; a ratio that is not as expected is said in the table and is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What xpc-instrument costs, as ratios to a baseline.")
    parser.add_argument("--fast", action="store_true", help="fewer rounds: a minute instead of some seven")
    parser.add_argument("--only", metavar="NAME", action="append", choices=GROUPS, help=f"one of {', '.join(GROUPS)}; may be repeated")
    parser.add_argument("--json", metavar="FILE", help="write all values to FILE too, in pyperf's format")
    options = parser.parse_args(arguments)
    rows: List[Row] = []
    others: List[str] = []
    measured: Dict[str, Dict[str, Samples]] = {}
    failed = []
    for name in options.only or GROUPS:
        group = GROUPS[name]
        try:
            if isinstance(group, Tally):
                others.append(group.table(_progress))
                continue
            samples = measured[name] = measure(group, FAST if options.fast else FULL, _progress)
        except Unavailable as reason:
            others.append(f"{name} was not measured: {reason}.")
            # A group that was asked for by name and is not there is a failure; what a machine lacks is none of the whole.
            if options.only:
                failed.append(name)
            continue
        except Exception:
            failed.append(name)
            _progress("")
            traceback.print_exc()
            continue
        rows += [row(comparison, samples) for comparison in group.comparisons]
    _progress("")
    print("\n\n".join([*([table(rows)] if rows else []), *others]))
    if options.json:
        from .suite import make_suite

        make_suite(measured).dump(options.json, replace=True)
    for name in failed:
        print(f"{name} could not run; why is above", file=sys.stderr)
    return 1 if failed else 0


def _progress(text: str) -> None:
    """Say on a terminal, in one line that the next replaces, what is being measured."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    # So that the processes and folders of the benchmark are cleaned up however it is ended.
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())

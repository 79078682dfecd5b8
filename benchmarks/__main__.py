"""`python -m benchmarks`: what xpc-instrument costs on this machine, as ratios; into one folder, and as Markdown on standard output.

`python -m benchmarks compare A B` says what became slower between two runs, `python -m benchmarks page DIR` makes a page of one.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Dict, Optional, Sequence, Union

import xpc_instrument

from . import compare, machine, page, results, runner
from .crossings import PEERS
from .disarmed import DISARMED, FORWARDING
from .gates import GATES
from .growth import ARMING, POINTS, SCRIPTS
from .hot import HOT
from .inflight import ASYNC
from .large import LARGE
from .measure import FAST, FULL, Group
from .payloads import PAYLOADS
from .roundtrip import ROUNDTRIP, TCP
from .startup import STARTUP
from .steps import STEPS
from .syscalls import SYSCALLS, Tally
from .text import markdown_of, what_was_not_measured
from .threads import THREADS
from .unwaited import UNWAITED
from .web import APPLICATIONS

GROUPS: Dict[str, Union[Group, Tally]] = {
    group.name: group
    for group in (
        DISARMED,
        FORWARDING,
        GATES,
        STEPS,
        ROUNDTRIP,
        TCP,
        HOT,
        PEERS,
        PAYLOADS,
        THREADS,
        LARGE,
        ASYNC,
        UNWAITED,
        STARTUP,
        POINTS,
        SCRIPTS,
        ARMING,
        APPLICATIONS,
        SYSCALLS,
    )
}
# Where a run goes that was not told where.
_RESULTS = Path("benchmark-results")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The exit status of the command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["compare"]:
        return compare.main(words[1:])
    if words[:1] == ["page"]:
        return page.main(words[1:])
    return _measure(words)


def _measure(words: Sequence[str]) -> int:
    """Returns 0, or 1 if something could not run; a ratio that is not as expected is said in the table and is no failure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What xpc-instrument costs, as ratios to a baseline.",
        epilog="Two more: `compare A B` says what became slower between two runs, `page DIR` makes docs/performance.md of one.",
    )
    parser.add_argument("--fast", action="store_true", help="fewer rounds: less than 3 minutes instead of less than 30")
    parser.add_argument("--only", metavar="NAME", action="append", choices=GROUPS, help=f"one of {', '.join(GROUPS)}; may be repeated")
    parser.add_argument("--out", metavar="DIR", type=Path, help=f"the folder for all of it; {_RESULTS}/VERSION-DATE-TIME otherwise")
    parser.add_argument("--json", metavar="FILE", help="write all values to FILE too, in pyperf's format")
    options = parser.parse_args(words)
    try:
        import pyperf  # noqa: F401 - said before minutes are spent
    except ImportError:
        print("python -m benchmarks: pyperf is missing; install the extra: pip install -e '.[benchmarks]'", file=sys.stderr)
        return 2
    version, began = xpc_instrument.__version__, time.strftime("%Y-%m-%d %H:%M:%S %z")
    folder = options.out or _RESULTS / f"{version}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"python -m benchmarks: {folder} cannot be made: {error.strerror}; give another with --out", file=sys.stderr)
        return 2
    chosen = {name: GROUPS[name] for name in options.only or GROUPS}
    parts, failed = runner.run(chosen, FAST if options.fast else FULL, asked=bool(options.only))
    shown = [word for word in words if word in ("--fast", "--only") or word in GROUPS]
    command = " ".join(["python -m benchmarks", *shown])
    effort = "fast" if options.fast else "full"
    run = results.Run(version, began, command, effort, machine.describe(), machine.packages(), parts)
    results.write(run, folder)
    text = markdown_of(run)
    (folder / "table.md").write_text(text, encoding="utf-8")
    if options.json:
        from .suite import make_suite

        units = {part.name: part.units() for part in parts}
        make_suite({part.name: part.samples for part in parts if part.samples}, units).dump(options.json, replace=True)
    print(text)
    print(runner.draw(run, folder))
    print(f"All of it is in {folder}")
    if failed:
        print(what_was_not_measured(run), file=sys.stderr)
    return 1 if failed else 0


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    # So that the processes and folders of the benchmark are cleaned up however it is ended.
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())

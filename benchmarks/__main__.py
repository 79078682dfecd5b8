"""`python -m benchmarks`: what xpc-instrument costs on this machine, as ratios; into one folder, and as Markdown on standard output.

`python -m benchmarks compare A B` says what became slower between two runs, `python -m benchmarks page DIR` makes a page of one.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

import xpc_instrument

from .groups.crossings import PEERS
from .groups.disarmed import DISARMED, FORWARDING
from .groups.gates import GATES
from .groups.growth import ARMING, POINTS, SCRIPTS
from .groups.hot import HOT
from .groups.inflight import ASYNC
from .groups.large import LARGE
from .groups.lines import LINES
from .groups.observed import OBSERVED
from .groups.observing import OBSERVING
from .groups.payloads import PAYLOADS
from .groups.roundtrip import ROUNDTRIP, TCP
from .groups.startup import STARTUP
from .groups.steps import STEPS
from .groups.syscalls import SYSCALLS, Tally
from .groups.threads import THREADS
from .groups.trees import TREES
from .groups.unwaited import UNWAITED
from .groups.web import APPLICATIONS
from .measure import machine, runner
from .measure.timing import FAST, FULL, Group
from .report import compare, page, results
from .report.text import markdown_of, what_was_not_measured

GROUPS: Dict[str, Union[Group, Tally]] = {
    group.name: group
    for group in (
        DISARMED,
        FORWARDING,
        GATES,
        OBSERVING,
        LINES,
        TREES,
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
        OBSERVED,
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
    """Returns 0; 1 if something could not run; 2 if it cannot be kept, or pyperf is missing; 130 or 143 if it was ended by a signal.

    A ratio that is not as expected is said in the table and is no failure.
    """
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
    shown = [word for word in words if word in ("--fast", "--only") or word in GROUPS]
    command = " ".join(["python -m benchmarks", *shown])
    run = results.Run(version, began, command, "fast" if options.fast else "full", machine.describe(), machine.packages(), [])
    problem = _cannot_be_kept(run, folder, options.json)
    if problem:
        print(f"python -m benchmarks: {problem}", file=sys.stderr)
        return 2

    def keep(parts: List[results.Part]) -> None:
        run.parts = parts
        _write(run, folder, options.json)

    chosen = {name: GROUPS[name] for name in options.only or GROUPS}
    try:
        failed = runner.run(chosen, FAST if options.fast else FULL, asked=bool(options.only), keep=keep)[1]
        print(markdown_of(run))
        print(runner.draw(run, folder))
    except OSError as error:
        print(f"python -m benchmarks: {error.filename or folder}: {error.strerror}; what could be kept is in {folder}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as end:
        runner.show("")
        print(f"python -m benchmarks: it was ended; what was measured until then is in {folder}", file=sys.stderr)
        return 130 if isinstance(end, KeyboardInterrupt) else int(end.code or 0)
    print(f"All of it is in {folder}")
    if failed:
        print(what_was_not_measured(run), file=sys.stderr)
    return 1 if failed else 0


def _cannot_be_kept(run: results.Run, folder: Path, copy: Optional[str]) -> str:
    """Why what will be measured could not be written, said before minutes are spent; "" if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / results.RUN).exists():
            return f"{folder} holds a run already; give another folder with --out"
        results.write(run, folder)
        if copy:
            with open(copy, "a", encoding="utf-8"):
                pass
    except OSError as error:
        return f"{error.filename or folder} cannot be written: {error.strerror}; give another with --out, or --json"
    return ""


def _write(run: results.Run, folder: Path, copy: Optional[str]) -> None:
    results.write(run, folder)
    results.write_text(folder / "table.md", markdown_of(run))
    if copy and (folder / results.VALUES).exists():
        shutil.copyfile(folder / results.VALUES, copy)


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    # So that the processes and folders of the benchmark are cleaned up however it is ended.
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())

"""`xpc replay`: recorded calls run again in this process, and what differs.

Rules:
- This is a fresh process: nothing of the application is imported in it but what the recording names, from the working directory as with
  `python -m`. With `--python` it is one of that interpreter, which has to have this package too.
- What is printed by the functions that are run is theirs; what is said about the replay itself goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, List

from ..core.model.words import counted
from ..core.replay.running import Replayed
from ..script.recording import Recording, load
from ..verbs.recordings import WRITTEN, replayed_json, replayed_text, test_text
from .observing import Output
from .output import printable


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "replay",
        help="run recorded calls again, and show what differs",
        description="Run the calls of a recording again in a fresh process, and show what differs. It imports the modules of the targets "
        "that the file names, and calls these with what the file holds: run none from a stranger.",
        epilog="examples:\n  xpc replay charge.jsonl --ignore result.id\n"
        "  xpc replay charge.jsonl --pytest tests/test_charge_recorded.py\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="what `xpc record` has written")
    parser.add_argument("--id", dest="ids", metavar="ID", action="append", default=[], help="only this call; may be repeated")
    parser.add_argument(
        "--ignore", metavar="PATH", action="append", default=[], help="do not compare this, such as result.id or 'result.items[*].at'"
    )
    parser.add_argument("--times", metavar="N", type=_times, default=1, help="run each call N times; default 1")
    parser.add_argument(
        "--allow", metavar="PACKAGE", action="append", default=[], help="values may be of types of this package, too; may be repeated"
    )
    parser.add_argument("--pytest", metavar="FILE", help="write a test of the calls that are the same, with its data beside it")
    parser.add_argument("--python", metavar="PATH", help="the interpreter to run them in; it has to have this package")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write JSON lines there, too")
    parser.set_defaults(run=run)


def _times(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 on")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Run them; 1 if something differs."""
    file = Path(options.file)
    problem = "" if options.pytest is None else _in_the_way(Path(options.pytest), file)
    if options.output is not None and file.exists() and os.path.exists(options.output) and file.samefile(options.output):
        problem = f"-o {options.output} would replace the recording; expected another name"
    if problem:
        _say(f"xpc: {problem}")
        return 2
    if options.python is not None:
        return _run_elsewhere(options)
    recording = load(file)
    chosen = recording.chosen(options.ids)
    modules = sorted({call.target.partition(":")[0] for call in chosen})
    _say(f"replaying {counted(len(chosen), 'call')} of {recording.app}; imports {', '.join(modules) or 'nothing'}")
    for place in recording.without_match(options.ignore):
        _say(f"--ignore {place}: no value of the recording has that place")
    # As `python -m` has it; the console script has its own folder there.
    sys.path.insert(0, os.getcwd())
    output = Output(options)
    done: List[Replayed] = []
    try:
        for one in recording.replayed(ids=options.ids, ignore=options.ignore, times=options.times, allow=options.allow):
            done.append(one)
            output.event(replayed_json(one), replayed_text(one), "31" if one.differences else "")
        same = [one.call for one in done if not one.skipped and not one.differences]
        differ = sum(bool(one.differences) for one in done)
        skipped = sum(bool(one.skipped) for one in done)
        output.event({"type": "summary", "same": len(same), "differ": differ, "skipped": skipped})
    finally:
        output.close()
    _say(f"{len(same)} same, {differ} differ{f', {skipped} skipped' if skipped else ''}")
    if options.pytest is not None:
        _write_test(options, recording.only(same))
    return 1 if differ or not same else 0


def _in_the_way(test: Path, recording: Path) -> str:
    """Why a test is not to be written there: nothing that somebody else has written is replaced, nor what was recorded; or ""."""
    data = test.with_suffix(".jsonl")
    for path in (test, data):
        if path.exists() and recording.exists() and path.samefile(recording):
            return f"--pytest {test} would replace the recording {recording}; expected another name, such as test_{recording.stem}.py"
    if test.exists() and WRITTEN not in test.read_text(encoding="utf-8", errors="replace")[:1000]:
        return f"--pytest {test}: there is a file that xpc has not written; expected another name, or delete it first"
    return ""


def _write_test(options: argparse.Namespace, same: Recording) -> None:
    path = Path(options.pytest)
    data = path.with_suffix(".jsonl")
    left = _same_alone(options, same, data)
    if not left.calls:
        _say(f"{path} is not written: no call is as it was recorded")
        return
    if len(left.calls) < len(same.calls):
        _say(f"{counted(len(same.calls) - len(left.calls), 'call')} left out, which differ where the others are not run before")
    stem = path.stem if path.stem.startswith("test_") else f"test_{path.stem}"
    name = "".join(one if one.isalnum() else "_" for one in stem)
    targets = list(dict.fromkeys(call.target for call in left.calls))
    root = os.path.relpath(os.getcwd(), path.resolve().parent)
    text = test_text(left.app, targets, name, data.name, root, options.ignore, options.allow)
    path.write_text(text, encoding="utf-8")
    _say(f"{path}: one test of {counted(len(left.calls), 'call')}, which are in {data}")


def _same_alone(options: argparse.Namespace, same: Recording, data: Path) -> Recording:
    """The calls that are as they were in a process in which no other call is run, saved as `data`: a call that differs may have left
    behind what another one needs."""
    left = same
    while left.calls:
        left.save(data)
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder, "told.jsonl")
            words = [sys.executable, "-m", "xpc_instrument.cli", "replay", str(data), "-o", str(told), *_flags(options)]
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run(words, check=False, **quiet)  # type: ignore[call-overload]  # noqa: S603
            events = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()] if told.exists() else []
        good = {event["id"] for event in events if event.get("outcome") == "same"}
        kept = left.only([call for call in left.calls if call.id in good])
        if len(kept.calls) == len(left.calls):
            return left
        left = kept
    data.unlink(missing_ok=True)
    return left


def _flags(options: argparse.Namespace) -> List[str]:
    return [
        word for flag, values in (("--ignore", options.ignore), ("--allow", options.allow)) for value in values for word in (flag, value)
    ]


def _run_elsewhere(options: argparse.Namespace) -> int:
    words = [options.python, "-m", "xpc_instrument.cli", "replay", options.file, "--times", str(options.times), *_flags(options)]
    words += [word for value in options.ids for word in ("--id", value)]
    words += ["--json"] if options.json else []
    words += [word for flag, value in (("--pytest", options.pytest), ("-o", options.output)) if value for word in (flag, value)]
    return subprocess.run(words, check=False).returncode  # noqa: S603 - what was typed


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)

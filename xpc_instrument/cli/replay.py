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
from pathlib import Path
from typing import Any, List

from ..core.model.words import counted
from ..script.recording import Recording, load
from ..script.replaying import Replayed
from ..verbs.recordings import WRITTEN, replayed_json, replayed_text, test_text
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
    parser.add_argument("--times", metavar="N", type=int, default=1, help="run each call N times; default 1")
    parser.add_argument(
        "--allow", metavar="PACKAGE", action="append", default=[], help="values may be of types of this package, too; may be repeated"
    )
    parser.add_argument("--pytest", metavar="FILE", help="write a test of the calls that are the same, with its data beside it")
    parser.add_argument("--python", metavar="PATH", help="the interpreter to run them in; it has to have this package")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write JSON lines there, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run them; 1 if something differs."""
    problem = "" if options.pytest is None else _in_the_way(Path(options.pytest), Path(options.file))
    if problem:
        _say(f"xpc: {problem}")
        return 2
    if options.python is not None:
        return _run_elsewhere(options)
    recording = load(options.file)
    modules = sorted({call.target.partition(":")[0] for call in recording.calls if not options.ids or call.id in options.ids})
    how_many = counted(len(options.ids) or len(recording.calls), "call")
    _say(f"replaying {how_many} of {recording.app}; imports {', '.join(modules) or 'nothing'}")
    # As `python -m` has it; the console script has its own folder there.
    sys.path.insert(0, os.getcwd())
    lines: List[str] = []
    done: List[Replayed] = []
    for one in recording.replayed(ids=options.ids, ignore=options.ignore, times=options.times, allow=options.allow):
        done.append(one)
        text = json.dumps(replayed_json(one))
        lines.append(text)
        for line in [text] if options.json else replayed_text(one):
            print(printable(line), flush=True)
    same = [one.call for one in done if not one.skipped and not one.differences]
    differ = sum(bool(one.differences) for one in done)
    skipped = sum(bool(one.skipped) for one in done)
    summary = {"type": "summary", "same": len(same), "differ": differ, "skipped": skipped}
    lines.append(json.dumps(summary))
    if options.json:
        print(lines[-1], flush=True)
    if options.output is not None:
        _write(Path(options.output), "\n".join(lines) + "\n", 0o600)
    _say(f"{len(same)} same, {differ} differ{f', {skipped} skipped' if skipped else ''}")
    if options.pytest is not None:
        _write_test(options, Recording(recording.app, recording.targets, recording.inside, same))
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
    if not same.calls:
        _say(f"{path} is not written: no call is as it was recorded")
        return
    data = path.with_suffix(".jsonl")
    stem = path.stem if path.stem.startswith("test_") else f"test_{path.stem}"
    name = "".join(one if one.isalnum() else "_" for one in stem)
    same.save(data)
    targets = list(dict.fromkeys(call.target for call in same.calls))
    root = os.path.relpath(os.getcwd(), path.resolve().parent)
    _write(path, test_text(same.app, targets, name, data.name, root, options.ignore, options.allow), 0o666)
    _say(f"{path}: one test of {counted(len(same.calls), 'call')}, which are in {data}")


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _run_elsewhere(options: argparse.Namespace) -> int:
    words = [options.python, "-m", "xpc_instrument.cli", "replay", options.file, "--times", str(options.times)]
    for flag, values in (("--id", options.ids), ("--ignore", options.ignore), ("--allow", options.allow)):
        words += [word for value in values for word in (flag, value)]
    words += ["--json"] if options.json else []
    words += [word for flag, value in (("--pytest", options.pytest), ("-o", options.output)) if value for word in (flag, value)]
    return subprocess.run(words, check=False).returncode  # noqa: S603 - what was typed


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)

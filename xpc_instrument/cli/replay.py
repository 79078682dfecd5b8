"""`xpc replay`: recorded calls run again in this process, or in the application, and what differs.

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
from typing import Any, Iterator, List

from ..core.model.errors import ChannelError
from ..core.model.words import counted
from ..core.replay.running import Replayed
from ..script.recording import Recording, load
from ..verbs.recordings import WRITTEN, replayed_json, replayed_text, test_text
from .flags import add_connection
from .observing import Output, connected
from .output import printable


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "replay",
        help="run recorded calls again, and show what differs",
        description="Run the calls of a recording again in a fresh process, or with --in in the application, and show what differs. It "
        "imports the modules of the targets that the file names, and calls these with what the file holds: run none from a stranger.",
        epilog="examples:\n  xpc replay charge.jsonl --ignore result.id\n"
        "  xpc replay charge.jsonl --in shop\n"
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
    parser.add_argument("--in", dest="app", metavar="APP", help="in the application, by its name, pid or address: CHANGES BEHAVIOUR")
    parser.add_argument("--python", metavar="PATH", help="the interpreter to run them in; it has to have this package")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write JSON lines there, too")
    add_connection(parser)
    parser.set_defaults(run=run)


def _times(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 on")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Run them; 1 if something differs."""
    problem = _mistake(options)
    if problem:
        _say(f"xpc: {problem}")
        return 2
    if options.python is not None:
        return _run_elsewhere(options)
    recording = load(options.file)
    calls = recording.chosen(options.ids)
    what = f"{counted(len(calls), 'call')} of {recording.app}"
    chosen = {"ids": options.ids, "ignore": options.ignore, "times": options.times, "allow": options.allow}
    if options.app is not None:
        with connected(options.app, options) as session:
            _say(f"CHANGES BEHAVIOUR: makes {what} again in {session.app}, one after the other; Ctrl-C ends it after the call under way")
            return _ended(options, recording, session.replay(recording, **chosen))
    modules = sorted({call.target.partition(":")[0] for call in calls})
    _say(f"replaying {what}; imports {', '.join(modules) or 'nothing'}")
    # As `python -m` has it; the console script has its own folder there.
    sys.path.insert(0, os.getcwd())
    return _ended(options, recording, recording.replayed(**chosen))


def _ended(options: argparse.Namespace, recording: Recording, replayed: Iterator[Replayed]) -> int:
    """Show what comes of each call, and in the end of all; the exit code."""
    for place in recording.without_match(options.ignore):
        _say(f"--ignore {place}: no value of the recording has that place")
    output = Output(options)
    done: List[Replayed] = []
    end = ""
    try:
        try:
            for one in replayed:
                done.append(one)
                output.event(replayed_json(one), replayed_text(one), "31" if one.differences else "")
        except KeyboardInterrupt:
            end = "interrupted"
            if options.app is not None:
                end += ": the call under way goes on to its end in the application, with what stands in for it"
        except ChannelError as error:
            end = f"ended: {error}"
        same = [one.call for one in done if not one.skipped and not one.differences]
        differ = sum(bool(one.differences) for one in done)
        skipped = sum(bool(one.skipped) for one in done)
        output.event({"type": "summary", "same": len(same), "differ": differ, "skipped": skipped})
    finally:
        output.close()
    _say(f"{len(same)} same, {differ} differ{f', {skipped} skipped' if skipped else ''}{end and f'; {end}'}")
    if options.pytest is not None and not end:
        _write_test(options, recording.only(same))
    return 1 if differ or not same or end.startswith("ended") else 0


def _mistake(options: argparse.Namespace) -> str:
    """What is wrong with the flags, or ""."""
    file = Path(options.file)
    if options.app is not None and (options.pytest is not None or options.python is not None):
        return "--in APP makes the calls there: expected neither --pytest nor --python beside it"
    if options.output is not None and file.exists() and os.path.exists(options.output) and file.samefile(options.output):
        return f"-o {options.output} would replace the recording; expected another name"
    return "" if options.pytest is None else _in_the_way(Path(options.pytest), file)


def _in_the_way(test: Path, recording: Path) -> str:
    """Why a test is not to be written there: nothing that somebody else has written is replaced, nor what was recorded; or ""."""
    data = test.with_suffix(".jsonl")
    if not test.absolute().parent.is_dir():
        return f"--pytest {test}: there is no folder {test.parent}"
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

"""`xpc-instrument ls APP PATTERN`: the functions of the imported modules that a pattern stands for, and whether they can be hooked."""

from __future__ import annotations

import inspect
import linecache
import os
import time
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from ..core.discovery import entry as discovery
from ..core.model.errors import AuthenticationError, ChannelError, TargetError
from ..core.node.joiner import Joiner
from ..script.call import signature_from_spec
from .output import printable, show, show_json

# Makes a joiner for an address; what it raises and what joining raises is the caller's to say.
Dial = Callable[[str], Joiner]


def list_matching(entries: Sequence[discovery.Entry], patterns: Sequence[str], dial: Dial, *, source: bool, json: bool) -> int:
    """Print them; returns the exit code: 0, 1 if nothing matches, 5 if a process cannot be asked. Raises `TargetError`."""
    found: Dict[str, Dict[str, Any]] = {}
    failed: List[Tuple[int, str]] = []
    more = 0
    asked = set()
    # Why a pattern stands for nothing, as the processes say.
    reasons: Dict[str, None] = {}
    for entry in entries:
        if entry.address in asked:
            # One that hosts the address answers; those that share it run the same code.
            continue
        asked.add(entry.address)
        try:
            for answer in _ask(dial(entry.address), patterns):
                more += answer["more"]
                if answer.get("why-nothing"):
                    reasons[answer["why-nothing"]] = None
                for one in answer["targets"]:
                    found.setdefault(one["target"], {**one, "pids": []})["pids"].append(answer["pid"])
        except (ChannelError, AuthenticationError) as error:
            failed.append((entry.pid, str(error)))
    rows = [found[target] for target in sorted(found)]
    if json:
        show_json({"targets": rows, "more": more, "errors": [{"pid": pid, "error": why} for pid, why in failed]})
    elif source:
        for row in rows:
            _show_source(row)
    elif rows:
        columns = ("TARGET", "STATE", "KIND", "FILE", "PIDS", "REASON")
        show(columns, [(row["target"], row["state"], row["kind"] or "-", _place(row), _pids(row), row["reason"]) for row in rows])
    if not json:
        for pid, why in failed:
            print(f"pid {pid}: {why}")
        if more:
            print(f"and {more} more: narrow the pattern down")
        if not rows and not failed:
            print(f"no function of the modules that are imported matches {' or '.join(patterns)}" + "".join(f": {one}" for one in reasons))
    return 5 if failed else 0 if rows else 1


def _ask(joiner: Joiner, patterns: Sequence[str]) -> List[Mapping[str, Any]]:
    try:
        deadline = time.monotonic() + joiner.limits.connect_timeout
        joiner.connect(deadline)
        return [joiner.begin_query(f"targets {pattern}", deadline).answer(deadline).data for pattern in patterns]
    except TargetError:
        raise
    finally:
        joiner.close()


def _place(row: Mapping[str, Any]) -> str:
    return f"{_short(row['file'])}:{row['line']}" if row["file"] else "-"


def _short(file: str) -> str:
    """A path as a terminal can open it, relative where that is shorter."""
    try:
        return min(os.path.relpath(file), file, key=len)
    except (OSError, ValueError):
        return file


def _pids(row: Mapping[str, Any]) -> str:
    return " ".join(map(str, row["pids"][:3])) + (f" and {len(row['pids']) - 3} more" if len(row["pids"]) > 3 else "")


def _show_source(row: Mapping[str, Any]) -> None:
    """The target with its parameters, where it is, and its lines, read from the file: as it is now, not as it was when it was imported."""
    signature = signature_from_spec(row["signature"])
    print(printable(f"{row['target']}{signature or ''}  [{row['state']}]  {_place(row)}"))
    if row["reason"]:
        print(printable(f"    {row['reason']}"))
    lines = linecache.getlines(row["file"]) if row["file"] else []
    if not lines:
        print("    (its source cannot be read from here)")
        return
    first = row["line"] - 1
    for number, line in enumerate(inspect.getblock(lines[first:]), row["line"]):
        print(f"{number:6}  {printable(line.rstrip())}")

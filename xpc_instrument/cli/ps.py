"""`xpc-instrument ps`: list instrumented applications."""

from __future__ import annotations

import argparse
import shlex
import time
from typing import Any

from ..core.discovery import entry as discovery
from ..core.model.record import as_dict
from .output import show, show_json

# Fields of an entry that are nobody else's affair.
_OURS = {"member", "namespace", "stack"}


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "ps", help="list instrumented applications", description="List the instrumented processes of this user that are running."
    )
    parser.add_argument("--json", action="store_true", help="print JSON: a list of processes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    entries = sorted(discovery.processes(), key=lambda entry: (entry.app, entry.pid))
    if options.json:
        show_json([{name: value for name, value in as_dict(entry).items() if name not in _OURS} for entry in entries])
        return 0
    if not entries:
        print("no instrumented application is running; start one with `xpc-instrument run -- COMMAND`, or use `xpc-instrument attach PID`")
        return 0
    rows = [
        (entry.app, str(entry.pid), entry.python, _age(time.time() - entry.since), entry.address, shlex.join(entry.argv)[:100])
        for entry in entries
    ]
    show(("APP", "PID", "PYTHON", "AGE", "ADDRESS", "COMMAND"), rows)
    return 0


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(max(0.0, seconds))}s"

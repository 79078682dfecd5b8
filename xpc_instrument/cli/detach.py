"""`xpc-instrument detach`: take the agent out of an application."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.model.words import counted
from ..script.connect import connect


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "detach",
        help="take the agent out of an application",
        description="Remove all hooks of all scripts from an application, and the agent from its processes: they are as they were, and "
        "can be attached to again. Imported modules stay.",
    )
    parser.add_argument("application", metavar="APP", help="an app name, a pid, or an address")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Detach."""
    # All of that name: whoever says a name means what `ps` shows under it.
    session = connect(options.application, all=True)
    app = session.app
    pids = session.detach()
    print(f"detached from {app}: {counted(len(pids), 'process', 'processes')} ({', '.join(map(str, pids))})")
    return 0

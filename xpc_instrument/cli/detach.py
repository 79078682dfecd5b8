"""`xpc-instrument detach`: take the agent out of an application."""

from __future__ import annotations

import argparse
import os
from typing import Any, List

from ..attaching.attach import detach_process
from ..core.discovery import entry as discovery
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
    others = _of_others(options.application)
    if others:
        names = [detach_process(pid) for pid in others]
        _tell(names[0], others)
        return 0
    # All of that name: whoever says a name means what `ps` shows under it.
    session = connect(options.application, all=True)
    app = session.app
    pids = session.detach()
    _tell(app, pids)
    return 0


def _tell(app: str, pids: List[int]) -> None:
    print(f"detached from {app}: {counted(len(pids), 'process', 'processes')} ({', '.join(map(str, pids))})")


def _of_others(application: str) -> List[int]:
    """The processes of that name or pid that are another user's, which root cannot talk to."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return []
    found = []
    for entry in discovery.processes():
        if application in (entry.app, str(entry.pid)):
            try:
                if os.stat(f"/proc/{entry.pid}").st_uid != 0:
                    found.append(entry.pid)
            except OSError:
                continue  # it has just ended, or there is no /proc
    return found

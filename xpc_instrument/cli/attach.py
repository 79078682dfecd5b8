"""`xpc-instrument attach`: bring the agent into a process that was started without it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, List

from ..attaching.attach import Attached, attach_process, attach_tree
from ..attaching.examination import Examination, examine
from .options import APP_VARIABLE, CONFIG_VARIABLE, add_on_demand_option
from .output import printable


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "attach",
        help="bring the agent into a running process",
        description="Bring the agent into a Python process that was started without it. From then on everything works as if it had "
        "been started by `xpc-instrument run`; `xpc-instrument detach` takes it out again.",
        epilog="examples:\n"
        "  xpc-instrument attach 4711\n"
        "  xpc-instrument attach 4711 --tree --app shop\n"
        "  xpc-instrument attach 4711 --check\n"
        "\nIt needs the rights of a debugger: the same user, and where ptrace_scope is 1 or a container has no CAP_SYS_PTRACE, that too.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pid", metavar="PID", type=int, help="the process")
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=os.environ.get(CONFIG_VARIABLE) or None,
        help=f"a config file; default: ${CONFIG_VARIABLE}, else none",
    )
    parser.add_argument(
        "--app",
        metavar="NAME",
        default=os.environ.get(APP_VARIABLE) or None,
        help=f"the app name; default: ${APP_VARIABLE}, else the config's, else made of the program and the pid, such as gunicorn-4711",
    )
    parser.add_argument(
        "--probe", metavar="TARGET", action="append", default=[], help="one more probe point, package.module:Name; may be repeated"
    )
    add_on_demand_option(parser)
    parser.add_argument("--tree", action="store_true", help="also the processes that it has started, such as the workers of gunicorn")
    parser.add_argument("--check", action="store_true", help="only say whether it can be attached to, and what is in the way")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Attach, or say whether that can be done."""
    if options.check:
        return _check(options.pid)
    wanted: Dict[str, Any] = {
        "app": options.app,
        "config": options.config,
        "probes": options.probe,
        "on_demand": options.on_demand,
    }
    found = attach_tree(options.pid, say=_warn, **wanted) if options.tree else [attach_process(options.pid, **wanted)]
    for one in found:
        print(_told(one, options))
        user = _other_user(one.pid)
        if user:
            verb = f"sudo -u {user} XPC_INSTRUMENT_RUNTIME_DIR={one.folder} xpc-instrument watch {one.pid} ..."
            print(f"hooks are registered as {user}: {verb}; this user can only: xpc-instrument detach {one.pid}")
    return 0


def _other_user(pid: int) -> str:
    """The user of a process that is not this one's, as sudo takes it; else ""."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return ""  # it has just ended
    if uid == os.geteuid():
        return ""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"'#{uid}'"


def _told(one: Attached, options: argparse.Namespace) -> str:
    if one.already:
        return f'{one.pid} has the agent already, as "{one.app}", at {one.address}'
    runs = f"python {one.python}" + (f", {printable(one.program)}" if one.program else "")
    demand = ", ".join(options.on_demand) or ("**" if options.config is None else "as the config says")
    head = f'attached to {one.pid} ({runs}) as "{one.app}" in {one.seconds * 1000:.0f} ms'
    return f"{head}; {one.modules} modules, on demand: {demand}; at {one.address}"


def _check(pid: int) -> int:
    examination = examine(pid)
    print(printable(examination.head()))
    for check in examination.checks:
        print(f"  {'ok  ' if check.ok else 'FAIL'}  {printable(check.text)}")
    wrong = [check for check in examination.checks if not check.ok]
    for remedy in _remedies(examination):
        print(f"remedy: {printable(remedy)}")
    if wrong:
        return 6
    print(
        "it can be attached to: "
        + ("by sys.remote_exec" if examination.way == "remote" else "one thread is stopped for less than a millisecond")
    )
    return 0


def _remedies(examination: Examination) -> List[str]:
    return list(dict.fromkeys(check.remedy for check in examination.checks if not check.ok and check.remedy))


def _warn(text: str) -> None:
    print(f"xpc-instrument: {printable(text)}", file=sys.stderr)

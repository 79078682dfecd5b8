"""`xpc-instrument ls APP`: the probe points of an application, their state, and why one cannot be hooked; or what was counted of them."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from ..core.config.schema import ManagerConfig
from ..core.discovery import entry as discovery
from ..core.model.errors import AuthenticationError, ChannelError
from ..core.model.stats import Figures, read_probe
from ..core.model.words import counted
from .output import amount, counts, duration, show, show_json

# The channel is imported by what uses it: `run`, which every application starts with, imports this module too.
if TYPE_CHECKING:
    from ..core.node.address import Protection
    from ..core.node.joiner import Joiner
    from ..core.protocol.messages import Notice
    from ..core.wire.tls import TLS

_LOOK_AGAIN = "look again with `xpc-instrument ps`: a process that another one has started is listed once it has imported a target"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "ls",
        help="list the probe points of an application",
        description="List the probe points of an application, in each of its processes, and why one could not be made hookable.",
    )
    parser.add_argument("app", metavar="APP", help="an app name or a pid, as `xpc-instrument ps` shows")
    parser.add_argument(
        "patterns",
        metavar="PATTERN",
        nargs="*",
        help="list the functions of the imported modules that it stands for instead, such as 'shop.**:*charge*'; see docs/config.md",
    )
    parser.add_argument("--authkey-file", metavar="FILE", help="the key of an application that listens on TCP")
    parser.add_argument(
        "--tls-dir",
        metavar="DIR",
        help="for TLS: a folder with certificate.pem, key.pem and ca.pem, as `xpc-instrument certificates` makes one for each name",
    )
    parser.add_argument("--plaintext-beyond-loopback", action="store_true", help="allow TCP beyond loopback without TLS")
    parser.add_argument("--stats", action="store_true", help="show what was counted of the probe points that have or had hooks")
    parser.add_argument("--source", action="store_true", help="with PATTERN: show the parameters of each function, and its source")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of processes with their probe points")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    from ..core.node.address import Protection

    key = ManagerConfig(authkey_file=Path(options.authkey_file)).read_authkey() if options.authkey_file else None
    protection = Protection(_tls(options.tls_dir), options.plaintext_beyond_loopback)
    if options.patterns:
        from .search import list_matching

        entries = discovery.find(options.app, _LOOK_AGAIN)
        dial = partial(_joiner, key=key or b"", protection=protection)
        return list_matching(entries, options.patterns, dial, source=options.source, json=options.json)
    if options.source:
        print("xpc-instrument: --source is for a PATTERN: `xpc-instrument ls APP 'shop.**:*charge*' --source`", file=sys.stderr)
        return 2
    answers = _ask_all(discovery.find(options.app, _LOOK_AGAIN), key or b"", protection)
    if options.json:
        show_json(answers)
        return 0 if not any("error" in answer for answer in answers) else 5
    if options.stats:
        _show_stats(answers)
    else:
        rows = [_row(answer["pid"], probe) for answer in answers for probe in answer.get("probes", ())]
        show(("PID", "TARGET", "STATE", "PATCHER", "HOOKS", "CALLS", "FAILURES", "REASON"), rows)
    failed = [answer for answer in answers if "error" in answer]
    for answer in failed:
        print(f"pid {answer['pid']}: {answer['error']}")
    return 5 if failed else 0


def _tls(folder: Optional[str]) -> Optional[TLS]:
    if folder is None:
        return None
    from ..core.wire.tls import TLS

    tls = TLS.from_folder(folder)
    tls.load()
    return tls


def _ask_all(entries: List[discovery.Entry], key: bytes, protection: Protection) -> List[Dict[str, Any]]:
    """What each of the processes tells, or why it does not; those that share an address are asked through the one that hosts it."""
    by_address: Dict[str, List[discovery.Entry]] = {}
    for entry in entries:
        by_address.setdefault(entry.address, []).append(entry)
    answers: Dict[int, Dict[str, Any]] = {}
    for address, those in by_address.items():
        told = _ask(address, key, protection, [entry.pid for entry in those])
        for entry in those:
            answers[entry.pid] = {"app": entry.app, "pid": entry.pid, **told[entry.pid]}
    return [answers[entry.pid] for entry in entries]


def _joiner(address: str, key: bytes, protection: Protection, on_notice: Optional[Callable[[Notice], object]] = None) -> Joiner:
    from ..core.model.limits import Limits
    from ..core.node.address import parse_address
    from ..core.node.joiner import Joiner

    return Joiner(parse_address(address), key, limits=Limits(), on_notice=on_notice, protection=protection)


def _ask(address: str, key: bytes, protection: Protection, pids: List[int]) -> Dict[int, Dict[str, Any]]:
    from ..script.reports import Reporter

    reporter = Reporter()
    joiner = _joiner(address, key, protection, reporter.noticed)
    try:
        deadline = time.monotonic() + joiner.limits.connect_timeout
        joiner.connect(deadline)
        reports, _ = reporter.collect(joiner, reporter.begin(joiner, deadline), deadline)
    except (ChannelError, AuthenticationError) as error:
        return {pid: {"error": str(error)} for pid in pids}
    finally:
        joiner.close()
    told = {report["pid"]: {name: report[name] for name in ("process", "probes")} for report in reports}
    return {pid: told.get(pid, {"error": f"did not answer through {address}, which another process hosts"}) for pid in pids}


def _row(pid: int, probe: Dict[str, Any]) -> List[str]:
    hooks = read_probe(pid, probe).hooks
    return [
        str(pid),
        probe["target"],
        probe["state"],
        probe["patcher"] or "-",
        " ".join(hook.name(hooks) for hook in hooks) or "-",
        str(probe["calls"]),
        counts(probe["failures"]),
        probe["reason"] or (f"not inside: {probe['why-not-inside']}" if probe.get("why-not-inside") else ""),
    ]


# What has a column only where there is something in it.
_RARE = ("SKIPPED", "FAILURES", "SUSPENDED", "DROPPED")
_STATS = ("PID", "TARGET", "HOOK", "CALLS", *_RARE, "OUT/IN", "WAITED", "EACH", "MAX")


def _show_stats(answers: List[Dict[str, Any]]) -> None:
    rows: List[Dict[str, str]] = []
    for answer in answers:
        for report in answer.get("probes", ()):
            probe = read_probe(answer["pid"], report)
            if not probe.hooks and not probe.to_json():
                continue
            if len(probe.hooks) != 1 or probe.hooks[0].to_json() != probe.to_json():
                rows.append(_figures(probe.pid, probe.target, "all", probe, ""))
            for hook in probe.hooks:
                rows.append(_figures(probe.pid, probe.target, hook.name(probe.hooks), hook, "now" if hook.suspended else ""))
    columns = [column for column in _STATS if column not in _RARE or any(row[column] != "-" for row in rows)]
    show(columns, [[row[column] for column in columns] for row in rows])
    for answer in answers:
        if "process" in answer:
            facts = answer["process"]
            parts = [f"{counted(facts[key], noun)}{more}" for key, noun, more in _PROCESS if key in facts]
            print(f"pid {answer['pid']}: {', '.join(parts)}")
            for session in facts.get("by-session", ()):
                if session["lanes"]:
                    print(f"pid {answer['pid']}: {_lanes(session)}")


def _lanes(session: Dict[str, Any]) -> str:
    """What the lanes of a session are: hot ones, or plain ones with the reason."""
    parts = [
        f"{session['hot']} of {counted(session['lanes'], 'lane')} can be hot",
        f"{counted(session['frames'], 'frame')} went through memory",
    ]
    parts += [f"{count} plain: {why}" for why, count in session["plain"].items()]
    claim = " (as it says itself)" if session.get("claimed") else ""
    return f"session of pid {session['script']}{claim}: {'; '.join(parts)}"


_PROCESS = (("sessions", "session", ", this command's included"), ("lanes", "lane", ""), ("refused", "connection", " refused"))


def _figures(pid: int, target: str, hook: str, figures: Figures, now: str) -> Dict[str, str]:
    cells = (
        counts(figures.skipped),
        counts(figures.failures),
        " ".join(filter(None, (str(figures.suspensions or ""), now))) or "-",
        str(figures.dropped or "-"),
        f"{amount(figures.bytes_sent)}/{amount(figures.bytes_received)}",
        duration(figures.waited_us),
        duration(figures.wait_per_call_us) if figures.calls else "-",
        duration(figures.longest_wait_us),
    )
    return dict(zip(_STATS, (str(pid), target, hook, str(figures.calls), *cells)))

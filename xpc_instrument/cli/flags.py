"""The flags that the verbs have in common, and what is wrong with the words of one."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any, List, Optional, Tuple

from ..core.model.local import DEEPEST, MOST_FRAMES
from ..core.model.target import line_mistake
from ..core.model.times import TIME_FORM, parse_seconds

LONGEST = 1800.0
"""Seconds after which a verb ends if nothing else is said."""


def seconds(text: str) -> float:
    """A span of time as it is typed. Raises `ArgumentTypeError`."""
    span = parse_seconds(text)
    if not span:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {TIME_FORM}")
    return span


def _fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a fraction of the calls above 0, at most 1")
    return number


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of calls a second, 0 for no limit")
    return number


def _levels(text: str) -> int:
    """A depth of captured values as it is typed. Raises `ArgumentTypeError`."""
    if text not in map(str, range(DEEPEST + 1)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of levels from 0 to {DEEPEST}")
    return int(text)


def frames(text: str) -> int:
    """A number of frames as it is typed. Raises `ArgumentTypeError`."""
    if text not in map(str, range(1, MOST_FRAMES + 1)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of frames from 1 to {MOST_FRAMES}")
    return int(text)


def number(text: str) -> int:
    """A number as it is typed. Raises `ArgumentTypeError`."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 upwards")
    return int(text)


def add_verb(commands: Any, name: str, what: str, *, limit: int, rate: float = 0.0, targets: str = "TARGET...", examples: str) -> Any:
    """Declare a verb with the flags that all have; `limit` and `rate` are the defaults of `-n` and `--rate`, 0 for none."""
    parser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        usage=f"xpc {name} APP {targets} [flags]\n       xpc {name} {targets} [flags] -- COMMAND [ARGUMENT]...",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", metavar="APP, TARGET", nargs="*", help="an app name, a pid or an address; then targets or patterns")
    parser.add_argument(
        "-n", dest="limit", metavar="N", type=number, default=limit, help=f"end after N events, 0: no limit; default {limit}"
    )
    parser.add_argument(
        "--for", dest="expires", metavar="TIME", type=seconds, default=LONGEST, help="end after 200ms, 5s, 10m, 1h; default 30m"
    )
    parser.add_argument("--sample", metavar="F", type=_fraction, help="only that fraction of the calls, left to chance")
    rate_help = f"at most R calls a second in each process, 0: no limit; default {rate:g}"
    parser.add_argument("--rate", metavar="R", type=_rate, default=rate, help=rate_help)
    parser.add_argument(
        "--attach", action="store_true", help="bring the agent into the process first, if APP is a pid without it; it stays"
    )
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.add_argument("-o", dest="output", metavar="FILE", help="write events there as JSON lines, too")
    add_connection(parser)
    return parser


def add_connection(parser: Any) -> None:
    """How an application is reached that is not on this machine."""
    parser.add_argument("--authkey-file", metavar="FILE", help="the key of an application on TCP")
    parser.add_argument("--tls-dir", metavar="DIR", help="the certificates for an application beyond loopback")
    parser.add_argument("--plaintext-beyond-loopback", action="store_true", help=argparse.SUPPRESS)


def add_captured(parser: Any) -> None:
    """The flags of the verbs that show captured values."""
    parser.add_argument(
        "-x", dest="depth", metavar="N", type=_levels, default=2, help="levels of values that are shown, up to 5; default 2"
    )
    parser.add_argument("--stack", metavar="N", type=frames, nargs="?", const=8, default=0, help="the N innermost frames of the caller; 8")


def split_words(options: argparse.Namespace, least: int) -> Tuple[Optional[str], List[str]]:
    """The application and the targets; None for an application that is started. Raises `SystemExit` for wrong usage."""
    words = list(options.words)
    app = None if options.started is not None else words.pop(0) if words else ""
    if app == "" or len(words) < least or options.started == []:
        what = (
            "a command behind --"
            if options.started == []
            else "an application (see `xpc ps`)"
            if app == ""
            else "a target, such as shop.checkout:charge"
        )
        raise wrong(options, f"expected {what}")
    mistake = line_mistake(words)
    if mistake:
        raise wrong(options, mistake)
    return app, words


def wrong(options: argparse.Namespace, mistake: str) -> SystemExit:
    """To be raised for wrong usage, once it is said what is wrong."""
    print(f"xpc: {mistake}; see `xpc {options.command} --help`", file=sys.stderr)
    return SystemExit(2)

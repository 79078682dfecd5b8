"""The command line: `xpc-instrument COMMAND`. Each command is a module with `add_parser` and `run`.

Exit codes: 0 success; 1 the answer is bad news (`check` found a target that cannot be hooked); 2 wrong usage; 3 wrong config; 4 no such
application; 5 the application cannot be talked to; 6 the command cannot be instrumented, or the process attached to; 7 the certificates
cannot be made; 126 and 127 the command cannot be executed, or found.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import List, Optional

from ..core.model.errors import (
    ApplicationNotFoundError,
    AttachError,
    AuthenticationError,
    CertificatesError,
    ChannelError,
    ConfigError,
    ExpressionError,
    InjectionError,
    TargetError,
    XpcError,
)
from ..core.version import __version__

# Those that look on: `-- COMMAND` starts the application for them, and their flags may stand anywhere.
_VERBS = ("watch", "log", "monitor", "stat", "stack", "trace", "record", "inject")
# Modules of this package.
_COMMANDS = ("run", "attach", "detach", "ps", "ls", "check", "certificates", "replay", *_VERBS)

EXIT_CODES = """\
exit codes:
  0  success                       4  no such application
  1  bad news (see the output)     5  the application cannot be talked to
  2  wrong usage                   6  it cannot be instrumented or attached to
  3  wrong config                  7  the certificates cannot be made
  126, 127  the command cannot be executed, or found
"""

EXAMPLES = """\
examples:
  xpc-instrument run -- gunicorn --workers 3 shop:app
  xpc-instrument run --probe 'shop.checkout:*' -- python -m shop
  xpc-instrument attach 4711
  xpc-instrument detach http.server-4711
  xpc-instrument ps
  xpc-instrument ls shop
  xpc-instrument watch shop shop.checkout:charge
  xpc-instrument log shop shop/checkout.py:24 'total={total}'
  xpc-instrument stat shop shop.checkout:charge --by currency --of amount
  xpc-instrument record shop shop.checkout:charge --with 'shop.gateway:**' -o charge.jsonl
  xpc-instrument replay charge.jsonl
  xpc-instrument inject shop shop.gateway:Gateway.post '10%raise(TimeoutError)' --for 1m
  xpc-instrument check
  xpc-instrument certificates certs shop scripts
"""


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="xpc-instrument",
        description="Hook functions of a running Python application from another process.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xpc-instrument {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    words = sys.argv[1:] if argv is None else argv
    # The one that is meant: `run` is in front of an application, which need not pay for what the others import.
    for name in words[:1] if words[:1] and words[0] in _COMMANDS else _COMMANDS:
        importlib.import_module(f".{name}", __name__).add_parser(commands)
    options = _parsed(parser, list(words))
    # None if it was closed by who started this, such as a daemon.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as the process runs
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - likewise
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What runs may be called something that this terminal has no letters for.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(options.run(options))
    except XpcError as error:
        print(f"xpc-instrument: {error}", file=sys.stderr)
        return _code(error)
    except BrokenPipeError:
        # The reader of our output has had enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"xpc-instrument: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parsed(parser: argparse.ArgumentParser, words: List[str]) -> argparse.Namespace:
    if words[:1] and words[0] in _VERBS:
        started = words[words.index("--") + 1 :] if "--" in words else None
        options, rest = parser.parse_known_args(words[: words.index("--")] if "--" in words else words)
        unknown = [word for word in rest if word.startswith("-")]
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        options.words += rest
        options.started = started
        return options
    return parser.parse_args(words)


def _code(error: XpcError) -> int:
    for kind, code in (
        (ExpressionError, 2),
        (ConfigError, 3),
        (ApplicationNotFoundError, 4),
        (AuthenticationError, 5),
        (ChannelError, 5),
        (InjectionError, 6),
        (AttachError, 6),
        (CertificatesError, 7),
        (TargetError, 1),
    ):
        if isinstance(error, kind):
            return code
    return 1


def entry() -> None:
    """The console script."""
    sys.exit(main())

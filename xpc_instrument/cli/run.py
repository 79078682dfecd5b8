"""`xpc-instrument run`: start a Python program with the agent in it, and become it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import signal
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..core.config.packed import pack
from ..core.config.schema import Config
from ..core.model.errors import InjectionError
from .options import add_config_options, add_on_demand_option, read_config
from .stub import VARIABLE as STUB_VARIABLE
from .stub import stub_text

_INTERPRETER = re.compile(r"^(python|pypy)[0-9.]*(\.exe)?$")
# Interpreter options that take a value as the next word.
_WITH_VALUE = "WX"
_LONG_WITH_VALUE = "--check-hash-based-pycs"
# -E and -I ignore PYTHONPATH, -S and -I do not load sitecustomize.
_BLOCKING = {"I": "ignores the environment", "E": "ignores PYTHONPATH", "S": "does not load sitecustomize"}


# Bytes of one variable of the environment on Linux are 128 KiB (execve(2), MAX_ARG_STRLEN), with its name and a zero.
_LONGEST_VARIABLE = (128 << 10) - 100


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "run",
        help="start a Python program with the agent in it",
        description="Start a Python program with the agent in it, and become it: same pid, signals and exit status.",
        usage="xpc-instrument run [--config FILE] [--app NAME] [--probe TARGET]... [--on-demand PATTERN]... -- COMMAND [ARGUMENT]...",
        epilog="examples:\n"
        "  xpc-instrument run -- python -m http.server 8000\n"
        "  xpc-instrument run --app shop --probe 'shop.checkout:*' -- gunicorn --workers 3 shop.web:app\n"
        "  xpc-instrument run -- /srv/shop/venv/bin/python manage.py runserver\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_options(parser)
    add_on_demand_option(parser)
    parser.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="any Python command, after --")
    parser.set_defaults(run=run)


class Plan(NamedTuple):
    """How to start the command: the words to execute, and the interpreter that will run it, if that is known."""

    words: List[str]
    interpreter: Optional[str]


def run(options: argparse.Namespace) -> int:
    """Execute the command; returns only if that fails."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words or not words[0]:
        raise InjectionError("no command: write it after --, such as `xpc-instrument run -- python -m http.server`")
    config = read_config(options)
    plan = plan_command(words)
    if plan.interpreter is not None:
        check_interpreter(plan.interpreter)
    elif shutil.which(words[0]) is not None:
        print(
            f"xpc-instrument: {words[0]} is not recognised as a Python program; Python programs that it starts are instrumented",
            file=sys.stderr,
        )
    environment = make_environment(dict(os.environ), _packed(config), os.getpid(), stub_text(config))
    # What this process has buffered would be lost.
    sys.stdout.flush()
    sys.stderr.flush()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        # Python ignores them from its start, what is executed inherits that, and a shell cannot undo it.
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvpe(plan.words[0], plan.words, environment)
    except FileNotFoundError:
        found = shutil.which(plan.words[0])
        reason = "command not found" if found is None else "its first line names an interpreter that does not exist"
        print(f"xpc-instrument: {plan.words[0]}: {reason}", file=sys.stderr)
        return 127
    except OSError as error:
        print(f"xpc-instrument: {plan.words[0]}: {error.strerror}", file=sys.stderr)
        return 126


def _packed(config: Config) -> str:
    packed = pack(config)
    if len(packed) > _LONGEST_VARIABLE:
        raise InjectionError(
            f"the config has {len(config.probes)} probes, {len(packed)} bytes when packed, and {_LONGEST_VARIABLE} can be handed over: "
            "name modules and classes with globs, such as shop.checkout:*, instead of each function"
        )
    return packed


def make_environment(environment: Dict[str, str], config: str, pid: int, stub: str = "") -> Dict[str, str]:
    """The environment that starts the agent in the command and in the Python processes that it starts."""
    folder = _bootstrap_folder()
    existing = environment.get("PYTHONPATH", "")
    # An empty entry means the current folder; an empty variable means nothing.
    entries = [entry for entry in existing.split(os.pathsep) if entry != folder] if existing else []
    environment["PYTHONPATH"] = os.pathsep.join([folder, *entries])
    environment["XPC_INSTRUMENT_CONFIG_PACKED"] = config
    environment["XPC_INSTRUMENT_MAIN_PID"] = str(pid)
    environment.pop(STUB_VARIABLE, None)
    if stub:
        environment[STUB_VARIABLE] = stub
    return environment


def _bootstrap_folder() -> str:
    """The folder of the agent's sitecustomize. The agent is found and not imported, which would take longer than all else here."""
    spec = importlib.util.find_spec("xpc_agent")
    if spec is None or spec.origin is None:
        raise InjectionError("the package xpc_agent, a part of xpc-instrument, cannot be found: install xpc-instrument again")
    return os.path.join(os.path.dirname(os.path.abspath(spec.origin)), "bootstrap")


def plan_command(words: List[str]) -> Plan:
    """What to execute for a command. Raises `InjectionError` where the agent could not get in."""
    program = words[0]
    if program == "-m" or (program.endswith(".py") and not _executes(program)):
        words = [sys.executable, *words]
        program = words[0]
    if _INTERPRETER.match(os.path.basename(program)):
        _refuse_blocking(words)
        return Plan(words, shutil.which(program))
    path = shutil.which(program)
    if path is None:
        return Plan(words, None)
    if os.path.basename(program) == "env":
        behind = _behind_env(words)
        return Plan(words, plan_command(behind).interpreter if behind else None)
    interpreter, flags = _shebang(path)
    if interpreter is not None:
        _refuse_blocking([interpreter, *flags])
    return Plan(words, interpreter)


def _behind_env(words: List[str]) -> List[str]:
    """The command that env(1) executes; empty where its options do not tell. Raises `InjectionError` where env keeps the agent out."""
    rest = list(words[1:])
    while rest and (rest[0].startswith("-") or "=" in rest[0]):
        word = rest.pop(0)
        if word in ("-", "-i", "--ignore-environment") or word.startswith("PYTHONPATH="):
            raise InjectionError(
                f"{' '.join(words[:4])}: the agent cannot get in, because {word} takes PYTHONPATH from it: leave it out, set the variables "
                "before `xpc-instrument run`, or call xpc_agent.start() in the program"
            )
        if word.startswith("-"):
            return []
    return rest


def _executes(script: str) -> bool:
    """Whether a shell would find the script and the system could execute it, by its first line."""
    path = shutil.which(script)
    return path is not None and bool(_first_lines(path))


def _refuse_blocking(words: List[str]) -> None:
    """Refuse interpreter options that keep the agent out."""
    skip = False
    for word in words[1:]:
        if skip:
            skip = False
            continue
        if word == _LONG_WITH_VALUE:
            skip = True
            continue
        if not word.startswith("-") or word in ("-", "--") or word.startswith("--"):
            return
        for position, letter in enumerate(word[1:], 1):
            if letter in _BLOCKING:
                raise InjectionError(
                    f"{' '.join(words[:3])}: the agent cannot get in, because -{letter} {_BLOCKING[letter]}: leave it out, "
                    "or call xpc_agent.start() in the program"
                )
            if letter in "mc":
                return
            if letter in _WITH_VALUE:
                skip = position == len(word) - 1
                break


def _shebang(path: str) -> Tuple[Optional[str], List[str]]:
    """The Python interpreter that a script names, and its options; None if it is no Python script."""
    lines = _first_lines(path)
    if not lines:
        return None, []
    words = _split(lines[0][2:])
    if words[:1] == ["/bin/sh"] and len(lines) > 1 and lines[1].startswith("'''exec'"):
        # How installers write an interpreter's path that is too long, or has a space, for a shebang.
        words = _split(lines[1].replace("'''exec'", "", 1))[:1]
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if word != "-S"]
    if not words or not _INTERPRETER.match(os.path.basename(words[0])):
        return None, []
    return shutil.which(words[0]), words[1:]


def _first_lines(path: str) -> List[str]:
    """The first lines of a script whose first line names an interpreter; none of any other file."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return []
    return head.decode("utf-8", "replace").splitlines() if head.startswith(b"#!") else []


def _split(line: str) -> List[str]:
    try:
        return shlex.split(line)
    except ValueError:
        # An apostrophe without its partner; the system does not know quotes either.
        return line.split()


def is_this_interpreter(interpreter: str) -> bool:
    """Whether a path leads to the running Python and its environment.

    `python` and `python3` of one virtual environment do both; those of two environments, which are links to one file, do not.
    """
    try:
        same = os.path.samefile(interpreter, sys.executable)
    except OSError:
        return False
    return same and _environment(interpreter) == _environment(sys.executable)


def _environment(interpreter: str) -> str:
    """The virtual environment of an interpreter, found as Python finds it (PEP 405), or ""."""
    folder = os.path.dirname(os.path.abspath(interpreter))
    for one in (folder, os.path.dirname(folder)):
        if os.path.isfile(os.path.join(one, "pyvenv.cfg")):
            return os.path.realpath(one)
    return ""


def check_interpreter(interpreter: str) -> None:
    """Refuse an interpreter whose environment does not have the package. Raises `InjectionError`."""
    if is_this_interpreter(interpreter):
        return
    # Late: it takes as long to import as half of this command, and most commands run this very Python.
    import subprocess

    from ..core.version import __version__

    # Without the current folder, which `-c` adds and the agent's start does not see.
    code = "import sys; sys.path = [*filter(None, sys.path)]; import xpc_agent, xpc_instrument; print('xpc', xpc_instrument.__version__)"
    try:
        done = subprocess.run(  # noqa: S603
            [interpreter, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InjectionError(f"{interpreter} cannot be run: {error}") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise InjectionError(
            f"{interpreter} cannot import the agent ({reason[0]}): install it there, "
            f"{interpreter} -m pip install, and the folder or URL of xpc-instrument"
        )
    word, version = done.stdout.split()[-2:-1], done.stdout.split()[-1:]
    if word != ["xpc"]:
        raise InjectionError(f"{interpreter} is no Python: asked for its version of xpc-instrument it says {done.stdout.strip()[:100]!r}")
    if version != [__version__]:
        print(
            f"xpc-instrument: note: {interpreter} has version {''.join(version)} of xpc-instrument, this command {__version__}",
            file=sys.stderr,
        )

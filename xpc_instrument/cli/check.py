"""`xpc-instrument check`: hold a config against the code that it names, without running the application."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import subprocess
import sys
from typing import Any, Dict, List, Tuple

from ..core.config.schema import Config
from ..core.model.errors import TargetError
from ..core.model.target import is_glob, module_matches, split_target
from .options import add_config_options, current_folder, read_config
from .output import show, show_json
from .run import check_interpreter, is_this_interpreter, plan_command

# In front of the reason where a module is there, but cannot be imported here.
_UNKNOWN = "?"


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "check",
        help="validate a config against importable code",
        description="Validate a config and resolve its targets by importing the modules that they name (from the current folder, like "
        "`python -m`), by the Python of the application's COMMAND if that is given. A module that cannot be imported for want of what the "
        "application prepares first, such as settings, is `unknown`. Exits with 1 if a target cannot be hooked.",
    )
    add_config_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: a list of targets")
    parser.add_argument("--python", metavar="FILE", help="the Python that the application runs on; default: this one, or COMMAND's")
    parser.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="after --: how the application is started; not run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what became of each target."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if words and options.words[:1] != ["--"]:
        print(f"xpc-instrument: {words[0]}: expected --config FILE, or the application's command after --", file=sys.stderr)
        return 2
    interpreter = options.python or (plan_command(words).interpreter if words else None)
    if interpreter is not None and not is_this_interpreter(interpreter):
        return _run_on(interpreter, options)
    config = read_config(options)
    if not config.probes:
        print(
            "the config has no probe: there is nothing to check" + (", what is hooked on demand is looked up then" * bool(config.on_demand))
        )
    here = str(current_folder())
    if here not in sys.path:
        sys.path.insert(0, here)
    found = examine(config)
    if options.json:
        show_json(found)
    else:
        show(
            ("TARGET", "STATE", "KIND", "PATCHER", "REASON"),
            [(row["target"], row["state"], row["kind"], row["patcher"], row["reason"]) for row in found],
        )
    return 1 if any(row["state"] not in ("ready", "unknown") for row in found) else 0


def _run_on(interpreter: str, options: argparse.Namespace) -> int:
    """The same check by another Python, with its packages."""
    check_interpreter(interpreter)
    words = [interpreter, "-m", "xpc_instrument.cli", "check"]
    for name in ("config", "app"):
        if getattr(options, name) is not None:
            words += [f"--{name}", getattr(options, name)]
    for target in options.probe:
        words += ["--probe", target]
    # Standard output is passed on: nothing of ours may come behind it.
    sys.stdout.flush()
    return subprocess.run([*words, *(["--json"] if options.json else [])], check=False).returncode  # noqa: S603


def examine(config: Config) -> List[Dict[str, str]]:
    """What each target of a config would become; imports its modules."""
    rows: Dict[str, Dict[str, str]] = {}
    for probe in config.probes:
        for target, reason in _targets(probe.target, probe.exclude):
            if target not in rows:
                rows[target] = _examine_one(target, reason, probe.patcher)
    return list(rows.values())


def _targets(pattern: str, exclude: Tuple[str, ...]) -> List[Tuple[str, str]]:
    """The targets that a pattern stands for, each with the reason why it cannot be looked at, or ""."""
    from xpc_agent.targets.glob import expand

    found: List[Tuple[str, str]] = []
    modules, qualified = split_target(pattern)
    for name in _modules(modules):
        try:
            module = importlib.import_module(name)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            absent = isinstance(error, ModuleNotFoundError) and error.name is not None and f"{name}.".startswith(f"{error.name}.")
            reason = f"importing {name} failed: {type(error).__name__}: {error}"
            found.append((f"{name}:{qualified}", reason if absent else f"{_UNKNOWN}{reason}; the application may prepare what that needs"))
            continue
        found += [(target, "") for target in expand(pattern, exclude, module, name)]
    return found or [(pattern, "nothing matches")]


def _modules(pattern: str) -> List[str]:
    if not is_glob(pattern):
        return [pattern]
    top = pattern.partition(".")[0]
    try:
        package = importlib.import_module(top)
    except ImportError:
        return [top]
    names = [top] + [
        info.name
        for info in pkgutil.walk_packages(getattr(package, "__path__", ()), top + ".", onerror=lambda name: None)
        if not info.name.endswith("__main__")
    ]
    return [name for name in names if module_matches(f"{pattern}:x", name)]


def _examine_one(target: str, reason: str, patcher: str) -> Dict[str, str]:
    from xpc_agent.patching.choice import name_of_patcher
    from xpc_agent.targets.resolve import UnpatchableError, resolve

    row = {"target": target, "state": "missing", "kind": "-", "patcher": "-", "reason": reason}
    if reason.startswith(_UNKNOWN):
        return {**row, "state": "unknown", "reason": reason[len(_UNKNOWN) :]}
    if reason:
        return row
    try:
        resolved = resolve(target)
        row["kind"] = resolved.kind.value
        row["patcher"] = name_of_patcher(resolved, patcher)
    except UnpatchableError as error:
        row.update(state="unpatchable", reason=str(error))
    except TargetError as error:
        row.update(reason=str(error))
    else:
        row["state"] = "ready"
    return row

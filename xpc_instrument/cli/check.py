"""`xpc-instrument check`: hold a config against the code that it names, without running the application.

Rules:
- Modules are imported in a forked child. One that ends its process meanwhile, or crashes it, is named, and another child looks at the rest.
- What could not be looked at is no success: a command that is not there, a Python that is none, a module that ends the process.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from typing import Any, Dict, List, NoReturn, Optional, TextIO, Tuple

from ..core.config.schema import Config
from ..core.model.errors import InjectionError, TargetError
from ..core.model.target import is_glob, module_matches, split_target
from ..core.model.words import nearest_few
from .options import add_config_options, current_folder, read_config
from .output import show, show_json
from .run import check_interpreter, is_this_interpreter, plan_command

# In front of the reason where a module is there, but cannot be imported here.
_UNKNOWN = "?"

Rows = List[Dict[str, str]]


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
    if words and interpreter is None:
        if shutil.which(words[0]) is None:
            print(f"xpc-instrument: {words[0]}: command not found", file=sys.stderr)
            return 127
        print(f"xpc-instrument: {words[0]} is not recognised as a Python program; this Python looks, {sys.executable}", file=sys.stderr)
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


def examine(config: Config) -> Rows:
    """What each target of a config would become, as children find that import its modules. Raises `InjectionError` if none can."""
    # By module: how it has ended the process.
    ended: Dict[str, str] = {}
    while True:
        rows, importing, how = _ask_child(config, ended)
        if rows is not None:
            return rows
        if not importing or importing in ended:
            raise InjectionError(f"the process that imports the targets {how}")
        ended[importing] = f"importing {importing} ended the process: it {how}"


def _ask_child(config: Config, ended: Dict[str, str]) -> Tuple[Optional[Rows], str, str]:
    """(what it has found, or None; what it was importing when it ended; how it ended)."""
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _answer(config, ended, os.fdopen(write, "w"))
    os.close(write)
    rows: Optional[Rows] = None
    importing = ""
    with open(read, encoding="utf-8") as told:
        # To the last line, and no further: what a module has started may have the other end, too.
        for line in told:
            message = json.loads(line)
            if isinstance(message, list):
                rows = message
                break
            importing = message
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = {one.value: one.name for one in signal.Signals}
        return rows, importing, f"was ended by signal {known.get(number, number)}"
    return rows, importing, f"exited with {os.WEXITSTATUS(status)}"


def _answer(config: Config, ended: Dict[str, str], parent: TextIO) -> NoReturn:
    """In the child: write what is being imported, and in the end what was found, each as a line of JSON."""
    status = 1
    try:
        print(json.dumps(_Examination(ended, parent).rows(config)), file=parent, flush=True)
        atexit._run_exitfuncs()
        status = 0
    except KeyboardInterrupt:
        pass  # the parent has it too
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


class _Examination:
    """One look at all targets. `ended` has the modules that are not to be imported, each with the reason; `parent` is told of others."""

    def __init__(self, ended: Dict[str, str], parent: TextIO) -> None:
        self._ended = ended
        self._parent = parent

    def rows(self, config: Config) -> Rows:
        """What each target of a config would become."""
        found: Dict[str, Dict[str, str]] = {}
        for probe in config.probes:
            for target, reason in self._targets(probe.target, probe.exclude):
                if target not in found:
                    found[target] = _examine_one(target, reason, probe.patcher)
        return list(found.values())

    def _targets(self, pattern: str, exclude: Tuple[str, ...]) -> List[Tuple[str, str]]:
        """The targets that a pattern stands for, each with the reason why it cannot be looked at, or ""."""
        from xpc_agent.targets.glob import expand, functions_of

        found: List[Tuple[str, str]] = []
        names: List[str] = []
        modules, qualified = split_target(pattern)
        for name in self._modules(modules):
            module, reason = self._import(name)
            if module is None:
                found.append((f"{name}:{qualified}", reason))
                continue
            names += [f"{name}:{one}" for one in functions_of(module)]
            found += [(target, "") for target in expand(pattern, exclude, module, name)]
        # A star stands for nothing here: what is like the rest of it.
        near = [] if found else nearest_few(pattern.replace("*", ""), names)
        return found or [(pattern, "nothing matches" + (f"; the nearest are {', '.join(near)}" if near else ""))]

    def _modules(self, pattern: str) -> List[str]:
        if not is_glob(pattern):
            return [pattern]
        top = pattern.partition(".")[0]
        package, _ = self._import(top)
        if package is None:
            return [top]
        names = [top] + [
            info.name
            for info in pkgutil.walk_packages(getattr(package, "__path__", ()), top + ".", onerror=lambda name: None)
            if not info.name.endswith("__main__")
        ]
        return [name for name in names if module_matches(f"{pattern}:x", name)]

    def _import(self, name: str) -> Tuple[Any, str]:
        """The module, or None and the reason."""
        if name in self._ended:
            return None, self._ended[name]
        print(json.dumps(name), file=self._parent, flush=True)
        try:
            return importlib.import_module(name), ""
        except KeyboardInterrupt:
            raise
        except SystemExit as error:
            return None, f"importing {name} ended the process: SystemExit: {error}"
        except BaseException as error:
            reason = f"importing {name} failed: {type(error).__name__}: {error}"
            if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{name}.".startswith(f"{error.name}."):
                return None, reason + _nearest_modules(error.name)
            return None, f"{_UNKNOWN}{reason}; the application may prepare what that needs"


def _nearest_modules(missing: str) -> str:
    """The end of what is said of a module that is not there: what is called nearly so."""
    package, dot, _ = missing.rpartition(".")
    path = getattr(sys.modules.get(package), "__path__", ()) if package else None
    known = {f"{package}{dot}{found.name}" for found in pkgutil.iter_modules(path)}
    near = nearest_few(missing, known if package else known | set(sys.builtin_module_names), cutoff=0.7)
    return f"; the nearest modules are {', '.join(near)}" if near else ""


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

"""What the agent's stand-in is told, in one variable of the environment: see `xpc_agent/bootstrap/sitecustomize.py`, which reads it."""

from __future__ import annotations

import json
import os

from xpc_agent.bootstrap.needed import is_needed

from ..core.config.schema import Config
from ..core.discovery.folder import runtime_dir
from ..core.model.errors import XpcError
from ..core.model.pattern import Pattern
from ..core.model.target import is_glob, split_target
from ..core.version import __version__

VARIABLE = "XPC_INSTRUMENT_STUB"
# What the place of the runtime directory depends on (`core/discovery/folder.py`); a process in which one has changed does without.
_FOLDERS = ("XPC_INSTRUMENT_RUNTIME_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP")
# Bytes; the names of more modules than that are shortened to those of their packages.
_LONGEST = 32 << 10


def stub_text(config: Config) -> str:
    """The value of the variable; "" where the agent has to be loaded at once.

    So at a fixed address, where there are no unix sockets, and where a target is in a module that the agent needs itself.
    """
    if config.manager.address != "unix" or not hasattr(os, "register_at_fork"):
        return ""
    try:
        folder = str(runtime_dir())
    except (XpcError, OSError):
        return ""  # the agent says so, in each process
    if "\n" in folder:
        return ""
    modules = {split_target(probe.target)[0] for probe in config.probes}
    # Then the agent is loaded before the application imports anything: in the middle of such an import it would find the half of a module.
    if any(is_needed(module) for module in modules):
        return ""
    names = {_letters(module) for module in modules}
    if sum(map(len, names)) > _LONGEST:
        names = {name.partition(".")[0].rstrip("*") + "*" for name in names}
    facts = {
        "where": "|".join(os.environ.get(name, "") for name in _FOLDERS).replace("\n", " "),
        "app": config.app,
        "folder": folder,
        "quoted": json.dumps(folder)[1:-1],
        "version": __version__,
        "modules": ",".join(sorted(names)),
        # A space in front, so that "" for all is one of them.
        "on-demand": ",".join(sorted({f" {Pattern(text).package}" for text in config.on_demand})),
    }
    text = "\n".join(f"{name} {value}" for name, value in facts.items())
    return text if len(text) <= 2 * _LONGEST else ""


def _letters(module: str) -> str:
    """A module, or for a glob the letters with which what it stands for begins, and a star."""
    if not is_glob(module):
        return module
    return module[: min(module.index(sign) for sign in "*?[" if sign in module)] + "*"

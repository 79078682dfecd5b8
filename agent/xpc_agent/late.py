"""One copy of each module of ours, however late it is loaded and whatever becomes of `sys.modules`.

Much of the agent is loaded when somebody first asks for it. Meanwhile the application may have taken out what is there, as tools do that
unload modules, and as `mock.patch.dict(sys.modules, ...)` does when it ends with all that came while it was in force. What is loaded then
would bring second copies of what it imports: of `Mode`, say, of which no member is one of the first's.

Rules:
- What has been loaded is kept here. Where a module of ours is imported that has been taken out, it is put back (`targets/imports.py`, which
  the import system asks first), whoever imports it: a statement of ours, a pickle, the application. None is loaded a second time.
- Nothing else is kept: a library that the application unloads and imports again is a new one to it, with us as without us. But a thread of
  ours imports no second `threading`, which would take that thread for the main one, and wait for its end when the process is to end.
- In a forked child nobody ends what another thread was importing at the fork: what is ours, or what a thread of ours was importing, is
  imported anew by whoever wants it.
- What is loaded late is of the same installation as the rest. Once that has been removed or replaced, nothing more of it is loaded.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from types import FunctionType, ModuleType
from typing import Any, Container, Dict, Optional, Tuple

from xpc_instrument.core.unpatched import get_ident, monotonic

_OURS = ("xpc_agent", "xpc_instrument")

_kept: Dict[str, ModuleType] = {}
_threading: Optional[ModuleType] = None
# For so long, in seconds, the installation is not looked at again: each look lets a busy thread take its turn.
_FRESH = 1.0


class NotLoadedError(Exception):
    """What is needed has to be loaded first, without the lock that is held."""


def is_ours(name: str) -> bool:
    """Whether a module is the agent's or the library's."""
    return name.partition(".")[0] in _OURS


def keep() -> None:
    """Keep what has been loaded by now."""
    global _threading
    _threading = _threading or sys.modules.get("threading")
    for name, module in sys.modules.copy().items():
        if is_ours(name) and type(module) is ModuleType and not getattr(module.__spec__, "_initializing", False):
            _kept.setdefault(name, module)


def keep_one(name: str, module: Any) -> None:
    """Keep a module of ours that has just run."""
    _kept.setdefault(name, module)


def is_whole() -> bool:
    """Whether the functions and classes that modules of ours have of each other are those of what is kept.

    They are not where the application has put `sys.modules` back while the first of them were imported: what was taken out then is there a
    second time by now.
    """
    for module in list(_kept.values()):
        for name, value in vars(module).copy().items():
            if isinstance(value, type) and is_ours(value.__module__):
                home = _kept.get(value.__module__)
                if home is None or not all(map(_is_of_kept, list(vars(value).values()))):
                    return False
                there = vars(home).get(name) if value.__name__ == name else value
                if isinstance(there, type) and there is not value:
                    return False
            elif not _is_of_kept(value):
                return False
    return True


def _is_of_kept(value: Any) -> bool:
    if type(value) is not FunctionType:
        return True
    name = value.__globals__.get("__name__")
    if type(name) is not str or not is_ours(name) or "__spec__" not in value.__globals__:
        return True
    module = _kept.get(name)
    return module is not None and vars(module) is value.__globals__


def kept(name: str) -> Optional[ModuleType]:
    """The module of ours of that name that has been loaded, wherever it is now."""
    return _kept.get(name)


def put_back() -> None:
    """Have `sys.modules` lead to what is kept, whatever is there, and also where the application has taken the finders out."""
    for name, module in _kept.copy().items():
        if sys.modules.get(name) is not module:
            sys.modules[name] = module
            package, _, last = name.rpartition(".")
            # One that imports its modules itself is whole, and kept, after them.
            parent = _kept.get(package)
            if parent is not None:
                setattr(parent, last, module)
    if _threading is not None:
        sys.modules.setdefault("threading", _threading)


def forget_unfinished(gone: Container[int]) -> None:
    """In a forked child: forget what was being imported by the threads `gone`, which are not here, and by whomever of what is ours.

    Those threads would hold the locks of the import system for ever, and a thread of the child may have the ident of one.
    """
    locks: Dict[str, Any] = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
    owners = {name: getattr(reference(), "owner", None) for name, reference in locks.copy().items()}
    here = get_ident()
    left = [name for name, owner in owners.items() if owner in gone or (is_ours(name) and owner not in (None, here))]
    for name in left:
        locks.pop(name, None)
        module = sys.modules.get(name)
        if type(module) is not ModuleType:
            continue
        spec: Any = getattr(module, "__spec__", None)
        is_half = bool(getattr(spec, "_initializing", False))
        if is_half and _kept.get(name) is not module:
            del sys.modules[name]
            if not is_ours(name):
                # As it runs again, the import system is to make them known to it; nobody else has had any of them.
                for inner in [one for one in list(sys.modules) if one.startswith(f"{name}.")]:
                    del sys.modules[inner]
            continue
        if is_half:
            spec._initializing = False
        package, _, last = name.rpartition(".")
        parent = sys.modules.get(package)
        if type(parent) is ModuleType:
            vars(parent).setdefault(last, module)


def spec_of(name: str) -> Optional[importlib.machinery.ModuleSpec]:
    """By which the import system finds the module that is kept; None if there is none, and it may be loaded. Raises `ImportError`."""
    module = _threading if name == "threading" else _kept.get(name)
    if module is None:
        _check_installation()
        return None
    loader: Any = _Kept(module)
    return importlib.machinery.ModuleSpec(name, loader, is_package=hasattr(module, "__path__"))


# How long a thread of the application that computes may keep the others waiting meanwhile, in seconds: an import lets go of the global
# interpreter lock many times, and each time would take the usual 5 ms, with as many turns as there are such threads.
_SWITCHING = 0.0002
_usual = 0.0


def hurry() -> None:
    """Have threads that compute take short turns until `calm`, in the service thread."""
    global _usual
    usual = sys.getswitchinterval()
    if usual > _SWITCHING:
        _usual = usual
        sys.setswitchinterval(_SWITCHING)


def calm() -> None:
    """As before, unless the application has set it meanwhile."""
    global _usual
    usual, _usual = _usual, 0.0
    if sys.getswitchinterval() <= _SWITCHING < usual:
        sys.setswitchinterval(usual)


def _stamp() -> Optional[Tuple[int, int]]:
    """Of this file, which an installer writes anew; None where there is none, as with modules that were handed over in memory."""
    try:
        status = os.stat(__file__)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


_installed = _stamp()
_looked_at = 0.0


def _check_installation() -> None:
    global _looked_at
    now = monotonic()
    if now - _looked_at < _FRESH:
        return
    if _stamp() != _installed:
        raise ImportError(f"xpc-instrument in {os.path.dirname(__file__)} is gone, or another one by now")
    _looked_at = now


# What the import system puts into a module before it has a loader run it, and anew where it is loaded again.
_ATTRIBUTES = ("__name__", "__loader__", "__package__", "__spec__", "__path__", "__file__", "__cached__")


class _Kept:
    """Loads what is there. Whoever loads it again (`importlib.reload`) has it as it is, as others do who have taken names from it."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._own = {name: vars(module)[name] for name in _ATTRIBUTES if name in vars(module)}

    def create_module(self, spec: Any) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self._own)

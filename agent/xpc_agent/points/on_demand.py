"""Which functions a script may hook without the config listing them, and whether their modules can come to be.

Rules:
- Before anybody asks, a pattern costs nothing: no module is looked at, none is watched.
- Nothing is imported, and nothing of the application's runs: a module that is not there yet is looked for by the finders of Python and of
  editable installations alone. Where the application has finders of its own, what is not found may still come, and is waited for.
- The agent's own code is never a target: hooking it would lead back into itself.
"""

from __future__ import annotations

import importlib.machinery
import sys
from typing import Any, List, Optional, Sequence, Tuple

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.pattern import Pattern, compiled
from xpc_instrument.core.model.target import split_target, target_mistake
from xpc_instrument.core.model.words import nearest_few

from ..late import is_ours
from ..targets.glob import functions_of
from ..targets.module import find_module, is_initializing
from ..targets.raw import namespace_of
from ..targets.running import names_to_come

_PYTHONS = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, importlib.machinery.PathFinder)
# Finders that setuptools and six bring to most environments: they find nothing that a target could be in and others do not find.
_ASIDE = frozenset({"_distutils_hack", "six"})
# Those of editable installations look a name up in a dict.
_EDITABLE = "__editable__"


class OnDemand:
    """The patterns of one config."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns: Sequence[Pattern] = compiled(tuple(patterns))

    def allows(self, target: str) -> bool:
        """Whether a script may ask for the target. Raises `TargetError` for one that can never be hooked or is not written as one."""
        if not self.patterns:
            return False
        module, name = split_target(target)
        if not any(pattern.matches(module, name) for pattern in self.patterns):
            return False
        mistake = target_mistake(target)
        if mistake:
            raise TargetError(f"{target}: {mistake}")
        if is_ours(module):
            raise TargetError(f"{target} is code of the agent, which cannot be hooked: it would lead back into itself")
        return True

    def covers(self, module: str, name: str) -> bool:
        """Whether the function of that name may be asked for, be it one that has no name to be reached by."""
        return not is_ours(module) and any(pattern.matches(module, name) for pattern in self.patterns)

    def covers_module(self, name: str) -> bool:
        """Whether functions of the module may be asked for."""
        return not is_ours(name) and any(pattern.matches_module(name) for pattern in self.patterns)

    def check_pending(self, target: str) -> None:
        """A module that is not imported can come to be, as far as can be known. Raises `TargetError` that names the nearest."""
        problem = why_never(split_target(target)[0])
        if problem:
            raise TargetError(f"{target}: {problem}")


def why_never(name: str) -> str:
    """Why a module will never be imported, with the nearest that could be; "" if it may be, or nobody can know."""
    missing, path = _first_missing(name)
    # While `site` runs, as what stands in for the agent does, Python has not put the program's own folder on its path yet.
    if not missing or is_initializing(sys.modules.get("site")) or any(map(_may_find_more, list(sys.meta_path))):
        return ""
    import pkgutil

    package, dot, last = missing.rpartition(".")
    known = {module for module in list(sys.modules) if module.rpartition(".")[0] == package}
    known |= {f"{package}{dot}{found.name}" for found in pkgutil.iter_modules(path)}
    near = nearest_few(missing, known, cutoff=0.7)
    hint = f"; the nearest modules are {', '.join(near)}" if near else ""
    return f"there is no module {missing}: Python cannot find {last} in {package or 'its path'}{hint}"


def why_nothing(pattern: Pattern, may_come: bool = True) -> str:
    """Why a pattern that stands for nothing now never will, with the nearest that it could mean; "" if it may, or nobody can know.

    Without `may_come` what a module may yet define is left out of account.
    """
    name, _, wanted = pattern.text.partition(":")
    if "*" in name:
        return why_never(pattern.package) if pattern.package and find_module(pattern.package) is None else ""
    module = find_module(name)
    if module is None:
        return why_never(name)
    if may_come and (is_initializing(module) or names_to_come(name)):
        return ""
    # A star stands for nothing here: what is like the rest of it.
    near = nearest_few(wanted.replace("*", ""), functions_of(module), cutoff=0.5)
    return f"no function of {name} matches" + (f"; the nearest are {', '.join(near)}" if near else "")


def _origin(finder: Any) -> str:
    """The module of a finder, which is a class or an object."""
    return str((finder if type(finder) is type else type(finder)).__module__)


def _may_find_more(finder: Any) -> bool:
    origin = _origin(finder)
    return not (finder in _PYTHONS or is_ours(origin) or origin.rpartition(".")[2] in _ASIDE or origin.startswith(_EDITABLE))


def _find(name: str, path: Optional[List[str]]) -> Optional[importlib.machinery.ModuleSpec]:
    for finder in list(sys.meta_path):
        if finder is importlib.machinery.PathFinder or _origin(finder).startswith(_EDITABLE):
            spec: Optional[importlib.machinery.ModuleSpec] = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None


def _first_missing(name: str) -> Tuple[str, Optional[List[str]]]:
    """The first of `package`, `package.module`, ... that cannot be found, and the path on which it would be; "" if nothing is missing."""
    parts = name.split(".")
    path: Optional[List[str]] = None
    nothing = "", None
    for depth in range(1, len(parts) + 1):
        one = ".".join(parts[:depth])
        module = find_module(one)
        if module is None and one in sys.modules:
            return nothing  # lazy, or in the making
        if module is not None:
            found = namespace_of(module).get("__path__")
            if found is None:
                return nothing if depth == len(parts) else (".".join(parts[: depth + 1]), [])
            path = list(found)
            continue
        if path is None and (one in sys.builtin_module_names or importlib.machinery.FrozenImporter.find_spec(one) is not None):
            return nothing
        spec = _find(one, path)
        if spec is None:
            return one, path
        if spec.submodule_search_locations is None:
            return nothing if depth == len(parts) else (".".join(parts[: depth + 1]), [])
        path = list(spec.submodule_search_locations)
    return nothing

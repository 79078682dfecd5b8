"""The modules that are imported, looked at without running any of them."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from typing import Any, Optional, Set, Tuple

from .raw import namespace_of


def find_module(name: str) -> Optional[Any]:
    """The imported module of that name; the main module too, if it was started under that name (`python -m NAME`, `python NAME.py`)."""
    module = sys.modules.get(name)
    if module is not None:
        return None if is_lazy(module) else module
    return sys.modules.get("__main__") if name in main_names() else None


def is_lazy(module: Any) -> bool:
    """Whether the module is one of `importlib.util.LazyLoader` that has not run: any look at its attributes would run it."""
    util = sys.modules.get("importlib.util")
    if util is None or type(module) is not getattr(util, "_LazyModule", None):
        return False
    # Later releases of Python keep the lazy class until the module has run.
    state = getattr(namespace_of(module).get("__spec__"), "loader_state", None)
    return not (type(state) is dict and state.get("is_loading"))


def main_names() -> Tuple[str, ...]:
    """Under which names, besides `__main__`, the main module goes."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name = str(spec.name)
        return (name, name[: -len(".__main__")]) if name.endswith(".__main__") else (name,)
    file = getattr(main, "__file__", None)
    if isinstance(file, str) and file.endswith(".py"):
        return (os.path.basename(file)[:-3],)
    return ()


def names_of_modules(pattern: str) -> Set[str]:
    """Under which names the imported modules go to a pattern: the main one by that by which others could import it, if it has one and
    the pattern does not say `__main__`.
    """
    mains = main_names()
    return {*list(sys.modules), *mains} - ({"__main__"} if mains and not pattern.startswith("__main__:") else set())


def is_initializing(module: Any) -> bool:
    """Whether a module is being imported right now; it will be looked at when it has run. A lazy one is not run by being asked."""
    return bool(getattr(namespace_of(module).get("__spec__"), "_initializing", False))


def is_importable(module: str) -> bool:
    """Whether the top-level package of a module can be found from here; nothing is imported."""
    if not module or module in sys.modules:
        return True
    top = module.partition(".")[0]
    if top in sys.modules or top in sys.builtin_module_names:
        return True
    return importlib.machinery.PathFinder.find_spec(top) is not None

"""Post-import hooks: be told when a module has been imported, without importing anything and without ever failing an import.

Rules:
- One finder, first on `sys.meta_path`, that answers only for modules that somebody waits for, with the spec that the other finders give.
- The loader it puts in between restores the module's own loader before it runs the module.
- Nothing of ours raises into the import; what fails is logged (logger `xpc_agent`).
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any, Callable, Optional

log = logging.getLogger("xpc_agent")


class _Loader:
    """Stands before a module's own loader for the time between finding and executing it."""

    def __init__(self, loader: Any, imported: Callable[[Any], None]) -> None:
        self._xpc_loader = loader
        self._xpc_imported = imported

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xpc_loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._xpc_loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        loader = self._xpc_loader
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.loader is self:
            spec.loader = loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = loader
        loader.exec_module(module)
        self._xpc_imported(module)


class ImportWatcher:
    """`wanted(name)` says whether a module is waited for; `imported(module)` is called after it has run."""

    def __init__(self, wanted: Callable[[str], bool], imported: Callable[[Any], None]) -> None:
        self._wanted = wanted
        self._imported = imported
        self._here = threading.local()

    def install(self) -> None:
        """Watch from now on."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Watch no more; `sys.meta_path` is as it was."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        """Part of the import system's protocol."""
        try:
            if not self._wanted(name) or getattr(self._here, "finding", False):
                return None
        except Exception:
            log.exception("watching the import of %s failed; its probe points stay as they are", name)
            return None
        self._here.finding = True
        try:
            spec = None
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                if finder is not self and find is not None:
                    spec = find(name, path, target)
                    if spec is not None:
                        break
        finally:
            self._here.finding = False
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        spec.loader = _Loader(spec.loader, self._tell)
        return spec

    def _tell(self, module: Any) -> None:
        try:
            self._imported(module)
        except Exception:
            log.exception("making %s hookable failed; it runs as if the agent were not there", module.__name__)

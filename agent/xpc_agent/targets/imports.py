"""Post-import hooks: be told when a module has been imported, without importing anything and without ever failing an import.

Rules:
- One finder, first on `sys.meta_path`, that answers only for modules that somebody waits for, with the spec that the other finders give.
  What has stood in for the agent gives it its place; a finder that the application may have put first for one import stays first.
- The loader it puts in between restores the module's own loader before it runs the module. A lazy module is waited for until it runs.
- Nothing of ours raises into the import; what fails is logged (logger `xpc_agent`). What interrupts the thread meanwhile goes on.
- Modules of ours are kept, and found again (`late.py`).
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any, Callable, Optional, Set

from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.unpatched import monotonic, sleep

from ..bootstrap.needed import is_pythons_own, take_finder
from ..guard import guard
from ..late import is_ours, keep_one, spec_of
from .module import is_lazy
from .running import frames_of_threads

log = logging.getLogger("xpc_agent")

# How long, in seconds, an import of another thread is waited for that would miss the next finder as this one goes.
_PATIENCE = 0.2


def _is_importing() -> bool:
    """Whether another thread is in the middle of an import."""
    return any(frame.f_code.co_filename == "<frozen importlib._bootstrap>" for frame in frames_of_threads(threading.get_ident()))


class _Loader:
    """Stands before a module's own loader for the time between finding and executing it, and passes for it when asked."""

    def __init__(self, loader: Any, name: str, watcher: ImportWatcher) -> None:
        self._xpc_loader = loader
        self._xpc_name = name
        self._xpc_watcher = watcher

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # what asks `importlib.util.find_spec` for a loader looks at its kind
        return self._xpc_loader.__class__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_xpc_"):  # a copy in the making has none yet
            raise AttributeError(name)
        return getattr(self._xpc_loader, name)

    def create_module(self, spec: Any) -> Any:
        if spec.loader is not self:
            return self._xpc_loader.create_module(spec)
        spec.loader = self._xpc_loader
        try:
            return self._xpc_loader.create_module(spec)
        finally:
            if spec.loader is self._xpc_loader:
                spec.loader = self

    def exec_module(self, module: Any) -> None:
        loader = self._xpc_loader
        try:
            self._restore(module)
        except Exception as error:
            raise_interrupt(error, of_values=True)
            log.exception("%s keeps a loader of the agent's, which behaves as its own", self._xpc_name)
        self._xpc_watcher.run(loader, module, self._xpc_name)

    def _restore(self, module: Any) -> None:
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.loader is self:
            spec.loader = self._xpc_loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self._xpc_loader


class ImportWatcher:
    """`wanted(name)` says whether a module is waited for; `imported(module)` is called after it has run."""

    def __init__(self, wanted: Callable[[str], bool], imported: Callable[[Any], None]) -> None:
        self._wanted = wanted
        self._imported = imported
        self._watching = False
        self._here = threading.local()

    def install(self) -> None:
        """Watch from now on."""
        self._watching = True
        stub = sys.modules.get("_xpc_instrument_stub")
        for index, finder in enumerate(sys.meta_path):
            if finder is self:
                return
            if finder is stub:
                # In one step: a thread that goes through them while one before is taken away misses the next.
                sys.meta_path[index] = self
                return
        place = 0
        if sys.meta_path and not is_pythons_own(sys.meta_path[0]) and _is_importing():
            place = next((index for index, one in enumerate(sys.meta_path) if is_pythons_own(one)), 0)
        sys.meta_path.insert(place, self)

    def uninstall(self) -> None:
        """Watch no more, not even the imports that are under way; `sys.meta_path` is as it was."""
        self._watching = False
        until = monotonic() + _PATIENCE
        while _is_importing() and monotonic() < until:
            sleep(0.001)
        take_finder(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[Any]:
        """Part of the import system's protocol."""
        finding: Set[str] = self._here.__dict__.setdefault("finding", set())
        # A finder may ask all finders itself for the module that it is asked for, or import another one on the way.
        if name in finding:
            return None
        ours = is_ours(name)
        if ours or (name == "threading" and guard.on):
            kept = spec_of(name)
            if kept is not None:
                return kept
        try:
            if not (ours or self._wanted(name)):
                return None
        except Exception as error:
            raise_interrupt(error, of_values=True)
            log.exception("watching the import of %s failed; its probe points stay as they are", name)
            return None
        finding.add(name)
        try:
            spec = self._find(name, path, target)
        finally:
            finding.discard(name)
        loader = getattr(spec, "loader", None)
        if loader is None or type(loader) is _Loader or not (hasattr(loader, "exec_module") and hasattr(loader, "create_module")):
            return spec
        try:
            spec.loader = _Loader(loader, name, self)  # type: ignore[union-attr]
        except Exception as error:
            raise_interrupt(error, of_values=True)
            log.exception("watching the import of %s failed; its probe points stay as they are", name)
        return spec

    def _find(self, name: str, path: Any, target: Any) -> Optional[Any]:
        """The spec that the import system would find without this finder."""
        for finder in list(sys.meta_path):
            if finder is self:
                continue
            find = getattr(finder, "find_spec", None)
            if find is not None:
                spec = find(name, path, target)
                if spec is not None:
                    return spec
            elif sys.version_info < (3, 12) and hasattr(finder, "find_module"):
                return None  # its turn comes before the rest's, by a protocol that only the import system speaks
        return None

    def run(self, loader: Any, module: Any, name: str) -> None:
        """Have its own loader run a module, and tell of it."""
        loader.exec_module(module)
        if is_lazy(module):
            # Nothing has run yet. What runs it at the first look at an attribute is the loader in its spec.
            spec = object.__getattribute__(module, "__spec__")
            spec.loader = _Loader(spec.loader, name, self)
        else:
            self.executed(module, name)

    def executed(self, module: Any, name: str) -> None:
        """The module has run."""
        if not self._watching:
            return
        try:
            if is_ours(name):
                keep_one(name, module)
                if not self._wanted(name):
                    return
            self._imported(module)
        except Exception as error:
            raise_interrupt(error, of_values=True)
            log.exception("making %s hookable failed; it runs as if the agent were not there", name)

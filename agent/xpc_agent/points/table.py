"""The probe points of this process: what the config makes hookable, and what became of it.

Rules:
- A probe point is `pending` until its module is imported, then `ready`, `missing` or `unpatchable`.
- A hook may be added to a pending one; it is armed as soon as the module has run.
- What the config allows on demand becomes a probe point when a script asks for it, and is none any more once it has no hooks and a session
  ends. A name that is wrong is refused then, and leaves nothing behind.
- Hooks are swapped as a whole (`Dispatcher.chain`), so that an invocation sees one state; no lock is on its way.
- `changing` is held to change a point: its state, its patch, its list of hooks. The service thread takes it, threads that import, and
  those whose invocation was a hook's last. Held together with others: the lock of an import before it, as a thread that imports patches
  what it has imported (so nothing that is imported may be waited for inside, see `load_wrapt`); the lock of the sender of events after it.
"""

from __future__ import annotations

import logging
import sys
import types
from typing import Any, Callable, Dict, List, Optional, Tuple

from xpc_instrument.core.config.schema import Config, ProbeConfig
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import is_glob, matches, module_matches, split_target
from xpc_instrument.core.unpatched import Local, RLock

from ..hooks.counters import Counters
from ..hooks.remote import RemoteHook
from ..patching import load_wrapt
from ..targets.glob import expand
from ..targets.module import find_module, is_initializing, main_names
from ..targets.resolve import resolve
from .on_demand import OnDemand
from .point import ProbePoint

log = logging.getLogger("xpc_agent")


class _Here(Local):
    """What a thread is patching: modules that have run meanwhile wait in `imported`."""

    def __init__(self) -> None:
        self.patching = False
        self.imported: List[Tuple[Any, str]] = []


class ProbeTable:
    """All probe points of this process. `on_first_ready` is called once, when one of them has become hookable."""

    def __init__(self, config: Config) -> None:
        self.points: Dict[str, ProbePoint] = {}
        # By module: the points of targets that a glob covers or a script has asked for, where a hook has come before the module.
        self._promised: Dict[str, List[ProbePoint]] = {}
        self.on_first_ready: Optional[Callable[[], None]] = None
        self.changing = RLock()
        self._config = config
        self._here = _Here()
        self.on_demand = OnDemand(config.on_demand)
        # The probes by the module of their target; those whose module is a glob are asked one by one.
        self._by_module: Dict[str, List[ProbeConfig]] = {}
        self._in_any_module: List[ProbeConfig] = []
        for probe in config.probes:
            module = split_target(probe.target)[0]
            if is_glob(module):
                self._in_any_module.append(probe)
            else:
                self._by_module.setdefault(module, []).append(probe)
            if not is_glob(probe.target):
                self.points.setdefault(probe.target, ProbePoint(probe.target, probe))

    # modules -----------------------------------------------------------------------------------------------------------

    def wants_module(self, name: str) -> bool:
        """Whether a probe point may lie in the module."""
        if name in self._by_module or name in self._promised or any(module_matches(probe.target, name) for probe in self._in_any_module):
            return True
        # With the first module in which something may be asked for there is a reason to listen; afterwards nothing is to be done.
        return self.on_first_ready is not None and self.on_demand.covers_module(name)

    def _probes_in(self, module: str) -> List[ProbeConfig]:
        """The probes whose targets may lie in the module, those that name it first."""
        wide = [probe for probe in self._in_any_module if module_matches(probe.target, module)]
        return [*self._by_module.get(module, ()), *wide]

    def module_imported(self, module: Any, name: str = "") -> None:
        """Make the probe points of a module hookable that has just run."""
        here = self._here
        here.imported.append((module, name or module.__name__))
        if here.patching:
            # What the agent needs for patching imports this module, and is not there yet itself.
            return
        here.patching = True
        try:
            while here.imported:
                one, called = here.imported.pop(0)
                if self._needs_wrapt(called):
                    # Before the lock is held: a thread that imports what wrapt needs holds the lock of that import and waits for ours.
                    load_wrapt()
                with self.changing():
                    self._patch_module(one, called)
        finally:
            here.patching = False
            here.imported.clear()
        if self.on_first_ready is not None and self.any_ready:
            ready, self.on_first_ready = self.on_first_ready, None
            ready()

    def _needs_wrapt(self, module: str) -> bool:
        """Whether a target in the module is patched with wrapt; a glob stands for Python functions only."""
        targets = [(probe.target, probe.patcher) for probe in self._probes_in(module)]
        targets += [(point.target, point.config.patcher) for point in self._promised.get(module, ())]
        return any(_needs_wrapt(f"{module}:{split_target(target)[1]}", patcher) for target, patcher in targets)

    def _patch_module(self, module: Any, name: str) -> None:
        for probe in self._probes_in(name):
            for target in expand(probe.target, probe.exclude, module, name):
                point = self.points.get(target)
                if point is None:
                    point = self.points[target] = ProbePoint(target, probe)
                if point.state in ("pending", "missing") or self._stale(point):
                    point.make_hookable()
        for point in self._promised.pop(name, ()):
            if point.state == "pending":
                # A glob covers its name, but the module has nothing of that name: that is what it finds out.
                point.make_hookable()

    @staticmethod
    def _stale(point: ProbePoint) -> bool:
        """Whether the module was executed again, by a reload, so that the target is another object now."""
        if point.resolved is None or point.patch is None:
            return False
        try:
            now = resolve(point.target)
        except TargetError:
            return False
        if point.patch.is_on(now):
            return False
        point.patch.disarm()
        return True

    def look_at_imported(self) -> None:
        """Make hookable what is imported already, and what the main module has defined by now."""
        names = [name for name in list(sys.modules) if self.wants_module(name)]
        names += [name for name in main_names() if name not in sys.modules and self.wants_module(name)]
        if "__main__" in names:
            names.remove("__main__")
            names.append("__main__")
        for name in names:
            module = find_module(name)
            if module is not None and not is_initializing(module):
                self.module_imported(module, name)

    @property
    def any_ready(self) -> bool:
        """Whether there is something to hook."""
        if any(point.patch is not None for point in list(self.points.values())):
            return True
        return bool(self.on_demand.patterns) and any(self.on_demand.covers_module(name) for name in list(sys.modules))

    # points --------------------------------------------------------------------------------------------------------------

    def find_point(self, target: str) -> ProbePoint:
        """The probe point of a target. Raises `TargetError` that names the nearest."""
        point = self.points.get(target)
        if point is None or point.state in ("pending", "missing"):
            self.look_at_imported()
            point = self.points.get(target)
        if point is None:
            point = self._promise(target)
        if point is None:
            point = self._ask_for(target)
        if point is None:
            import difflib

            near = difflib.get_close_matches(target, list(self.points), 3)
            hint = f"the nearest are {', '.join(near)}" if near else f"`xpc-instrument ls {self._config.app}` lists them"
            remedy = "add it to the config, as a probe or on demand, and start the application again"
            raise TargetError(f"{target} is no probe point of {self._config.app}: {remedy}; {hint}")
        if point.state in ("missing", "unpatchable"):
            raise TargetError(f"{target} cannot be hooked: {point.reason}")
        return point

    def _promise(self, target: str) -> Optional[ProbePoint]:
        """A pending probe point for a target that a glob covers, in a module that is not imported yet."""
        module = split_target(target)[0]
        if is_glob(target) or find_module(module) is not None:
            return None
        for probe in self._config.probes:
            if matches(probe.target, probe.exclude, target):
                with self.changing():
                    point = self.points.setdefault(target, ProbePoint(target, probe))
                    self._promised.setdefault(module, []).append(point)
                    return point
        return None

    def _ask_for(self, target: str) -> Optional[ProbePoint]:
        """A probe point for a target that is allowed on demand; None if it is not. Raises `TargetError` if it cannot be hooked."""
        if is_glob(target) or not self.on_demand.allows(target):
            return None
        probe = self._config.defaults.probe(target)
        name = split_target(target)[0]
        module = find_module(name)
        waits = module is None or is_initializing(module)
        if module is None:
            self.on_demand.check_pending(target)
        elif _needs_wrapt(target, probe.patcher):
            load_wrapt()
        with self.changing():
            point = self.points.get(target)
            if point is not None:
                return point
            point = ProbePoint(target, probe)
            point.on_demand = True
            if not waits:
                point.make_hookable()
                if point.patch is None:
                    raise TargetError(point.reason if point.reason.startswith(target) else f"{target} cannot be hooked: {point.reason}")
            self.points[target] = point
            if waits:
                self._promised.setdefault(name, []).append(point)
        # It may have been imported meanwhile, before it was known that somebody waits.
        if waits and (module := find_module(name)) is not None and not is_initializing(module):
            self.module_imported(module, name)
        return point

    def forget_unused(self) -> None:
        """What a script asked for and nobody has a hook on any more is no probe point any longer."""
        if not self.on_demand.patterns:
            return
        with self.changing():
            for target, point in list(self.points.items()):
                if point.on_demand and not point.hooks:
                    point.restore()
                    del self.points[target]
                    name = split_target(target)[0]
                    left = [one for one in self._promised.pop(name, ()) if one is not point]
                    if left:
                        self._promised[name] = left

    def unmatched(self) -> List[ProbePoint]:
        """A pending point for each glob that no function matches yet."""
        found = []
        for probe in self._config.probes:
            if is_glob(probe.target) and not any(matches(probe.target, probe.exclude, target) for target in list(self.points)):
                point = ProbePoint(probe.target, probe)
                point.reason = "no function matches yet"
                found.append(point)
        return found

    def remove(self, point: ProbePoint, hook: RemoteHook) -> None:
        """Take a hook off its point, if it is still on it."""
        with self.changing():
            point.hooks = [one for one in point.hooks if one is not hook]
            point.counters.retire(hook.counters)
            point.refresh()

    def remove_expired(self, point: ProbePoint) -> None:
        """Take off the hooks whose time is over; an invocation does so too, where there is one."""
        for hook in point.hooks:
            if hook.admission.expired:
                self.remove(point, hook)

    # ends ----------------------------------------------------------------------------------------------------------------

    def restore_all(self) -> None:
        """Undo all patches."""
        with self.changing():
            # The newest first: one may have been laid over another, as those of two accessors of a property.
            for point in reversed(list(self.points.values())):
                point.restore()

    def reset_after_fork(self) -> None:
        """In a forked child, where another thread of the parent may have held the lock: the points stay, the counters begin anew."""
        self.changing = RLock()
        self._here = _Here()
        for point in list(self.points.values()):
            point.counters = Counters()


def _needs_wrapt(target: str, patcher: str) -> bool:
    """Whether a target is patched with wrapt; a glob stands for Python functions only."""
    if patcher == "wrapt":
        return True
    if is_glob(target):
        return False
    try:
        return not isinstance(resolve(target).function, types.FunctionType)
    except TargetError:
        return False

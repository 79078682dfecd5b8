"""The probe points of this process: what the config makes hookable, and what became of it.

Rules:
- A probe point is made when somebody asks for it, and costs nothing before: code swap needs nothing before a hook is armed. What wrapt
  patches is made when its module has run, since others may take copies of the wrapper from then on.
- It is `pending`, and may get hooks, until its module has run and they are armed; then `ready`, `missing` or `unpatchable`.
- What the config allows on demand becomes a probe point when a script asks for it, and is none any more once it has no hooks and a session
  ends. A name that is wrong is refused then, and leaves nothing behind.
- Hooks are swapped as a whole (`Dispatcher.chain`), so that an invocation sees one state; no lock is on its way.
- `changing` is held to change a point: its state, its patch, its list of hooks. The service thread takes it, and threads that import, which
  wait for it for a moment only (`changing.py`): what they cannot do then is done in the thread that looks for what is to come. Held
  together with others: the lock of an import before it, as a thread that imports patches what it has imported; the lock of the sender of
  events after it. So no import may be waited for inside, and none is begun: what is needed there is loaded before (`of_probe.load`,
  `service/making.py`), as even a statement that finds its module loaded calls `__import__`, which may be the application's.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Iterable, List, Optional, Set, Tuple

from xpc_instrument.core.config.schema import Config, ProbeConfig
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.pattern import Pattern
from xpc_instrument.core.model.target import is_glob, is_line, matches, module_matches, split_target
from xpc_instrument.core.model.words import nearest_few
from xpc_instrument.core.unpatched import Local, monotonic

from ..bootstrap.needed import is_needed
from ..collecting import held
from ..late import NotLoadedError, is_ours
from ..targets.glob import expand, functions_of, matching
from ..targets.module import find_module, is_initializing, main_names
from ..targets.resolve import resolve
from ..targets.running import is_main, is_to_begin, is_to_come, names_to_come
from .awaiting import Awaiting, Nobody
from .changing import BusyError, Changing
from .of_probe import Loaded, is_there, load, needs_wrapt, of_wrapt, without_match
from .on_demand import OnDemand
from .watch import Watch

if TYPE_CHECKING:
    from ..hooks.remote import RemoteHook
    from ..patching import Patch
    from .point import ProbePoint

log = logging.getLogger("xpc_agent")


class _Here(Local):
    """What a thread is patching: modules that have run meanwhile wait in `imported`."""

    def __init__(self) -> None:
        self.patching = False
        self.imported: List[Tuple[Any, str]] = []


# How long a module is looked for whose import may have begun just before somebody asked for it, in seconds: until it is seen in
# `sys.modules` a finder looks at some directories.
_BEGINNING = 0.5


class ProbeTable:
    """All probe points of this process. `on_first_ready` is called once, when one of them has become hookable.

    `points` has those that somebody has asked for, and those that wrapt has to patch before anybody does; `every_point` makes all of them.
    """

    def __init__(self, config: Config) -> None:
        self.points: Dict[str, ProbePoint] = {}
        self.on_first_ready: Optional[Callable[[], None]] = None
        self.on_demand = OnDemand(config.on_demand)
        self.changing = Changing()
        self._config = config
        self._here = _Here()
        # The patterns of scripts.
        self.awaiting: Awaiting = Nobody()
        self.watch = Watch(self._look_again)
        # Modules whose imports nobody may tell us of, since they had begun before they were asked for: until when they are looked for.
        self._beginning: Dict[str, float] = {}
        self._scan_at = 0.0
        # What threads of the application have left to do.
        self._left: Deque[Callable[[], object]] = deque()
        # The points by the module of their target, which become hookable when it has run, or is executed again.
        self._of_module: Dict[str, List[ProbePoint]] = {}
        # The modules that have been looked at for targets of wrapt's, and whether anything is there to hook.
        self._seen: Set[str] = set()
        self._any = False
        # The probes by the module of their target; those whose module is a glob are asked one by one.
        self._by_module: Dict[str, List[ProbeConfig]] = {}
        self._in_any_module: List[ProbeConfig] = []
        self._listed: Dict[str, ProbeConfig] = {}
        self._globs: List[ProbeConfig] = []
        for probe in config.probes:
            module = split_target(probe.target)[0]
            if is_glob(module):
                self._in_any_module.append(probe)
            else:
                self._by_module.setdefault(module, []).append(probe)
            if is_glob(probe.target):
                self._globs.append(probe)
            else:
                self._listed.setdefault(probe.target, probe)
        if any(map(is_needed, [*self._by_module])):
            # Now: a thread that imports such a module holds the lock of that import, for which the service thread may wait as it loads.
            load()

    # modules -----------------------------------------------------------------------------------------------------------

    def wants_module(self, name: str) -> bool:
        """Whether a probe point may lie in the module."""
        if self.watch.runs:
            self.watch.look_now()
        if name in self._by_module or name in self._of_module or any(module_matches(probe.target, name) for probe in self._in_any_module):
            return True
        if self.awaiting.covers_module(name):
            return True
        # With the first module in which something may be asked for there is a reason to listen; afterwards nothing is to be done.
        return self.on_first_ready is not None and self.on_demand.covers_module(name)

    def _probes_in(self, module: str) -> List[ProbeConfig]:
        """The probes whose targets may lie in the module, those that name it first."""
        wide = [probe for probe in self._in_any_module if module_matches(probe.target, module)]
        return [*self._by_module.get(module, ()), *wide]

    def module_imported(self, module: Any, name: str = "") -> None:
        """Make hookable what is asked for in a module that has just run."""
        here = self._here
        here.imported.append((module, name or module.__name__))
        if here.patching:
            # What the agent needs for patching imports this module, and is not there yet itself.
            return
        here.patching = True
        try:
            while here.imported:
                look = functools.partial(self._look_at, *here.imported.pop(0))
                if not self.changing.shortly(look):
                    self.leave(look)
        finally:
            here.patching = False
            here.imported.clear()
        if self.on_first_ready is not None and self.any_ready:
            ready, self.on_first_ready = self.on_first_ready, None
            ready()

    def _look_at(self, module: Any, name: str) -> None:
        """Patch what has to be patched now: the points that there are, and targets of wrapt's, of which others take copies from now on."""
        probes = self._probes_in(name)
        wrapped = [(target, probe) for probe in probes for target in of_wrapt(probe, module, name)]
        if wrapped or any(needs_wrapt(point.target, point.config.patcher) for point in list(self._of_module.get(name, ()))):
            # Before the lock is held: a thread that imports what wrapt needs holds the lock of that import and waits for ours.
            load(name, wrapt=True)
        self._seen.add(name)
        self._any = self._any or any(is_there(probe, module, name) for probe in probes)

        def make() -> List[ProbePoint]:
            for target, probe in wrapped:
                self._have(target, probe)
            return list(self._of_module.get(name, ()))

        self._make_hookable(self.changing.change(make))
        self.awaiting.module_ran(name)

    def leave(self, work: Callable[[], object]) -> None:
        """Have work done in a thread of ours, as the calling one could not in a moment."""
        self._left.append(work)
        self.watch.begin()

    def _do_what_is_left(self) -> None:
        for _ in range(len(self._left)):
            try:
                work = self._left.popleft()
            except IndexError:
                return  # another thread of ours has done it
            if not self.changing.shortly(work):
                self._left.append(work)

    def _make_hookable(self, points: List[ProbePoint]) -> None:
        """Make those hookable that are not."""

        def make() -> None:
            for point in points:
                if point.state in ("pending", "missing") or self._stale(point):
                    was_pending = point.state == "pending"
                    point.make_hookable()
                    if was_pending and point.state != "pending":
                        point.tell_hooks()

        try:
            self.changing.change(make)
        except NotLoadedError:
            # The application has just put something there that takes wrapt.
            load(wrapt=True)
            self._make_hookable(points)

    def _have(self, target: str, probe: ProbeConfig) -> ProbePoint:
        """The point of a target, made if there is none; pending. `changing` is held."""
        point = self.points.get(target)
        if point is None:
            point = self.points[target] = Loaded.point(target, probe)
            self._of_module.setdefault(split_target(target)[0], []).append(point)
        return point

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
        mains = {"__main__", *main_names()}
        for name in {*list(sys.modules), *mains}:
            if not self.wants_module(name) or (name in self._seen and name not in mains and name not in self._of_module):
                continue
            module = self._that_has_run(name)
            if module is not None:
                self.module_imported(module, name)

    def _that_has_run(self, name: str) -> Optional[Any]:
        """The module of that name, unless it is being imported; one that we were told of still counts as such until its import returns."""
        module = find_module(name)
        return module if module is not None and (name in self._seen or not is_initializing(module)) else None

    @property
    def any_ready(self) -> bool:
        """Whether there is something to hook."""
        if self._any or any(point.patch is not None for point in list(self.points.values())):
            return True
        return bool(self.on_demand.patterns) and any(self.on_demand.covers_module(name) for name in list(sys.modules))

    # points --------------------------------------------------------------------------------------------------------------

    def every_point(self) -> List[ProbePoint]:
        """All probe points, those made too that nobody has asked for yet, and one for each glob that no function matches."""
        self.look_at_imported()
        for target, probe in self._listed.items():
            self._make(target, probe)
        for name in {*list(sys.modules), *main_names()}:
            self.points_in(name)
        matched = [target for target, point in self.points.copy().items() if point.state not in ("pending", "missing")]
        unmatched = [probe for probe in self._globs if not any(matches(probe.target, probe.exclude, target) for target in matched)]
        return [*list(self.points.values()), *map(without_match, unmatched)]

    def points_in(self, name: str) -> List[ProbePoint]:
        """All probe points in a module; none if it is not imported."""
        probes = self._probes_in(name)
        module = self._that_has_run(name) if probes else None
        if module is None:
            return []
        return [self._make(target, probe) for probe in probes for target in matching(probe.target, probe.exclude, module, name)]

    def find_point(self, target: str) -> ProbePoint:
        """The probe point of a target. Raises `TargetError` that names the nearest."""
        point = self.points.get(target)
        if is_line(target):
            return point if point is not None and point.hooks else self._line(target)
        if point is None or point.state in ("pending", "missing"):
            self.look_at_imported()
            point = self.points.get(target)
        if point is None:
            point = self._of_config(target)
        if point is None:
            point = self._ask_for(target)
        if point is None:
            near = held(lambda: nearest_few(target, self._names_near(target)))
            hint = f"the nearest are {', '.join(near)}" if near else f"`xpc-instrument ls {self._config.app}` lists them"
            remedy = "add it to the config, as a probe or on demand, and start the application again"
            raise TargetError(f"{target} is no probe point of {self._config.app}: {remedy}; {hint}")
        if point.state in ("missing", "unpatchable"):
            raise TargetError(f"{target} cannot be hooked: {point.reason}")
        return point

    def _line(self, target: str) -> ProbePoint:
        line_point = held(_line_point)
        with self.changing():
            point = self.points[target] = line_point(target, self._config_of, self._patches, self._config)
            if point.state == "pending":
                self._of_module.setdefault(point.module, []).append(point)
        return point

    def _config_of(self, module: str, name: str) -> Optional[ProbeConfig]:
        """What the config says of a function, whether it can be reached by its name or not; None if it is not to be looked at."""
        target = f"{module}:{name}"
        probe = self._listed.get(target) or next((one for one in self._globs if matches(one.target, one.exclude, target)), None)
        return self._config.defaults.probe(target) if probe is None and self.on_demand.covers(module, name) else probe

    def _patches(self) -> List[Patch]:
        return [point.patch for point in list(self.points.values()) if point.patch is not None]

    def _names_near(self, target: str) -> Set[str]:
        """The targets that could have been meant: the listed ones, and those in the same module."""
        name = target.partition(":")[0]
        module = find_module(name)
        names = {*self._listed, *list(self.points)}
        if module is not None:
            names.update(*(expand(probe.target, probe.exclude, module, name) for probe in self._probes_in(name)))
        return names

    def _of_config(self, target: str) -> Optional[ProbePoint]:
        """The point of a target that the config lists, or that a glob of it stands for, as far as can be known; None of any other."""
        probe = self._listed.get(target)
        if probe is None and not is_glob(target):
            name = split_target(target)[0]
            module = find_module(name)
            for one in self._globs:
                if matches(one.target, one.exclude, target) and (
                    module is None or target in expand(one.target, one.exclude, module, name) or is_to_come(*split_target(target))
                ):
                    probe = one
                    break
            if probe is not None and module is None:
                held(lambda: self.on_demand.check_pending(target))
        return None if probe is None else self._make(target, probe)

    def _make(self, target: str, probe: ProbeConfig) -> ProbePoint:
        """The point of a target, hookable if its module has run."""
        point = self.points.get(target)
        if point is not None:
            return point
        name = split_target(target)[0]
        is_there = self._that_has_run(name) is not None
        load(name, wrapt=is_there and needs_wrapt(target, probe.patcher))
        point = self.changing.change(lambda: self._have(target, probe))
        if is_there and point.state == "pending":
            self._make_hookable([point])
        return point

    def _ask_for(self, target: str) -> Optional[ProbePoint]:
        """A probe point for a target that is allowed on demand; None if it is not. Raises `TargetError` if it cannot be hooked."""
        if is_glob(target) or not self.on_demand.allows(target):
            return None
        if find_module(split_target(target)[0]) is None:
            held(lambda: self.on_demand.check_pending(target))
        point = self._make(target, self._config.defaults.probe(target))
        point.on_demand = True
        if point.state in ("missing", "unpatchable"):
            self.forget_unused()
            raise TargetError(point.reason if point.reason.startswith(target) else f"{target} cannot be hooked: {point.reason}")
        if point.state == "pending":
            # Its module may have run meanwhile, before it was known that somebody waits.
            self.look_at_imported()
        return point

    def targets_of(self, pattern: Pattern, name: str) -> Tuple[Dict[str, Optional[ProbeConfig]], int]:
        """The targets in a module that a pattern of a script stands for, each with its probe in the config, None of those on demand; and
        how many more it would stand for if the config allowed them. Nothing while the module is not imported."""
        module = None if is_ours(name) or not pattern.matches_module(name) else self._that_has_run(name)
        found: Dict[str, Optional[ProbeConfig]] = {}
        if module is None:
            return found, 0
        for probe in self._probes_in(name):
            for target in matching(probe.target, probe.exclude, module, name):
                if pattern.hooks(*split_target(target)):
                    found.setdefault(target, probe)
        more = 0
        for one in functions_of(module):
            target = f"{name}:{one}"
            if target in found or not pattern.hooks(name, one):
                continue
            try:
                allowed = self.on_demand.allows(target)
            except TargetError:
                continue  # no name by which it could be reached
            if allowed:
                found[target] = None
            else:
                more += 1
        return found, more

    def point_of(self, target: str, probe: Optional[ProbeConfig]) -> ProbePoint:
        """The point of a target that `targets_of` has found. Raises `TargetError` if it cannot be hooked."""
        point = self._make(target, probe or self._config.defaults.probe(target))
        point.on_demand = probe is None
        if point.state in ("missing", "unpatchable"):
            raise TargetError(f"{target} cannot be hooked: {point.reason}")
        return point

    def may_come(self, pattern: Pattern) -> bool:
        """Whether the config may allow something that the pattern stands for."""
        return bool(self.on_demand.patterns or self._globs) or any(pattern.hooks(*split_target(target)) for target in self._listed)

    def await_modules(self, names: Iterable[str], more: bool = False) -> None:
        """Look for modules, which may be being imported since before somebody asked for them, for `more` that have no name yet, and for
        what the main program has not defined yet."""
        now = monotonic()
        for name in names:
            self._beginning[name] = now + _BEGINNING
        if more:
            self._scan_at = now + _BEGINNING
        if self._look_again():
            self.watch.begin()

    def _look_again(self) -> bool:
        self._do_what_is_left()
        now = monotonic()
        for name, until in self._beginning.copy().items():
            module = find_module(name)
            if module is not None and not is_initializing(module):
                self._beginning.pop(name, None)
                self.module_imported(module, name)
            elif module is None and now >= until:
                self._beginning.pop(name, None)
        if self._scan_at and now >= self._scan_at:
            self._scan_at = 0.0
            self.look_at_imported()
        return self._look_at_main() or bool(self._beginning or self._left) or self._scan_at > 0

    def _look_at_main(self) -> bool:
        waited_for = False
        for name in ("__main__", *main_names()):
            points = [point for point in list(self._of_module.get(name, ())) if point.state == "pending" and point.hooks]
            awaited = self.awaiting.covers_module(name)
            if (points or awaited) and is_main(name):
                to_come = awaited and bool(names_to_come(name))
                self.module_imported(sys.modules["__main__"], name)
                waited_for = waited_for or to_come or any(point.state == "pending" for point in points)
        # Before it begins nothing says by which names it goes.
        return waited_for or (is_to_begin() and any(point.state == "pending" and point.hooks for point in list(self.points.values())))

    def pause(self) -> None:
        """For the moment of a fork: end the thread that looks for what is to come."""
        self.watch.pause()

    def resume(self) -> None:
        """Have it go on."""
        self.watch.resume()

    def forget_unused(self) -> None:
        """What a script asked for and nobody has a hook on any more is no probe point any longer."""
        with self.changing():
            for target, point in self.points.copy().items():
                if point.on_demand and not point.hooks:
                    point.restore()
                    del self.points[target]
                    left = [one for one in self._of_module.pop(point.module, ()) if one is not point]
                    if left:
                        self._of_module[point.module] = left

    def remove(self, point: ProbePoint, hook: RemoteHook) -> None:
        """Take a hook off its point, if it is still on it."""

        def take_off() -> None:
            point.hooks = [one for one in point.hooks if one is not hook]
            point.counters.retire(hook.counters)
            point.refresh()
            hook.taken_off()

        self.changing.change(take_off)

    def remove_expired(self, point: ProbePoint) -> None:
        """Take off the hooks whose time is over; an invocation does so too, where there is one. What a hook has counted stays."""
        for hook in point.hooks:
            if hook.admission.expired and hook.terms.local is None:
                self.remove(point, hook)

    # ends ----------------------------------------------------------------------------------------------------------------

    def restore_all(self) -> None:
        """Undo all patches."""
        self.watch.end()

        def restore() -> None:
            # The newest first: one may have been laid over another, as those of two accessors of a property.
            for point in reversed(list(self.points.values())):
                point.restore()

        try:
            self.changing.change(restore)
        except BusyError:
            self.leave(restore)

    def reset_after_fork(self) -> None:
        """In a forked child, where another thread of the parent may have held the lock: the points stay, the counters begin anew."""
        self.changing = Changing()
        self._here = _Here()
        # What has been left by the threads of the parent is to be done here, too.
        self.watch = self.watch.anew()
        for point in list(self.points.values()):
            point.reset_after_fork()


def _line_point() -> Callable[..., ProbePoint]:
    # Late: what reads bytecode is loaded where somebody asks for a line.
    from .line import line_point

    return line_point

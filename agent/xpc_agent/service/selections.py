"""Registrations that have several targets: patterns and lists, of which each process hooks what it has, now and as modules are imported.

Rules:
- One registration is one hook for the script. Here it has a hook on each target, of the same number, and one admission for all of them.
- A name in a list that is wrong refuses the whole registration, and so does what has no room in `max-targets`; nothing is left behind then.
- A pattern passes over what it stands for and cannot be hooked, or not in that mode. It is refused where nothing of it can be hooked, and
  where nothing can come: its module has run, or can never be found. Else it waits for modules that are imported.
- The main program is looked at again while it has names to define (`points/watch.py`).
- Registrations come and go in the service thread; `covers_module` and `module_ran` are called in threads that import. What they do to a
  selection that has just been removed is prevented by its `over`, which is set and looked at while the table's lock is held.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from xpc_instrument.core.config.schema import ProbeConfig
from xpc_instrument.core.discovery.doorbell import bell_name
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.pattern import Pattern, pattern_mistake
from xpc_instrument.core.model.record import Record
from xpc_instrument.core.model.target import Mode, parts_of, split_name
from xpc_instrument.core.model.words import counted
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.protocol.messages import Register
from xpc_instrument.core.unpatched import monotonic

from ..collecting import held
from ..late import is_ours
from ..points.on_demand import why_nothing
from ..points.table import ProbeTable
from ..relay import RelayedPeer
from ..targets.module import find_module, is_initializing, is_lazy, main_names, names_of_modules
from .slices import Steps

if TYPE_CHECKING:
    from ..hooks.admission import SharedAdmission
    from ..points.point import ProbePoint
    from .making import Making

log = logging.getLogger("xpc_agent")

# Targets in one notice to a script.
_TOLD_AT_ONCE = 500
# A script is told of the targets that there are after so many seconds, though there may be more.
_TELLING = 1.0

Who = Union[Peer, RelayedPeer]


class Selection:
    """One registration with several targets. If it has a `pool` it is inherited over a fork: its hooks wait there for their session."""

    __slots__ = ("admission", "making", "message", "mode", "over", "patterns", "peer", "pool", "since", "targets")

    def __init__(self, peer: Who, message: Register, mode: Mode, text: str, making: Making) -> None:
        parts = dict.fromkeys(parts_of(text))
        for part in parts:
            mistake = pattern_mistake(part) if "*" in part else None
            if mistake:
                raise TargetError(f"{part}: {mistake}")
        self.message = message
        self.making = making
        self.mode = mode
        self.targets = [part for part in parts if "*" not in part]
        self.patterns = [Pattern(part) for part in parts if "*" in part]
        self.peer = peer
        self.pool: Optional[LanePool] = None
        self.since = 0.0
        self.admission: Optional[SharedAdmission] = None
        self.over = False

    def adopt(self, pool: LanePool, now: float) -> None:
        """In a forked child: its hooks wait there for their session, which registers it here too, until then."""
        self.pool, self.since = pool, now

    def end(self) -> None:
        """No hook is put on any more; the table's lock is held."""
        self.over = True

    def covers_module(self, name: str) -> bool:
        """Whether a pattern of it may stand for functions of the module."""
        return any(pattern.matches_module(name) for pattern in self.patterns)


class Added(Record):
    """What a script is told of a hook that it has registered: its deadline in seconds, whether it waits for all of its targets, and for
    which targets and patterns it does."""

    timeout: float
    waits: bool
    pending: List[str]


if TYPE_CHECKING:  # the names as texts would load `annotationlib` and `ast`, from Python 3.14 on
    Put = Callable[[Who, Register, Mode, ProbePoint, Making, Selection], float]
Found = Dict[str, Optional[ProbeConfig]]


class _Matched(Record):
    """What the patterns of a selection stand for: what may be hooked, and how many functions may not."""

    found: Found
    more: int


class Selections:
    """Those of all sessions. `put` puts a hook on a point and gives its deadline; `most` is the largest number of targets of one."""

    def __init__(self, table: ProbeTable, app: str, most: int, put: Put) -> None:
        self._table = table
        self._app = app
        self._most = most
        self._put = put
        self._all: Dict[Tuple[str, int], Selection] = {}
        table.awaiting = self

    def adding(self, peer: Who, message: Register, mode: Mode, text: str, making: Making) -> Steps[Added]:
        """Hook what there is, and wait for the rest; returns the shortest deadline, 0 if there is nothing yet. Raises `TargetError`, and
        leaves it to the caller to take off what it has put on. It yields between two targets; what is told of some of them says to the
        script that it goes on."""
        key = peer.session, message.hook
        # Inherited over a fork: the same, now with a connection of this process's own.
        selection = self._all.get(key) or Selection(peer, message, mode, text, making)
        selection.peer, selection.pool = peer, None
        # Before anything is looked at: a module that runs meanwhile is looked at by the thread that imports it.
        self._all[key] = selection
        try:
            points = [self._table.find_point(target) for target in selection.targets]
            timeouts = []
            for point in points:
                timeouts.append(self._put(peer, message, mode, point, making, selection))
                yield
            targets = [point.target for point in points]
            nothing = []
            for pattern in selection.patterns:
                put = yield from self._putting(selection, pattern, self._names(pattern))
                targets += put
                timeouts += put.values()
                if not put:
                    self._check_to_come(pattern)
                    nothing.append(pattern.text)
            if len(set(targets)) > self._most:
                raise self._too_many(text, len(set(targets)))
        except TargetError:
            self.drop(*key)
            raise
        self._tell(selection, targets)
        pending = [point for point in points if point.state == "pending"]
        self._await(selection, pending)
        return Added(min(timeouts, default=0.0), len(pending) == len(timeouts), [*(point.target for point in pending), *nothing])

    def _putting(self, selection: Selection, pattern: Pattern, names: List[str]) -> Steps[Dict[str, float]]:
        """Hook what a pattern stands for in these modules; returns the deadlines by target. Raises `TargetError` where it is too much, or
        all that there is cannot be hooked."""
        matched = self._matched([pattern], names)
        if len(matched.found) > self._most:
            raise self._too_many(pattern.text, len(matched.found))
        put: Dict[str, float] = {}
        refusal: Optional[TargetError] = None
        told, due = 0, monotonic() + _TELLING
        for target, probe in matched.found.items():
            try:
                point = self._table.point_of(target, probe)
                put[target] = self._put_one(selection, point)
            except TargetError as error:
                refusal = refusal or error
            if monotonic() >= due:
                self._tell(selection, list(put)[told:])
                told, due = len(put), monotonic() + _TELLING
            yield
        if put:
            return put
        if refusal is not None:
            raise TargetError(f"{pattern.text}: nothing of it can be hooked; the first of {len(matched.found)}: {refusal}")
        if matched.more:
            functions = counted(matched.more, "function")
            raise TargetError(
                f"{pattern.text} stands for {functions} here, none of them a probe point of {self._app}: add the pattern to the config, as "
                "a probe or on demand, and start the application again"
            )
        return put

    def _put_one(self, selection: Selection, point: ProbePoint) -> float:
        return self._put(selection.peer, selection.message, selection.mode, point, selection.making, selection)

    def _matched(self, patterns: List[Pattern], names: List[str]) -> _Matched:
        found: Found = {}
        more = 0
        for name in names:
            for pattern in patterns:
                here, others = self._table.targets_of(pattern, name)
                found.update(here)
                more += others
        return _Matched(found, more)

    def _too_many(self, text: str, count: int) -> TargetError:
        return TargetError(f"{text:.200} stands for {count:,} functions; at most {self._most} are hooked at once (max-targets): name fewer")

    @staticmethod
    def _names(pattern: Pattern) -> List[str]:
        return sorted(filter(pattern.matches_module, names_of_modules(pattern.text)))

    def _check_to_come(self, pattern: Pattern) -> None:
        """Nothing is there. Raises `TargetError` if nothing can come, naming the nearest."""
        if is_ours(pattern.text.partition(":")[0]):
            raise TargetError(f"{pattern.text} is code of the agent, which cannot be hooked: it would lead back into itself")
        if not self._table.may_come(pattern):
            raise TargetError(f"{pattern.text} is no probe point of {self._app}: add it to the config, as a probe or on demand")
        problem = held(lambda: why_nothing(pattern))
        if problem:
            raise TargetError(f"{pattern.text}: {problem}")

    def _await(self, selection: Selection, pending: List[ProbePoint]) -> None:
        """Have looked at what nobody may tell of: modules whose import had begun already."""
        names = [point.target.partition(":")[0] for point in pending]
        # A copy is made in one step; a list of pairs is not, as garbage may be collected at each.
        for name, module in sys.modules.copy().items():
            if selection.covers_module(name) and (module is None or is_lazy(module) or is_initializing(module)):
                names.append(name)
        modules = [pattern.text.partition(":")[0] for pattern in selection.patterns]
        names += [name for name in modules if "*" not in name and find_module(name) is None]
        more = any("*" in name for name in modules)
        if names or more or pending or any(selection.covers_module(name) for name in ("__main__", *main_names())):
            self._table.await_modules(names, more)

    def _tell(self, selection: Selection, targets: List[str], came: bool = False) -> None:
        """Tell the script on what its hook is; whether that has come since it was registered."""
        if selection.pool is not None:
            return  # its session is told when it comes
        for start in range(0, len(targets), _TOLD_AT_ONCE):
            part = targets[start : start + _TOLD_AT_ONCE]
            selection.peer.notify("hooked", hook=selection.message.hook, pid=os.getpid(), targets=part, came=came)

    # modules -----------------------------------------------------------------------------------------------------------

    def covers_module(self, name: str) -> bool:
        """Part of `Awaiting`: whether a selection waits for what is in the module."""
        if not self._all or is_ours(name):
            return False
        return any(self._waits(one) and one.covers_module(name) for one in list(self._all.values()))

    @staticmethod
    def _waits(selection: Selection) -> bool:
        admission = selection.admission
        return not selection.over and not (admission is not None and admission.expired)

    def module_ran(self, name: str) -> None:
        """Part of `Awaiting`: hook what is in the module."""
        for selection in list(self._all.values()):
            if not self._waits(selection) or not selection.covers_module(name):
                continue
            try:
                self._hook_more(selection, name)
            except TargetError as error:
                # Nobody waits for the answer, and the rest of the selection stays.
                log.warning("%s", error)
                if selection.pool is None:
                    selection.peer.notify("not-hooked", hook=selection.message.hook, message=str(error))

    def _hook_more(self, selection: Selection, name: str) -> None:
        before = self._on(selection)
        matched = self._matched(selection.patterns, [name])
        new = [target for target in matched.found if target not in before]
        if new and len(before) + len(new) > self._most:
            raise self._too_many(selection.message.name, len(before) + len(new))
        put: List[str] = []
        try:
            for target in new:
                try:
                    point = self._table.point_of(target, matched.found[target])
                    self._put_one(selection, point)
                    put.append(target)
                except TargetError as error:
                    log.debug("%s passes over %s", selection.message.name, error)
        finally:
            # The rest may follow later (`BusyError`).
            self._tell(selection, put, came=True)

    def _on(self, selection: Selection) -> List[str]:
        """The targets that it has a hook on, or waits for."""
        return [
            point.target
            for point in list(self._table.points.values())
            if any(hook.admission is selection.admission for hook in point.hooks)
        ]

    def unmatched(self) -> List[Tuple[str, Mapping[str, Any]]]:
        """Part of `Awaiting`: what has no hook yet, with what `Reports` says of one."""
        found: List[Tuple[str, Mapping[str, Any]]] = []
        for session, one in self.by_session():
            if self._waits(one) and not self._on(one):
                hook: Dict[str, Any] = {
                    "mode": one.mode.value,
                    "pid": one.peer.pid,
                    "claimed": one.peer.claimed,
                    "number": one.message.hook,
                }
                hook.update(session=bell_name(session), terms=dict(one.message.terms), suspended=None, stats={})
                found.append((split_name(one.message.name)[1], hook))
        return found

    # ends --------------------------------------------------------------------------------------------------------------

    def drop(self, session: str, number: int) -> bool:
        """Forget one; False if there is none of that number. Its hooks are the caller's to remove, after this."""
        selection = self._all.get((session, number))
        if selection is None:
            return False
        self._table.changing.change(selection.end)
        return self._all.pop((session, number), None) is not None

    def drop_session(self, session: str, *, inherited: bool = False) -> None:
        """Forget those of a session; with `inherited` those only that it has not registered with this process itself."""
        for (whose, number), selection in self._all.copy().items():
            if whose == session and not (inherited and selection.pool is None):
                self.drop(whose, number)

    def by_session(self) -> List[Tuple[str, Selection]]:
        """All, each with its session."""
        return [(session, selection) for (session, _), selection in self._all.copy().items()]

    def reset_after_fork(self) -> None:
        """In a forked child, before the hooks are reset."""
        for selection in list(self._all.values()):
            if selection.admission is not None:
                selection.admission.begin_anew()

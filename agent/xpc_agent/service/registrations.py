"""Who has registered what in this process: the policy of its host, which puts hooks on probe points and takes them off.

Rules:
- A name with a colon is a target, or several (`selections.py`), and its registration a hook; any other is a plain callback, as with any
  manager (`Registry`).
- A hook that is removed while events of it are queued is forgotten when these are delivered, or not in the time that the script gives.
- At a fixed address every hook is shared with the other processes (`sharing.py`); the answer to the script follows when all have it.
- All runs in the service thread, but for `entered_thread` and `serve`; what a process that shares another's address is told by its host
  (`add_hook`, `drop_hook`, `drop_all`); and `drop_orphans`, in threads that wait for a session after a fork. The table's lock is held to
  change points (see `points/table.py`), and none of our own.
"""

from __future__ import annotations

import functools
import itertools
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Protocol, Tuple, TypeVar, Union

from xpc_instrument.core.calls.registry import Registration, Registry
from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.local import INJECT
from xpc_instrument.core.model.record import as_dict, replace
from xpc_instrument.core.model.target import Mode, is_selection, is_target, parts_of, split_name, split_target
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.node.peer import Peer, Policy
from xpc_instrument.core.protocol.messages import Answer, Hello, Notice, Query, Register, Unregister
from xpc_instrument.core.unpatched import monotonic
from xpc_instrument.core.values.redaction import Redaction
from xpc_instrument.core.values.traits import PeerProfile, python_version
from xpc_instrument.core.wire.wire import Wire

from .. import collecting
from ..events.patience import bounded
from ..events.sender import Sender
from ..guard import guard_thread, guarded
from ..points.changing import BusyError
from ..points.table import ProbeTable
from ..relay import RelayedPeer
from ..targets.module import is_importable
from .checks import check_mode, timeout_of
from .counting import all_totals, counting, totals
from .limits import SharedLimits
from .on_use import making_of, replays_of, reset_loaded, search, stacks, terms_of
from .over import Over
from .selections import Added, Selection, Selections
from .sharing import PendingAnswer, Sharing
from .slices import Slices, Steps, finished

if TYPE_CHECKING:
    from ..events.queue import QueuedHook
    from ..hooks.remote import RemoteHook
    from ..points.point import ProbePoint
    from .making import Making

T = TypeVar("T")

# What a script may register where the config allows no more than to observe; then nothing that it sends is unpickled.
_OBSERVERS = frozenset({Mode.BEFORE, Mode.AFTER})
# What a script may register, in characters.
_LONGEST_NAME = 4096
# What a hook goes by that is one of several of a registration: above the numbers that scripts give.
_KEYS = 1 << 31
# Who answers for this process, beside the sessions of its members.
_HERE = ""


class Adoptable(Protocol):
    """What a forked child has inherited of a session."""

    def adopt(self, pool: LanePool, now: float) -> None:
        """Wait on `pool` until the session dials this process too."""


class Registrations(Policy):
    """The hooks and callbacks of all sessions. `report` gives what a script is told of this process.

    `on_joined` is called with each session that is a script's, `on_synced` with one that has registered all that it wants to register here.
    `detach` is called when one asks that the agent leave this process and the others of its address; it returns at once.
    """

    def __init__(
        self,
        config: Config,
        table: ProbeTable,
        report: Callable[[], Dict[str, Any]],
        on_joined: Callable[[Peer], None],
        on_synced: Callable[[Peer], None],
        detach: Callable[[], None] = lambda: None,
        wake: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sender = Sender(config.limits.max_queue, config.limits.max_queue_bytes)
        self._config = config
        self._table = table
        self._report = report
        self._on_joined = on_joined
        self._on_synced = on_synced
        self._selections = Selections(table, config.app, config.limits.max_targets, self._put)
        self._next_key = itertools.count(_KEYS).__next__
        self._redaction = Redaction(config.redact.names, config.redact.types)
        self._detach = detach
        self._wake = wake
        self._shared_limits = SharedLimits()
        self._begin()

    def _begin(self) -> None:
        self._leaving = False
        self._replays: Any = None
        self._over = Over(self._table, self._selections, self._wake)
        self._slices = Slices(self._all_registered)
        # When the time of faults is over, by session and number: they need not look at the clock themselves.
        self._ends: Dict[Tuple[str, int], float] = {}
        self._peers: Dict[str, Peer] = {}
        self._registry = Registry(self._config.limits, self._find_relayed)
        self._sharing = Sharing(self._config.app, self._peers, self._config.manager.address != "unix")

    # the host's policy -------------------------------------------------------------------------------------------------

    def entered_thread(self) -> None:
        guard_thread()

    def joined(self, peer: Peer) -> None:
        peer.lanes.want = guarded(peer.lanes.want)
        self._peers[peer.session] = peer
        if not self._sharing.joined(peer):
            self._on_joined(peer)

    def left(self, peer: Peer) -> None:
        self._registry.left(peer)
        self._slices.left(peer)
        self._peers.pop(peer.session, None)
        self.drop_session(peer.session)
        self._sharing.left(peer)

    def synced(self, peer: Peer) -> None:
        if not self._slices.wait(peer):
            self._all_registered(peer)

    def _all_registered(self, peer: Peer) -> None:
        # What it had inherited over a fork and has not registered again, it has removed meanwhile.
        self.drop_orphans(peer.session)
        self._on_synced(peer)

    def noticed(self, peer: Peer, notice: Notice) -> None:
        self._sharing.noticed(peer, notice)

    def due(self) -> Optional[float]:
        return 0.0 if self._slices.due or self._over.due else min(self._ends.values(), default=None)

    def load(self, work: Callable[[], T]) -> T:
        return collecting.held(work)

    def look_after(self, now: float) -> None:
        self._slices.go_on()
        self._over.take_off()
        for session, number in [key for key, end in self._ends.items() if end <= now]:
            del self._ends[session, number]
            self._over.end(session, number)

    def register(self, peer: Peer, message: Register) -> Optional[Answer]:
        longest = max(map(len, parts_of(message.name)))
        if longest > _LONGEST_NAME:
            # Before anything looks for what is similar to it.
            raise TargetError(f"{message.name[:60]}... has {longest} characters; at most {_LONGEST_NAME} can be a name")
        if not 0 <= message.hook < _KEYS:
            raise TargetError(f"hook number {message.hook!r:.40}: expected one that a frame can hold, from 0 to {_KEYS - 1}")
        if not is_target(message.name):
            return self._registry.register(peer, message)
        return self._slices.begin(peer, message, self._registering(peer, message))

    def _registering(self, peer: Peer, message: Register) -> Steps[Optional[Answer]]:
        data = {"registered": True, "importable": self.load(lambda: is_importable(message.module))}
        try:
            added = yield from self._adding(peer, message)
            answer = Answer(message.request, True, data={**data, **as_dict(added)})
        except TargetError as error:
            if not self._sharing.members():
                raise
            answer = Answer(message.request, False, type(error).__name__, str(error))
        return self._sharing.share(peer, message, answer)

    def unregister(self, peer: Peer, message: Unregister) -> Optional[Answer]:
        within = bounded(message.within)
        session, number = peer.session, message.hook
        self._slices.end(peer, number)
        members = self._sharing.unshare(session, number, within)
        local = counting(self._table, session, number)
        removed = self._disarm(session, number) or members is not None
        unwaited = self.sender.find(session, number)
        if not removed and not unwaited:
            return self._registry.unregister(peer, message)
        last = {"totals": totals(local), "pid": os.getpid()} if local else {}
        answer = Answer(message.request, True, data={"unregistered": True, **last})
        if not unwaited and not (members and within):
            return answer
        # The answer follows when what is queued is delivered, here and in the members.
        pending = PendingAnswer(peer, answer, {_HERE, *(members or ())} if within else {_HERE})
        self._sharing.wait(f"removed {session} {number}", pending)

        def passed() -> None:
            if unwaited:
                dropped = {hook.key: hook.dropped for hook in unwaited}
                pending.accepted = replace(answer, data={"unregistered": True, "source": self.sender.source, "dropped": dropped})
            self._sharing.answered(pending, _HERE)

        _retire(unwaited, within, passed)
        return None

    def query(self, peer: Peer, message: Query) -> Answer:
        self._over.take_off()
        if message.what == "probes":
            return Answer(message.request, True, data={**self._report(), "members": [one.pid for one in self._sharing.members()]})
        kind, _, rest = message.what.partition(" ")
        if message.what == "detach":
            for member in self._sharing.members():
                member.notify("detach")
            self._detach()
            return Answer(message.request, True, data={"detached": True})
        if kind == "totals" and rest.isdigit():
            data = {"totals": totals(counting(self._table, peer.session, int(rest))), "pid": os.getpid()}
            return Answer(message.request, True, data={**data, "members": [one.pid for one in self._sharing.members()]})
        if message.what == "redaction":
            return Answer(message.request, True, data=dict(zip(("names", "types"), self._redaction.more)))
        if kind == "stacks":
            return Answer(message.request, True, data={**stacks(), "members": [one.pid for one in self._sharing.members()]})
        if kind == "targets":
            return self._found(message, lambda: search(rest, self._table))
        if kind in ("replay", "replayed"):
            return self._found(message, lambda: self._replay(peer, kind, rest))
        if kind != "member":
            return self._registry.query(peer, message)
        return Answer(message.request, True, data={"asked": self._sharing.ask(rest, peer, message.request)})

    def _replay(self, peer: Peer, kind: str, rest: str) -> Any:
        self._replays = self._replays or replays_of(self._config, self._table, self._redaction)
        return self._replays.begin(peer, rest) if kind == "replay" else self._replays.result(peer, rest)

    @staticmethod
    def _found(message: Query, find: Callable[[], Dict[str, Any]]) -> Answer:
        try:
            found = find()
        except TargetError as error:
            return Answer(message.request, False, type(error).__name__, str(error))
        return Answer(message.request, True, data={**found, "pid": os.getpid()})

    def serve(self, wire: Wire, hello: Hello) -> None:
        self._registry.serve(wire, hello)

    def _find_relayed(self, name: str) -> Optional[Registration]:
        return self._sharing.find(name)

    # hooks -------------------------------------------------------------------------------------------------------------

    def add_hook(self, peer: Union[Peer, RelayedPeer], message: Register) -> Added:
        """Put a hook of a session on its target, or on several. Raises `TargetError`."""
        return finished(self._adding(peer, message))

    def _adding(self, peer: Union[Peer, RelayedPeer], message: Register) -> Steps[Added]:
        mode, target = split_name(message.name)
        terms = terms_of(message)
        making = making_of(terms, self.sender, self._redaction, self._table)
        if terms.expires is not None and terms.local is not None and terms.local["kind"] == INJECT:
            self._ends[peer.session, message.hook] = monotonic() + terms.expires
        if is_selection(target):
            return (yield from self._adding_selection(peer, message, mode, target, making))
        point = self._table.find_point(target)
        try:
            timeout = self._put(peer, message, mode, point, making)
        except TargetError:
            self._table.forget_unused()
            raise
        waits = point.state == "pending"
        if waits:
            self._table.await_modules([split_target(target)[0]])
        return Added(timeout, waits, [target] if waits else [])

    def _adding_selection(self, peer: Union[Peer, RelayedPeer], message: Register, mode: Mode, text: str, making: Making) -> Steps[Added]:
        check_mode(text, mode, making.terms)
        try:
            added = yield from self._selections.adding(peer, message, mode, text, making)
            return added if added.timeout else replace(added, timeout=self._config.defaults.timeout)
        except TargetError:
            self._disarm(peer.session, message.hook)
            _retire(self.sender.find(peer.session, message.hook), 0.0, _nothing)
            self._table.forget_unused()
            raise

    def _put(
        self,
        peer: Union[Peer, RelayedPeer],
        message: Register,
        mode: Mode,
        point: ProbePoint,
        making: Making,
        selection: Optional[Selection] = None,
    ) -> float:
        target = point.target
        if mode not in point.config.allow:
            allowed = ", ".join(sorted(one.value for one in point.config.allow))
            raise TargetError(f"{target}: the config does not allow the mode {mode.value!r} here, only {allowed}")
        terms = making.terms
        check_mode(target, mode, terms)
        timeout = timeout_of(target, terms, point.config)
        self._table.changing.change(lambda: self._put_on(peer, message, mode, point, making, selection, timeout))
        return timeout

    def _put_on(
        self,
        peer: Union[Peer, RelayedPeer],
        message: Register,
        mode: Mode,
        point: ProbePoint,
        making: Making,
        selection: Optional[Selection],
        timeout: float,
    ) -> None:
        target, terms = point.target, making.terms
        if selection is not None and selection.over:
            raise TargetError(f"{target}: the hook has been removed")
        for hook in point.hooks:
            if hook.session == peer.session and hook.number == message.hook:
                # Inherited over a fork: the same hook, now with a connection of this process's own.
                hook.rejoin(peer)
                return
        if self._leaving:
            raise TargetError(f"{target} cannot be hooked: the agent is leaving the process")
        if selection is not None and selection.admission is None:
            ending = self._over.ending_all(peer.session, message.hook)
            selection.admission = making.shared_admission(point.config, timeout, ending)
        self._check_count(peer.session, point)
        self._table.remove_expired(point)
        if len(point.hooks) >= self._config.limits.max_hooks:
            raise TargetError(f"{target} has {len(point.hooks)} hooks, the limit (max-hooks)")
        hook = making.maker(point, mode)(
            mode,
            target,
            peer,
            message.hook,
            message.style,
            PeerProfile(peer.python, python_version(), self._config.limits.max_payload),
            timeout=timeout,
            on_failure="raise" if terms.stands_in else point.config.on_failure,
            terms=terms,
            suspension=making.suspension(point.config, timeout),
            pid=os.getpid(),
            may_refer=not point.config.allow <= _OBSERVERS,
            signature=point.signature,
            ended=self._over.ending(point, selection is None),
            key=0 if selection is None else self._next_key(),
            admission=None if selection is None else selection.admission,
        )
        self._shared_limits.share(hook)
        hook.condition = making.condition(hook, point.config.expressions)
        if selection is not None and selection.pool is not None:
            hook.adopt(selection.pool, selection.since)
        point.hooks = [*point.hooks, hook]
        try:
            point.refresh()
            if hook.condition is not None and hook.condition.mistake is not None:
                raise hook.condition.mistake
            if getattr(hook, "mistake", ""):
                raise TargetError(f"{target}: {hook.mistake}")
        except TargetError:
            self._table.remove(point, hook)
            self._forget(hook)
            raise

    def _check_count(self, session: str, point: ProbePoint) -> None:
        """A session has hooks on so many targets on demand and no more."""
        if not point.on_demand or any(hook.session == session for hook in point.hooks):
            return
        most = self._config.limits.max_targets
        if len(self._table.points) < most:
            return
        points = [one for one in list(self._table.points.values()) if one.on_demand]
        if sum(any(hook.session == session for hook in one.hooks) for one in points) >= most:
            raise TargetError(
                f"{point.target}: this session has hooks on {most} targets on demand, the limit (max-targets); remove some first"
            )

    def counted(self, session: str) -> Dict[int, List[Any]]:
        """What the hooks of a session have counted that live here, by registration."""
        return all_totals(self._table, session)

    def drop_hook(self, session: str, number: int, within: float, done: Callable[[], None]) -> None:
        """Remove one hook of a session; `done` is called when its events are delivered too, or not in time."""
        self._disarm(session, number)
        _retire(self.sender.find(session, number), within, done)

    @staticmethod
    def _forget(hook: RemoteHook) -> None:
        """A hook is disarmed, and nobody waits for its events."""
        queue = getattr(hook, "queue", None)
        if queue is not None:
            queue.retire(hook, 0.0, _nothing)

    def _disarm(self, session: str, number: int) -> bool:
        """Remove one hook of a session from its point, or its points; False if there is none of that number."""
        removed = self._selections.drop(session, number)
        for point in list(self._table.points.values()):
            for hook in point.hooks:
                if hook.session == session and hook.number == number:
                    hook.removed = True
                    self._table.remove(point, hook)
                    removed = True
        self._keep_limits()
        return removed

    def _keep_limits(self) -> None:
        with self._table.changing():
            hooks = [hook for point in list(self._table.points.values()) for hook in point.hooks]
            self._shared_limits.keep({(hook.session, hook.number) for hook in hooks})

    def drop_all(self) -> None:
        """Remove all hooks of all sessions."""
        hooked = {hook.session for point in list(self._table.points.values()) for hook in point.hooks}
        for session in {*hooked, *(session for session, _ in self._selections.by_session())}:
            self.drop_session(session)

    def drop_session(self, session: str) -> None:
        """Remove all hooks of a session."""
        self._selections.drop_session(session)
        with self._table.changing():
            for point in list(self._table.points.values()):
                kept = [hook for hook in point.hooks if hook.session != session]
                if len(kept) != len(point.hooks):
                    gone = [hook for hook in point.hooks if hook.session == session]
                    for hook in gone:
                        point.counters.retire(hook.counters)
                    point.hooks = kept
                    point.refresh()
                    for hook in gone:
                        hook.taken_off()
            self._table.forget_unused()
        self._keep_limits()
        self.sender.discard(session)

    def drop_orphans(self, session: str) -> None:
        """Remove the hooks of a session that were inherited over a fork, but not those that it has registered with this process."""
        try:
            self._table.changing.change(lambda: self._drop_orphans(session))
        except BusyError:
            self._table.leave(lambda: self.drop_orphans(session))

    def _drop_orphans(self, session: str) -> None:
        self._selections.drop_session(session, inherited=True)
        for point in list(self._table.points.values()):
            for hook in point.hooks:
                if hook.session == session and hook.orphan_since:
                    self._table.remove(point, hook)
                    self._forget(hook)
        self._keep_limits()

    def inherited(self) -> List[Tuple[str, Adoptable]]:
        """In a forked child: all that waits for its session to come, with the session's name."""
        hooks = [(hook.session, hook) for point in list(self._table.points.values()) for hook in point.hooks]
        return [*hooks, *self._selections.by_session()]

    def let_go(self) -> None:
        """This process leaves its sessions by itself: invocations that are under way go on without their hooks, which is no failure."""
        # Whoever holds the lock to add one now is waited for by what restores the points.
        self._leaving = True
        for point in list(self._table.points.values()):
            for hook in point.hooks:
                hook.removed = True
                hook.taken_off()

    def reset_after_fork(self) -> None:
        """In a forked child: the sessions are the parent's, the hooks stay for those that come here too. Once the table is reset."""
        self._begin()
        reset_loaded()
        self._selections.reset_after_fork()
        pid = os.getpid()
        for point in list(self._table.points.values()):
            for hook in point.hooks:
                hook.reset_after_fork(pid)
        self.sender.reset_after_fork()


def _nothing() -> None:
    """Nobody waits."""


def _retire(hooks: List[QueuedHook], within: float, passed: Callable[[], None]) -> None:
    """Have what is queued of hooks delivered; `passed` is called when that is done for all of them, or not in time."""
    left = {hook.key for hook in hooks}

    def one_passed(key: int) -> None:
        left.discard(key)
        if not left:
            passed()

    if not hooks:
        passed()
    for hook in hooks:
        hook.queue.retire(hook, within, functools.partial(one_passed, hook.key))

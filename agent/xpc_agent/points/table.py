"""The probe points of this process: what the config makes hookable, what became of it, and the hooks on it.

Rules:
- A probe point is `pending` until its module is imported, then `ready`, `missing` or `unpatchable`; `armed` while it has hooks.
- A hook may be registered on a pending one; it is armed as soon as the module has run.
- Hooks are swapped as a whole (`Dispatcher.chain`), so that an invocation sees one state. The lock is held for changes only, never on
  the way of an invocation.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.machinery
import json
import logging
import os
import sys
import types
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Union

from xpc_instrument.core.calls.registry import Entry, Registry, read_terms
from xpc_instrument.core.config.schema import Config, ProbeConfig
from xpc_instrument.core.discovery.entry import is_announced
from xpc_instrument.core.discovery.folder import VARIABLE
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import Mode, is_glob, is_target, matches, module_matches, split_name, split_target
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.protocol.codec import MAX_CONTROL, Frame
from xpc_instrument.core.protocol.messages import Answer, Notice, Opcode, Query, Register, Unregister
from xpc_instrument.core.unpatched import Local, RLock, allocate_lock
from xpc_instrument.core.values.traits import PeerProfile, python_version
from xpc_instrument.core.wire.wire import Wire

from ..events.queue import bounded
from ..events.sender import Sender
from ..guard import guard_thread, guarded
from ..hooks.admission import SuspensionPolicy, reseed
from ..hooks.counters import Counters
from ..hooks.remote import RemoteHook
from ..hooks.unwaited import UnwaitedHook
from ..patching import load_wrapt
from ..relay import RelayedPeer, is_member
from ..service.reports import report_points
from ..targets.glob import expand
from ..targets.module import find_module, is_initializing, main_names
from ..targets.resolve import resolve
from .point import ProbePoint

log = logging.getLogger("xpc_agent")


# What a script may register where the config allows no more than to observe; then nothing that it sends is unpickled.
_OBSERVERS = frozenset({Mode.BEFORE, Mode.AFTER})
# What a script may register, in characters.
_LONGEST_NAME = 4096


class _Waiting:
    """A registration whose answer waits for members."""

    __slots__ = ("accepted", "answer", "members", "peer")

    def __init__(self, peer: Peer, answer: Answer, members: Set[str]) -> None:
        self.peer = peer
        self.answer = answer
        self.members = members
        self.accepted = answer.ok


class _Here(Local):
    """What a thread is patching: modules that have run meanwhile wait in `imported`."""

    def __init__(self) -> None:
        self.patching = False
        self.imported: List[Tuple[Any, str]] = []


class ProbeTable(Registry):
    """All probe points, and the host's policy for them; names that are no targets are plain callbacks, as with any manager."""

    def __init__(self, config: Config, limits: Any) -> None:
        super().__init__(limits)
        self.config = config
        self.points: Dict[str, ProbePoint] = {}
        self.on_first_ready: Optional[Callable[[], None]] = None
        self.on_synced: Optional[Callable[[Peer], None]] = None
        self.on_joined: Optional[Callable[[Peer], None]] = None
        self.sender = Sender(config.limits.max_queue, config.limits.max_queue_bytes)
        # What is to be told of the process as a whole.
        self.about_process: Callable[[], Dict[str, Any]] = dict
        self._changing = RLock()
        self._here = _Here()
        # The probes by the module of their target; those whose module is a glob are asked one by one.
        self._by_module: Dict[str, List[ProbeConfig]] = {}
        self._in_any_module: List[ProbeConfig] = []
        self._peers: Dict[str, Peer] = {}
        # The sessions of processes that share this one's address.
        self._members: Set[str] = set()
        # Target hooks of the sessions joined here, for members that come later; registrations that wait for members.
        self._shared: Dict[Tuple[str, int], Register] = {}
        self._waiting: Dict[str, _Waiting] = {}
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
        return name in self._by_module or any(module_matches(probe.target, name) for probe in self._in_any_module)

    def _probes_in(self, module: str) -> List[ProbeConfig]:
        """The probes whose targets may lie in the module, those that name it first."""
        wide = [probe for probe in self._in_any_module if module_matches(probe.target, module)]
        return [*self._by_module.get(module, ()), *wide]

    def module_imported(self, module: Any, name: str = "") -> None:
        """Make the probe points of a module hookable that has just run."""
        first = not self.any_ready
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
                with self._changing:
                    self._patch_module(one, called)
        finally:
            here.patching = False
            here.imported.clear()
        if first and self.any_ready and self.on_first_ready is not None:
            self.on_first_ready()

    def _needs_wrapt(self, module: str) -> bool:
        """Whether a target in the module is patched with wrapt; a glob stands for Python functions only."""
        for probe in self._probes_in(module):
            if probe.patcher == "wrapt":
                return True
            name = split_target(probe.target)[1]
            if not is_glob(name):
                try:
                    if not isinstance(resolve(f"{module}:{name}").function, types.FunctionType):
                        return True
                except TargetError:
                    continue
        return False

    def _patch_module(self, module: Any, name: str) -> None:
        for probe in self._probes_in(name):
            for target in expand(probe.target, probe.exclude, module, name):
                point = self.points.get(target)
                if point is None:
                    point = self.points[target] = ProbePoint(target, probe)
                if point.state in ("pending", "missing") or self._stale(point):
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
        return any(point.patch is not None for point in list(self.points.values()))

    # registrations -----------------------------------------------------------------------------------------------------

    def find_point(self, target: str) -> ProbePoint:
        """The probe point of a target. Raises `TargetError` that names the nearest."""
        point = self.points.get(target)
        if point is None or point.state in ("pending", "missing"):
            self.look_at_imported()
            point = self.points.get(target)
        if point is None:
            point = self._promise(target)
        if point is None:
            import difflib

            near = difflib.get_close_matches(target, list(self.points), 3)
            hint = f"the nearest are {', '.join(near)}" if near else f"`xpc-instrument ls {self.config.app}` lists them"
            raise TargetError(
                f"{target} is no probe point of {self.config.app}: add it to the config and start the application again; {hint}"
            )
        if point.state in ("missing", "unpatchable"):
            raise TargetError(f"{target} cannot be hooked: {point.reason}")
        return point

    def _promise(self, target: str) -> Optional[ProbePoint]:
        """A pending probe point for a target that a glob covers, in a module that is not imported yet."""
        module = split_target(target)[0]
        if find_module(module) is not None:
            return None
        for probe in self.config.probes:
            if matches(probe.target, probe.exclude, target):
                with self._changing:
                    return self.points.setdefault(target, ProbePoint(target, probe))
        return None

    def register(self, peer: Peer, message: Register) -> Optional[Answer]:
        if len(message.name) > _LONGEST_NAME:
            # Before anything looks for what is similar to it.
            raise TargetError(f"{message.name[:60]}... has {len(message.name)} characters; at most {_LONGEST_NAME} can be a name")
        if not 0 <= message.hook < 1 << 32:
            raise TargetError(f"hook number {message.hook!r:.40}: expected one that a frame can hold, from 0 to 4294967295")
        if not is_target(message.name):
            return super().register(peer, message)
        members = [one for one in self._peers.values() if self._is_member(one)]
        answer = Answer(message.request, True, data={"registered": True, "importable": _importable(message.module)})
        try:
            self.add_hook(peer, message)
        except TargetError as error:
            if not members:
                raise
            answer = Answer(message.request, False, type(error).__name__, str(error))
        self._shared[peer.session, message.hook] = message
        if not members:
            return answer
        waiting = _Waiting(peer, answer, {member.session for member in members})
        self._waiting[f"{peer.session} {message.hook}"] = waiting
        for member in members:
            self._tell_member(member, peer, message)
        return None

    def add_hook(self, peer: Union[Peer, RelayedPeer], message: Register) -> None:
        """Put a hook of a session on its target. Raises `TargetError`."""
        mode, target = split_name(message.name)
        point = self.find_point(target)
        if mode not in point.config.allow:
            allowed = ", ".join(sorted(one.value for one in point.config.allow))
            raise TargetError(f"{target}: the config does not allow the mode {mode.value!r} here, only {allowed}")
        terms = read_terms(message)
        if not terms.wait and mode not in (Mode.BEFORE, Mode.AFTER):
            raise TargetError(f"{target}: a hook in the mode {mode.value!r} has to be waited for; only before and after take wait=False")
        with self._changing:
            for hook in point.hooks:
                if hook.session == peer.session and hook.number == message.hook:
                    # Inherited over a fork: the same hook, now with a connection of this process's own.
                    hook.rejoin(peer)
                    return
            self._drop_expired(point)
            if len(point.hooks) >= self.config.limits.max_hooks:
                raise TargetError(f"{target} has {len(point.hooks)} hooks, the limit (max-hooks)")
            make: Callable[..., RemoteHook] = RemoteHook if terms.wait else functools.partial(UnwaitedHook, sender=self.sender)
            hook = make(
                mode,
                target,
                peer,
                message.hook,
                message.style,
                PeerProfile(peer.python, python_version(), self.config.limits.max_payload),
                timeout=point.config.timeout,
                on_failure=point.config.on_failure,
                terms=terms,
                suspension=_suspension(point.config),
                pid=os.getpid(),
                may_refer=not point.config.allow <= _OBSERVERS,
                signature=point.signature,
                ended=lambda hook: self._drop(point, hook),
            )
            point.hooks = [*point.hooks, hook]
            try:
                point.refresh()
            except TargetError:
                self._drop(point, hook)
                self._retire(hook, 0.0)
                raise

    # members: processes that share this one's fixed address ------------------------------------------------------------

    def _tell_member(self, member: Peer, peer: Peer, message: Register) -> None:
        member.notify(
            "hook-added",
            key=f"{peer.session} {message.hook}",
            session=peer.session,
            pid=peer.pid,
            python=peer.python,
            name=message.name,
            hook=message.hook,
            style=message.style,
            terms=dict(message.terms),
        )

    def noticed(self, peer: Peer, notice: Notice) -> None:
        if notice.kind == "hook-answer" and self._is_member(peer):
            waiting = self._waiting.get(str(notice.data.get("key")))
            if waiting is not None:
                if not notice.data.get("error"):
                    waiting.accepted = True
                self._answered(str(notice.data.get("key")), waiting, peer.session)
        elif notice.kind == "to-script" and self._is_member(peer):
            # What a member has to tell the script of its hooks.
            script = self._peers.get(str(notice.data.get("session")))
            data = notice.data.get("data")
            if script is not None and isinstance(data, dict):
                script.post(Notice(str(notice.data.get("notice")), data))

    def _answered(self, key: str, waiting: _Waiting, member: str) -> None:
        """A member has answered, or is gone; after the last one the script gets its answer."""
        waiting.members.discard(member)
        if waiting.members:
            return
        if self._waiting.pop(key, None) is None:
            return  # the sender of events and the service thread were at the last two at once
        answer = waiting.answer
        if waiting.accepted and not answer.ok:
            answer = Answer(answer.request, True, data={"registered": True, "importable": True})
        waiting.peer.post(answer)

    def find(self, name: str) -> Optional[Entry]:
        if not name.startswith("\0"):
            return super().find(name)
        _, session, number = [*name.split("\0"), "", ""][:3]
        peer = self._peers.get(session)
        # A member says what it was told; anybody else may say anything.
        if peer is None or not self._has_members or not (number.isascii() and number.isdigit()) or len(number) > 9:
            return None
        return Entry(None, peer, int(number))

    @property
    def _has_members(self) -> bool:
        """Whether other processes can share the address of this one."""
        return self.config.manager.address != "unix"

    def _is_member(self, peer: Peer) -> bool:
        return peer.session in self._members

    def _let_in(self, peer: Peer) -> None:
        """Take a session that says it is a member for one if it is announced as one, and tell it of all hooks."""
        if not is_announced(self.config.app, peer.pid, peer.session):
            why = f"pid {peer.pid} is not announced in the runtime directory of pid {os.getpid()}, which hosts the address"
            log.warning("a session that would be a process of %s is refused as one: %s", self.config.app, why)
            peer.notify("no-member", message=f"{why}: processes that share an address need the same user, {VARIABLE} and pid namespace")
            return
        # A process of the application, which reports all its probe points.
        peer.wire.connection.reader.limit = MAX_CONTROL
        self._members.add(peer.session)
        for (session, _), message in list(self._shared.items()):
            owner = self._peers.get(session)
            if owner is not None:
                self._tell_member(peer, owner, message)
        peer.notify("all-hooks")

    def lost(self, caller: Wire, frame: Frame) -> None:
        if bytes(frame.buffers[0][:1]) != b"\0":
            super().lost(caller, frame)
            return
        # A member's invocation: that the script died is a failure there, that it has removed the hook is none.
        caller.send(None, Opcode.FAILED, 0, json.dumps({"cause": "channel", "message": "the script is gone"}).encode())

    def _drop_expired(self, point: ProbePoint) -> None:
        """Remove the hooks whose time is over; an invocation does so too, where there is one."""
        for hook in point.hooks:
            if hook.admission.expired:
                self._drop(point, hook)

    def _drop(self, point: ProbePoint, hook: RemoteHook) -> None:
        with self._changing:
            point.hooks = [one for one in point.hooks if one is not hook]
            point.counters.retire(hook.counters)
            point.refresh()

    def unregister(self, peer: Peer, message: Unregister) -> Optional[Answer]:
        within = bounded(message.within)
        session, number = peer.session, message.hook
        shared = self._shared.pop((session, number), None)
        members: Set[str] = set()
        if shared is not None:
            members = self._tell_members_removed(session, number, within)
        removed = self._disarm(session, number) or shared is not None
        unwaited = self.sender.find(session, number)
        if not removed and unwaited is None:
            return super().unregister(peer, message)
        answer = Answer(message.request, True, data={"unregistered": True})
        if unwaited is None and not (members and within):
            return answer
        # The answer follows when what is queued is delivered, here and in the members.
        key = f"removed {session} {number}"
        waiting = _Waiting(peer, answer, {"", *members} if within else {""})
        self._waiting[key] = waiting

        def passed() -> None:
            if unwaited is not None:
                waiting.answer = dataclasses.replace(
                    answer, data={"unregistered": True, "source": self.sender.source, "dropped": unwaited.dropped}
                )
            self._answered(key, waiting, "")

        if unwaited is None:
            passed()
        else:
            unwaited.queue.retire(unwaited, within, passed)
        return None

    def _tell_members_removed(self, session: str, hook: int, within: float = 0.0) -> Set[str]:
        """Returns the members that were told; each answers if it is given time."""
        members = [one for one in self._peers.values() if self._is_member(one)]
        for member in members:
            member.notify("hook-removed", session=session, hook=hook, within=within)
        return {member.session for member in members}

    def drop_hook(self, session: str, number: int, within: float, done: Callable[[], None]) -> None:
        """Remove one hook of a session; `done` is called when its events are delivered too, or not in time."""
        self._disarm(session, number)
        unwaited = self.sender.find(session, number)
        if unwaited is None:
            done()
        else:
            unwaited.queue.retire(unwaited, within, done)

    @staticmethod
    def _retire(hook: RemoteHook, within: float) -> None:
        """Forget a hook that is disarmed."""
        if isinstance(hook, UnwaitedHook):
            hook.queue.retire(hook, within, _nothing)

    def _disarm(self, session: str, number: int) -> bool:
        """Remove one hook of a session from its point; False if there is none of that number."""
        for point in list(self.points.values()):
            for hook in point.hooks:
                if hook.session == session and hook.number == number:
                    hook.removed = True
                    self._drop(point, hook)
                    return True
        return False

    def drop_all(self) -> None:
        """Remove all hooks of all sessions."""
        for session in {hook.session for point in list(self.points.values()) for hook in point.hooks}:
            self.drop_session(session)

    def drop_session(self, session: str) -> None:
        """Remove all hooks of a session."""
        with self._changing:
            for point in list(self.points.values()):
                kept = [hook for hook in point.hooks if hook.session != session]
                if len(kept) != len(point.hooks):
                    for hook in point.hooks:
                        if hook.session == session:
                            point.counters.retire(hook.counters)
                    point.hooks = kept
                    point.refresh()
        self.sender.discard(session)

    def drop_orphans(self, session: str) -> None:
        """Remove the hooks of a session that were inherited over a fork, but not those that it has registered with this process."""
        with self._changing:
            for point in list(self.points.values()):
                for hook in point.hooks:
                    if hook.session == session and hook.orphan_since:
                        self._drop(point, hook)
                        self._retire(hook, 0.0)

    def entered_thread(self) -> None:
        # The threads of the channel do nothing but work of ours.
        guard_thread()

    def joined(self, peer: Peer) -> None:
        peer.lanes.want = guarded(peer.lanes.want)
        self._peers[peer.session] = peer
        if self._has_members and is_member(peer.session):
            self._let_in(peer)
        elif self.on_joined is not None:
            self.on_joined(peer)

    def left(self, peer: Peer) -> None:
        super().left(peer)
        self._peers.pop(peer.session, None)
        if self._is_member(peer):
            self._members.discard(peer.session)
            for script in list(self._peers.values()):
                if not self._is_member(script):
                    script.notify("member-left", pid=peer.pid)
        self.drop_session(peer.session)
        for key in [key for key in self._shared if key[0] == peer.session]:
            del self._shared[key]
            self._tell_members_removed(*key)
        for request, waiting in list(self._waiting.items()):
            if waiting.peer is peer:
                del self._waiting[request]
            elif peer.session in waiting.members:
                self._answered(request, waiting, peer.session)

    def synced(self, peer: Peer) -> None:
        # What it had inherited over a fork and has not registered again, it has removed meanwhile.
        self.drop_orphans(peer.session)
        if self.on_synced is not None:
            self.on_synced(peer)

    def query(self, peer: Peer, message: Query) -> Answer:
        members = {str(one.pid): one for one in self._peers.values() if self._is_member(one)}
        if message.what == "probes":
            return Answer(message.request, True, data={**self.report_process(), "members": [one.pid for one in members.values()]})
        kind, _, pid = message.what.partition(" ")
        if kind != "member":
            return super().query(peer, message)
        if pid in members:
            # It tells the script by itself, in a notice.
            members[pid].notify("report", session=peer.session, request=message.request)
        return Answer(message.request, True, data={"asked": pid in members})

    def report_process(self) -> Dict[str, Any]:
        """What `ls` shows of this process."""
        return {"app": self.config.app, "pid": os.getpid(), "process": self.about_process(), "probes": self.report()}

    def report(self) -> List[Dict[str, Any]]:
        """What `ls` shows: all probe points, and the globs that nothing matches yet."""
        self.look_at_imported()
        points = list(self.points.values())
        for point in points:
            self._drop_expired(point)
        for probe in self.config.probes:
            if is_glob(probe.target) and not any(matches(probe.target, probe.exclude, point.target) for point in points):
                waiting = ProbePoint(probe.target, probe)
                waiting.reason = "no function matches yet"
                points.append(waiting)
        return report_points(points, [peer.lanes for peer in list(self._peers.values())])

    # ends --------------------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """This process leaves its sessions by itself: invocations that are under way go on without their hooks, which is no failure."""
        for point in list(self.points.values()):
            for hook in point.hooks:
                hook.removed = True

    def restore_all(self) -> None:
        """Undo all patches."""
        with self._changing:
            # The newest first: one may have been laid over another, as those of two accessors of a property.
            for point in reversed(list(self.points.values())):
                point.restore()

    def reset_after_fork(self) -> None:
        """In a forked child, where another thread of the parent may have held the lock."""
        self._changing = RLock()
        self._here = _Here()
        self._lock = allocate_lock()
        self._names = {}
        reseed()
        self._peers, self._shared, self._waiting, self._members = {}, {}, {}, set()
        pid = os.getpid()
        for point in list(self.points.values()):
            point.counters = Counters()
            for hook in point.hooks:
                hook.reset_after_fork(pid)
        self.sender.reset_after_fork()


def _nothing() -> None:
    """Nobody waits."""


def _suspension(config: ProbeConfig) -> SuspensionPolicy:
    """When a hook on the probe point is suspended. An invocation that tries it is given up when it should have timed out long ago."""
    return SuspensionPolicy(config.suspend_after, config.suspend_for, config.suspend_at_most, config.timeout + config.suspend_at_most)


def _importable(module: str) -> bool:
    """Whether the top-level package of a module can be found from here; nothing is imported."""
    if not module or module in sys.modules:
        return True
    top = module.partition(".")[0]
    if top in sys.modules or top in sys.builtin_module_names:
        return True
    return importlib.machinery.PathFinder.find_spec(top) is not None

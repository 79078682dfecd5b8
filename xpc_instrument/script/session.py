"""A probe script's session: joined to every process of one application, those born later included.

Rules:
- Each hook has a number, the same in all processes. All are asked to register it at once, and the registration returns once every one has
  answered. If one that lives has not answered in time, the registration fails, and all are asked to remove the hook.
- A process that is born rings the session's doorbell (`follower`); it is joined, and asked to register all hooks.
- The lock is held while processes and hooks come and go and requests are sent, never while an answer is waited for. So each process is
  asked to register each hook by exactly one of two: by the registration, or by the joining.
- Hooks run in the threads of the lanes, several at a time if the application calls so; `async def` hooks on one loop of the session
  (`serving`).
- Leaving, closing or dying disarms: the processes see the connection end. A script that just ends closes its sessions (`exits`).
- A session belongs to the process that made it; a forked child can only close it, which leaves the connections to the parent.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import weakref
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple, Type

from ..core.calls.registry import check_callback
from ..core.flag import Flag
from ..core.model.errors import AuthenticationError, ChannelError, DeadlineError, TargetError
from ..core.model.limits import Limits
from ..core.model.pattern import pattern_mistake
from ..core.model.stats import LaneStats, ProbeStats, read_lanes, read_probe
from ..core.model.target import Mode, is_target, parts_of
from ..core.model.terms import Terms
from ..core.model.words import counted, one_line
from ..core.node.address import NO_PROTECTION, Address, Protection, parse_address
from ..core.node.joiner import Joiner
from ..core.protocol.messages import Notice
from ..core.unpatched import monotonic
from .departure import have_left
from .exits import come_first, end_with_script
from .follower import Follower
from .handle import Handle
from .hook import Hook
from .observer import Observer
from .process import PendingRegistration, PendingRemoval, Process, confirm_all
from .serving import HookServer

log = logging.getLogger("xpc_instrument")

# How long a session that ends waits for the processes to remove its hooks, in seconds, for all of them together.
_LEAVE_TIMEOUT = 1.0
# How long a session at a fixed address dials again after the process that hosted it is gone, in seconds.
_RETURN_TIMEOUT = 5.0
# The part of the time for removing a hook that may go by until its events are delivered.
_DELIVERING = 0.8
# How long Ctrl-C may go unnoticed, in seconds: one that comes in the moment before a thread begins to wait, or to another thread, does not
# end the wait; Python sees it afterwards.
_NOTICED_WITHIN = 0.5
# Of what a process says in a notice a line of the log has so many characters: more than of a name, since it may give advice.
_LONGEST_NOTICE = 500


# Those of this process: a forked child lets go of them at once, since what it holds would hide the death of its parent.
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _fork() -> None:
    for session in list(_sessions):
        try:
            session._abandon()
        except Exception:
            log.exception("%r cannot let go of its parent's connections", session)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)


class Session(Observer):
    """A probe script's connection to one application, made by ``connect``. A context manager; ``close`` ends it.

    Hooks run in threads of the session, several at a time if the application calls so. These block all signals, and so does a program that
    a hook starts, unless a ``preexec_fn`` unblocks them. A session's methods may be called from any thread, but not in a forked child,
    where all but ``close`` raise ``ChannelError``. Since a hook may run in them at any moment, these threads do not end for a fork: Python
    3.12 and later warn of them where the script forks.
    """

    app: str
    """The name of the application."""

    def __init__(self, limits: Limits, key: bytes, protection: Protection = NO_PROTECTION) -> None:
        self.app = ""
        self._limits = limits
        self._key = key
        self._protection = protection
        # The same in all processes: a forked child knows by it whose hooks it has inherited.
        self._id = secrets.token_hex(16)
        # By address.
        self._processes: Dict[str, Process] = {}
        self._hooks: Dict[int, Hook] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._follower: Optional[Follower] = None
        self._closed = False
        self._pid = os.getpid()
        self._fixed = False
        self._ended = Flag()
        self._server = HookServer(self._hooks)
        _sessions.add(self)
        end_with_script(self, Session.close)

    def __repr__(self) -> str:
        return f"<Session {self.app or '?'}: {len(self._processes)} processes, {len(self._hooks)} hooks>"

    @property
    def pids(self) -> List[int]:
        """The pids of the processes that are joined now, in order, with those that share the address of one."""
        self._check_process()
        with self._lock:
            # The thread that noticed the end of one may not have come to tell us yet.
            joined = [process for process in self._processes.values() if process.joiner.alive]
        return sorted(pid for process in joined for pid in process.pids())

    @property
    def handles(self) -> List[Handle]:
        """The hooks that are registered now, in the order of their coming."""
        return [hook.handle for hook in list(self._hooks.values())]

    # registering -------------------------------------------------------------------------------------------------------

    def _add(self, mode: Mode, target: str, callback: Callable[..., Any], terms: Terms, raises: Tuple[Type[Exception], ...]) -> Handle:
        check_callback(target, callback)
        for part in parts_of(target):
            mistake = pattern_mistake(part) if "*" in part else None
            if mistake or not is_target(part):
                raise TargetError(f"target {part!r:.200}: {mistake or 'expected package.module:Qualified.name'}")
        self._check_process()
        with self._lock:
            if self._closed:
                raise ChannelError("this session is closed")
            come_first()
            hook = Hook(next(self._numbers), mode, target, callback, terms, raises, self._remove)
            handle = hook.handle
            self._hooks[handle.number] = hook
            pending = self._begin_register(hook)
        try:
            confirm_all(hook, pending, self._limits.connect_timeout)
            if self._follower is not None:
                # A process that one of them forked meanwhile may have missed the hook; it was announced before its parent answered.
                self._follower.look()
            # One that waits for the module of the target cannot say that there is no such target.
            if not hook.has_place:
                raise hook.refusal or hook.failure or ChannelError(f"no process of {self.app} is left to hook {target} in")
            if self._closed:
                raise ChannelError("this session is closed")
        except BaseException:
            self._remove(handle, [one.process for one in pending if one.give_up()])
            raise
        return handle

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ChannelError(f"this session belongs to the process {self._pid}, which made it: call connect() in this one too")

    def _begin_register(self, hook: Hook) -> List[PendingRegistration]:
        """Have all processes register a hook, and wait for none. The lock is held."""
        deadline = monotonic() + self._limits.connect_timeout
        # Last those that may not even read: one that is stopped delays nobody but itself.
        return [process.begin_register(hook, deadline) for process in sorted(self._processes.values(), key=lambda one: one.joiner.behind)]

    def _remove(self, handle: Handle, silent: Iterable[Process] = ()) -> None:
        """Have all processes remove a hook, and wait for their answers, but not for those of the `silent`."""
        self._check_process()
        asked: List[Process] = []
        while True:
            with self._lock:
                processes = [process for process in self._processes.values() if process.joiner.alive and process not in asked]
                if not processes:
                    # Last, so that an invocation that is under way meanwhile still finds it.
                    self._hooks.pop(handle.number, None)
                    break
            # Without the lock, which a hook whose events are delivered meanwhile may need.
            asked += processes
            self._unregister(processes, [handle.number], self._limits.connect_timeout, silent)
        handle._end()

    def _unregister(self, processes: List[Process], numbers: List[int], timeout: float, silent: Iterable[Process] = ()) -> None:
        """Have processes remove hooks, all at once, and deliver the events that they have of them; those that cannot are logged."""
        deadline = monotonic() + timeout
        pending: List[PendingRemoval] = []
        for process in sorted(processes, key=lambda one: one.joiner.behind or one in silent):
            for number in numbers:
                hook = self._hooks.get(number)
                waits = hook is not None and not hook.terms.wait and not self._server.events.running
                # A silent one that cannot even be sent that loses its connection, which tells it the same.
                until = 0.0 if process in silent else deadline
                pending.append(
                    PendingRemoval(process, hook, process.joiner.begin_unregister(number, until, timeout * _DELIVERING if waits else 0.0))
                )
        for one in pending:
            if one.process in silent:
                one.give_up()
                continue
            try:
                one.confirm(deadline)
            except ChannelError as error:
                # The end of a connection tells the process the same.
                expected = self._closed or not one.process.joiner.alive
                log.log(logging.DEBUG if expected else logging.WARNING, "%s: removing a hook: %s", one.process.name, error)

    # processes ---------------------------------------------------------------------------------------------------------

    def _follow(self, app: str, timeout: Optional[float], every: bool, root: str = "") -> None:
        """Cover all processes of an application, or `every` one of that name, waiting up to `timeout` seconds for the first."""
        self.app = app
        self._follower = Follower(app, self._id, self._join, self._is_joined, every, root)
        self._follower.wait_for_first(lambda: bool(self._processes), timeout)
        self._follower.start()

    def _is_joined(self, address: str) -> bool:
        return address in self._processes

    def _join(self, address: Address, name: str) -> None:
        """Join a process and have it register all hooks. Raises what dialling raises."""
        text = str(address)
        process = Process(name, partial(self._joiner, address))
        joiner = process.joiner
        deadline = monotonic() + self._limits.connect_timeout
        welcome = joiner.connect(deadline)
        try:
            if self._hooks:
                joiner.answering.ensure(deadline)
            pending = self._take_in(text, process, deadline)
            self.app = self.app or welcome.app
            for one in pending:
                refusal = one.confirm(deadline)
                if refusal is not None:
                    log.warning("%s: %s", name, refusal)
            joiner.synced()
        except BaseException:
            # One that does not know all hooks is not joined.
            self._forget(text, process)
            joiner.close()
            raise

    def _joiner(self, address: Address, process: Process) -> Joiner:
        return Joiner(
            address,
            self._key,
            limits=self._limits,
            serve=partial(self._server.serve, process),
            on_notice=partial(self._noticed, process),
            on_lost=partial(self._lost, str(address), process),
            on_cut_off=self._server.cut_off,
            session=self._id,
            protection=self._protection,
        )

    def _take_in(self, address: str, process: Process, deadline: float) -> List[PendingRegistration]:
        """From now on the session knows the process; it is asked to register all hooks that there are."""
        with self._lock:
            if self._closed:
                raise ChannelError("this session is closed")
            self._processes[address] = process
            if not process.joiner.alive:
                # Its end was noticed before there was anything to forget.
                self._processes.pop(address, None)
                raise ChannelError(f"{process.name} ended while it was joined: {process.joiner.lost}")
            return [process.begin_register(hook, deadline) for hook in self._hooks.values()]

    def _forget(self, address: str, process: Process) -> bool:
        """False if the session does not know it: not yet, or not any more."""
        with self._lock:
            if self._processes.get(address) is not process:
                return False
            del self._processes[address]
            return True

    def _lost(self, address: str, process: Process, reason: str) -> None:
        if not self._forget(address, process):
            return
        for hook in list(self._hooks.values()):
            hook.handle._note_suspension(process.joiner.welcome.pid, False)
        log.info("%s is gone: %s", process.name, reason)
        if self._follower is None and not self._processes and not self._closed and not self._return_to(address, process.name):
            self._ended.set()

    def _return_to(self, address: str, name: str) -> bool:
        """At a fixed address another process may take over: dial again for a while. Runs in the thread that noticed the loss."""
        if not self._fixed:
            return False
        deadline = monotonic() + _RETURN_TIMEOUT
        while not self._closed and monotonic() < deadline:
            if self._is_joined(address):
                return True  # one that was joined here was lost again at once, and the thread that noticed was faster
            try:
                self._join(parse_address(address), name)
                return True
            except (ChannelError, AuthenticationError):
                self._ended.wait(0.02)
        return False

    def _noticed(self, process: Process, notice: Notice) -> None:
        name, data = process.name, notice.data
        if process.reporter.noticed(notice):
            if notice.kind == "member-left":
                for hook in list(self._hooks.values()):
                    hook.handle._note_suspension(data.get("pid"), False)
            return
        if notice.kind == "events-dropped":
            dropped = {int(key): (int(number), count) for key, (number, count) in data["dropped"].items()}
            parts = {key: (number, "") for key, (number, _) in dropped.items()}
            self._server.events.note_dropped(str(data["source"]), {key: count for key, (_, count) in dropped.items()}, parts)
            return
        if notice.kind in ("apart", "expression", "given-up", "hooked", "not-hooked", "over-budget", "totals"):
            found = self._hooks.get(data.get("hook", 0))
            if found is not None:
                found.handle._note(notice.kind, data)
                if notice.kind == "hooked":
                    process.goes_on(found, self._limits.connect_timeout)
            return
        if notice.kind in ("suspended", "resumed"):
            self._suspension(name, notice.kind == "suspended", data)
            return
        # A lane that cannot be opened to a process that is going away is no news.
        level = logging.DEBUG if notice.kind == "no-lane" else logging.WARNING
        log.log(level, "%s: %s: %s", name, one_line(notice.kind), one_line(str(data.get("message", dict(data))), _LONGEST_NOTICE))

    def _suspension(self, name: str, begins: bool, data: Mapping[str, Any]) -> None:
        """A process goes on without a hook that fails, or has it back; unless the hook was removed meanwhile."""
        hook = self._hooks.get(data.get("hook", 0))
        if hook is None:
            return
        handle = hook.handle
        handle._note_suspension(data.get("pid"), begins)
        if begins:
            text = "%s suspends the %s hook on %s: it failed %s times in a row (%s), and is tried again in %s s"
            failures, cause, pause = (one_line(str(data.get(key))) for key in ("failures", "cause", "pause"))
            log.warning(text, name, handle.mode, handle.target, failures, cause, pause)
        else:
            log.info("%s has the %s hook on %s back", name, handle.mode, handle.target)

    # figures ------------------------------------------------------------------------------------------------------------

    def stats(self) -> List[ProbeStats]:
        """What each process has counted of each of its probe points, over the hooks of all scripts. A process that has gone is left out.

        Raises ``DeadlineError`` (a ``TimeoutError``) if one that lives does not answer within ``Limits.connect_timeout``, 10 seconds.
        """
        return [read_probe(data["pid"], report) for data in self._reports() for report in data["probes"]]

    def lanes(self) -> List[LaneStats]:
        """The lanes that each process has to each script now, and which of them can be hot. A process that has gone is left out.

        Raises ``DeadlineError`` as ``stats`` does.
        """
        return [one for data in self._reports() for one in read_lanes(data["pid"], data["process"])]

    def _ask(self, question: str, pid: Optional[int] = None) -> List[Mapping[str, Any]]:
        """What each process answers, or that one; one that has gone is left out. Raises as `stats`, and what one refuses it with."""
        self._check_process()
        with self._lock:
            joiners = [one.joiner for one in self._processes.values() if pid in (None, one.joiner.welcome.pid)]
        deadline = monotonic() + self._limits.connect_timeout
        asked = [(joiner, joiner.begin_query(question, deadline)) for joiner in joiners if joiner.alive]
        found: List[Mapping[str, Any]] = []
        for joiner, request in asked:
            try:
                found.append(request.answer(deadline).data)
            except ChannelError:
                if joiner.alive:
                    raise
        return found

    def _reports(self, what: str = "probes") -> List[Mapping[str, Any]]:
        self._check_process()
        with self._lock:
            processes = list(self._processes.values())
        deadline = monotonic() + self._limits.connect_timeout
        asked = [(process, process.reporter.begin(process.joiner, deadline, what)) for process in processes]
        found: List[Mapping[str, Any]] = []
        for process, one in asked:
            try:
                reports, late = process.reporter.collect(process.joiner, one, deadline, what)
            except ChannelError:
                if process.joiner.alive:
                    raise
                continue
            if late:
                raise DeadlineError(
                    f"{process.name}: the processes {', '.join(map(str, late))}, which share its address, did not answer in time"
                )
            found += reports
        return found

    # life --------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until Ctrl-C, or until the process is gone if the session was made for one; then close.

        Logs a line at INFO (logger ``xpc_instrument``) once Ctrl-C means that.
        """
        try:
            self._serve_until_interrupted()
        except KeyboardInterrupt:
            # Nothing is left to close, unless it was interrupted before it had begun.
            self.close()
            log.warning("Ctrl-C again while the session was closing: the application sees its connections end")

    def _serve_until_interrupted(self) -> None:
        try:
            hooks, processes = counted(len(self._hooks), "hook"), len(self._processes)
            if processes:
                log.info("serving %s in %s of %s; Ctrl-C ends it", hooks, counted(processes, "process", "processes"), self.app)
            else:
                log.info("no process of %s runs: waiting for one, to serve %s in it; Ctrl-C ends that", self.app, hooks)
            while not self._ended.wait(_NOTICED_WITHIN):
                pass
        except KeyboardInterrupt:
            running = sum(process.joiner.answering.busy for process in list(self._processes.values()))
            if running:
                log.warning("Ctrl-C while %d of the hooks run: the application goes on without their answers", running)
        finally:
            self.close()

    def _abandon(self) -> None:
        """In a forked child: let go of the descriptors. No lock is taken, since a thread of the parent may have held it."""
        if self._closed:
            return
        self._closed = True
        if self._follower is not None:
            self._follower.abandon()
        for process in list(self._processes.values()):
            process.joiner.abandon()
        self._processes.clear()
        self._hooks.clear()

    def close(self) -> None:
        """Disarm all hooks and leave. Harmless if it was closed before.

        Waits, at most a second, for the processes to remove the hooks and to deliver the events that they have. In a forked child it lets
        go of the descriptors and leaves the hooks to the parent.
        """
        if self._pid != os.getpid():
            self._abandon()
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            processes = list(self._processes.values())
            self._processes.clear()
        try:
            # The bell goes first: a process that is born from now on waits for nobody.
            if self._follower is not None:
                self._follower.end()
            # So that none of their invocations finds a connection that has just been closed.
            self._unregister([process for process in processes if process.joiner.alive], list(self._hooks), _LEAVE_TIMEOUT)
        finally:
            # Also after Ctrl-C: a connection that stayed would leave the application hooked.
            for hook in list(self._hooks.values()):
                hook.handle._end()
            self._hooks.clear()
            self._server.leave()
            for process in processes:
                process.joiner.close()
            self._server.close()
            self._ended.set()

    def detach(self) -> List[int]:
        """Take the agent out of all processes that are joined, and close the session; the pids of those that it has left.

        Their hooks are removed, those of other scripts too, and their functions, imports, threads, sockets and files are as they were
        before ``attach``, ``xpc-instrument run`` or ``xpc_agent.start()``; only imported modules stay. Processes that an application starts
        later under ``xpc-instrument run`` are instrumented as ever. Raises ``DeadlineError`` if one does not leave within
        ``Limits.connect_timeout``, 10 seconds.
        """
        self._check_process()
        left: List[int] = []
        try:
            while True:
                if self._follower is not None:
                    # Those too that one of them has just forked.
                    self._follower.look()
                with self._lock:
                    processes = [process for process in self._processes.values() if process.joiner.alive]
                if not processes:
                    return sorted(left)
                # So that no invocation is under way in a hook of this session when the connection ends.
                self._unregister(processes, list(self._hooks), _LEAVE_TIMEOUT)
                left += have_left(processes, monotonic() + self._limits.connect_timeout)
        finally:
            self.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

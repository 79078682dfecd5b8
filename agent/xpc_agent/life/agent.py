"""The agent's life in a process: start, stop, fork, exit.

Rules:
- Starting never harms the application: what fails is logged, and the application runs uninstrumented. (`start()` called by the application
  itself raises, since it asked.)
- The process that was started with the agent opens its socket at once; one that it starts does so when a probe point becomes hookable,
  so that short-lived helpers pay nothing.
- A forked child keeps the hooks of its parent and waits, within the deadline of the first call, for their sessions to dial in; the
  parent's connections stay the parent's.
- After a fork the parent answers no session before the child has announced itself: a registration that returns has reached the child,
  by inheritance or because the session has found it.
- What is done in the application's threads at these moments is work of ours: probe points that it hits pass through.
- At exit the socket and the entry in the runtime directory go.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from typing import Dict, Iterable, List, Optional, Set, Tuple, Union

from xpc_instrument.core.config import file as config_module
from xpc_instrument.core.config.schema import Config, ManagerConfig
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.discovery.doorbell import bell_name, ring
from xpc_instrument.core.discovery.folder import socket_path
from xpc_instrument.core.model.errors import AddressInUseError, AuthenticationError, ConfigError, XpcError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.model.stats import LaneStats, ProbeStats, read_lanes, read_probe
from xpc_instrument.core.node.address import Address, Protection, parse_address
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.unpatched import Local, Tally, allocate_lock, get_ident
from xpc_instrument.core.values.traits import python_version

from ..guard import guard, guarded
from ..points.table import ProbeTable
from ..service.member import Membership
from ..service.registrations import Registrations
from ..service.reports import Reports
from ..targets.imports import ImportWatcher
from .logs import leave_no_dummies

log = logging.getLogger("xpc_agent")

# How long a new process waits for the sessions that want to hook it, in seconds.
_SYNC_TIMEOUT = 1.0
# How long a process whose host has died tries to take its place or to join the next one, in seconds.
_TAKEOVER_TIMEOUT = 10.0
# How long a process that leaves takes to deliver the events that are queued for scripts, in seconds.
_FLUSH_TIMEOUT = 0.2


class Agent:
    """One agent in one process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        limits = config.limits
        self.limits = Limits(
            max_payload=limits.max_payload,
            max_lanes=limits.max_lanes,
            max_sessions=limits.max_sessions,
            max_unauthenticated=limits.max_unauthenticated,
            max_nesting=limits.max_nesting,
            handshake_timeout=limits.handshake_timeout,
            heartbeat=limits.heartbeat,
            silence=limits.silence,
            max_backlog=limits.max_backlog,
            hot_lanes=limits.hot_lanes,
            hot_spin=limits.hot_spin,
        )
        self.table = ProbeTable(config)
        self.reports = Reports(config.app, self.table, lambda: self.host)
        self.registrations = Registrations(config, self.limits, self.table, self.reports.whole, self._on_joined, self._on_synced)
        self.watcher = ImportWatcher(guarded(self.table.wants_module), guarded(self.table.module_imported))
        self.host: Optional[Host] = None
        self._member: Optional[Membership] = None
        self._key = config.manager.read_authkey() or b""
        self._protection = _protection(config.manager)
        self._entry: Optional[discovery.Entry] = None
        self._orphans: Dict[str, LanePool] = {}
        # The pipes of the forks that are under way, by thread; each tells the parent that its child is announced.
        self._births: Dict[int, Tuple[int, int]] = {}
        self._forks = 0
        self._forking = allocate_lock()
        self._synced = Tally()

    def start(self, *, at_once: bool) -> None:
        """Watch imports, patch what is there, and listen: at once, or when the first probe point is ready."""
        self.watcher.install()
        if at_once:
            self.open()
            self.table.look_at_imported()
        else:
            self.table.on_first_ready = self._open_lazily
            self.table.look_at_imported()

    def open(self) -> None:
        """Listen, announce this process, and give waiting sessions the time to join. Raises `XpcError` or `OSError`."""
        if self.host is not None or self._member is not None:
            return
        try:
            self._listen()
            if self._member is None:
                self._wait_for_sessions()
        finally:
            # Whoever has not come for its inherited hooks by now registers them anew if it comes later.
            self._drop_orphans(set())

    def _wait_for_sessions(self) -> None:
        sessions = len(ring(self.config.app, os.getpid()))
        deadline = time.monotonic() + _SYNC_TIMEOUT
        for _joined in range(sessions):
            if not self._synced.wait(max(0.0, deadline - time.monotonic())):
                log.warning("%d sessions were told of this process, but not all joined within %s s", sessions, _SYNC_TIMEOUT)
                return

    def _open_lazily(self) -> None:
        self.table.on_first_ready = None
        try:
            self.open()
        except (XpcError, OSError) as error:
            log.error("this process cannot be hooked: %s", error)

    def _listen(self) -> None:
        host = Host(
            self._address(),
            self._key,
            self.registrations,
            app=self.config.app,
            python=python_version(),
            limits=self.limits,
            logger=log,
            protection=self._protection,
        )
        try:
            host.start()
        except AddressInUseError:
            if self.config.manager.address == "unix":
                raise
            self._join_host(host.address)
            return
        entry = discovery.own_entry(self.config.app, str(host.address))
        try:
            discovery.announce(entry)
        except BaseException:
            host.stop()
            raise
        self.host, self._entry = host, entry

    def _join_host(self, address: Address) -> None:
        """Another process of the application hosts the fixed address: share it."""
        member = Membership(address, self._key, self.limits, self.registrations, self.reports.whole, self._host_is_gone, self._protection)
        entry = discovery.own_entry(self.config.app, str(address), member.session)
        discovery.announce(entry)
        try:
            member.join(_SYNC_TIMEOUT)
        except BaseException:
            member.close()
            discovery.withdraw(entry)
            raise
        self._member, self._entry = member, entry

    def _host_is_gone(self) -> None:
        """Take the address over, or join whoever was faster. Runs in the thread that noticed."""
        deadline = time.monotonic() + _TAKEOVER_TIMEOUT
        member, self._member = self._member, None
        while member is not None and _agent is self:
            try:
                self._listen()
                ring(self.config.app, os.getpid())
                return
            except AuthenticationError as error:
                log.error("this process cannot be hooked any more: %s", error)
                return
            except (XpcError, OSError) as error:
                # Between two hosts there is a moment with none that answers.
                if time.monotonic() > deadline:
                    log.error("this process cannot be hooked any more: %s", error)
                    return
                time.sleep(0.02)

    def _address(self) -> Address:
        if self.config.manager.address == "unix":
            return parse_address(str(socket_path(self.config.app)))
        return parse_address(self.config.manager.address)

    def _on_joined(self, peer: Peer) -> None:
        """A session that was inherited over a fork has come: its hooks wait on these lanes."""
        pool = self._orphans.pop(peer.session, None)
        if pool is not None:
            pool.attach(peer.lanes)
            peer.lanes = pool

    def _on_synced(self, peer: Peer) -> None:
        self._synced.add()

    def close(self) -> None:
        """Stop listening and withdraw; probe points stay as they are."""
        host, entry, member = self.host, self._entry, self._member
        self.host = self._entry = self._member = None
        self.registrations.let_go()
        untold = self.registrations.sender.finish(_FLUSH_TIMEOUT)
        if host is not None:
            for peer in list(host.peers.values()):
                if peer.session in untold:
                    peer.notify("events-dropped", source=self.registrations.sender.source, dropped=untold[peer.session])
        if member is not None:
            member.close()
        if entry is not None:
            discovery.withdraw(entry)
        if host is not None:
            host.stop()

    def stop(self) -> None:
        """Undo everything."""
        self.watcher.uninstall()
        self.close()
        self.table.restore_all()

    # fork --------------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Stop the service thread. From Python 3.12 on, `os.fork` warns if there is a second thread."""
        host = self.host
        with self._forking:
            self._forks += 1
            if host is not None:
                host.pause()
            self.registrations.sender.pause()
        if host is None:
            return
        # A child that shares a fixed address is told of all hooks by its host, which may be this process: nothing to wait for.
        if self.config.manager.address == "unix":
            try:
                self._births[get_ident()] = os.pipe()
            except OSError as error:
                log.warning("a child that is forked now may miss the hooks that are registered at this moment: %s", error)

    def after_fork_in_parent(self) -> None:
        """Have the service thread go on, once no other thread forks."""
        birth = self._births.pop(get_ident(), None)
        host = self.host
        if birth is not None:
            os.close(birth[1])
            if host is None:
                os.close(birth[0])
            else:
                host.await_birth(birth[0])
        with self._forking:
            self._forks -= 1
            if not self._forks:
                self.registrations.sender.resume()
                if host is not None:
                    host.resume()

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections alone and listen at an address of our own."""
        own = self._births.pop(get_ident(), None)
        for other in self._births.values():
            os.close(other[0])
            os.close(other[1])
        self._births, self._forks, self._forking = {}, 0, allocate_lock()
        try:
            self._begin_anew()
        finally:
            if own is not None:
                os.close(own[0])
                os.close(own[1])

    def _begin_anew(self) -> None:
        self.table.reset_after_fork()
        self.registrations.reset_after_fork()
        self._synced = Tally()
        host, member = self.host, self._member
        self.host = self._entry = self._member = None
        if host is None and member is None:
            return
        if self.config.manager.address == "unix":
            self._adopt_hooks()
        else:
            # At a fixed address the host tells of all hooks while we join.
            self.registrations.drop_all()
        if host is not None:
            host.abandon()
        if member is not None:
            member.abandon()
        if not self.table.any_ready:
            # It may live long enough to import a target, or not; only then is it worth a socket.
            self.table.on_first_ready = self._open_lazily
            return
        alive: Set[str] = set()
        try:
            self._listen()
            alive = ring(self.config.app, os.getpid())
        finally:
            self._drop_orphans(alive)
        _close_with_multiprocessing(self)

    def _adopt_hooks(self) -> None:
        """Give the inherited hooks lanes to wait on until their sessions dial in."""
        self._orphans = {}
        now = time.monotonic()
        for point in list(self.table.points.values()):
            for hook in point.hooks:
                pool = self._orphans.get(hook.session)
                if pool is None:
                    pool = self._orphans[hook.session] = LanePool(guarded(self._call_for_sessions), self.limits.max_lanes)
                hook.adopt(pool, now)

    def _call_for_sessions(self, _count: int) -> None:
        """An invocation wants a lane of a session that has not come: ring again, which tells who has gone since the fork."""
        alive: Set[str] = set()
        try:
            alive = ring(self.config.app, os.getpid())
        finally:
            self._drop_orphans(alive)

    def _drop_orphans(self, alive: Set[str]) -> None:
        """Remove the inherited hooks for which nobody will come: no invocation may wait for them. `alive` as `ring` returns it."""
        for session in list(self._orphans):
            if bell_name(session) in alive:
                continue
            # The service thread takes it out too, when the session comes after all.
            pool = self._orphans.pop(session, None)
            if pool is not None:
                self.registrations.drop_orphans(session)
                pool.close()


def _protection(config: ManagerConfig) -> Protection:
    """What the config says of TLS; its files are read now, as the key is. Raises `ConfigError`."""
    tls = None
    if config.tls_certificate is not None and config.tls_key is not None and config.tls_ca is not None:
        # Late: an application without TLS has no use for `ssl`.
        from xpc_instrument.core.wire.tls import TLS

        tls = TLS(config.tls_certificate, config.tls_key, config.tls_ca)
        tls.load()
    return Protection(tls, config.plaintext_beyond_loopback)


def _close_with_multiprocessing(agent: Agent) -> None:
    """A multiprocessing child leaves by `os._exit`, without atexit; its own finalizers run."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(agent, _finalize_later)


def _finalize_later(agent: Agent) -> None:
    util = sys.modules["multiprocessing.util"]
    util.Finalize(agent, guarded(agent.close), exitpriority=0)


class _Forking(Local):
    was_on = False


_forking = _Forking()
_agent: Optional[Agent] = None
_hooked_fork = False


@guarded
def start(
    config: Union[Config, str, os.PathLike[str], None] = None,
    *,
    app: Optional[str] = None,
    probes: Iterable[str] = (),
    at_once: bool = True,
) -> None:
    """Make this process hookable: with a `Config`, the path of a config file, or the nearest config file from here upwards.

    `app` overrides its app name, `probes` adds targets. A second start without a stop in between does nothing. Raises `ConfigError` for a
    wrong config, another `XpcError` or an `OSError` if the process cannot listen.
    """
    global _agent
    if _agent is not None:
        return
    for name in ("xpc_agent", "xpc_instrument"):
        leave_no_dummies(logging.getLogger(name))
    agent = Agent(_config(config, app, probes))
    _hook_fork()
    try:
        agent.start(at_once=at_once)
    except BaseException:
        agent.stop()
        raise
    _agent = agent
    atexit.register(_at_exit, agent)


@guarded
def stop() -> None:
    """Undo everything: all functions, modules and the import system are as they were, and nothing listens any more."""
    global _agent
    agent, _agent = _agent, None
    if agent is not None:
        atexit.unregister(_at_exit)
        agent.stop()


@guarded
def stats() -> List[ProbeStats]:
    """What was counted of each probe point of this process; nothing if no agent runs in it."""
    agent = _agent
    if agent is None:
        return []
    return [read_probe(os.getpid(), report) for report in agent.reports.probes()]


@guarded
def lanes() -> List[LaneStats]:
    """The lanes that each script has to this process now, and which of them can be hot; nothing if no agent runs in it."""
    agent = _agent
    return [] if agent is None else read_lanes(os.getpid(), agent.reports.process())


def current() -> Optional[Agent]:
    """The agent of this process, if it runs."""
    return _agent


def _config(config: Union[Config, str, os.PathLike[str], None], app: Optional[str], probes: Iterable[str]) -> Config:
    from pathlib import Path

    if config is None:
        found = config_module.find(Path.cwd())
        if found is not None:
            config = config_module.load(found)
        elif probes:
            config = config_module.from_probes(app or config_module.default_app(Path.cwd()), probes)
        else:
            raise ConfigError(f"no {config_module.FILE_NAME} in {Path.cwd()} or above: write one, or name targets with probes=[...]")
    elif not isinstance(config, Config):
        config = config_module.load(config)
    if app is not None:
        config = config_module.with_app(config, app)
    return config_module.with_probes(config, list(probes))


@guarded
def _at_exit(agent: Agent) -> None:
    try:
        agent.close()
    except Exception:
        log.exception("withdrawing failed; what is left is cleaned up by the next process that looks")


def _hook_fork() -> None:
    """Once per process: at-fork hooks cannot be taken back, so they ask for the agent of the moment."""
    global _hooked_fork
    if _hooked_fork or not hasattr(os, "register_at_fork"):
        return
    _hooked_fork = True
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


def _before() -> None:
    # To the end of `_in_parent` and `_in_child`: what others do at a fork, in the child above all, must not use the parent's lanes.
    _forking.was_on, guard.on = guard.on, True
    if _agent is not None:
        _agent.before_fork()


def _in_parent() -> None:
    try:
        if _agent is not None:
            _agent.after_fork_in_parent()
    finally:
        guard.on = _forking.was_on


def _in_child() -> None:
    try:
        if _agent is not None:
            _agent.after_fork_in_child()
    except Exception as error:
        log.error("this forked process cannot be hooked: %s", error, exc_info=not isinstance(error, (XpcError, OSError)))
    finally:
        # Whatever the thread did when it forked, in the child it does the application's work.
        guard.on = False

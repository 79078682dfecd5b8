"""The agent of one process: it watches imports, has probe points made hookable, and listens.

Rules:
- The process that was started with the agent opens its socket at once; one that it starts does so when a probe point becomes hookable,
  so that short-lived helpers pay nothing.
- At a fixed address whoever is first hosts it and the others join; when the host dies, another takes its place.
- What a fork does to it is in `forks.py`, who starts and stops it in `control.py`.
- At exit the socket and the entry in the runtime directory go.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Callable, Optional, Set

from xpc_instrument.core.config.schema import Config, ManagerConfig
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.discovery.doorbell import ring
from xpc_instrument.core.discovery.folder import socket_path
from xpc_instrument.core.model.errors import AddressInUseError, AuthenticationError, XpcError
from xpc_instrument.core.node.address import Address, Protection, parse_address
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.unpatched import Semaphore, monotonic, sleep
from xpc_instrument.core.values.traits import python_version

from ..guard import guarded
from ..points.table import ProbeTable
from ..service.counting import owes
from ..service.registrations import Registrations
from ..service.reports import Reports
from ..targets.imports import ImportWatcher
from .forks import Forks, Orphans, close_with_multiprocessing
from .logs import LineQueue

if TYPE_CHECKING:
    from ..service.member import Membership

log = logging.getLogger("xpc_agent")

# How long a new process waits for the sessions that want to hook it, in seconds.
_SYNC_TIMEOUT = 1.0
# How long a process whose host has died tries to take its place or to join the next one, in seconds.
_TAKEOVER_TIMEOUT = 10.0
# How long a process that leaves takes to deliver the events that are queued for scripts, in seconds.
_FLUSH_TIMEOUT = 0.2


class Agent:
    """One agent in one process."""

    def __init__(self, config: Config, listener: int = -1, detach: Callable[[], None] = lambda: None) -> None:
        """`listener` is the descriptor of a socket that listens at the process's own address already, or -1.

        `detach` has the agent stopped when a script asks for that, and returns at once.
        """
        self.config = config
        self._listener = listener
        self.table = ProbeTable(config)
        self.reports = Reports(config.app, self.table, lambda: self.host)
        self.registrations = Registrations(config, self.table, self.reports.whole, self._on_joined, self._on_synced, detach, self._wake)
        self._detach = detach
        self._orphans = Orphans(config.app, self.registrations, config.limits.max_lanes)
        self._lines = LineQueue()
        self._forks = Forks(self.table, self.registrations.sender, self._lines, config.manager.address == "unix")
        self.watcher = ImportWatcher(guarded(self.table.wants_module), guarded(self.table.module_imported))
        self.host: Optional[Host] = None
        self._member: Optional[Membership] = None
        self._key = config.manager.read_authkey() or b""
        self._protection = _protection(config.manager)
        self._entry: Optional[discovery.Entry] = None
        self._closed = False
        self._synced = Semaphore()

    def start(self, *, at_once: bool, waits: bool = True) -> None:
        """Watch imports, patch what is there, and listen: at once, or when the first probe point is ready; `waits` as in `open`."""
        self._lines.open()
        self.watcher.install()
        if at_once:
            self.open(waits=waits)
            self.table.look_at_imported()
        else:
            self.table.on_first_ready = self._open_lazily
            self.table.look_at_imported()

    def _wake(self) -> bool:
        """Have the service thread look after the registrations; False if another one is to do it."""
        host = self.host
        if host is None:
            return self._closed
        host.wake()
        return True

    def open(self, *, waits: bool = True) -> None:
        """Listen, announce this process, and give waiting sessions the time to join, unless it has run for a while: not `waits`.

        Raises `XpcError` or `OSError`.
        """
        if self.host is not None or self._member is not None:
            return
        try:
            self._listen()
            if self._member is None:
                sessions = len(ring(self.config.app, os.getpid(), discovery.own_root()))
                if waits:
                    self._wait_for(sessions)
        finally:
            # Whoever has not come for its inherited hooks by now registers them anew if it comes later.
            self._orphans.drop(set())

    def _wait_for(self, sessions: int) -> None:
        deadline = monotonic() + _SYNC_TIMEOUT
        for _joined in range(sessions):
            if not self._synced.acquire(max(0.0, deadline - monotonic())):
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
            limits=self.config.limits,
            logger=log,
            protection=self._protection,
        )
        listener, self._listener = self._listener, -1
        try:
            host.start(listener)
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
        from ..service.member import Membership  # late: most applications share no address

        member = Membership(
            *(address, self._key, self.config.limits, self.registrations, self.reports.whole, self._host_is_gone, self._protection),
            detach=self._detach,
        )
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
        deadline = monotonic() + _TAKEOVER_TIMEOUT
        member, self._member = self._member, None
        while member is not None and not self._closed:
            try:
                self._listen()
                ring(self.config.app, os.getpid(), discovery.own_root())
                return
            except AuthenticationError as error:
                log.error("this process cannot be hooked any more: %s", error)
                return
            except (XpcError, OSError) as error:
                # Between two hosts there is a moment with none that answers.
                if monotonic() > deadline:
                    log.error("this process cannot be hooked any more: %s", error)
                    return
                sleep(0.02)

    @property
    def address(self) -> str:
        """Where scripts find it; "" while it is nowhere to be found."""
        return "" if self._entry is None else self._entry.address

    def _address(self) -> Address:
        if self.config.manager.address == "unix":
            return parse_address(socket_path(self.config.app))
        return parse_address(self.config.manager.address)

    def _on_joined(self, peer: Peer) -> None:
        self._orphans.attach(peer)

    def _on_synced(self, peer: Peer) -> None:
        self._synced.release()

    def close(self) -> None:
        """The process ends: stop listening and withdraw; probe points stay as they are."""
        try:
            self._leave()
        except Exception:
            log.exception("withdrawing failed; what is left is cleaned up by the next process that looks")
        finally:
            self._lines.finish()

    def _leave(self) -> None:
        self._closed = True
        host, entry, member = self.host, self._entry, self._member
        self.host = self._entry = self._member = None
        self.registrations.let_go()
        if host is not None:
            self._await_owed()
        untold = self.registrations.sender.finish(_FLUSH_TIMEOUT)
        if host is not None:
            for peer in list(host.peers.values()):
                if peer.session in untold:
                    peer.notify("events-dropped", source=self.registrations.sender.source, dropped=untold[peer.session])
                for number, totals in self.registrations.counted(peer.session).items():
                    peer.notify("totals", hook=number, pid=os.getpid(), totals=totals)
        if member is not None:
            member.close()
        if entry is not None:
            discovery.withdraw(entry)
        if host is not None:
            host.stop()

    def _await_owed(self) -> None:
        """In a forked child that ends soon: the sessions to which it has something to tell may be on their way."""
        deadline = monotonic() + _FLUSH_TIMEOUT
        while owes(self.table, self.registrations.sender.has_events) and self._synced.acquire(max(0.0, deadline - monotonic())):
            pass

    def stop(self, last: Callable[[], None] = lambda: None) -> None:
        """Undo everything; `last` is called before sessions see their connections end, by which they know that all is undone."""
        try:
            self.watcher.uninstall()
            self.registrations.let_go()
            self.table.restore_all()
        finally:
            try:
                self._lines.close()
                last()
            finally:
                self._leave()

    # fork --------------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """End our threads, for the moment of the fork."""
        self._forks.before(self.host)

    def after_fork_in_parent(self) -> None:
        """Have them go on."""
        self._forks.in_parent(self.host)

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections alone and listen at an address of our own."""
        self._forks.in_child(self._begin_anew)

    def _begin_anew(self) -> None:
        self._lines.reset_after_fork()
        self.table.reset_after_fork()
        self.registrations.reset_after_fork()
        self._synced = Semaphore()
        host, member = self.host, self._member
        self.host = self._entry = self._member = None
        if host is None and member is None:
            return
        if self.config.manager.address == "unix":
            self._orphans.adopt()
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
            alive = ring(self.config.app, os.getpid(), discovery.own_root())
        finally:
            self._orphans.drop(alive)
        close_with_multiprocessing(self)


def _protection(config: ManagerConfig) -> Protection:
    """What the config says of TLS; its files are read now, as the key is. Raises `ConfigError`."""
    tls = None
    if config.tls_certificate is not None and config.tls_key is not None and config.tls_ca is not None:
        # Late: an application without TLS has no use for `ssl`.
        from xpc_instrument.core.wire.tls import TLS

        tls = TLS(config.tls_certificate, config.tls_key, config.tls_ca)
        tls.load()
    return Protection(tls, config.plaintext_beyond_loopback)

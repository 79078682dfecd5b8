"""The seed API: a registry of callbacks that one process hosts and others join, and calls between any two of them.

Rules:
- The callback runs in the process that registered it. The host knows who registered what, and relays calls between two joined nodes as
  opaque bytes, which it never unpickles.
- A name belongs to one node at a time; a node may register its own name again, which replaces the callback.
- After a fork the child's manager is a proxy: it calls over connections of its own, and the parent's stay the parent's.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Literal, Optional, Tuple, Union

from ..core.calls.answering import answer
from ..core.calls.callee import Incoming
from ..core.calls.caller import Outgoing
from ..core.calls.outcome import NotFound
from ..core.calls.registry import Registration, Registry, check_callback
from ..core.discovery.folder import runtime_dir
from ..core.model.errors import AddressInUseError, ChannelError, DeadlineError, NobodyListensError, RemoteProtocolError
from ..core.model.limits import Limits
from ..core.model.target import is_target
from ..core.model.terms import Terms
from ..core.node.address import NO_PROTECTION, Address, AddressLike, Protection, parse_address
from ..core.node.host import Host
from ..core.node.joiner import Joiner
from ..core.protocol.codec import Frame
from ..core.protocol.messages import Opcode
from ..core.unpatched import monotonic
from ..core.values.traits import PeerProfile, python_version
from ..core.wire.wire import Wire
from .exits import end_with_script

if TYPE_CHECKING:
    from ..core.wire.tls import TLS

log = logging.getLogger("xpc_instrument")


# The numbers of fresh addresses.
_fresh = itertools.count(1)


def find_free_port(host: str = "localhost") -> int:
    """A TCP port on which nobody listens at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


# Those of this process: a forked child lets go of them at once, since what it holds would hide the death of its parent.
_managers: Dict[int, weakref.ref[Manager]] = {}


def _fork() -> None:
    for reference in list(_managers.values()):
        manager = reference()
        try:
            if manager is not None:
                manager._check_process()
        except Exception:
            log.exception("%r cannot let go of its parent's connections", manager)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)


class Manager:
    """The node of the cross-process call: it hosts a registry of callbacks, or joins one, and calls what is registered there.

    ``address`` is ``(host, port)``, ``"tcp:HOST:PORT"``, ``"unix:PATH"`` or a path. Without one, the manager meets others at the user's
    default socket: ``connect`` goes there, and ``start`` takes it if it is free, else a fresh one. ``authkey`` is str or bytes, and TCP
    needs one; beyond loopback it needs ``tls`` too, unless ``plaintext_beyond_loopback`` says that it does not. All times are in seconds.

    As a context manager it does ``start_or_connect``, unless it is in use already, and ``shutdown``. Pickled and unpickled, and in a forked
    child, it is a proxy that can only ``call``. Its methods may be called from any thread.
    """

    def __init__(
        self,
        address: Optional[AddressLike] = None,
        authkey: Union[str, bytes, None] = None,
        *,
        limits: Optional[Limits] = None,
        tls: Optional[TLS] = None,
        plaintext_beyond_loopback: bool = False,
    ) -> None:
        self._meets_at_default = address is None
        self._address = _default_address() if address is None else parse_address(address)
        if isinstance(authkey, str):
            authkey = authkey.encode()
        if not isinstance(authkey, (bytes, type(None))):
            raise TypeError(f"authkey: expected str or bytes, got {type(authkey).__name__}")
        if not self._address.is_unix and not authkey:
            raise ValueError(
                f"the address {self._address} needs an authkey, since every user of every host that reaches it could run code: "
                "pass authkey=..., or use a unix socket"
            )
        self._key = authkey or b""
        self._limits = limits or Limits()
        self._protection = Protection(tls, plaintext_beyond_loopback)
        self._host: Optional[Host] = None
        self._registry: Optional[Registry] = None
        self._joiner: Optional[Joiner] = None
        self._proxy = False
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._callbacks: Dict[int, Registration] = {}
        self._numbers: Dict[str, int] = {}
        self._next = 0
        number = id(self)
        end_with_script(self, Manager.shutdown)
        _managers[number] = weakref.ref(self, lambda _: _managers.pop(number, None))

    def __repr__(self) -> str:
        role = "proxy" if self._proxy else "host" if self._host else "joined" if self._joiner else "idle"
        return f"<Manager {self._address} {role}>"

    @property
    def address(self) -> Union[str, Tuple[str, int]]:
        """Where it hosts the registry or joins it, in a form in which another ``Manager`` takes it. ``start`` may change it."""
        where = self._address
        return where.path if where.is_unix else (where.host, where.port)

    # life --------------------------------------------------------------------------------------------------------------

    def start(self, timeout: Optional[float] = None) -> None:
        """Host a registry at the address; without one, at the default socket if it is free, else at a fresh one, which ``address`` tells.

        Raises ``AddressInUseError`` if another process hosts one at the address, at once, or after ``timeout`` seconds of trying;
        ``PlaintextError`` or ``ConfigError`` where TLS is wanting or wrong; ``RuntimeError`` if the manager is in use already.
        """
        self._refuse_proxy("start")
        deadline = None if timeout is None else monotonic() + timeout
        with self._lock:
            self._refuse_second_life()
            self._go_to_default()
            while True:
                try:
                    self._host_registry()
                    return
                except AddressInUseError:
                    if self._meets_at_default:
                        self._address = _fresh_address()
                        continue
                    if deadline is None or monotonic() >= deadline:
                        raise
                    time.sleep(0.02)

    def _go_to_default(self) -> None:
        if self._meets_at_default:
            self._address = _default_address()

    def _host_registry(self) -> None:
        registry = Registry(self._limits)
        host = Host(
            self._address,
            self._key,
            registry,
            app="",
            python=python_version(),
            limits=self._limits,
            logger=log,
            protection=self._protection,
        )
        host.start()
        self._host, self._registry = host, registry

    def connect(self, timeout: Optional[float] = None) -> None:
        """Join the registry at the address; without one, at the default socket.

        Raises ``ConnectionRefusedError`` if nobody listens there, at once or after ``timeout`` seconds of trying; ``TimeoutError`` if
        somebody does but never speaks; ``AuthenticationError`` if the keys differ; ``RuntimeError`` if the manager is in use already.
        """
        self._refuse_proxy("connect")
        with self._lock:
            self._refuse_second_life()
            self._go_to_default()
            joiner = Joiner(
                self._address,
                self._key,
                limits=self._limits,
                serve=self._serve,
                on_lost=self._lost,
                protection=self._protection,
            )
            patience = self._limits.connect_timeout if timeout is None else timeout
            deadline = monotonic() + patience
            while True:
                try:
                    joiner.connect(deadline)
                    break
                except NobodyListensError:
                    if timeout is None or monotonic() >= deadline:
                        raise
                    time.sleep(0.02)
            self._joiner = joiner

    def start_or_connect(self, timeout: Optional[float] = None) -> None:
        """Host the registry, or join it if another process hosts it already; without an address, the one at the default socket.

        For ``timeout`` seconds it copes with hosts that come and go meanwhile. Raises what ``connect`` raises.
        """
        self._refuse_proxy("start")
        deadline = monotonic() + (self._limits.connect_timeout if timeout is None else timeout)
        while True:
            with self._lock:
                self._refuse_second_life()
                self._go_to_default()
                try:
                    self._host_registry()
                    return
                except AddressInUseError:
                    pass
            try:
                self.connect()
                return
            except NobodyListensError:
                # The host went away between the two attempts.
                if monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    def shutdown(self) -> None:
        """Leave or close the registry; the manager may be started or connected again. Harmless if it is neither."""
        with self._lock:
            host, joiner = self._host, self._joiner
            self._host = self._registry = self._joiner = None
            self._callbacks.clear()
            self._numbers.clear()
            if self._pid != os.getpid():
                self._forget_parent(host, joiner)
                return
        if joiner is not None:
            joiner.close()
        if host is not None:
            host.stop()

    def __enter__(self) -> Manager:
        if not self._proxy and self._host is None and self._joiner is None:
            self.start_or_connect()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()

    def __reduce__(self) -> Any:
        return _make_proxy, (str(self._address), self._key, self._limits, self._protection)

    # registering -------------------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        callable: Callable[..., Any],
        *,
        calls: Optional[int] = None,
        expires: Optional[float] = None,
        values: Optional[Literal["reference", "copy"]] = None,
    ) -> bool:
        """Have calls of ``name``, from wherever, run ``callable`` in this process, for so many ``calls`` and ``expires`` seconds if given.

        False if another process has registered the name; registered again by this one, the callback is replaced. Where the host is an
        instrumented application, the name of a target, such as ``"shop.checkout:charge"``, has it called instead of the original, and
        ``"before:shop.checkout:charge"`` before it, with ``values`` as in ``Session.before``; raises ``TargetError`` if the application
        cannot or may not hook that. ``ValueError`` for options out of range, ``ChannelError`` if the manager is not in use.
        """
        self._refuse_proxy("register")
        check_callback(name, callable)
        try:
            terms = Terms(limit=calls, expires=expires, values=values)
        except ValueError as error:
            raise ValueError(f"{name}: {str(error).replace('limit=', 'calls=')}") from None
        self._check_process()
        with self._lock:
            self._next += 1
            number = self._next
        entry = Registration(callable, None, number, terms)
        if self._registry is not None:
            return self._registry.put(name, entry)
        joiner = self._require_joiner("register")
        self._callbacks[number] = entry
        try:
            answered = joiner.register(name, number, "plain", terms=terms.to_json(), timeout=self._limits.connect_timeout)
        except BaseException:
            self._callbacks.pop(number, None)
            raise
        if not answered.data.get("registered", True):
            self._callbacks.pop(number, None)
            return False
        replaced = self._numbers.get(name)
        self._numbers[name] = number
        if replaced is not None:
            if is_target(name):
                joiner.unregister(replaced, self._limits.connect_timeout)
            self._callbacks.pop(replaced, None)
        return True

    def unregister(self, name: str) -> bool:
        """End a registration of this process; False if there is none. Raises ``ChannelError`` if the manager is not in use."""
        self._refuse_proxy("unregister")
        self._check_process()
        if self._registry is not None:
            return self._registry.take_away(name, None)
        joiner = self._require_joiner("unregister")
        number = self._numbers.pop(name, None)
        if number is None:
            return False
        answered = joiner.unregister(number, self._limits.connect_timeout)
        self._callbacks.pop(number, None)
        return bool(answered.data.get("unregistered", True))

    # calling -----------------------------------------------------------------------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> Tuple[Any, bool]:
        """Call what is registered under ``name``, wherever: ``(result, True)``, or ``(None, False)`` if nobody has registered it or its
        process is gone.

        The callback runs in the process that registered it, with copies of the arguments; what cannot be copied is a ``Reference`` there.
        An exception of the callback is raised here, with its own type and the remote traceback as its cause. Raises ``PayloadError`` if
        the result cannot be sent, ``ChannelError`` if the manager is not in use or the host is gone.
        """
        self._check_process()
        if self._registry is not None:
            return self._call_from_host(self._registry, name, args, kwargs)
        joiner = self._joiner
        if joiner is None and not self._proxy:
            raise ChannelError(f"{self!r}: call start() or connect() first")
        try:
            if self._proxy:
                joiner = self._proxy_joiner()
            assert joiner is not None
            wire = joiner.calling.take(monotonic() + self._limits.connect_timeout)
        except NobodyListensError:
            if not self._proxy:
                raise
            return None, False
        welcome = wire.connection.welcome
        assert welcome is not None
        outgoing = Outgoing(PeerProfile(welcome.python, python_version(), wire.connection.max_payload), args, kwargs)
        try:
            body, buffers = outgoing.payload()
            pieces = wire.connection.send(Opcode.CALL_NAMED, 0, body, [name.encode(), *buffers])
            outcome = outgoing.converse(wire, pieces, None)
        except NotFound:
            joiner.calling.give(wire)
            return None, False
        except BaseException:
            joiner.calling.drop(wire)
            raise
        joiner.calling.give(wire)
        return outcome.get(), True

    def _proxy_joiner(self) -> Joiner:
        """The connection of a proxy, made at its first call and when it was lost. Its heartbeat ends calls to a host that is stopped."""
        with self._lock:
            if self._joiner is not None and not self._joiner.alive:
                self._joiner.close()
                self._joiner = None
            if self._joiner is None:
                joiner = Joiner(self._address, self._key, limits=self._limits, on_lost=self._lost, protection=self._protection)
                joiner.connect(monotonic() + self._limits.connect_timeout)
                self._joiner = joiner
            return self._joiner

    def _call_from_host(self, registry: Registry, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[Any, bool]:
        entry = registry.find(name)
        if entry is None:
            return None, False
        if entry.peer is None:
            assert entry.callback is not None
            return entry.callback(*args, **kwargs), True
        peer = entry.peer
        outgoing = Outgoing(PeerProfile(peer.python, python_version(), self._limits.max_payload), args, kwargs)
        body, buffers = outgoing.payload()
        try:
            lane = peer.lanes.take(monotonic() + self._limits.connect_timeout)
        except DeadlineError:
            raise
        except ChannelError:
            return None, False
        try:
            outcome = outgoing.converse(lane, lane.connection.send(Opcode.CALL, entry.hook, body, buffers), None)
        except NotFound:
            peer.lanes.give(lane)
            return None, False
        except ChannelError as error:
            peer.lanes.drop(lane)
            if isinstance(error, RemoteProtocolError):
                raise
            return None, False  # the process that registered it is gone
        except BaseException:
            peer.lanes.drop(lane)
            raise
        peer.lanes.give(lane)
        return outcome.get(), True

    def _serve(self, wire: Wire, frame: Frame) -> None:
        entry = self._callbacks.get(frame.ident)
        welcome = wire.connection.welcome
        assert welcome is not None
        profile = PeerProfile(welcome.python, python_version(), wire.connection.max_payload)
        # Counted here too: several processes of an application may call it.
        if entry is None or entry.callback is None or frame.opcode is not Opcode.CALL or not entry.take():
            Incoming(wire, frame, profile).not_found()
            return
        answer(wire, frame, profile, entry.callback)

    def _lost(self, reason: str) -> None:
        log.debug("the manager at %s is gone: %s", self._address, reason)

    # conditions --------------------------------------------------------------------------------------------------------

    def _refuse_proxy(self, what: str) -> None:
        if self._proxy:
            raise RuntimeError(f"this manager is a proxy, made by pickling: it can call but not {what}; make a Manager of its own here")

    def _refuse_second_life(self) -> None:
        self._check_process()
        if self._joiner is not None and not self._joiner.alive:
            self._joiner.close()
            self._joiner = None
        if self._host is not None or self._joiner is not None:
            raise RuntimeError(f"{self!r} is in use already: call shutdown() first")

    def _require_joiner(self, what: str) -> Joiner:
        if self._joiner is None:
            raise ChannelError(f"{self!r}: call start() or connect() before {what}()")
        return self._joiner

    def _check_process(self) -> None:
        """In a forked child, turn into a proxy that leaves the parent's connections alone."""
        if self._pid == os.getpid():
            return
        host, joiner = self._host, self._joiner
        self._host = self._registry = self._joiner = None
        self._lock = threading.RLock()
        self._forget_parent(host, joiner)
        if host is not None or joiner is not None:
            self._proxy = True
        else:
            # One that was not in use begins anew here.
            self._callbacks.clear()
            self._numbers.clear()

    def _forget_parent(self, host: Optional[Host], joiner: Optional[Joiner]) -> None:
        self._pid = os.getpid()
        if host is not None:
            host.abandon()
        if joiner is not None:
            joiner.abandon()


def _make_proxy(address: str, key: bytes, limits: Limits, protection: Protection = NO_PROTECTION) -> Manager:
    manager = Manager(address, key or None, limits=limits)
    manager._protection = protection
    manager._proxy = True
    return manager


def _default_address() -> Address:
    return Address(path=str(runtime_dir() / "manager.sock"))


def _fresh_address() -> Address:
    """A socket of this process alone. No app name begins so, and whoever lists applications removes it once the process is dead."""
    return Address(path=str(runtime_dir() / f"+manager-{next(_fresh)}.{os.getpid()}.sock"))


__all__ = ["Manager", "find_free_port"]

"""A probe script's session: joined to every process of one application, those born later included.

Rules:
- Each hook has a number, the same in all processes. A registration returns once every process has answered.
- A process that is born rings the session's doorbell; it is joined, and told of all hooks, before anything else happens to them.
- Hooks run in the threads of the lanes, several at a time if the application calls so; `async def` hooks on one loop of the session.
- Leaving, closing or dying disarms: the processes see the connection end.
- A session belongs to the process that made it; a forked child can only close it, which leaves the connections to the parent.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import logging
import os
import secrets
import selectors
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Set, TypeVar, Union, overload

from . import discovery
from .async_hooks import PLAIN, AsyncHooks
from .channel.codec import Frame
from .channel.connection import State
from .channel.joiner import Joiner
from .channel.limits import Limits
from .channel.messages import Notice, Opcode
from .channel.transport import NO_PROTECTION, Address, Protection, parse_address
from .channel.wire import Wire
from .conversation import INSTANCE_TYPE, Incoming
from .errors import (
    ApplicationNotFoundError,
    AuthenticationError,
    ChannelError,
    PayloadError,
    TargetError,
    XpcError,
)
from .events import EventReader
from .hooks import Call, Handle, signature_from_spec
from .manager import AddressLike
from .members import Hook as _Hook
from .members import Member as _Member
from .modes import Mode, is_target, join_name
from .pickling import describe, dump_if_small, load
from .references import is_plain
from .registry import check_callback
from .stats import LaneStats, ProbeStats, read_lanes, read_probe
from .terms import Terms

if TYPE_CHECKING:
    from .channel.tls import TLS

log = logging.getLogger("xpc_instrument")

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_AROUND, _INSTEAD, _EVENTS, _RETURN, _CALLEE_RUNNING = Mode.AROUND, Mode.INSTEAD, Opcode.EVENTS, Opcode.RETURN, State.CALLEE_RUNNING
_OBSERVERS = (Mode.BEFORE, Mode.AFTER)
_TERMS = tuple(field.name for field in dataclasses.fields(Terms))

F = TypeVar("F", bound=Callable[..., Any])

# The doorbell tells of new processes at once; looking anyway, this often in seconds, covers a process that could not ring.
_LOOK_AGAIN = 1.0
# How long a session that ends waits for the processes to remove its hooks, in seconds, for all of them together.
_LEAVE_TIMEOUT = 1.0
# How long a session at a fixed address dials again after the process that hosted it is gone, in seconds.
_RETURN_TIMEOUT = 5.0
# The part of the time for removing a hook that may go by until its events are delivered.
_DELIVERING = 0.8


class Session:
    """Made by `connect`. A context manager; `close` ends it."""

    def __init__(self, limits: Limits, key: bytes, protection: Protection = NO_PROTECTION) -> None:
        self.app = ""
        self._limits = limits
        self._key = key
        self._protection = protection
        # The same in all processes: a forked child knows by it whose hooks it has inherited.
        self._id = secrets.token_hex(16)
        self._members: Dict[str, _Member] = {}
        self._hooks: Dict[int, _Hook] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._bell: Optional[discovery.Doorbell] = None
        self._async = AsyncHooks()
        self._watcher: Optional[threading.Thread] = None
        self._wake_r = self._wake_w = -1
        self._closed = False
        self._pid = os.getpid()
        self._fixed = False
        self._ended = threading.Event()
        self._refused: Dict[str, str] = {}
        # What has been logged of each process that cannot be joined: it is tried again and again, but told of once.
        self._told: Dict[str, str] = {}
        self._last_problem = ""
        self._events = EventReader(self._hooks, self._async.finished, self._report)

    def __repr__(self) -> str:
        return f"<Session {self.app or '?'}: {len(self._members)} processes, {len(self._hooks)} hooks>"

    @property
    def pids(self) -> List[int]:
        """The processes that are joined now."""
        with self._lock:
            return sorted(member.joiner.welcome.pid for member in self._members.values())

    # registering -------------------------------------------------------------------------------------------------------

    @overload
    def before(self, target: str) -> Callable[[F], F]: ...
    @overload
    def before(self, target: str, hook: Callable[..., Any], **options: Any) -> Handle: ...
    def before(self, target: str, hook: Any = None, **options: Any) -> Any:
        """Have `hook(call)` called before each invocation of the target. A decorator without `hook`; else returns a handle.

        For each of the four: `limit=N` ends it after N calls, in all processes together, `expires=S` after S seconds; `sample=F` calls it
        for that fraction of the invocations, `rate=R` at most R times a second in each process; the others go on without it.
        For `before` and `after`: `wait=False` has no thread of the application wait for it. Raises `TargetError`.
        """
        return self._register(Mode.BEFORE, target, hook, options)

    @overload
    def after(self, target: str) -> Callable[[F], F]: ...
    @overload
    def after(self, target: str, hook: Callable[..., Any], **options: Any) -> Handle: ...
    def after(self, target: str, hook: Any = None, **options: Any) -> Any:
        """Have `hook(call)` called after each invocation, with `call.result` or `call.exception`, and `call.duration`."""
        return self._register(Mode.AFTER, target, hook, options)

    @overload
    def around(self, target: str) -> Callable[[F], F]: ...
    @overload
    def around(self, target: str, hook: Callable[..., Any], **options: Any) -> Handle: ...
    def around(self, target: str, hook: Any = None, **options: Any) -> Any:
        """Have `hook(call)` decide: what it returns or raises is what the application gets; `call.proceed()` runs the original."""
        return self._register(_AROUND, target, hook, options)

    @overload
    def instead(self, target: str) -> Callable[[F], F]: ...
    @overload
    def instead(self, target: str, hook: Callable[..., Any], **options: Any) -> Handle: ...
    def instead(self, target: str, hook: Any = None, **options: Any) -> Any:
        """Have `hook`, a stand-in, called as the original would be, and not the original."""
        return self._register(_INSTEAD, target, hook, options)

    def _register(self, mode: Mode, target: str, hook: Any, options: Dict[str, Any]) -> Any:
        unknown = options.keys() - _TERMS
        if unknown:
            raise TypeError(f"{mode.value}(): unknown option {min(unknown)!r}; there are {', '.join(f'{name}=' for name in _TERMS)}")
        try:
            terms = Terms(**options)
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from None
        if not terms.wait and mode not in (Mode.BEFORE, Mode.AFTER):
            raise ValueError(f"{target}: wait=False: what {mode.value}() gives the application has to be waited for; use before or after")
        if not isinstance(target, str):
            # Above all `@app.before` without a target, which would register nothing, and say nothing.
            raise TypeError(f"{mode.value}(): expected a target such as 'package.module:function' first, got {target!r:.80}")
        if hook is None:

            def decorate(function: F) -> F:
                self._add(mode, target, function, terms)
                return function

            return decorate
        return self._add(mode, target, hook, terms)

    def _add(self, mode: Mode, target: str, callback: Callable[..., Any], terms: Terms) -> Handle:
        check_callback(target, callback)
        if not is_target(target):
            raise TargetError(f"target {target!r:.200}: expected package.module:Qualified.name")
        self._check_process()
        with self._lock:
            if self._closed:
                raise ChannelError("this session is closed")
            self._look_for_processes()
            handle = Handle(self, next(self._numbers), mode, target)
            hook = _Hook(handle, callback, terms)
            self._hooks[handle.number] = hook
            refusals: List[XpcError] = []
            accepted = 0
            try:
                for member in list(self._members.values()):
                    accepted += self._tell(member, hook, refusals)
                # A process that one of them forked meanwhile may have missed the hook; it was announced before its parent answered.
                self._look_for_processes()
                if not accepted:
                    raise refusals[0] if refusals else ChannelError(f"no process of {self.app} is left to hook {target} in")
            except BaseException:
                self._remove(handle)
                raise
        return handle

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ChannelError(f"this session belongs to the process {self._pid}, which made it: call connect() in this one too")

    def _tell(self, member: _Member, hook: _Hook, refusals: List[XpcError]) -> bool:
        """Register a hook with one process; a target that this process lacks is noted, its death is no error."""
        handle = hook.handle
        if hook.used_up:
            return True
        terms = hook.terms.to_json()
        if hook.expires is not None:
            terms["expires"] = max(0.001, hook.expires - time.monotonic())
        try:
            answer = member.joiner.register(
                join_name(handle.mode, handle.target),
                handle.number,
                "plain" if handle.mode is _INSTEAD else "call",
                terms=terms,
                module=hook.module,
                timeout=self._limits.connect_timeout,
            )
        except (TargetError, PayloadError) as error:
            refusals.append(error)
            return False
        except ChannelError:
            if member.joiner.alive:
                raise
            return False
        if not answer.data.get("importable", True):
            member.traits.add_foreign(hook.module)
        return True

    def _remove(self, handle: Handle) -> None:
        self._check_process()
        told: List[_Member] = []
        while True:
            with self._lock:
                members = [member for member in self._members.values() if member.joiner.alive and member not in told]
                if not members:
                    # Last, so that an invocation that is under way meanwhile still finds it.
                    self._hooks.pop(handle.number, None)
                    break
            # Without the lock, which a hook whose events are delivered meanwhile may need.
            for member in members:
                told.append(member)
                try:
                    self._unregister(member, handle.number, self._limits.connect_timeout)
                except ChannelError as error:
                    log.warning("%s: removing a hook: %s", member.name, error)
        handle.ended()

    def _unregister(self, member: _Member, number: int, timeout: float) -> None:
        """Have one process remove a hook, and deliver the events that it has of it."""
        hook = self._hooks.get(number)
        waits = hook is not None and not hook.terms.wait and not self._events.running
        answer = member.joiner.unregister(number, timeout, timeout * _DELIVERING if waits else 0.0)
        if hook is not None and "dropped" in answer.data:
            hook.handle.told(str(answer.data["source"]), int(answer.data["dropped"]))

    # processes ---------------------------------------------------------------------------------------------------------

    def _join(self, address: Address, name: str) -> None:
        """Join one process and tell it of all hooks. Raises what dialling raises."""
        member_of: List[_Member] = []
        joiner = Joiner(
            address,
            self._key,
            limits=self._limits,
            serve=lambda wire, frame: self._serve(member_of[0], wire, frame),
            on_notice=lambda notice: self._noticed(name, notice),
            on_lost=lambda reason: self._lost(str(address), name, reason),
            session=self._id,
            protection=self._protection,
        )
        member = _Member(joiner, name)
        member_of.append(member)
        welcome = joiner.connect(time.monotonic() + self._limits.connect_timeout)
        self.app = self.app or welcome.app
        self._members[str(address)] = member
        if not joiner.alive:
            # Its end was noticed before there was anything to forget.
            self._members.pop(str(address), None)
            raise ChannelError(f"{name} ended while it was joined: {joiner.lost}")
        refusals: List[XpcError] = []
        for hook in list(self._hooks.values()):
            self._tell(member, hook, refusals)
        for refusal in refusals:
            log.warning("%s: %s", name, refusal)
        joiner.synced()

    def _look_for_processes(self) -> None:
        """Join the processes of the application that are not joined yet. The lock is held."""
        # Those that join may have forked before they answered. Each is tried once, lest one that throws us out again keeps us here.
        tried: Set[str] = set()
        while self._bell is not None and self._join_new(tried):
            pass

    def _join_new(self, tried: Set[str]) -> bool:
        """Join those that are announced now; whether there were any."""
        before = len(tried)
        for entry in discovery.processes(self.app):
            address = parse_address(entry.address)
            if str(address) in tried or str(address) in self._members or self._refused.get(str(address)) == f"{entry.pid}":
                continue
            tried.add(str(address))
            try:
                self._join(address, f"{entry.app} (pid {entry.pid})")
            except (AuthenticationError, ChannelError) as error:
                self._last_problem = f"{entry.app} (pid {entry.pid}): {error}"
                if isinstance(error, AuthenticationError):
                    self._refused[str(address)] = f"{entry.pid}"
                # A short-lived process may be gone by now, which is nothing to warn of.
                alive = any(one.pid == entry.pid for one in discovery.processes(self.app))
                news = self._told.get(str(address)) != self._last_problem
                self._told[str(address)] = self._last_problem
                log.log(logging.WARNING if alive and news else logging.DEBUG, "cannot join %s", self._last_problem)
            else:
                self._told.pop(str(address), None)
        return len(tried) > before

    def _watch(self) -> None:
        """Join processes as they are born."""
        assert self._bell is not None
        trouble = ""
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            selector.register(self._wake_r, selectors.EVENT_READ)
            while not self._closed:
                selector.select(_LOOK_AGAIN)
                if self._closed:
                    return
                self._bell.drain()
                try:
                    with self._lock:
                        if not self._closed:
                            self._look_for_processes()
                except Exception as error:
                    # Such as for want of descriptors: said once, not every second while it lasts.
                    if repr(error) != trouble:
                        log.exception("looking for new processes of %s failed; they are looked for again and again", self.app)
                    trouble = repr(error)
                else:
                    if trouble:
                        log.warning("new processes of %s are found again", self.app)
                    trouble = ""

    def _lost(self, address: str, name: str, reason: str) -> None:
        member = self._members.pop(address, None)
        if member is not None and not self._closed:
            for hook in list(self._hooks.values()):
                hook.handle._suspension(member.joiner.welcome.pid, False)
            log.info("%s is gone: %s", name, reason)
        if self._bell is None and not self._members and not self._closed and not self._return_to(address, name):
            self._ended.set()

    def _return_to(self, address: str, name: str) -> bool:
        """At a fixed address another process may take over: dial again for a while. Runs in the thread that noticed the loss."""
        if not self._fixed:
            return False
        deadline = time.monotonic() + _RETURN_TIMEOUT
        while not self._closed and time.monotonic() < deadline:
            try:
                with self._lock:
                    self._join(parse_address(address), name)
                return True
            except (ChannelError, AuthenticationError):
                self._ended.wait(0.02)
        return False

    def _noticed(self, name: str, notice: Notice) -> None:
        data = notice.data
        if notice.kind == "events-dropped":
            self._events.told(str(data["source"]), {int(number): count for number, count in data["dropped"].items()})
            return
        if notice.kind in ("suspended", "resumed"):
            self._suspension(name, notice.kind == "suspended", data)
            return
        # A lane that cannot be opened to a process that is going away is no news.
        level = logging.DEBUG if notice.kind == "no-lane" else logging.WARNING
        log.log(level, "%s: %s: %s", name, notice.kind, data.get("message", dict(data)))

    def _suspension(self, name: str, begins: bool, data: Mapping[str, Any]) -> None:
        """A process goes on without a hook that fails, or has it back; unless the hook was removed meanwhile."""
        hook = self._hooks.get(data.get("hook", 0))
        if hook is None:
            return
        handle = hook.handle
        handle._suspension(data.get("pid"), begins)
        if begins:
            text = "%s suspends the %s hook on %s: it failed %s times in a row (%s), and is tried again in %s s"
            log.warning(text, name, handle.mode, handle.target, data.get("failures"), data.get("cause"), data.get("pause"))
        else:
            log.info("%s has the %s hook on %s back", name, handle.mode, handle.target)

    def stats(self) -> List[ProbeStats]:
        """What each process has counted of each of its probe points, over the hooks of all scripts. A process that has gone is left out."""
        return [read_probe(data["pid"], report) for data in self._reports() for report in data["probes"]]

    def lanes(self) -> List[LaneStats]:
        """The lanes that each process has to each script now, and which of them can be hot. A process that has gone is left out."""
        return [one for data in self._reports() for one in read_lanes(data["pid"], data["process"])]

    def _reports(self) -> List[Mapping[str, Any]]:
        self._check_process()
        with self._lock:
            joiners = [member.joiner for member in self._members.values()]
        found: List[Mapping[str, Any]] = []
        for joiner in joiners:
            try:
                found.append(joiner.query("probes", self._limits.connect_timeout).data)
            except ChannelError:
                if joiner.alive:
                    raise
        return found

    # hooks at work -----------------------------------------------------------------------------------------------------

    def _serve(self, member: _Member, wire: Wire, frame: Frame) -> None:
        if frame.opcode is _EVENTS:
            self._events.serve(member.signatures, wire, frame)
            return
        hook = self._hooks.get(frame.ident)
        if hook is None or not (hook.left is None or hook.take()):
            # The process removes the hook when it hears that.
            Incoming(wire, frame, member.traits).not_found()
            return
        mode = hook.mode
        if mode is _INSTEAD and not frame.buffers and is_plain(frame.body):
            self._stand_in(hook, member, wire, frame)
            return
        incoming = Incoming(wire, frame, member.traits)
        try:
            record = incoming.record(apart=mode is _AROUND)
            if mode is _INSTEAD:
                args, kwargs = incoming.plain_arguments(hook.callback, record)
                value = self._async.finished(hook.callback(*args, **kwargs))
            else:
                target = hook.handle.target
                signature = member.signatures[target] if target in member.signatures else self._signature(member, incoming, target)
                value = hook.callback(Call(incoming, record, target, mode, signature))
                if value is not None:
                    value = self._async.finished(value)
        except Exception as error:
            self._answer_error(hook, incoming, wire, error)
            return
        except BaseException as error:
            self._fail(hook, incoming, error, "raised", f"the hook ended with {type(error).__name__}")
            return
        if mode in _OBSERVERS:
            incoming.done()
            return
        self._give(hook, incoming, value)

    def _stand_in(self, hook: _Hook, member: _Member, wire: Wire, frame: Frame) -> None:
        """Run an `instead` hook for a call whose values have no reference among them: most often there is nothing to ask back."""
        try:
            args, kwargs, meta, _ = record = load(frame.body, ())
            if len(meta) > INSTANCE_TYPE:
                args, kwargs = Incoming(wire, frame, member.traits).plain_arguments(hook.callback, record)
            value = hook.callback(*args, **kwargs)
            if type(value) not in PLAIN:
                value = self._async.finished(value)
            body = dump_if_small(value, member.traits.limit)
        except Exception as error:
            self._answer_error(hook, Incoming(wire, frame, member.traits), wire, error)
            return
        except BaseException as error:
            incoming = Incoming(wire, frame, member.traits)
            self._fail(hook, incoming, error, "raised", f"the hook ended with {type(error).__name__}")
            return
        if body is None:
            self._give(hook, Incoming(wire, frame, member.traits), value)
        else:
            wire.put(_RETURN, 0, body, None)

    def _give(self, hook: _Hook, incoming: Incoming, value: Any) -> None:
        try:
            incoming.give(value)
        except PayloadError as error:
            self._fail(hook, incoming, error, "unpicklable", str(error))

    def _answer_error(self, hook: _Hook, incoming: Incoming, wire: Wire, error: Exception) -> None:
        if wire.connection.state is not _CALLEE_RUNNING:
            # The lane broke in the middle: past its deadline, or the process has gone.
            self._report(hook, error)
            raise error if isinstance(error, ChannelError) else ChannelError(str(error)) from error
        if hook.handle.mode in (Mode.BEFORE, Mode.AFTER):
            self._fail(hook, incoming, error, "raised", describe(error))
            return
        incoming.throw(error)

    def _fail(self, hook: _Hook, incoming: Incoming, error: BaseException, cause: str, message: str) -> None:
        """Answer that the hook failed, and report it."""
        self._count_failure(hook, error)
        try:
            incoming.fail(cause, message)
        finally:
            # Not before: the application waits for the answer, and a log may be slow, or a pipe that nobody reads.
            self._log_failure(hook, error)

    def _report(self, hook: _Hook, error: BaseException) -> None:
        self._count_failure(hook, error)
        self._log_failure(hook, error)

    def _count_failure(self, hook: _Hook, error: BaseException) -> None:
        hook.handle.failures += 1
        hook.handle.last_failure = error

    def _log_failure(self, hook: _Hook, error: BaseException) -> None:
        handle = hook.handle
        log.error("the %s hook on %s failed", handle.mode, handle.target, exc_info=error)

    def _signature(self, member: _Member, incoming: Incoming, target: str) -> Optional[inspect.Signature]:
        try:
            return member.signatures[target]
        except KeyError:
            signature = signature_from_spec(incoming.extra("signature"))
            member.signatures[target] = signature
            return signature

    # life --------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until Ctrl-C, or until the process is gone if the session was made for one; then close.

        Logs a line at INFO (logger `xpc_instrument`) once Ctrl-C means that.
        """
        try:
            log.info("serving %d hooks in %d processes of %s; Ctrl-C ends it", len(self._hooks), len(self._members), self.app)
            while not self._ended.wait(3600):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            self.close()

    def _abandon(self) -> None:
        """In a forked child: let go of the descriptors. No lock is taken, since a thread of the parent may have held it."""
        if self._closed:
            return
        self._closed = True
        if self._bell is not None:
            self._bell.close()
        for member in list(self._members.values()):
            member.joiner.abandon()
        self._members.clear()
        self._hooks.clear()
        for fd in (self._wake_r, self._wake_w):
            if fd >= 0:
                os.close(fd)
        self._wake_r = self._wake_w = -1

    def close(self) -> None:
        """Disarm all hooks and leave. Harmless if it was closed before."""
        if self._pid != os.getpid():
            self._abandon()
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            members = list(self._members.values())
            self._members.clear()
        # The bell goes first: a process that is born from now on waits for nobody.
        if self._watcher is not None:
            os.write(self._wake_w, b"w")
            if self._watcher is not threading.current_thread():
                self._watcher.join(5.0)
        if self._bell is not None:
            self._bell.close()
        self._disarm(members)
        for hook in list(self._hooks.values()):
            hook.handle.ended()
        self._hooks.clear()
        for member in members:
            member.joiner.close()
        for fd in (self._wake_r, self._wake_w):
            if fd >= 0:
                os.close(fd)
        self._wake_r = self._wake_w = -1
        self._async.close()
        self._ended.set()

    def _disarm(self, members: List[_Member]) -> None:
        """Have the processes remove the hooks, so that none of their invocations finds a connection that has just been closed."""
        deadline = time.monotonic() + _LEAVE_TIMEOUT
        for member in members:
            try:
                for number in list(self._hooks):
                    if member.joiner.alive:
                        self._unregister(member, number, max(0.001, deadline - time.monotonic()))
            except ChannelError as error:
                # The end of its connection tells it the same.
                log.debug("%s: leaving: %s", member.name, error)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _follow(self, app: str, timeout: Optional[float]) -> None:
        """Cover all processes of an application, waiting up to `timeout` seconds for the first."""
        self.app = app
        deadline = None if timeout is None else time.monotonic() + timeout
        self._bell = discovery.Doorbell(app, self._id)
        self._wake_r, self._wake_w = os.pipe()
        with self._lock:
            self._look_for_processes()
        while not self._members:
            remaining = 0.0 if deadline is None else deadline - time.monotonic()
            if remaining <= 0:
                found = discovery.find(app)  # raises, with the names that there are, if the application is not running
                raise ChannelError(f"none of the {len(found)} processes of {app} could be joined; the last: {self._last_problem}")
            with selectors.DefaultSelector() as selector:
                selector.register(self._bell, selectors.EVENT_READ)
                selector.select(min(remaining, _LOOK_AGAIN))
            self._bell.drain()
            with self._lock:
                self._look_for_processes()
        self._watcher = threading.Thread(target=self._watch, name="xpc-instrument watch", daemon=True)
        self._watcher.start()


def connect(
    application: Union[str, int, AddressLike],
    authkey: Union[str, bytes, None] = None,
    *,
    timeout: Optional[float] = None,
    limits: Optional[Limits] = None,
    tls: Optional[TLS] = None,
    plaintext_beyond_loopback: bool = False,
) -> Session:
    """Join an instrumented application: by its name (all its processes, those born later too), a pid (that process) or an address.

    `timeout` is how many seconds to wait for an application that is not there yet. An application on TCP needs its `authkey`, and beyond
    loopback `tls` too, unless `plaintext_beyond_loopback` says that it does not. Raises `ApplicationNotFoundError`,
    `AuthenticationError`, `ConnectionRefusedError` or `TimeoutError`, `ConfigError` for certificates that cannot be loaded.
    """
    if application is None or isinstance(application, bool):
        raise TypeError(f"application: expected an app name, a pid or an address, got {application!r}")
    key = authkey.encode() if isinstance(authkey, str) else authkey or b""
    if tls is not None:
        tls.load()
    session = Session(limits or Limits(), key, Protection(tls, plaintext_beyond_loopback))
    try:
        if isinstance(application, int) or (isinstance(application, str) and application.isdigit()):
            entry = discovery.find(int(application))[0]
            session._join(parse_address(entry.address), f"{entry.app} (pid {entry.pid})")
        elif isinstance(application, str) and not _is_address(application):
            from .config_rules import app_mistake

            mistake = app_mistake(application)
            if mistake:
                raise ApplicationNotFoundError(f"{application!r:.200} {mistake}")
            session._follow(application, timeout)
        else:
            address = parse_address(application)
            session._join(address, str(address))
            session._fixed = True
    except BaseException:
        session.close()
        raise
    return session


def _is_address(text: str) -> bool:
    return text.startswith(("unix:", "tcp:")) or os.sep in text

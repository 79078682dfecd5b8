"""A probe script's session: joined to every process of one application, those born later included.

Rules:
- Each hook has a number, the same in all processes. All are told of it at once, and the registration returns once every one has answered.
  If one that lives has not answered in time, the registration fails, and all are told to remove the hook.
- A process that is born rings the session's doorbell (`following`); it is joined, and told of all hooks.
- The lock is held while processes and hooks come and go and are told of each other, never while an answer is waited for. So each process
  is told of each hook by exactly one of two: by the registration, or by the joining.
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
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, Optional, TypeVar, Union, overload

from ..core.calls.callee import Incoming
from ..core.calls.outcome import INSTANCE_TYPE
from ..core.calls.registry import check_callback
from ..core.discovery import entry as discovery
from ..core.model.errors import (
    ApplicationNotFoundError,
    AuthenticationError,
    ChannelError,
    DeadlineError,
    NobodyListensError,
    PayloadError,
    TargetError,
)
from ..core.model.limits import Limits
from ..core.model.stats import LaneStats, ProbeStats, read_lanes, read_probe
from ..core.model.target import Mode, is_target
from ..core.model.terms import Terms
from ..core.node.address import NO_PROTECTION, Address, Protection, parse_address
from ..core.node.joiner import Joiner
from ..core.protocol.codec import Frame
from ..core.protocol.connection import State
from ..core.protocol.messages import Notice, Opcode
from ..core.values.names import describe
from ..core.values.pickling import load
from ..core.values.plain import dump_if_small
from ..core.values.references import is_plain
from ..core.wire.wire import Wire
from .awaiting import PLAIN, AsyncHooks
from .call import Call, Handle, signature_from_spec
from .events import EventReader
from .follower import Follower
from .manager import AddressLike
from .process import Hook as _Hook
from .process import Member as _Member
from .process import Removal, Told, confirm_all

if TYPE_CHECKING:
    from ..core.wire.tls import TLS

log = logging.getLogger("xpc_instrument")

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_AROUND, _INSTEAD, _EVENTS, _RETURN, _CALLEE_RUNNING = Mode.AROUND, Mode.INSTEAD, Opcode.EVENTS, Opcode.RETURN, State.CALLEE_RUNNING
_OBSERVERS = (Mode.BEFORE, Mode.AFTER)
_TERMS = tuple(field.name for field in dataclasses.fields(Terms))

F = TypeVar("F", bound=Callable[..., Any])

# How long a session that ends waits for the processes to remove its hooks, in seconds, for all of them together.
_LEAVE_TIMEOUT = 1.0
# How long a session at a fixed address dials again after the process that hosted it is gone, in seconds.
_RETURN_TIMEOUT = 5.0
# How long `connect` waits until it looks again for a process that is not there yet, in seconds; nobody rings for a pid or an address.
_TRY_AGAIN = 0.05
# The part of the time for removing a hook that may go by until its events are delivered.
_DELIVERING = 0.8


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
        self._follower: Optional[Follower] = None
        self._async = AsyncHooks()
        self._closed = False
        self._pid = os.getpid()
        _sessions.add(self)
        self._fixed = False
        self._ended = threading.Event()
        self._events = EventReader(self._hooks, self._async.finished, self._report)

    def __repr__(self) -> str:
        return f"<Session {self.app or '?'}: {len(self._members)} processes, {len(self._hooks)} hooks>"

    @property
    def pids(self) -> List[int]:
        """The processes that are joined now."""
        self._check_process()
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
        For `before` and `after`: `wait=False` has no thread of the application wait for it. Raises `TargetError` if no process has the
        target, `DeadlineError` (a `TimeoutError`) if a process that lives does not answer within `Limits.connect_timeout`, 10 seconds; then
        no process keeps the hook.
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
            handle = Handle(self, next(self._numbers), mode, target)
            hook = _Hook(handle, callback, terms)
            self._hooks[handle.number] = hook
            told = self._tell(hook)
        try:
            confirm_all(hook, told, self._limits.connect_timeout)
            if self._follower is not None:
                # A process that one of them forked meanwhile may have missed the hook; it was announced before its parent answered.
                self._follower.look()
            if not hook.accepted:
                raise hook.refusal or ChannelError(f"no process of {self.app} is left to hook {target} in")
            if self._closed:
                raise ChannelError("this session is closed")
        except BaseException:
            self._remove(handle, [one.member for one in told if one.give_up()])
            raise
        return handle

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ChannelError(f"this session belongs to the process {self._pid}, which made it: call connect() in this one too")

    def _tell(self, hook: _Hook) -> List[Told]:
        """Have all processes register a hook, and wait for none. The lock is held."""
        deadline = time.monotonic() + self._limits.connect_timeout
        # Last those that may not even read: one that is stopped delays nobody but itself.
        return [member.tell(hook, deadline) for member in sorted(self._members.values(), key=lambda member: member.joiner.behind)]

    def _remove(self, handle: Handle, silent: Iterable[_Member] = ()) -> None:
        """Have all processes remove a hook, and wait for their answers, but not for those of the `silent`."""
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
            told += members
            self._unregister(members, [handle.number], self._limits.connect_timeout, silent)
        handle.ended()

    def _unregister(self, members: List[_Member], numbers: List[int], timeout: float, silent: Iterable[_Member] = ()) -> None:
        """Have processes remove hooks, all at once, and deliver the events that they have of them; those that cannot are logged."""
        deadline = time.monotonic() + timeout
        asked: List[Removal] = []
        for member in sorted(members, key=lambda member: member.joiner.behind or member in silent):
            for number in numbers:
                hook = self._hooks.get(number)
                waits = hook is not None and not hook.terms.wait and not self._events.running
                # A silent one that cannot even be sent that loses its connection, which tells it the same.
                until = 0.0 if member in silent else deadline
                asked.append(Removal(member, hook, member.joiner.begin_unregister(number, until, timeout * _DELIVERING if waits else 0.0)))
        for one in asked:
            if one.member in silent:
                one.give_up()
                continue
            try:
                one.confirm(deadline)
            except ChannelError as error:
                # The end of a connection tells the process the same.
                expected = self._closed or not one.member.joiner.alive
                log.log(logging.DEBUG if expected else logging.WARNING, "%s: removing a hook: %s", one.member.name, error)

    # processes ---------------------------------------------------------------------------------------------------------

    def _is_joined(self, address: str) -> bool:
        return address in self._members

    def _join_process(self, address: Address, name: str) -> None:
        """Join a process and tell it of all hooks. Raises what dialling raises."""
        member_of: List[_Member] = []
        joiner = Joiner(
            address,
            self._key,
            limits=self._limits,
            serve=lambda wire, frame: self._serve(member_of[0], wire, frame),
            on_notice=lambda notice: self._noticed(member_of[0], notice),
            on_lost=lambda reason: self._lost(str(address), member_of[0], reason),
            session=self._id,
            protection=self._protection,
        )
        member = _Member(joiner, name)
        member_of.append(member)
        deadline = time.monotonic() + self._limits.connect_timeout
        welcome = joiner.connect(deadline)
        try:
            if self._hooks:
                joiner.answering.ensure(deadline)
            told = self._take_in(str(address), member, deadline)
            self.app = self.app or welcome.app
            for one in told:
                refusal = one.confirm(deadline)
                if refusal is not None:
                    log.warning("%s: %s", name, refusal)
            joiner.synced()
        except BaseException:
            # One that does not know all hooks is not joined.
            self._forget(str(address), member)
            joiner.close()
            raise

    def _take_in(self, address: str, member: _Member, deadline: float) -> List[Told]:
        """From now on the process is a member; it is told of all hooks that there are."""
        with self._lock:
            if self._closed:
                raise ChannelError("this session is closed")
            self._members[address] = member
            if not member.joiner.alive:
                # Its end was noticed before there was anything to forget.
                self._members.pop(address, None)
                raise ChannelError(f"{member.name} ended while it was joined: {member.joiner.lost}")
            return [member.tell(hook, deadline) for hook in self._hooks.values()]

    def _forget(self, address: str, member: _Member) -> bool:
        """False if it is no member: not yet, or not any more."""
        with self._lock:
            if self._members.get(address) is not member:
                return False
            del self._members[address]
            return True

    def _lost(self, address: str, member: _Member, reason: str) -> None:
        if not self._forget(address, member):
            return
        for hook in list(self._hooks.values()):
            hook.handle._suspension(member.joiner.welcome.pid, False)
        log.info("%s is gone: %s", member.name, reason)
        if self._follower is None and not self._members and not self._closed and not self._return_to(address, member.name):
            self._ended.set()

    def _return_to(self, address: str, name: str) -> bool:
        """At a fixed address another process may take over: dial again for a while. Runs in the thread that noticed the loss."""
        if not self._fixed:
            return False
        deadline = time.monotonic() + _RETURN_TIMEOUT
        while not self._closed and time.monotonic() < deadline:
            if self._is_joined(address):
                return True  # one that was joined here was lost again at once, and the thread that noticed was faster
            try:
                self._join_process(parse_address(address), name)
                return True
            except (ChannelError, AuthenticationError):
                self._ended.wait(0.02)
        return False

    def _noticed(self, member: _Member, notice: Notice) -> None:
        name, data = member.name, notice.data
        if member.reporter.noticed(notice):
            if notice.kind == "member-left":
                for hook in list(self._hooks.values()):
                    hook.handle._suspension(data.get("pid"), False)
            return
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
        """What each process has counted of each of its probe points, over the hooks of all scripts. A process that has gone is left out.

        Raises `DeadlineError` if one that lives does not answer within `Limits.connect_timeout`.
        """
        return [read_probe(data["pid"], report) for data in self._reports() for report in data["probes"]]

    def lanes(self) -> List[LaneStats]:
        """The lanes that each process has to each script now, and which of them can be hot. A process that has gone is left out."""
        return [one for data in self._reports() for one in read_lanes(data["pid"], data["process"])]

    def _reports(self) -> List[Mapping[str, Any]]:
        self._check_process()
        with self._lock:
            members = list(self._members.values())
        deadline = time.monotonic() + self._limits.connect_timeout
        asked = [(member, member.reporter.begin(member.joiner, deadline)) for member in members]
        found: List[Mapping[str, Any]] = []
        for member, one in asked:
            try:
                reports, late = member.reporter.collect(member.joiner, one, deadline)
            except ChannelError:
                if member.joiner.alive:
                    raise
                continue
            if late:
                raise DeadlineError(
                    f"{member.name}: the processes {', '.join(map(str, late))}, which share its address, did not answer in time"
                )
            found += reports
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
        incoming: Optional[Incoming] = None
        try:
            args, kwargs, meta, _ = record = load(frame.body, ())
            if len(meta) > INSTANCE_TYPE:
                # There is: through the instance.
                incoming = Incoming(wire, frame, member.traits)
                args, kwargs = incoming.plain_arguments(hook.callback, record)
            value = hook.callback(*args, **kwargs)
            if type(value) not in PLAIN:
                value = self._async.finished(value)
            body = dump_if_small(value, member.traits.limit)
        except Exception as error:
            self._answer_error(hook, incoming or Incoming(wire, frame, member.traits), wire, error)
            return
        except BaseException as error:
            incoming = incoming or Incoming(wire, frame, member.traits)
            self._fail(hook, incoming, error, "raised", f"the hook ended with {type(error).__name__}")
            return
        if body is None or incoming is not None:
            self._give(hook, incoming or Incoming(wire, frame, member.traits), value)
        else:
            wire.send_frame(_RETURN, 0, body, None)

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
            # Seen to be there: a log may be slow, or a pipe that nobody reads.
            incoming.stop_polling()
        finally:
            # Not before: the application waits for the answer.
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
        if self._follower is not None:
            self._follower.abandon()
        for member in list(self._members.values()):
            member.joiner.abandon()
        self._members.clear()
        self._hooks.clear()

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
        if self._follower is not None:
            self._follower.end()
        # So that none of their invocations finds a connection that has just been closed.
        self._unregister([member for member in members if member.joiner.alive], list(self._hooks), _LEAVE_TIMEOUT)
        for hook in list(self._hooks.values()):
            hook.handle.ended()
        self._hooks.clear()
        for member in members:
            member.joiner.close()
        self._async.close()
        self._ended.set()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _join_pid(self, pid: int) -> None:
        entry = discovery.find(pid)[0]
        self._join_process(parse_address(entry.address), f"{entry.app} (pid {entry.pid})")

    def _follow(self, app: str, timeout: Optional[float]) -> None:
        """Cover all processes of an application, waiting up to `timeout` seconds for the first."""
        self.app = app
        self._follower = Follower(app, self._id, self._join_process, self._is_joined)
        self._follower.wait_for_first(lambda: bool(self._members), timeout)
        self._follower.start()


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

    `timeout` is how many seconds to wait for an application that is not there yet, such as one that has just been started. An application
    on TCP needs its `authkey`, and beyond loopback `tls` too, unless `plaintext_beyond_loopback` says that it does not. Raises
    `ApplicationNotFoundError`, `AuthenticationError`, `ConnectionRefusedError` or `TimeoutError`, `ConfigError` for certificates that
    cannot be loaded.
    """
    if application is None or isinstance(application, bool):
        raise TypeError(f"application: expected an app name, a pid or an address, got {application!r}")
    key = authkey.encode() if isinstance(authkey, str) else authkey or b""
    if tls is not None:
        tls.load()
    session = Session(limits or Limits(), key, Protection(tls, plaintext_beyond_loopback))
    try:
        if isinstance(application, int) or (isinstance(application, str) and application.isdigit()):
            _when_there(lambda: session._join_pid(int(application)), timeout)
        elif isinstance(application, str) and not _is_address(application):
            from ..core.discovery.name import app_mistake

            mistake = app_mistake(application)
            if mistake:
                raise ApplicationNotFoundError(f"{application!r:.200} {mistake}")
            session._follow(application, timeout)
        else:
            address = parse_address(application)
            _when_there(lambda: session._join_process(address, str(address)), timeout)
            session._fixed = True
    except BaseException:
        session.close()
        raise
    return session


def _when_there(join: Callable[[], None], timeout: Optional[float]) -> None:
    """Join one process, waiting up to `timeout` seconds for it to be there."""
    deadline = time.monotonic() + (timeout or 0.0)
    while True:
        try:
            join()
            return
        except (ApplicationNotFoundError, NobodyListensError):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise
        time.sleep(min(_TRY_AGAIN, remaining))


def _is_address(text: str) -> bool:
    return text.startswith(("unix:", "tcp:")) or os.sep in text

"""Hooks at work: a call that arrives on a lane runs its hook in that lane's thread, and is answered.

Rules:
- What `proceed` raised goes on. An exception of an `around` hook's own is its answer only if the registration names its type; any other is
  a failure, as all are that an observer raises. What an `instead` hook raises is its answer. An error of ours never is.
- A failure is answered first, then counted, logged with its traceback and told (`Handle.on_failure`).
- That nobody waits for a hook any longer is found out when it asks back, answers, or waits for the next call (`cut_off`); if it took longer
  than its deadline, that is a failure too.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types
from typing import Any, Callable, Mapping, Optional

from ..core.calls.callee import WITHOUT_REFERENCES, Incoming
from ..core.calls.outcome import INSTANCE_TYPE, TARGET
from ..core.model.errors import DeadlineError, PayloadError, XpcError
from ..core.model.target import Mode
from ..core.protocol.codec import Frame
from ..core.protocol.messages import Opcode
from ..core.unpatched import monotonic
from ..core.values.names import describe
from ..core.values.pickling import load_plain
from ..core.values.plain import dump_if_small
from ..core.values.references import is_plain
from ..core.wire.wire import Wire
from .awaiting import PLAIN, AsyncHooks
from .call import Call, signature_from_spec
from .events import EventReader
from .handle import Handle
from .hook import Hook
from .process import Process

log = logging.getLogger("xpc_instrument")

# How long a call and its answer may be on their way, in seconds; and within which time after an answer it shows that nobody waited for it.
_ON_THE_WAY, _AT_ONCE = 0.02, 0.05

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_AROUND, _INSTEAD, _EVENTS, _RETURN = Mode.AROUND, Mode.INSTEAD, Opcode.EVENTS, Opcode.RETURN
_OBSERVERS = (Mode.BEFORE, Mode.AFTER)
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)


class _Incoming(Incoming):
    """A call of a hook."""

    def overtaken(self) -> None:
        hook: Hook = self._wire.serving
        if hook.says_first("overtaken"):
            text = "the %s hook on %s has ended while a thread of it still uses its call (proceed(), a reference): its answer waits"
            log.warning(text, hook.mode, hook.handle.target)


class HookServer:
    """Runs the hooks of one session for the calls and events that arrive. `hooks` is the session's, by number."""

    def __init__(self, hooks: Mapping[int, Hook]) -> None:
        self._hooks = hooks
        self._async = AsyncHooks()
        self.events = EventReader(hooks, self._async.finished, self._report)
        self._leaving = False
        # What is to know at once of each failure, and of an `assert` that fails in what stands in.
        self.noted: Optional[Callable[[Handle, BaseException], None]] = None

    def leave(self) -> None:
        """The session ends, and lanes with it: what hooks that still run make of that is of no interest."""
        self._leaving = True

    def close(self) -> None:
        """End the loop of the `async def` hooks."""
        self._async.close()

    def serve(self, process: Process, wire: Wire, frame: Frame) -> None:
        """Answer a call or a batch of events of a process. Raises `ChannelError` if the lane broke meanwhile."""
        wire.arrived = monotonic()
        if frame.opcode is _EVENTS:
            wire.serving = None
            self.events.serve(process.signatures, wire, frame)
            return
        hook = wire.serving = self._hooks.get(frame.ident)
        if hook is None or not (hook.left is None or hook.take()):
            # The process removes the hook when it hears that.
            Incoming(wire, frame, process.profile).not_found()
            return
        mode = hook.mode
        if mode is _INSTEAD and not frame.buffers and is_plain(frame.body):
            self._stand_in(hook, process, wire, frame)
            return
        incoming = _Incoming(wire, frame, process.known_profile or process.profile)
        try:
            record = incoming.record(apart=mode is _AROUND)
            if mode is _INSTEAD:
                args, kwargs = incoming.plain_arguments(hook.callback, record)
                value = self._async.finished(hook.callback(*args, **kwargs))
            else:
                target = hook.target or record[2][TARGET]
                signature = process.signatures[target] if target in process.signatures else _signature(process, incoming, target)
                value = hook.callback(Call(incoming, record, target, mode, signature))
                if value is not None:
                    value = self._async.finished(value)
        except Exception as error:
            self._answer_error(hook, incoming, error)
            return
        except BaseException as error:
            self._fail(hook, incoming, error, "raised", f"the hook ended with {type(error).__name__}")
            return
        if mode is _AROUND or mode is _INSTEAD:
            self._give(hook, incoming, value)
        else:
            incoming.done()

    def _stand_in(self, hook: Hook, process: Process, wire: Wire, frame: Frame) -> None:
        """Run an `instead` hook for a call whose values have no reference among them: most often there is nothing to ask back."""
        incoming: Optional[Incoming] = None
        try:
            record = load_plain(frame.body)
            args, kwargs, meta = record[:3]
            if len(meta) > INSTANCE_TYPE or len(record) > WITHOUT_REFERENCES:
                # There is: through the instance, or a value that is referred to.
                incoming = _Incoming(wire, frame, process.profile)
                record = incoming.record()
                args, kwargs = incoming.plain_arguments(hook.callback, record)
            value = hook.callback(*args, **kwargs)
            if type(value) not in PLAIN:
                value = self._async.finished(value)
            body = dump_if_small(value, (process.known_profile or process.profile).limit)
        except Exception as error:
            self._answer_error(hook, incoming or _Incoming(wire, frame, process.profile), error)
            return
        except BaseException as error:
            incoming = incoming or _Incoming(wire, frame, process.profile)
            self._fail(hook, incoming, error, "raised", f"the hook ended with {type(error).__name__}")
            return
        if body is None or incoming is not None:
            self._give(hook, incoming or _Incoming(wire, frame, process.profile), value)
        else:
            wire.send_frame(_RETURN, 0, body, None)

    def _give(self, hook: Hook, incoming: Incoming, value: Any) -> None:
        try:
            incoming.give(value)
        except PayloadError as error:
            self._fail(hook, incoming, error, "unpicklable", str(error))

    def _answer_error(self, hook: Hook, incoming: Incoming, error: Exception) -> None:
        if error is incoming.broken:
            raise error
        incoming.no_more()
        if not _is_answer(hook, incoming, error):
            self._fail(hook, incoming, error, "raised", describe(error))
            return
        if self.noted is not None and isinstance(error, AssertionError) and _is_function(hook.callback):
            # Nobody means that as an answer.
            self.noted(hook.handle, error)
        incoming.throw(error)
        if hook.mode is _INSTEAD and _is_function(hook.callback) and hook.says_first(type(error)):
            incoming.stop_polling()
            text = "the instead hook on %s has raised this as its answer; more of its type are not logged"
            log.warning(text, hook.handle.target, exc_info=error)

    def _fail(self, hook: Hook, incoming: Incoming, error: BaseException, cause: str, message: str) -> None:
        """Answer that the hook failed, and report it."""
        self._count(hook, error)
        incoming.no_more()
        try:
            incoming.fail(cause, message)
            # Seen to be there: a log may be slow, or a pipe that nobody reads.
            incoming.stop_polling()
        finally:
            # Not before: the application waits for the answer.
            self._tell(hook, error)

    def _count(self, hook: Hook, error: BaseException) -> None:
        hook.handle._count_failure(error)
        if self.noted is not None:
            self.noted(hook.handle, error)

    def _report(self, hook: Hook, error: BaseException) -> None:
        self._count(hook, error)
        self._tell(hook, error)

    def _tell(self, hook: Hook, error: BaseException) -> None:
        if self._leaving:
            return
        log.error("the %s hook on %s failed%s", hook.mode, hook.handle.target, _advice(hook, error), exc_info=error)
        hook.handle._tell_failure(error)

    def cut_off(self, wire: Wire, seconds: float, since: float) -> None:
        """A process has taken a lane away, where the last hook took so many seconds without what it proceeded to, and ended so long ago."""
        hook: Optional[Hook] = wire.serving
        if hook is None or self._leaving or hook.deadline is None or not was_late(seconds, since, hook.deadline):
            return
        error = DeadlineError(
            f"the hook took {_shown(seconds)} s; its deadline is {_shown(hook.deadline)} s: pass timeout=, or raise it in the config"
        )
        self._count(hook, error)
        log.error("the %s hook on %s: %s", hook.mode, hook.handle.target, error)
        hook.handle._tell_failure(error)


def was_late(seconds: float, since: float, deadline: float) -> bool:
    """Whether a process has taken a lane away since the hook took longer than its deadline, all in seconds.

    The process counts from before it calls, so a hook that took a bit less has been too late too, where the lane had gone when it answered.
    """
    return seconds >= (deadline if since > _AT_ONCE else deadline - min(_ON_THE_WAY, deadline / 4))


def _is_answer(hook: Hook, incoming: Incoming, error: Exception) -> bool:
    """Whether the application is to get what a hook raised."""
    if hook.mode in _OBSERVERS:
        return False
    if incoming.has_raised(error):
        # Whatever stands for it here: it is answered with its number, and the error itself is raised.
        return True
    return not isinstance(error, XpcError) and (hook.mode is _INSTEAD or isinstance(error, hook.raises))


def _advice(hook: Hook, error: BaseException) -> str:
    """What the log adds to a failure that is a common slip: to await what `proceed` gave, which is the original's result."""
    # "object str can't be used in 'await' expression", from 3.14 on "'str' object can't be awaited".
    slip = type(error) is TypeError and "await" in str(error) and inspect.iscoroutinefunction(hook.callback)
    return ": an async hook awaits call.proceed_async(), not call.proceed()" if slip and hook.mode is _AROUND else ""


def _is_function(callback: object) -> bool:
    """Whether it is a function or a method, and not a `Mock`, which is told what to raise; nor a function that `create_autospec` made."""
    while type(callback) is functools.partial:
        callback = callback.func
    # A `Mock` with a spec has a false `__class__`.
    return issubclass(type(callback), _FUNCTIONS) and not hasattr(callback, "mock")


def _shown(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.3g}"


def _signature(process: Process, incoming: Incoming, target: str) -> Optional[inspect.Signature]:
    """The parameters of a target that the process has not told of yet: asked for once."""
    signature = signature_from_spec(incoming.extra("signature"))
    process.signatures[target] = signature
    return signature

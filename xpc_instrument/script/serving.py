"""Hooks at work: a call that arrives on a lane runs its hook in that lane's thread, and is answered."""

from __future__ import annotations

import inspect
import logging
from typing import Any, Mapping, Optional

from ..core.calls.callee import Incoming
from ..core.calls.outcome import INSTANCE_TYPE
from ..core.model.errors import ChannelError, PayloadError
from ..core.model.target import Mode
from ..core.protocol.codec import Frame
from ..core.protocol.connection import State
from ..core.protocol.messages import Opcode
from ..core.values.names import describe
from ..core.values.pickling import load
from ..core.values.plain import dump_if_small
from ..core.values.references import is_plain
from ..core.wire.wire import Wire
from .awaiting import PLAIN, AsyncHooks
from .call import Call, signature_from_spec
from .events import EventReader
from .hook import Hook
from .process import Process

log = logging.getLogger("xpc_instrument")

# By names of their own: up to Python 3.11 looking a member of an enum up takes as long as four calls of a function.
_AROUND, _INSTEAD, _EVENTS, _RETURN, _CALLEE_RUNNING = Mode.AROUND, Mode.INSTEAD, Opcode.EVENTS, Opcode.RETURN, State.CALLEE_RUNNING
_OBSERVERS = (Mode.BEFORE, Mode.AFTER)


class HookServer:
    """Runs the hooks of one session for the calls and events that arrive. `hooks` is the session's, by number."""

    def __init__(self, hooks: Mapping[int, Hook]) -> None:
        self._hooks = hooks
        self._async = AsyncHooks()
        self.events = EventReader(hooks, self._async.finished, self._report)

    def close(self) -> None:
        """End the loop of the `async def` hooks."""
        self._async.close()

    def serve(self, process: Process, wire: Wire, frame: Frame) -> None:
        """Answer a call or a batch of events of a process. Raises `ChannelError` if the lane broke meanwhile."""
        if frame.opcode is _EVENTS:
            self.events.serve(process.signatures, wire, frame)
            return
        hook = self._hooks.get(frame.ident)
        if hook is None or not (hook.left is None or hook.take()):
            # The process removes the hook when it hears that.
            Incoming(wire, frame, process.profile).not_found()
            return
        mode = hook.mode
        if mode is _INSTEAD and not frame.buffers and is_plain(frame.body):
            self._stand_in(hook, process, wire, frame)
            return
        incoming = Incoming(wire, frame, process.profile)
        try:
            record = incoming.record(apart=mode is _AROUND)
            if mode is _INSTEAD:
                args, kwargs = incoming.plain_arguments(hook.callback, record)
                value = self._async.finished(hook.callback(*args, **kwargs))
            else:
                target = hook.handle.target
                signature = process.signatures[target] if target in process.signatures else _signature(process, incoming, target)
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

    def _stand_in(self, hook: Hook, process: Process, wire: Wire, frame: Frame) -> None:
        """Run an `instead` hook for a call whose values have no reference among them: most often there is nothing to ask back."""
        incoming: Optional[Incoming] = None
        try:
            args, kwargs, meta, _ = record = load(frame.body, ())
            if len(meta) > INSTANCE_TYPE:
                # There is: through the instance.
                incoming = Incoming(wire, frame, process.profile)
                args, kwargs = incoming.plain_arguments(hook.callback, record)
            value = hook.callback(*args, **kwargs)
            if type(value) not in PLAIN:
                value = self._async.finished(value)
            body = dump_if_small(value, process.profile.limit)
        except Exception as error:
            self._answer_error(hook, incoming or Incoming(wire, frame, process.profile), wire, error)
            return
        except BaseException as error:
            incoming = incoming or Incoming(wire, frame, process.profile)
            self._fail(hook, incoming, error, "raised", f"the hook ended with {type(error).__name__}")
            return
        if body is None or incoming is not None:
            self._give(hook, incoming or Incoming(wire, frame, process.profile), value)
        else:
            wire.send_frame(_RETURN, 0, body, None)

    def _give(self, hook: Hook, incoming: Incoming, value: Any) -> None:
        try:
            incoming.give(value)
        except PayloadError as error:
            self._fail(hook, incoming, error, "unpicklable", str(error))

    def _answer_error(self, hook: Hook, incoming: Incoming, wire: Wire, error: Exception) -> None:
        if wire.connection.state is not _CALLEE_RUNNING:
            # The lane broke in the middle: past its deadline, or the process has gone.
            self._report(hook, error)
            raise error if isinstance(error, ChannelError) else ChannelError(str(error)) from error
        if hook.mode in _OBSERVERS:
            self._fail(hook, incoming, error, "raised", describe(error))
            return
        incoming.throw(error)

    def _fail(self, hook: Hook, incoming: Incoming, error: BaseException, cause: str, message: str) -> None:
        """Answer that the hook failed, and report it."""
        hook.handle._count_failure(error)
        try:
            incoming.fail(cause, message)
            # Seen to be there: a log may be slow, or a pipe that nobody reads.
            incoming.stop_polling()
        finally:
            # Not before: the application waits for the answer.
            _log_failure(hook, error)

    def _report(self, hook: Hook, error: BaseException) -> None:
        hook.handle._count_failure(error)
        _log_failure(hook, error)


def _log_failure(hook: Hook, error: BaseException) -> None:
    log.error("the %s hook on %s failed", hook.mode, hook.handle.target, exc_info=error)


def _signature(process: Process, incoming: Incoming, target: str) -> Optional[inspect.Signature]:
    """The parameters of a target that the process has not told of yet: asked for once."""
    signature = signature_from_spec(incoming.extra("signature"))
    process.signatures[target] = signature
    return signature

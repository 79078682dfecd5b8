"""`xpc.patch` and `xpc.spy`: mocks of functions that run in another process.

Rules:
- A patch is an `around` hook that does not proceed, a spy an `after` hook: both are told which process calls, and are shown the arguments
  as the caller wrote them, copied, so that they compare equal in assertions.
- Whatever becomes of a patch, the original does not run in its place: where it fails, as where its answer cannot cross, the application
  gets `HookFailedError`. It is waited for as long as the config lets anybody ask for, 30 seconds unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Set, Union
from unittest import mock as mocks

import pytest

from ..core.model.errors import XpcError
from ..core.model.target import Mode
from ..core.model.terms import AS_PASSED, COPY
from ..core.model.words import counted
from ..core.replay.running import Replayed
from ..core.unpatched import monotonic
from ..script.counted import Injected
from ..script.handle import Handle
from ..script.session import Session
from .recordings import Events, Recorded, Texts, replay
from .seen import Seen, SeenCall, report, shown_error, shown_value
from .stand_ins import New, Spy, StandIn

# How often it is asked whether a fault has happened, in seconds: nothing crosses when one does.
_LOOK_AGAIN = 0.02


class Mocker:
    """The fixture ``xpc``: patches and spies on functions of the application, undone at the end of its scope."""

    ANY = mocks.ANY
    DEFAULT = mocks.DEFAULT
    Mock = mocks.Mock
    MagicMock = mocks.MagicMock
    AsyncMock = mocks.AsyncMock
    call = mocks.call
    sentinel = mocks.sentinel

    def __init__(self, session: Session, recorded: Optional[Recorded] = None) -> None:
        self.session = session
        self._recorded = recorded
        # Several may have one mock: `new=` with the same object on several targets.
        self._hooks: List[_Hook] = []
        self._faults: List[Injected] = []
        self._watched: List[Events] = []
        self._changed = threading.Condition()

    # what is typed --------------------------------------------------------------------------------------------------------

    def patch(
        self,
        target: str,
        new: Any = mocks.DEFAULT,
        *,
        return_value: Any = mocks.DEFAULT,
        side_effect: Any = None,
        autospec: bool = True,
        when: Optional[str] = None,
        timeout: Optional[float] = None,
        **configuration: Any,
    ) -> Any:
        """Have a mock called in the place of a function of the application; returns the mock, or ``new`` if that is given.

        The mock is a ``MagicMock``, for an ``async def`` target an ``AsyncMock``, with the parameters of the target unless ``autospec`` is
        false; ``return_value``, ``side_effect`` and ``configuration`` are as with ``unittest.mock``. ``new`` is called like the original: a
        function that stands for a method gets the instance first, as a reference; what is no function, such as a ``Mock``, does not.
        ``when`` is an expression for the calls that it stands in for, such as ``"amount > 1000"``, evaluated in the application; the others
        run the original. ``timeout`` is for how many seconds at most the application waits for one call of it.

        A mock that is given no value answers None. Where a call of it fails, the application gets ``HookFailedError``, never the original.

        Each call is noted with its process: ``xpc.calls(mock)``. Raises what ``Session.around`` raises, ``TargetError`` above all.
        """
        __tracebackhide__ = True
        seen = Seen("patch", _one_target(target), self._changed, self._recorded)
        if new is not mocks.DEFAULT:
            if return_value is not mocks.DEFAULT or side_effect is not None or configuration:
                raise TypeError(f"{target}: new= is used as it is: expected no return_value, side_effect or other configuration beside it")
            if not callable(new):
                raise TypeError(f"{target}: new={shown_value(new)}: expected a callable; for a value, return_value=")
            return self._replace(target, new, seen, New(new, seen), when, timeout)
        if return_value is not mocks.DEFAULT:
            configuration["return_value"] = return_value
        stand_in = StandIn(self.session, target, seen, autospec, {**configuration, "side_effect": side_effect})
        return self._replace(target, stand_in.mock, seen, stand_in, when, timeout)

    def _replace(self, target: str, mock: Any, seen: Seen, by: Union[StandIn, New], when: Optional[str], timeout: Optional[float]) -> Any:
        __tracebackhide__ = True
        hook: Callable[..., Any] = by.call_async if by.is_async else by.call
        try:
            options: Dict[str, Any] = {"form": AS_PASSED, "values": COPY, "when": when, "timeout": timeout, "stands_in": True}
            handle = self.session._register(Mode.AROUND, target, hook, (Exception,), **options)
        except XpcError as error:
            # How it came about over there is of no interest here.
            raise error.with_traceback(None) from None
        self._hooks.append(_Hook(mock, seen, handle))
        return mock

    def spy(self, target: str, *, autospec: bool = True, when: Optional[str] = None, timeout: Optional[float] = None) -> Any:
        """A mock that notes each call of a function, which runs as ever; returns the mock.

        Its ``spy_return`` is what the last call returned, ``spy_return_list`` what all of them did, ``spy_exception`` what the last one
        raised, or None, ``spy_duration`` how long it took, in seconds. A call is noted when it ends; one of a generator function when the
        iteration has ended. ``when`` is as with ``patch``, and may name ``result``, ``exception`` and ``duration`` too.
        """
        __tracebackhide__ = True
        seen = Seen("spy", _one_target(target), self._changed, self._recorded)
        spy = Spy(self.session, target, seen, autospec)
        try:
            handle = self.session.after(target, spy.saw, form="as passed", values="copy", when=when, timeout=timeout)
        except XpcError as error:
            # How it came about over there is of no interest here.
            raise error.with_traceback(None) from None
        self._hooks.append(_Hook(spy.mock, seen, handle))
        return spy.mock

    def inject(self, target: str, terms: str, *, limit: Optional[int] = None, when: Optional[str] = None) -> Injected:
        """Have faults happen to the calls of a function, as ``Session.inject`` does; returns what counts them.

        A fault that never happened is told with ``--xpc-strict``.
        """
        __tracebackhide__ = True
        try:
            faults = self.session.inject(target, terms, limit=limit, when=when)
        except (XpcError, ValueError) as error:
            raise error.with_traceback(None) from None
        self._faults.append(faults)
        return faults

    def watch(self, target: str, *, when: str = "", entry: bool = False, errors: bool = False, depth: int = 2) -> Events:
        """The calls of a function as they come, a list that grows: each is a ``CallEvent`` with ``arguments``, ``result``, ``exception``.

        The application does not wait for it: a call is there a moment after it has ended, so ``xpc.wait(events)`` first. ``when`` and the
        others are as with ``Session.watch``.
        """
        __tracebackhide__ = True
        try:
            stream = self.session.watch(target, rate=None, when=when, entry=entry, errors=errors, depth=depth)
        except (XpcError, ValueError) as error:
            raise error.with_traceback(None) from None
        self._watched.append(Events(stream, target))
        return self._watched[-1]

    def replay(self, path: Any, *, ids: Texts = (), ignore: Texts = (), allow: Texts = ()) -> List[Replayed]:
        """Run the calls of a recording again, here in the process of the test; fails it if one differs, or if none can be run.

        ``ids``, ``ignore`` and ``allow`` are as with ``Recording.replayed``. Raises ``RecordingError``, and ``TargetError``.
        """
        __tracebackhide__ = True
        return replay(path, ids, ignore, allow)

    def stub(self, name: Optional[str] = None) -> mocks.MagicMock:
        """A ``MagicMock`` for use as a callback."""
        return mocks.MagicMock(name=name)

    def wait(self, mock: Any, calls: int = 1, timeout: float = 5.0) -> None:
        """Wait until a patch, a spy or a watch has seen so many calls, or a fault happened to so many, as in background work; fails the
        test if that has not come in ``timeout`` seconds."""
        __tracebackhide__ = True
        if isinstance(mock, Injected):
            deadline = monotonic() + timeout
            applied = mock.applied
            while applied < calls:
                if monotonic() >= deadline:
                    pytest.fail(f"{mock.handle.target}: expected {counted(calls, 'fault')} within {timeout:g} s, there were {applied}")
                time.sleep(_LOOK_AGAIN)
                applied = mock.applied
            return
        if isinstance(mock, Events):
            if not mock.wait(calls, timeout, monotonic):
                seen_so_far = "".join(f"\n  {event}" for event in mock)
                pytest.fail(f"{mock.target}: expected {counted(calls, 'call')} within {timeout:g} s, there were {len(mock)}{seen_so_far}")
            return
        seen = [hook.seen for hook in self._of(mock)]
        with self._changed:
            enough = self._changed.wait_for(lambda: sum(len(one.calls) for one in seen) >= calls, timeout)
        if not enough:
            pytest.fail(
                f"{', '.join(one.target for one in seen)}: expected {counted(calls, 'call')} within {timeout:g} s, "
                f"there were {sum(len(one.calls) for one in seen)}:\n{report(seen)}"
            )

    async def wait_async(self, mock: Any, calls: int = 1, timeout: float = 5.0) -> None:
        """The same as ``wait``, in an ``async def`` test: its loop goes on meanwhile."""
        __tracebackhide__ = True
        await asyncio.get_running_loop().run_in_executor(None, self.wait, mock, calls, timeout)

    def calls(self, mock: Any) -> List[SeenCall]:
        """The calls that a patch or a spy has seen, of all processes, in the order in which they ended; target by target, if one object
        stands in for several."""
        return [call for hook in self._of(mock) for call in hook.seen.calls]

    def stop(self, mock: Any) -> None:
        """Undo one patch, spy, fault or watch: when it returns, the function is the original in every process."""
        if isinstance(mock, Injected):
            mock.remove()
            return
        if isinstance(mock, Events):
            mock.stop()
            return
        for hook in self._of(mock):
            hook.end()

    def stopall(self) -> None:
        """Undo all patches, spies, faults and watches."""
        for hook in reversed(self._hooks):
            hook.end()
        for faults in reversed(self._faults):
            faults.remove()
        for events in reversed(self._watched):
            events.stop()

    def resetall(self) -> None:
        """Forget the calls that patches and spies have seen; what mocks return and raise stays."""
        for hook in self._hooks:
            hook.seen.clear()
            if hasattr(hook.mock, "reset_mock"):
                hook.mock.reset_mock()

    # for the plugin -------------------------------------------------------------------------------------------------------

    def all_seen(self) -> List[Seen]:
        """What each patch and spy has seen."""
        return [hook.seen for hook in self._hooks]

    def handles(self) -> Set[int]:
        """The numbers of the hooks that are this mocker's own."""
        others = [*(faults.handle for faults in self._faults), *(events.handle for events in self._watched)]
        return {hook.handle.number for hook in self._hooks} | {handle.number for handle in others}

    def problems(self, strict: bool) -> List[str]:
        """What the end of the scope tells of patches and spies that did not do what the test was to see, each with its target."""
        told = []
        for hook in self._hooks:
            seen, handle = hook.seen, hook.handle
            what = f"{seen.kind} {seen.target}"
            told += [f"{what}: a mistake that came after the test: {shown_error(error)}" for error in seen.mistakes]
            if handle._given_up:
                told.append(f"{what}: the application has given up one of its calls, and got HookTimeoutError: {handle._given_up}")
            elif handle.failures > seen.mistakes_made:
                went = "got HookFailedError" if seen.kind == "patch" else "went on without it"
                told.append(f"{what}: {handle.failures} of its calls failed, and the application {went}; the last: {_told(handle)}")
            if handle.expression_error:
                went = "ran the original" if seen.kind == "patch" else "are not noted"
                told.append(f"{what}: its condition failed, and such calls {went}: {handle.expression_error}")
            if handle.suspensions:
                told.append(f"{what}: it was suspended, since it failed several times in a row; the last failure: {_told(handle)}")
            if seen.late:
                told.append(f"{what}: {seen.late} of its calls came after it was undone")
            if strict and seen.kind == "patch" and not seen.was_called:
                told.append(f"{what}: it was never called (--xpc-strict)")
        if strict:
            told += [
                f"inject {faults.handle.target}: it happened to no call (--xpc-strict)" for faults in self._faults if not faults.applied
            ]
        return told

    def _of(self, mock: Any) -> List[_Hook]:
        found = [hook for hook in self._hooks if hook.mock is mock]
        if not found:
            raise ValueError(f"{mock!r:.200}: expected what patch() or spy() of this fixture has returned")
        return found


class _Hook:
    """A patch or a spy, and its hook."""

    def __init__(self, mock: Any, seen: Seen, handle: Handle) -> None:
        self.mock = mock
        self.seen = seen
        self.handle = handle

    def end(self) -> None:
        """Undo it; harmless if it was undone before."""
        self.handle.remove()
        self.seen.over = True


def _one_target(target: Any) -> str:
    """Raises ``TypeError`` for what names no function, or several: each has parameters of its own."""
    if isinstance(target, str):
        return target
    raise TypeError(f"{target!r:.200}: expected one target as text, such as 'shop.gateway:Gateway.post'; several are patched one by one")


def _told(handle: Handle) -> str:
    error = handle.last_failure
    return "none was told" if error is None else shown_error(error)

"""Waiting where something else than the operating system switches tasks: greenlets of gevent and eventlet, tasks of trio.

Rules:
- Neither is imported here: what is not in `sys.modules` does not run this thread.
- A greenlet waits through the hub of its thread, so that the others of the thread go on. A thread without a hub, and the hub's own
  greenlet, which runs callbacks and signal handlers, wait as threads do: nothing could be switched to.
- `GREENLET in modules` is what a caller on the hot path asks before anything else.
"""

from __future__ import annotations

import os
from sys import modules
from typing import Any, Callable, List, Optional

from ..model.errors import DeadlineError
from ..unpatched import Brief, monotonic, read, write

# The module that both libraries are made of.
GREENLET = "greenlet"

# How many greenlets of eventlet may wait for a lane at a time; each takes two descriptors.
_MAX_PIPES = 64

# The word for a coroutine that something else drives.
NO_LOOP = "a coroutine can wait for its hook under asyncio (uvloop included) and trio; neither runs it"

_on_first_hub: List[Callable[[], None]] = []
_seen = False


class Hub:
    """What runs the greenlets of a thread."""

    def wait(self, fd: int, writing: bool, timeout: Optional[float]) -> bool:
        """Let others run until the descriptor is ready; False if it is not within `timeout` seconds."""
        raise NotImplementedError

    def bell(self) -> Bell:
        """Something that any thread can wake the running greenlet with."""
        raise NotImplementedError


class Bell:
    """Wakes one that waits. Called from any thread, by `wait` returned from in its own; then closed."""

    def __call__(self) -> None:
        raise NotImplementedError

    def wait(self, timeout: float) -> bool:
        """Until it is rung; False if it may not have been within `timeout` seconds. Negative for no limit."""
        raise NotImplementedError

    def close(self) -> None:
        """It is not waited for any more."""


def on_first_hub(call: Callable[[], None]) -> None:
    """Have something called, once, before the first greenlet waits."""
    if _seen:
        call()
    else:
        _on_first_hub.append(call)


def hub() -> Optional[Hub]:
    """The hub that may run other greenlets while the running one waits, or None."""
    local = modules.get("gevent._hub_local")
    if local is not None:
        gevent = local.get_hub_if_exists()
        if gevent is not None and getcurrent() is not gevent:
            return _found(_Gevent(gevent))
    hubs = modules.get("eventlet.hubs")
    if hubs is not None:
        # Asking for it by `get_hub` would make one.
        eventlet = getattr(getattr(hubs, "_threadlocal", None), "hub", None)
        if eventlet is not None and getcurrent() is not getattr(eventlet, "greenlet", None):
            return _found(_EVENTLET)
    return None


def getcurrent() -> Any:
    """The running greenlet; every thread has one."""
    return modules[GREENLET].getcurrent()


def _found(found: Hub) -> Hub:
    global _seen
    if not _seen:
        _seen = True
        for call in _on_first_hub:
            call()
    return found


# gevent ------------------------------------------------------------------------------------------------------------------


class _Late(Exception):
    """Raised by a hub at the end of a wait."""


class _Gevent(Hub):
    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def wait(self, fd: int, writing: bool, timeout: Optional[float]) -> bool:
        from gevent import socket

        try:
            (socket.wait_write if writing else socket.wait_read)(fd, timeout, _Late())
        except _Late:
            return False
        return True

    def bell(self) -> Bell:
        return _GeventBell(self._hub)


class _GeventBell(Bell):
    def __init__(self, hub: Any) -> None:
        from gevent.hub import Waiter

        self._hub = hub
        self._waiter = Waiter(hub)
        self._closing = Brief()
        self._closed = False
        # Started before anybody can ring: a watcher that is not started does not hear.
        self._watcher = hub.loop.async_()
        self._watcher.start(self._waiter.switch, True)

    def __call__(self) -> None:
        with self._closing() as held:
            if held and not self._closed:
                self._watcher.send()

    def wait(self, timeout: float) -> bool:
        if timeout < 0:
            self._waiter.get()
        else:
            timer = self._hub.loop.timer(timeout)
            timer.start(self._waiter.switch, False)
            try:
                self._waiter.get()
            finally:
                timer.close()
        self._waiter.clear()
        # Woken by whichever of the two: the caller looks at its lanes and at its clock.
        return True

    def close(self) -> None:
        with self._closing() as held:
            self._closed = True
        # Else somebody rings who has not looked yet: then it goes with its last reference.
        if held:
            self._watcher.close()


# eventlet ----------------------------------------------------------------------------------------------------------------


class _Eventlet(Hub):
    def wait(self, fd: int, writing: bool, timeout: Optional[float]) -> bool:
        from eventlet.hubs import get_hub, notify_opened, trampoline

        current = get_hub()
        if fd in getattr(current, "listeners", {}).get(current.WRITE if writing else current.READ, ()):
            # Of a file that had the number before, and was closed in a forked child, where the greenlet that waits for it goes on too.
            notify_opened(fd)
        try:
            trampoline(fd, read=not writing, write=writing, timeout=timeout, timeout_exc=_Late())
        except _Late:
            return False
        return True

    def bell(self) -> Bell:
        return _Pipe(self)


class _Pipe(Bell):
    """A hub of eventlet cannot be woken from another thread but through a file."""

    _open = 0

    def __init__(self, hub: Hub) -> None:
        if _Pipe._open >= _MAX_PIPES:
            raise DeadlineError(f"{_MAX_PIPES} greenlets wait for a lane already")
        self._hub = hub
        self._reader, self._writer = os.pipe()
        _Pipe._open += 1
        self._closing = Brief()
        self._rung = self._over = False

    def __call__(self) -> None:
        with self._closing() as held:
            if held and self._writer >= 0 and not self._rung:
                self._rung = True
                write(self._writer, b"w")
        if self._over:
            self._close()

    def wait(self, timeout: float) -> bool:
        if not self._hub.wait(self._reader, False, None if timeout < 0 else timeout):
            return False
        with self._closing():
            read(self._reader, 1)
            self._rung = False
        return True

    def close(self) -> None:
        self._over = True
        self._close()

    def _close(self) -> None:
        with self._closing() as held:
            # Else whoever rings does it when that is done.
            if held and self._reader >= 0:
                os.close(self._reader)
                os.close(self._writer)
                self._reader = self._writer = -1
                _Pipe._open -= 1


_EVENTLET = _Eventlet()


# trio --------------------------------------------------------------------------------------------------------------------


def trio() -> Any:
    """The module, if the running coroutine is a task of trio's, or None."""
    if "trio" not in modules:
        return None
    # Where one loop runs within the other, only this knows who runs the coroutine at this moment.
    sniffio: Any = modules.get("sniffio")
    if sniffio is None:
        return None
    try:
        return modules["trio"] if sniffio.current_async_library() == "trio" else None
    except sniffio.AsyncLibraryNotFoundError:
        return None


async def wait_in_trio(module: Any, fd: int, writing: bool, deadline: Optional[float]) -> bool:
    """Let other tasks run until the descriptor is ready; False if it is not at the deadline."""
    wait = module.lowlevel.wait_writable if writing else module.lowlevel.wait_readable
    with module.move_on_after(_seconds_to(deadline)) as scope:
        await wait(fd)
    # Ready in the same moment counts as ready.
    return not scope.cancelled_caught


class TrioBell:
    """Wakes a task of trio's, from any thread."""

    def __init__(self, module: Any) -> None:
        self._trio = module
        self._token = module.lowlevel.current_trio_token()
        self._event = module.Event()

    def __call__(self) -> None:
        try:
            self._token.run_sync_soon(self._event.set)
        except self._trio.RunFinishedError:
            # Nobody waits there any more.
            pass

    async def wait(self, deadline: Optional[float]) -> bool:
        """Until it is rung; False if it is not before the deadline."""
        with self._trio.move_on_after(_seconds_to(deadline)) as scope:
            await self._event.wait()
        return not scope.cancelled_caught


def _seconds_to(deadline: Optional[float]) -> float:
    return float("inf") if deadline is None else max(0.0, deadline - monotonic())

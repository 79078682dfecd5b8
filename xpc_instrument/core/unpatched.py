"""Sockets, threads, locks and polling as the standard library made them, in an application that gevent or eventlet has patched.

Rules:
- The service thread is a real thread, and what it shares with the application has to work between threads. The patched names switch
  greenlets instead of blocking, in whichever thread calls them: the service thread would wait for a hub that no thread runs.
- The originals are taken once, when this module is imported: from the standard library if nothing is patched yet, otherwise from the
  library that patched it. Looked up in their modules later, they would be the patched ones.
- A lock from here is held for a moment only, and never during a wait: a thread that blocks on it blocks all of its greenlets.
- No thread of the application waits for a lock of ours without a limit, unless what runs with it is a step or two of C: a collection of
  garbage may begin wherever Python code runs, and a `__del__` of the application's wait there, for as long as it likes, for a lock that
  belongs to the very thread that waits for ours. `Brief` is for such places, where not to have the lock costs little.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import selectors
import sys
import time
import types
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set, Tuple


def _original(module: str, name: str, kind: str) -> Any:
    """A name of the standard library as it was before anybody patched; `kind` is eventlet's word for the group that it is patched with."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and hasattr(gevent, "get_original"):
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and hasattr(eventlet, "is_monkey_patched") and eventlet.is_monkey_patched(kind):
        return getattr(eventlet.original(module), name)
    return getattr(importlib.import_module(module), name)


_thread: Any = importlib.import_module("_thread")
allocate_lock: Any = _original("_thread", "allocate_lock", "thread")
start_new_thread: Any = _original("_thread", "start_new_thread", "thread")
get_ident: Any = _original("_thread", "get_ident", "thread")
_rlock: Any = _original("_thread", "RLock", "thread")
stack_size: Any = _original("_thread", "stack_size", "thread")
get_native_id: Any = _original("_thread", "get_native_id", "thread")
sleep: Any = _original("time", "sleep", "time")


def _clock(name: str, same: int) -> Callable[[], float]:
    """A clock of `time` that nobody sets. Tests set those there, by `monkeypatch` or freezegun, which also looks for the functions
    themselves in all modules; and they may be targets. Where that has been done by now, `same` is the kernel's number of it."""
    found = getattr(time, name)
    return functools.partial(found) if isinstance(found, types.BuiltinFunctionType) else functools.partial(time.clock_gettime, same)


monotonic = _clock("monotonic", getattr(time, "CLOCK_MONOTONIC", 0))
perf_counter = _clock("perf_counter", getattr(time, "CLOCK_MONOTONIC", 0))
wall_clock = _clock("time", getattr(time, "CLOCK_REALTIME", 0))
# Below `signal`, which makes enums of all signals that it takes and returns. Absent where there are no masks: Windows.
_signal: Any = importlib.import_module("_signal")
pthread_sigmask: Any = getattr(_signal, "pthread_sigmask", None)
SIG_BLOCK: int = getattr(_signal, "SIG_BLOCK", 0)
SIG_UNBLOCK: int = getattr(_signal, "SIG_UNBLOCK", 0)
# All but those by which the kernel tells a thread of a fault of its own: no other thread could take them, and blocked they would end the
# process without a word of `faulthandler`.
BLOCKABLE: Set[int] = set(_signal.valid_signals()) - {
    getattr(_signal, name, 0) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
}
if TYPE_CHECKING:
    import socket
    import threading

    Local = threading.local
    Socket = socket.socket
else:
    Local = _original("_thread", "_local", "thread")
    Socket = _original("socket", "socket", "socket")
# What the names in `os` stand for; eventlet's `os.read` waits on a hub, its `os.open` and gevent's `os.close` tell a hub, which each thread
# gets that has none, and which leaves its descriptors open.
_os: Any = sys.modules[os.name]
access: Any = _os.access
read: Any = _os.read
write: Any = _os.write
open_file: Any = _os.open
close: Any = _os.close

# Absent where there is no poll, such as on Windows.
try:
    poll: Any = _original("select", "poll", "select")
    POLLIN: int = _original("select", "POLLIN", "select")
    POLLOUT: int = _original("select", "POLLOUT", "select")
except AttributeError:
    poll, POLLIN, POLLOUT = None, 1, 4


def threads_are_real() -> bool:
    """Whether a thread that `threading` starts now is one, and no greenlet."""
    return bool(_thread.start_new_thread is start_new_thread)


def accept(listener: Socket) -> Tuple[Socket, Any]:
    """A connection of a listening socket, and where it comes from. `socket.accept` would give one of a class that is patched by then."""
    descriptor, where = listener._accept()  # type: ignore[attr-defined]
    return Socket(listener.family, listener.type, listener.proto, fileno=descriptor), where


class RLock:
    """A lock that a thread may take again, a signal handler that interrupts it included: `with lock():`.

    It is one of C, which lets go whatever is raised, and wherever: a signal handler may raise at the beginning of an `__exit__` that is a
    Python function, and the lock would be held for ever. It exists only while it is used. eventlet, when it patches, replaces those that it
    finds by locks that do not work between threads, and tells the application's log of those that it cannot replace.

    `make` gives another kind of lock.
    """

    __slots__ = ("_last", "_make")

    def __init__(self, make: Optional[Callable[[], Any]] = None) -> None:
        self._make = make
        self._last: Dict[str, Any] = {"lock": _no_lock}

    def __call__(self) -> Any:
        """The lock, to be used at once. The same for all, for as long as anybody uses it."""
        link = self._last
        lock = link["lock"]()
        while lock is None:
            made = (self._make or _rlock)()
            # One atomic step says which comes after one that has gone; whoever looks at it meanwhile finds the same one.
            link = self._last = link.setdefault("next", {"lock": weakref.ref(made)})
            lock = link["lock"]()
        return lock


def _no_lock() -> None:
    """Where the first one is still to come."""


# How long a thread waits for a `Brief`, in seconds. Whoever has it needs some microseconds, and a slice of the processor.
_BRIEF = 0.05


class Brief:
    """A lock for a moment that no thread waits for without a limit: `with lock() as held:`.

    `held` is false where another thread has had it for long: it does something of the application's in there. What cannot go without is
    left then, or done later. The next ones do not wait at all, until one of them finds it free. A thread may take it again.
    """

    __slots__ = ("_lock", "_patience", "patience")

    def __init__(self, patience: float = _BRIEF) -> None:
        self._lock = RLock()
        self._patience = patience
        self.patience = patience
        """How long the next one waits, in seconds."""

    def __call__(self) -> _Holding:
        return _Holding(self, self._lock())

    def was_free(self, free: bool) -> None:
        """What the last one found."""
        self.patience = self._patience if free else 0.0


class _Holding:
    """Interrupted at its ends it may keep the lock, which then goes with it."""

    __slots__ = ("_brief", "_held", "_lock")

    def __init__(self, brief: Brief, lock: Any) -> None:
        self._brief = brief
        self._lock = lock
        self._held = False

    def __enter__(self) -> bool:
        brief = self._brief
        self._held = self._lock.acquire(True, brief.patience)
        brief.was_free(self._held)
        return self._held

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            self._lock.release()


def held_for(lock: Any, seconds: float, work: Callable[[], Any], too_long: Callable[[], BaseException]) -> Any:
    """What `work` returns, with an `RLock()` held that the calling thread does not have yet and is waited for `seconds` at most; raises
    what `too_long` makes if it is not free by then. Whatever a signal handler raises, and wherever, it is not held afterwards.
    """
    try:
        if lock.acquire(True, seconds):
            return work()
    finally:
        # First of all, as between two steps a handler may raise. Up to Python 3.10 it may before the first.
        try:
            lock.release()
        except RuntimeError:
            pass  # it was not taken, or is given back
        except BaseException:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was interrupted after that
            raise
    raise too_long()


class Semaphore:
    """A counting semaphore: some threads release it, one waits until it can acquire it."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        # Of C, and patched in the module `queue` only.
        from _queue import SimpleQueue

        self._queue: Any = SimpleQueue()

    def release(self) -> None:
        """Count one up."""
        self._queue.put(None)

    def acquire(self, timeout: float) -> bool:
        """Count one down, as soon as the count is above 0; False if it is not within `timeout` seconds."""
        from _queue import Empty

        try:
            self._queue.get(timeout=timeout)
        except Empty:
            return False
        return True


class Key:
    """What a selector knows of a file."""

    __slots__ = ("data", "events", "fd", "fileobj")

    def __init__(self, fileobj: Any, fd: int, events: int, data: Any) -> None:
        self.fileobj = fileobj
        self.fd = fd
        self.events = events
        self.data = data


class Selector:
    """`selectors.PollSelector` on the original poll. It has no descriptor of its own that a forked child would share with its parent."""

    def __init__(self) -> None:
        self._poll = poll()
        self._keys: Dict[Any, Key] = {}
        self._by_fd: Dict[int, Key] = {}

    def __enter__(self) -> Selector:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def register(self, fileobj: Any, events: int, data: Any = None) -> None:
        """Watch a file, a descriptor or an object with a `fileno`. Raises `KeyError` if it is watched already."""
        if fileobj in self._keys:
            raise KeyError(f"{fileobj!r} is already registered")
        self._watch(Key(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data))

    def _watch(self, key: Key) -> None:
        wanted = (POLLIN if key.events & selectors.EVENT_READ else 0) | (POLLOUT if key.events & selectors.EVENT_WRITE else 0)
        self._poll.register(key.fd, wanted)
        self._keys[key.fileobj] = self._by_fd[key.fd] = key

    def unregister(self, fileobj: Any) -> None:
        """Watch it no more, closed or not. Raises `KeyError` if it was not watched."""
        key = self._keys.pop(fileobj)
        # Closed meanwhile, its number may be another file's.
        if self._by_fd.get(key.fd) is key:
            del self._by_fd[key.fd]
            self._poll.unregister(key.fd)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> None:
        """Watch it for other events."""
        self._watch(Key(fileobj, self._keys[fileobj].fd, events, data))

    def get_key(self, fileobj: Any) -> Key:
        """What is known of it. Raises `KeyError` if it is not watched."""
        return self._keys[fileobj]

    def select(self, timeout: Optional[float] = None) -> List[Tuple[Key, int]]:
        """The files at which something has happened, waiting `timeout` seconds at most, or without end."""
        ready = []
        # Rounded up to milliseconds, so that what is due in less is not asked for again and again.
        for fd, event in self._poll.poll(None if timeout is None else max(0, math.ceil(timeout * 1000))):
            key = self._by_fd.get(fd)
            if key is not None:
                mask = (selectors.EVENT_WRITE if event & ~POLLIN else 0) | (selectors.EVENT_READ if event & ~POLLOUT else 0)
                ready.append((key, mask & key.events))
        return ready

    def is_called(self) -> bool:
        """Whether something has happened at one of those with `data`; for any thread, while another one selects or not."""
        called = poll()
        for key in list(self._by_fd.values()):
            if key.data is not None and key.events & selectors.EVENT_READ:
                called.register(key.fd, POLLIN)
        return bool(called.poll(0))

    def close(self) -> None:
        """Watch nothing any more."""
        self._keys.clear()
        self._by_fd.clear()

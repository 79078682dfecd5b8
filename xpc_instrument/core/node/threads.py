"""Where our threads start, and the one kind of them that a fork has end.

Rules:
- Each thread of ours starts here: what holds for all of them is done in one place. (That of the agent's stand-in, which has no module of
  ours yet, does the same by itself: `xpc_agent/bootstrap/sitecustomize.py`.)
- Those that serve an application are started below the `threading` module, so that it does not see them when it counts or joins its
  threads; they are real ones wherever gevent or eventlet has patched threads (`unpatched`).
- No thread of ours takes a signal: those that the process blocks in order to wait for them, or to have them after a critical section, would
  be taken by the one thread that does not block them. So each begins with all signals blocked, and so do the threads that a hook starts in
  it, and its programs. A process that it forks begins without that.
- An application that starts many threads may have made the stacks of new ones small (`threading.stack_size`), such as 32 KiB: ours import
  modules, which takes more, and get more.
- A thread has ended when the kernel says so. It lets go of its lock a moment earlier, and `os.fork`, which from Python 3.12 on counts
  threads as the kernel does, warns of a second one; where warnings are errors it raises, with the child already made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Optional, Set

from ..unpatched import (
    BLOCKABLE,
    SIG_BLOCK,
    SIG_UNBLOCK,
    Local,
    access,
    allocate_lock,
    get_ident,
    get_native_id,
    monotonic,
    pthread_sigmask,
    sleep,
    stack_size,
    start_new_thread,
    threads_are_real,
)

if TYPE_CHECKING:
    import threading

# How long a thread that has let go of its lock is looked for, and after what time again, in seconds. It needs some tens of microseconds,
# and on a machine that is busy its turn; the bound is for its number, which another thread may have been given.
_LEAVING = 1.0
# How long a fork waits for a service thread to end, in seconds. It ends within a millisecond, once it has its turn; but on a machine with
# twenty others it has waited longer than a tenth of a second for that, and a fork beside it is warned of, and leaves the child half of what
# it does.
PAUSE_TIMEOUT = 1.0
_LOOK_AGAIN = 0.00002


# What a thread of ours has of stack at least, in bytes; pages that it does not use are never made.
_STACK = 1 << 20


class _Blocked(Local):
    """The signals that the calling thread blocks because it is ours."""

    signals: Set[int] = set()  # noqa: RUF012 - replaced, never changed


_blocked = _Blocked()
# The threads of ours that `threading` does not see, by their idents; in a forked child, those that only the parent has.
_unseen: Set[int] = set()
_gone: Set[int] = set()


def start_unseen(work: Callable[..., object], *arguments: Any) -> None:
    """Run `work` in a thread that `threading` does not know. Raises `RuntimeError` if the process has no room for one."""
    _started(lambda blocked: start_new_thread(_work_unseen, (blocked, work, arguments)))


def start_seen(work: Callable[..., object], *arguments: Any, name: str) -> threading.Thread:
    """Run `work` in a thread of `threading` that ends with the process. Raises `RuntimeError` if the process has no room for one."""
    # Late: whoever imports it first is its main thread, and an application may not have done so.
    import threading

    def start(blocked: Set[int]) -> threading.Thread:
        thread = threading.Thread(target=_work, args=(blocked, work, arguments), name=f"xpc-instrument {name}", daemon=True)
        thread.start()
        return thread

    # A greenlet has the mask of all others in its thread, which run before `start` returns.
    return _started(start) if threads_are_real() else start(set())


def _started(start: Callable[[Set[int]], Any]) -> Any:
    """What `start` returns, which starts a thread: with the signals blocked that it is given, and with a stack that is large enough."""
    # It cannot be asked for without being set: with no size it would be the default from then on.
    usual = stack_size(_STACK)
    if not 0 < usual < _STACK:
        stack_size(usual)
        return _with_signals_blocked(start)
    try:
        return _with_signals_blocked(start)
    finally:
        # One that the application starts at this moment has more than it asked for.
        meanwhile = stack_size(usual)
        if meanwhile != _STACK:
            stack_size(meanwhile)


def _with_signals_blocked(start: Callable[[Set[int]], Any]) -> Any:
    """What `start` returns, which starts a thread: with the signals blocked that it is given, since a thread inherits its mask.

    The mask of the calling thread is the same afterwards, whatever the handlers of its signals raise meanwhile.
    """
    if pthread_sigmask is None:
        return start(set())
    # Asked for first: a handler may raise out of the change, and then nothing tells what there was before.
    added = BLOCKABLE - pthread_sigmask(SIG_BLOCK, ())
    blocked = _blocked.signals | added
    if not added:
        return start(blocked)
    try:
        try:
            pthread_sigmask(SIG_BLOCK, added)
            return start(blocked)
        finally:
            # It runs the handlers of what has come meanwhile when the mask has been changed, not before.
            pthread_sigmask(SIG_UNBLOCK, added)
    except BaseException:
        # Up to Python 3.9 a handler may raise between the end of the block above and its last line.
        if added <= pthread_sigmask(SIG_BLOCK, ()):
            pthread_sigmask(SIG_UNBLOCK, added)
        raise


def _work(blocked: Set[int], work: Callable[..., object], arguments: Any) -> None:
    _blocked.signals = blocked
    work(*arguments)


def _work_unseen(blocked: Set[int], work: Callable[..., object], arguments: Any) -> None:
    ident = get_ident()
    _unseen.add(ident)
    try:
        _work(blocked, work, arguments)
    finally:
        _unseen.discard(ident)


def gone() -> Set[int]:
    """In a forked child: the idents of the threads of ours that its parent had and it has not."""
    return _gone


def _in_child() -> None:
    """A hook has forked: nobody could end the child, whose only thread this is, by a signal that it inherits as blocked."""
    global _unseen, _gone
    here = {get_ident()}
    _unseen, _gone = _unseen & here, _unseen - here
    if _blocked.signals:
        pthread_sigmask(SIG_UNBLOCK, _blocked.signals)
        _blocked.signals = set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class Run:
    """One start of a service thread, which its work is given."""

    __slots__ = ("_native", "_over", "due")

    def __init__(self) -> None:
        self.due = True
        self._native = 0
        self._over = allocate_lock()
        self._over.acquire()

    def begin(self) -> None:
        """In the new thread, first of all."""
        self._native = get_native_id()

    def end(self) -> None:
        """In the new thread, last of all."""
        self.due = False
        self._over.release()

    def join(self, timeout: float) -> bool:
        """Whether the thread ends within `timeout` seconds, -1 for as long as it takes; then it is also waited for until it is gone."""
        if not self._over.acquire(True, timeout):
            return False
        self._over.release()
        patience = monotonic() + _LEAVING
        # On other systems than Linux there is no such file, and the lock is all that can be had.
        while self._native != get_native_id() and access(f"/proc/self/task/{self._native}", os.F_OK):
            if monotonic() > patience:
                return False
            sleep(_LOOK_AGAIN)
        return True


class ServiceThread:
    """A thread that can be ended around a fork and started again after it.

    `work(run)` goes on in it while `run.due`, and makes that false itself when there is nothing more to do; `wake()` has it look. One that
    is started while the one before is still at its last step waits until that has ended.
    """

    def __init__(self, work: Callable[[Run], object], wake: Callable[[], object]) -> None:
        self._work = work
        self._wake = wake
        self._run: Optional[Run] = None
        self._ident = 0

    @property
    def running(self) -> bool:
        """Whether it goes on: it has been started, and neither ended nor become done."""
        return self._run is not None and self._run.due

    @property
    def is_this_thread(self) -> bool:
        """Whether the calling thread is it."""
        return bool(self._ident == get_ident())

    def start(self) -> None:
        """Start it unless it runs. Raises `RuntimeError` if the process has no room for a thread."""
        if self.running:
            return
        _started(self._start)

    def end(self, timeout: float) -> bool:
        """Have it end. Returns whether it has, within `timeout` seconds, so that the kernel knows of none."""
        run = self._run
        if run is None:
            return True
        if run.due:
            run.due = False
            self._wake()
        return run.join(timeout)

    def join(self, timeout: float) -> bool:
        """Whether it ends of itself within `timeout` seconds."""
        return self._run is None or self._run.join(timeout)

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        self._run = None

    def _start(self, blocked: Set[int]) -> None:
        before, run = self._run, Run()
        self._run = run
        try:
            start_new_thread(_work_unseen, (blocked, self._go, (run, before)))
        except RuntimeError:
            self._run = before
            raise

    def _go(self, run: Run, before: Optional[Run]) -> None:
        run.begin()
        try:
            if before is not None:
                before.join(-1)
            self._ident = get_ident()
            self._work(run)
        finally:
            run.end()

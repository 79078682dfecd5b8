"""Where our threads start, and the one kind of them that a fork has end.

Rules:
- Each thread of ours starts here: what holds for all of them is done in one place.
- Those that serve an application are started below the `threading` module, so that it does not see them when it counts or joins its
  threads; they are real ones wherever gevent or eventlet has patched threads (`unpatched`).
- A thread has ended when the kernel says so. It lets go of its lock a moment earlier, and `os.fork`, which from Python 3.12 on counts
  threads as the kernel does, warns of a second one; where warnings are errors it raises, with the child already made.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Optional

from ..unpatched import access, allocate_lock, get_ident, get_native_id, sleep, start_new_thread

if TYPE_CHECKING:
    import threading

# How long a thread that has let go of its lock is looked for, and after what time again, in seconds. It needs some tens of microseconds,
# and on a machine that is busy its turn; the bound is for its number, which another thread may have been given.
_LEAVING = 1.0
_LOOK_AGAIN = 0.00002


def start_unseen(work: Callable[..., object], *arguments: Any) -> None:
    """Run `work` in a thread that `threading` does not know. Raises `RuntimeError` if the process has no room for one."""
    start_new_thread(work, arguments)


def start_seen(work: Callable[..., object], *arguments: Any, name: str) -> threading.Thread:
    """Run `work` in a thread of `threading` that ends with the process. Raises `RuntimeError` if the process has no room for one."""
    # Late: whoever imports it first is its main thread, and an application may not have done so.
    import threading

    thread = threading.Thread(target=work, args=arguments, name=f"xpc-instrument {name}", daemon=True)
    thread.start()
    return thread


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
        patience = time.monotonic() + _LEAVING
        # On other systems than Linux there is no such file, and the lock is all that can be had.
        while self._native != get_native_id() and access(f"/proc/self/task/{self._native}", os.F_OK):
            if time.monotonic() > patience:
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
        before, run = self._run, Run()
        self._run = run
        try:
            start_unseen(self._go, run, before)
        except RuntimeError:
            self._run = before
            raise

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

    def _go(self, run: Run, before: Optional[Run]) -> None:
        run.begin()
        try:
            if before is not None:
                before.join(-1)
            self._ident = get_ident()
            self._work(run)
        finally:
            run.end()

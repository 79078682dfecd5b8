"""The end of a script that closes nothing: its sessions and managers end before the executors and loops that its hooks use.

Rules:
- When the main thread ends, `threading` first has `concurrent.futures` end its executors, then waits for threads, and `atexit` comes last.
  A hook that is called in between finds executors that refuse, and what they raise would be its answer. So what serves ends before them.
- The one way to be first is `threading._register_atexit`, which `concurrent.futures` itself uses (3.9 to 3.15): last registered, first
  called. It is private: where it is missing, or the main thread has ended already, `atexit` has to do.
- A script whose main thread ends while threads of its own go on, such as a `threading.Timer` that is to close the session, is served on:
  what is left ends at exit.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import weakref
from typing import Any, Callable, Set

log = logging.getLogger("xpc_instrument")

# Each registers its own end with `threading` when it is imported.
_EXECUTORS = ("concurrent.futures.thread", "concurrent.futures.process")


# What ends each of them, as long as it is there.
_ends: weakref.WeakKeyDictionary[object, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_seen: Set[str] = set()


def end_with_script(serving: object, end: Callable[[Any], None]) -> None:
    """Have `end(serving)` called when the script ends, before the executors that have been imported so far; harmless if it has ended."""
    # `asyncio` imports it when a loop's default executor is first used: it would come first.
    import concurrent.futures.thread  # noqa: F401

    if not _seen:
        atexit.register(_end)
    _ends[serving] = end
    come_first()


def come_first() -> None:
    """Be called before the executors that have been imported by now."""
    loaded = {name for name in _EXECUTORS if name in sys.modules}
    if loaded <= _seen:
        return
    _seen.update(loaded)
    try:
        threading._register_atexit(_end_unless_others_go_on)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError) as error:
        log.debug("sessions end at exit, after executors: %s", error)


def _end_unless_others_go_on() -> None:
    # They wait for work until `concurrent.futures` ends them, which is next.
    workers = [
        thread
        for name, threads in (("concurrent.futures.thread", "_threads_queues"), ("concurrent.futures.process", "_threads_wakeups"))
        for thread in list(getattr(sys.modules.get(name), threads, ()))
    ]
    if all(one.daemon or one is threading.current_thread() or one in workers for one in threading.enumerate()):
        _end()


def _end() -> None:
    for serving, end in list(_ends.items()):
        try:
            end(serving)
        except Exception:
            log.exception("%r cannot be ended; the application sees its connections end", serving)

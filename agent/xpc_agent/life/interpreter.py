"""Which interpreter of the process runs this: only the main one is instrumented.

The address, the entry in the runtime directory and the pid are those of the process; a subinterpreter that announced itself would take
them from the main interpreter, and withdraw them when it ends. Imports nothing of ours: each subinterpreter asks when it starts.
"""

from __future__ import annotations

import _thread
import importlib
import os
import sys
from typing import Any


def is_main() -> bool:
    """Whether it is the main interpreter of the process; True where that cannot be told."""
    known: Any = getattr(_thread, "_is_main_interpreter", None)
    if known is not None:
        return bool(known())
    # Before Python 3.12.
    try:
        interpreters: Any = importlib.import_module("_xxsubinterpreters")
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def import_threading(main: int) -> None:
    """Import `threading` in a thread of ours, so that the thread `main` is the main thread to it all the same.

    Up to Python 3.12 it takes whichever thread imports it first for the main one, and waits at the end of the process for a lock that this
    thread lets go of when it ends.
    """
    known = "threading" in sys.modules
    import threading

    if known or sys.version_info >= (3, 13):
        return
    module: Any = threading
    thread = module._main_thread
    module._active.pop(thread._ident, None)
    with module._shutdown_locks_lock:
        module._shutdown_locks.discard(thread._tstate_lock)
    lock = _thread.allocate_lock()
    lock.acquire()
    thread._tstate_lock = lock
    thread._ident = main
    # On Linux the number of the main thread is that of the process.
    thread._native_id = os.getpid()
    module._active[main] = thread

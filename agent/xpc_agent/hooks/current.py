"""Which thread and which task run, by name, as expressions read it: nothing of the application runs for it, and nothing is made for it."""

from __future__ import annotations

import sys
import threading
from typing import Any, Optional

from xpc_instrument.core.unpatched import get_ident


def thread_name(*_: Any) -> Optional[str]:
    """None for a thread that `threading` does not know."""
    # Of the registry, as `current_thread` makes an entry for a thread that has none.
    thread = threading._active.get(get_ident())  # type: ignore[attr-defined]
    name = None if thread is None else object.__getattribute__(thread, "__dict__").get("_name")
    return name if type(name) is str else None


def task_name(*_: Any) -> Optional[str]:
    """None where no task of asyncio runs, or one of a class of its own."""
    asyncio: Any = sys.modules.get("asyncio")
    native: Any = sys.modules.get("_asyncio")
    if asyncio is None or native is None:
        return None
    try:
        task = native.current_task() if hasattr(native, "current_task") else asyncio.tasks.current_task()
    except RuntimeError:
        # No loop runs in this thread.
        return None
    return str(native.Task.get_name(task)) if type(task) is native.Task else None

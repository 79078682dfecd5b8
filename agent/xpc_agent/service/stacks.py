"""What the threads and tasks of this process do just now, as `stack` shows it. No code of the application runs."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional

from xpc_instrument.core.model import aggregate

# Frames of one thread or task, from the innermost on.
MOST_FRAMES = 100
# Tasks in one answer.
MOST_TASKS = 1_000

Place = List[Any]


def stacks() -> List[Dict[str, Any]]:
    """Each thread that is not ours, and each task that waits: `thread`, `name`, `task` ("" of a thread), and `frames`, the innermost first.

    A frame is its file, line and function.
    """
    threading = sys.modules.get("threading")
    known = dict(getattr(threading, "_active", {}))
    found: List[Dict[str, Any]] = []
    for ident, frame in sys._current_frames().items():
        name = str(vars(known[ident]).get("_name", "")) if ident in known else ""
        frames = _frames(frame)
        if frames and not name.startswith("xpc-instrument"):
            found.append({"thread": ident, "name": name, "task": "", "frames": frames})
    return [*found, *_tasks()]


def _frames(frame: Optional[FrameType]) -> List[Place]:
    """Empty for a thread of ours: one that began in our code."""
    places: List[Place] = []
    while frame is not None and len(places) < MOST_FRAMES:
        code = frame.f_code
        places.append([code.co_filename, frame.f_lineno or 0, getattr(code, "co_qualname", code.co_name)])
        frame = frame.f_back
    # Ours are started without `threading`, and so by a function of ours.
    return [] if places and _is_own(places[-1][0]) else places


_AGENT = __file__.rpartition("service")[0]
_CORE = aggregate.__file__.rpartition("model")[0]


def _is_own(filename: str) -> bool:
    return filename.startswith((_AGENT, _CORE))


def _tasks() -> Iterator[Dict[str, Any]]:
    """The tasks of asyncio that wait. Of those that run their thread tells."""
    tasks = sys.modules.get("asyncio.tasks")
    for task in list(_all_tasks(tasks))[:MOST_TASKS] if tasks is not None else ():
        coroutine = task.get_coro()
        frames: List[Place] = []
        while coroutine is not None and len(frames) < MOST_FRAMES:
            frame = getattr(coroutine, "cr_frame", None)
            if frame is None:
                break
            code = frame.f_code
            frames.insert(0, [code.co_filename, frame.f_lineno or 0, getattr(code, "co_qualname", code.co_name)])
            coroutine = getattr(coroutine, "cr_await", None)
        if frames and not getattr(task.get_coro(), "cr_running", False):
            yield {"thread": 0, "name": "", "task": task.get_name(), "frames": frames}


def _all_tasks(tasks: Any) -> Iterator[Any]:
    for name in ("_scheduled_tasks", "_all_tasks", "_eager_tasks"):
        held = getattr(tasks, name, None)
        # Sets of weak references; to iterate over one would hold up who removes from it.
        for one in list(getattr(held, "data", held) or ()):
            task = one() if callable(one) and not hasattr(one, "get_coro") else one
            if type(task) is tasks.Task:
                yield task

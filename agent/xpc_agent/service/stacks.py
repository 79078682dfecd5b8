"""What the threads and tasks of this process do just now, as `stack` shows it.

Rules:
- No code of the application runs: attributes are read of objects of the interpreter's own types only, and of tasks of asyncio by what the
  class has for that, which a subclass cannot replace.
- Tasks are found in the registers of asyncio. From Python 3.14 on these are asked by loop, and the loops are those that a frame of asyncio
  runs just now. Tasks of other libraries (trio, curio) are not seen, and it is said that they are not.
"""

from __future__ import annotations

import gc
import os
import sys
import types
import weakref
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional, Tuple

from xpc_instrument.core.model import aggregate

from ..collecting import held

# Frames of one thread or task, from the innermost on.
MOST_FRAMES = 100
# Tasks in one answer.
MOST_TASKS = 1_000
# Frames in one answer, which has to fit a control message; what comes then is told with few.
_MOST_IN_ALL = 5_000
_FEW = 3

Place = List[Any]

_AGENT = __file__.rpartition("service")[0]
_CORE = aggregate.__file__.rpartition("model")[0]
# What waits for the next item of an async generator does not say for which.
_ITEMS = ("async_generator_asend", "async_generator_athrow")
# Where what awaits another thing keeps its frame, and that thing.
_STEPS: Dict[type, Tuple[str, str]] = {
    types.CoroutineType: ("cr_frame", "cr_await"),
    types.GeneratorType: ("gi_frame", "gi_yieldfrom"),
    types.AsyncGeneratorType: ("ag_frame", "ag_await"),
}
_UNSEEN = ("trio", "curio")


def told() -> Dict[str, Any]:
    """`stacks`, the process, and of which libraries no tasks are seen."""
    # As `targets/running.py` says of frames.
    return {"stacks": held(stacks), "pid": os.getpid(), "unseen": [name for name in _UNSEEN if name in sys.modules]}


def stacks() -> List[Dict[str, Any]]:
    """Each thread that is not ours, and each task that waits: `thread`, `name`, `task` ("" of a thread), and `frames`, the innermost first.

    A frame is its file, line and function; `awaits` are the names of the tasks that a task waits for.
    """
    threading = sys.modules.get("threading")
    known = dict(getattr(threading, "_active", {}))
    found: List[Dict[str, Any]] = []
    loops: Dict[int, Any] = {}
    running = sys._current_frames()
    for ident, frame in running.items():
        name = str(vars(known[ident]).get("_name", "")) if ident in known else ""
        frames = _frames(frame, loops)
        if frames and not name.startswith("xpc-instrument"):
            found.append({"thread": ident, "name": name, "task": "", "frames": frames, "awaits": []})
    # One of them is that of the running thread, and would hold itself.
    running.clear()
    found.sort(key=lambda one: (one["name"] != "MainThread", one["name"]))
    found += sorted(_tasks(list(loops.values())), key=lambda one: _by_number(one["task"]))
    left = _MOST_IN_ALL
    for one in found:
        if left <= 0:
            del one["frames"][_FEW:]
        left -= len(one["frames"])
    return found


def _by_number(name: str) -> Tuple[str, int]:
    """`Task-10` behind `Task-9`."""
    text, _, number = name.rpartition("-")
    return (text, int(number)) if number.isdecimal() else (name, 0)


def _place(frame: FrameType) -> Place:
    code = frame.f_code
    return [code.co_filename, frame.f_lineno or 0, getattr(code, "co_qualname", code.co_name)]


def _frames(frame: Optional[FrameType], loops: Dict[int, Any]) -> List[Place]:
    """Empty for a thread of ours: one that began in our code."""
    places: List[Place] = []
    outermost = ""
    while frame is not None:
        outermost = frame.f_code.co_filename
        if len(places) < MOST_FRAMES:
            places.append(_place(frame))
        if _BY_LOOP:
            loop = _loop_of(frame)
            if loop is not None:
                loops[id(loop)] = loop
        frame = frame.f_back
    # Ours are started without `threading`, and so by a function of ours.
    return [] if _is_own(outermost) else places


def _is_own(filename: str) -> bool:
    return filename.startswith((_AGENT, _CORE))


# tasks -------------------------------------------------------------------------------------------------------------------

_BY_LOOP = sys.version_info >= (3, 14)


def _loop_of(frame: FrameType) -> Any:
    """The loop that a frame of asyncio runs. Only where asking a frame for its variables leaves nothing in it."""
    name, filename = frame.f_code.co_name, frame.f_code.co_filename
    if name == "run_forever" and filename.endswith(os.path.join("asyncio", "base_events.py")):
        return frame.f_locals.get("self")
    if name == "run" and filename.endswith(os.path.join("asyncio", "runners.py")):
        runner = frame.f_locals.get("self")
        # Of another kind where it is the function and not the method.
        return object.__getattribute__(runner, "__dict__").get("_loop") if runner is not None else None
    return None


def _tasks(loops: List[Any]) -> Iterator[Dict[str, Any]]:
    """The tasks of asyncio that wait. Of those that run their thread tells."""
    tasks = sys.modules.get("asyncio.tasks")
    if tasks is None:
        return
    for task in _all_tasks(tasks, loops)[:MOST_TASKS]:
        kind = tasks.Task if issubclass(type(task), tasks.Task) else tasks._PyTask
        coroutine = kind.get_coro(task)
        frames = _chain(coroutine)
        if frames and not getattr(coroutine, "cr_running", False):
            awaits = [kind.get_name(one) for one in _awaited(task, kind, tasks)]
            yield {"thread": 0, "name": "", "task": str(kind.get_name(task)), "frames": frames, "awaits": list(map(str, awaits))}


def _chain(awaited: Any) -> List[Place]:
    """The frames from what a task runs to what it waits for at last, the innermost first."""
    frames: List[Place] = []
    while awaited is not None and len(frames) < MOST_FRAMES:
        if type(awaited).__name__ in _ITEMS:
            awaited = next((one for one in gc.get_referents(awaited) if type(one) is types.AsyncGeneratorType), None)
        step = _STEPS.get(type(awaited))
        if step is None:
            break
        frame = getattr(awaited, step[0])
        if frame is None:
            break
        frames.insert(0, _place(frame))
        awaited = getattr(awaited, step[1])
    return frames


def _awaited(task: Any, kind: Any, tasks: Any) -> List[Any]:
    """The tasks that a task waits for, itself or by `gather`."""
    # Of tasks in C the class has a descriptor for it; those in Python keep it in their namespace.
    held = vars(kind).get("_fut_waiter")
    waiter = vars(task).get("_fut_waiter") if held is None else held.__get__(task)
    if waiter is None:
        return []
    if issubclass(type(waiter), kind):
        return [waiter]
    if type(waiter) is tasks._GatheringFuture:
        return [one for one in waiter._children if issubclass(type(one), kind)]
    return []


def _all_tasks(tasks: Any, loops: List[Any]) -> List[Any]:
    found: Dict[int, Any] = {}
    for name in ("_scheduled_tasks", "_all_tasks", "_eager_tasks"):
        held = getattr(tasks, name, None)
        # Sets of weak references; to iterate over one would hold up who removes from it.
        for one in list(getattr(held, "data", held) or ()):
            task = one() if issubclass(type(one), weakref.ref) else one
            if issubclass(type(task), (tasks.Task, tasks._PyTask)):
                found[id(task)] = task
    if _BY_LOOP:
        module = sys.modules.get("_asyncio")
        for loop in loops if module is not None else ():
            found.update((id(task), task) for task in module.all_tasks(loop) if issubclass(type(task), tasks.Task))  # type: ignore[union-attr]
    return list(found.values())

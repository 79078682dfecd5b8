"""Pickling code by value, with cloudpickle.

Rules:
- One thread at a time does it. cloudpickle's registry of modules is global, and ours are in it only meanwhile; and cloudpickle has a lock
  of its own, which nobody can wait for with a limit.
- Reducers of the application run in there, for as long as they like, and a `__del__` of its may wait there for a lock that belongs to the
  thread that comes next. So that one waits for a moment only, and then its value cannot cross.
- A forked child has none of the threads that were at it.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any, Callable, Iterable

from ..model.errors import PayloadError
from ..unpatched import Brief
from .plain import PROTOCOL

# How long a thread waits for the one that is at it, in seconds: most of what crosses by value is pickled in a millisecond.
_PATIENCE = 0.3

_turn = Brief(_PATIENCE)


def dump(value: Any, writer: Any, names: Iterable[str]) -> None:
    """Pickle into `writer`, which takes pieces and buffers, all code of the modules of these names by value, if they are loaded.

    Raises what cloudpickle, the reducers and the writer raise, and `PayloadError` where another thread has been at it for long.
    """
    with _turn() as mine:
        if not mine:
            raise PayloadError(f"another thread of this process has been pickling code by value for {_PATIENCE} s and has not ended")
        import cloudpickle

        known = cloudpickle.list_registry_pickle_by_value()
        registered = []
        try:
            for module in map(sys.modules.get, names):
                if isinstance(module, types.ModuleType) and module.__name__ not in known:
                    cloudpickle.register_pickle_by_value(module)
                    registered.append(module)
            cloudpickle.CloudPickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


def load(load: Callable[[], Any]) -> Any:
    """What `load` gives, which makes classes by means of cloudpickle. Raises what that raises, and `PayloadError` as `dump` does."""
    with _turn() as mine:
        if not mine:
            raise PayloadError(f"another thread of this process has been at code by value for {_PATIENCE} s and has not ended")
        return load()


def _in_child() -> None:
    global _turn
    _turn = Brief(_PATIENCE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

"""Pickling code by value, with cloudpickle.

Rules:
- No thread waits for another one that runs code of the application's, such as a reducer: that may wait for a lock which belongs to the very
  thread that comes next. So no lock is held while values are pickled or loaded, but for the moments that follow.
- cloudpickle's registry of modules is global, and ours are in it only while we pickle: by `_uses`, of which one thread at a time counts.
- cloudpickle has a lock of its own for the numbers of classes, which nobody can wait for with a limit, and a collection of garbage may
  begin in there. So one thread at a time has a class reduced or made. Who comes while another one has been at that for long cannot pickle.
- A forked child has none of the threads that were at it.
"""

from __future__ import annotations

import os
import sys
import types
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, List

from ..model.errors import PayloadError
from ..model.interrupts import raise_interrupt
from ..unpatched import Brief
from .plain import PROTOCOL

# How long a thread waits for the one that loads cloudpickle, which takes some 50 ms, and for one that has a class in hand, in seconds.
_LOADING, _PATIENCE = 1.0, 0.3


class _State:
    """What threads share."""

    def __init__(self, pickler: Any = None, registry: Any = None, is_own: bool = False) -> None:
        self.loading, self.turn = Brief(_LOADING), Brief(_PATIENCE)
        self.pickler = pickler
        # The module, which has it; whether it was loaded for us.
        self.registry = registry
        self.is_own = is_own
        # By name of a module: how many pickle with it, an entry for each.
        self.uses: Dict[str, Deque[None]] = {}


_state = _State()


def prepare() -> None:
    """Load all that pickling and loading by value need, in a thread that holds no lock: a thread of the application that has one could wait
    for another one's import, in which an audit hook or a `__del__` waits for that lock."""
    import pickletools  # noqa: F401 - by which a pickle is looked at (`pickling`)

    if _state.pickler is None:
        _load()


def dump(value: Any, writer: Any, names: Iterable[str]) -> None:
    """Pickle into `writer`, which takes pieces and buffers, all code of the modules of these names by value, if they are loaded.

    Raises what cloudpickle, the reducers and the writer raise, and `PayloadError` where another thread has been at it for long.
    """
    pickler = _state.pickler or _load()
    modules = [module for module in map(sys.modules.get, names) if isinstance(module, types.ModuleType)]
    if not modules:
        pickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
        return
    uses: List[Deque[None]] = []
    try:
        one_at_a_time(_register, modules, uses)
        pickler(writer, PROTOCOL, buffer_callback=writer.take_buffer).dump(value)
    finally:
        for use in uses:
            use.pop()
        with _state.turn() as mine:
            # Else the next one does it.
            if mine:
                _forget_unused()


def application_sends(function: types.FunctionType) -> bool:
    """Whether the application may pickle a function by value, for a process that has no xpc-instrument: one of the main program, while the
    application has loaded cloudpickle, its own copy of it (joblib, pyspark) or dill."""
    if function.__module__ != "__main__":
        return False
    names = [name for name in list(sys.modules) if name.rpartition(".")[2] in ("cloudpickle", "dill")]
    return any(not _state.is_own or name.partition(".")[0] != "cloudpickle" for name in names)


def one_at_a_time(work: Callable[..., Any], *args: Any) -> Any:
    """What `work` gives, which has a class, or the registry, in hand. Raises `PayloadError` where another thread has for long."""
    with _state.turn() as mine:
        if not mine:
            raise PayloadError(f"another thread of this process has had a class in hand for {_PATIENCE} s, and has not ended")
        return work(*args)


def _load() -> Any:
    state = _state
    with state.loading() as mine:
        if not mine:
            raise PayloadError(f"another thread of this process has been loading cloudpickle for {_LOADING} s")
        if state.pickler is None:
            state.is_own = "cloudpickle" not in sys.modules
            import cloudpickle

            class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
                def reducer_override(self, obj: Any) -> Any:
                    if issubclass(type(obj), type):
                        return one_at_a_time(super().reducer_override, obj)
                    return super().reducer_override(obj)

            state.registry = cloudpickle
            state.pickler = Pickler
        return state.pickler


def _register(modules: Iterable[types.ModuleType], uses: List[Deque[None]]) -> None:
    """Have these pickled by value, but for those that the application has registered. Of what is added to `uses`, each is popped later."""
    _forget_unused()
    state = _state
    known = state.registry.list_registry_pickle_by_value()
    for module in modules:
        name = module.__name__
        if name not in state.uses and name not in known:
            state.uses[name] = deque()
            state.registry.register_pickle_by_value(module)
        if name in state.uses:
            uses.append(state.uses[name])
            uses[-1].append(None)


def _forget_unused() -> None:
    for name, use in _state.uses.copy().items():
        if not use:
            _unregister(name)
            _state.uses.pop(name, None)


def _unregister(name: str) -> None:
    try:
        _state.registry.unregister_pickle_by_value(types.ModuleType(name))
    except ValueError as error:
        raise_interrupt(error, of_values=True)  # else the application has done it


def _in_child() -> None:
    """What other threads of the parent had registered is nobody's here."""
    global _state
    uses, _state = _state.uses, _State(_state.pickler, _state.registry, _state.is_own)
    for name in uses:
        _unregister(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

"""Which patcher a target gets: code swap where it ends in a Python function, wrapt for everything else."""

from __future__ import annotations

import builtins
import sys
import types
from typing import Any

from ..hooks.dispatch import Dispatcher
from ..late import NotLoadedError
from ..targets.resolve import Binding, Resolved
from .code_swap import CodePatch, plain_code
from .inside import refusal
from .interface import Patch, PatchError
from .within import InsidePatch

# What gives its answer by the frame of its caller, which would be one of the agent's.
_BY_FRAME = (builtins.dir, builtins.eval, builtins.exec, builtins.globals, builtins.locals, builtins.vars, sys._getframe)


# `wrapper.WraptPatch`, once that is loaded.
_wrapt_patch: Any = None


def load_wrapt() -> None:
    """Import wrapt, which takes 40 to 90 ms and an application without such a target need not pay."""
    global _wrapt_patch
    if _wrapt_patch is None:
        from .wrapper import WraptPatch

        _wrapt_patch = WraptPatch


def make_patch(resolved: Resolved, handler: Dispatcher, patcher: str = "auto", may_load: bool = True) -> Patch:
    """A patch, not yet installed. Raises `PatchError` for what cannot be patched, or not by that patcher.

    Without `may_load` nothing is imported, as a lock is held: `NotLoadedError` says that wrapt is needed.
    """
    swappable = isinstance(resolved.function, types.FunctionType)
    if patcher in ("auto", "inside") and swappable:
        why = "it is inherited" if resolved.inherited else refusal(plain_code(resolved.function))
        if why is None:
            return InsidePatch(resolved, handler)
        patch = CodePatch(resolved, handler)
        patch.why_not_inside = why
        return patch
    if patcher == "code" and not swappable:
        raise PatchError(f'{resolved.target} is no Python function, so its code cannot be swapped: use patcher = "auto" or "wrapt"')
    if swappable and patcher in ("auto", "code"):
        return CodePatch(resolved, handler)
    if any(resolved.function is one for one in _BY_FRAME):
        raise PatchError(f"{resolved.target} looks at the frame of its caller, which would be the agent's while a hook is armed")
    if resolved.binding is Binding.INSTANCE and not isinstance(resolved.raw, (types.FunctionType, property)):
        if not callable(getattr(type(resolved.raw), "__get__", None)):
            raise PatchError(f"{resolved.target} is a {type(resolved.raw).__name__}, which cannot be wrapped as a method")
    if may_load:
        load_wrapt()
    elif _wrapt_patch is None:
        raise NotLoadedError(resolved.target)
    made: Patch = _wrapt_patch(resolved, handler)
    return made


def name_of_patcher(resolved: Resolved, patcher: str = "auto") -> str:
    """Which patcher would make a target hookable; nothing is changed. Raises `PatchError` as `make_patch`."""
    return make_patch(resolved, Dispatcher(), patcher).patcher

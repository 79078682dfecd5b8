"""Hooks inside a function's own code: the same bytecode with a prologue, an epilogue on each return, and a handler around the body.

No frame, no local and no name is added, so that the application has little to notice. `insertion` says what is put in and what it asks;
`trial` tries that on functions of its own before the first. Nothing is imported to arm a function, as a lock is held then.
"""

from __future__ import annotations

from types import CodeType
from typing import Any, Optional

from .tracebacks import original_part
from .versions import RefusedError, interpreter_unknown

if not interpreter_unknown():
    from . import insertion, trial

__all__ = ["RefusedError", "inserted", "original_part", "prepare", "refusal"]

# What the trial found; None before it.
_problem: Optional[str] = None


def inserted(code: CodeType, *hooks: Any) -> CodeType:
    """`insertion.inserted`, on an interpreter that has stood the trial. Raises `RefusedError` with the reason."""
    unknown = interpreter_unknown()
    if unknown:
        raise RefusedError(unknown)
    prepare()
    if _problem:
        raise RefusedError(_problem)
    return insertion.inserted(code, *hooks)


def prepare() -> None:
    """Hold the trial, for who cannot wait for that when it arms: nothing, if it has been done."""
    global _problem
    if _problem is None and not interpreter_unknown():
        _problem = trial.problem()


def refusal(code: CodeType) -> Optional[str]:
    """Why hooks cannot go into this code, as far as that can be said at no cost; None where they can. `inserted` may say more."""
    return interpreter_unknown() or _problem or None

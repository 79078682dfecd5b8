"""Hooks inside a function's own code: the same bytecode with a prologue, an epilogue on each return, and a handler around the body.

No frame, no local and no name is added, so that the application has little to notice. `insertion` says what is put in and what it asks;
`trial` tries that on functions of its own before the first. Both are loaded when a function is armed, not when an application starts.
"""

from __future__ import annotations

from types import CodeType
from typing import Any, Optional

from .tracebacks import original_part
from .versions import RefusedError, interpreter_unknown

__all__ = ["RefusedError", "inserted", "original_part", "prepare", "refusal"]

# What the trial found; None before it.
_problem: Optional[str] = None


def inserted(code: CodeType, *hooks: Any) -> CodeType:
    """`insertion.inserted`, on an interpreter that has stood the trial. Raises `RefusedError` with the reason."""
    unknown = interpreter_unknown()
    if unknown:
        raise RefusedError(unknown)
    from . import insertion

    prepare()
    if _problem:
        raise RefusedError(_problem)
    return insertion.inserted(code, *hooks)


def prepare() -> None:
    """Load what arming needs and hold the trial, for who cannot wait for that when it arms: nothing, if it has been done."""
    global _problem
    if interpreter_unknown():
        # What a trampoline takes.
        import inspect  # noqa: F401
    elif _problem is None:
        from . import trial

        _problem = trial.problem()


def refusal(code: CodeType) -> Optional[str]:
    """Why hooks cannot go into this code, as far as that can be said at no cost; None where they can. `inserted` may say more."""
    return interpreter_unknown() or _problem or None

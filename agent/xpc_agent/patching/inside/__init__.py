"""Hooks inside a function's own code: the same bytecode with a prologue, an epilogue on each return, and a handler around the body.

No frame, no local and no name is added, so that the application has little to notice. CPython's own terms are used: an instruction has
an opcode, an argument, a location (lines and columns), and perhaps an exception handler. `insertion` says what is put in and how it asks,
`versions` which interpreters are known. Nothing here is loaded before the first function is armed.
"""

from __future__ import annotations

from .insertion import RefusedError, inserted, original_part
from .versions import refusal

__all__ = ["RefusedError", "inserted", "original_part", "refusal"]

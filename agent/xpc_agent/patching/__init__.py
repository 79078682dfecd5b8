"""Making a resolved target hookable, and undoing that exactly."""

from __future__ import annotations

from .choice import load_wrapt, make_patch
from .interface import InvocationHandler, Patch, PatchError

__all__ = ["InvocationHandler", "Patch", "PatchError", "load_wrapt", "make_patch"]

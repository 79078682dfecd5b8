"""Making a resolved target hookable, and undoing that exactly."""

from __future__ import annotations

from .choice import load_wrapt, make_patch
from .interface import Entry, Patch, PatchError

__all__ = ["Entry", "Patch", "PatchError", "load_wrapt", "make_patch"]

"""Making a resolved target hookable, and undoing that exactly."""

from __future__ import annotations

from .choice import make_patch
from .interface import Entry, Patch, PatchError

__all__ = ["Entry", "Patch", "PatchError", "make_patch"]

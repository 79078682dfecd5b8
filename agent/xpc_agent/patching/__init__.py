"""Making a resolved target hookable, and undoing that exactly."""

from __future__ import annotations

from .interface import Entry, Patch, PatchError
from .choice import make_patch

__all__ = ["Entry", "Patch", "PatchError", "make_patch"]

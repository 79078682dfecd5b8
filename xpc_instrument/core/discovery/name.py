"""App names: an application's files and sockets are named after it."""

from __future__ import annotations

import re
from typing import Optional


def app_mistake(app: str) -> Optional[str]:
    """Why `app` cannot be an app name, in words, or None if it can: files and sockets are named after it."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", app):
        return "is no app name; expected 1 to 64 of the characters A-Z a-z 0-9 _ . - and no . or - at the start"
    if re.fullmatch(r"[0-9]+", app):
        return "is no app name; expected at least one character that is no digit, or it would be taken for a pid"
    return None


def app_name(text: str) -> str:
    """The app name that is made of any text: what cannot be in one becomes `-`."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")[:64]
    return name if not app_mistake(name) else f"app-{name}"[:64].rstrip("-")

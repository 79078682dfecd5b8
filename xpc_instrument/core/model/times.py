"""Spans of time as people type and read them: `200ms`, `5s`, `10m`, `1h`."""

from __future__ import annotations

import re
from typing import Optional

# In seconds. `m` is minutes, as with sleep(1).
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}

_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})(us|ms|s|m|h|)", re.ASCII)

TIME_FORM = "a number with us, ms, s, m or h behind it, such as 200ms or 1.5s; without one it is seconds"


def parse_seconds(text: str) -> Optional[float]:
    """How many seconds a text such as `200ms` means, from 0 on; None if it means no span of time."""
    match = _SPAN.fullmatch(text)
    return None if match is None else float(match[1]) * _UNITS[match[2]]


def shown_seconds(seconds: float) -> str:
    """A span in the unit in which it is best read, with three digits: `0.5us`, `4us`, `38.2ms`, `1.5s`, `12m 5s`, `3h 0m`."""
    if seconds < 0:
        return f"-{shown_seconds(-seconds)}"
    if 0.05e-6 <= seconds < 0.95e-6:
        return f"{seconds * 1e6:.1f}us"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 0.9995:
        return f"{_three_digits(seconds * 1e3)}ms"
    if seconds < 99.95:
        return f"{_three_digits(seconds)}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}h {minutes_left}m" if hours else f"{minutes}m {rest}s"


def _three_digits(number: float) -> str:
    text = f"{number:.0f}" if number >= 99.95 else f"{number:.1f}"
    return text[:-2] if text.endswith(".0") else text

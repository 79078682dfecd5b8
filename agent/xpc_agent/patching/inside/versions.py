"""Which interpreters are gone into, and the test of this one on functions of its own before the first."""

from __future__ import annotations

import sys
import types
from typing import Optional

from .insertion import VERSION

# Each was tried with CPython's own tests, on builds with assertions where there are any.
KNOWN = frozenset(((3, 11), (3, 12), (3, 13), (3, 14), (3, 15)))


def refusal(code: types.CodeType) -> Optional[str]:
    """Why hooks cannot go into this code; None where they can."""
    if sys.implementation.name != "cpython" or VERSION not in KNOWN:
        return f"{sys.implementation.name} {VERSION[0]}.{VERSION[1]} is not one of those that are known"
    return None

"""What an evaluation refuses at run time, and the classes of the standard library that it knows."""

from __future__ import annotations

import sys
from builtins import type
from typing import Tuple


class WouldRunCode(Exception):
    """To go on would run code of the application."""


class Hidden(Exception):
    """What it gives is not to be shown."""


class TooMuch(Exception):
    """To go on would take too long."""


def loaded(module: str, *names: str) -> Tuple[type, ...]:
    """Classes of a module of the standard library, if that is loaded: only then can there be instances."""
    there = sys.modules.get(module)
    found = [] if there is None else [there.__dict__.get(name) for name in names]
    return tuple(one for one in found if type(one) is type)

"""Which interpreters are gone into.

A new one needs: the layout of calls, RERAISE and PUSH_EXC_INFO, both tables, what jumps and in which direction, how a generator starts,
what a `yield` notes of the handlers around it; then the tests of this folder, and CPython's own with the standard library armed
(`dev.py explore`), on a build with assertions too.
"""

from __future__ import annotations

import sys
from _frozen_importlib_external import MAGIC_NUMBER

# By the number that compiled files begin with, which changes with the bytecode: so each of these stands for the releases of one version,
# and not for those before the last change of it.
_KNOWN = {3495: "3.11", 3531: "3.12", 3571: "3.13", 3627: "3.14", 3666: "3.15"}


class RefusedError(Exception):
    """Hooks cannot go into this code; the message says why."""


def interpreter_unknown() -> str:
    """Why this interpreter is not gone into; "" where it is."""
    version = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
    if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
        return f"{version} is not gone into"
    if "t" in sys.abiflags:
        return f"free-threaded builds, as this {version}, are not gone into"
    if _KNOWN.get(int.from_bytes(MAGIC_NUMBER[:2], "little")) != version.split()[1]:
        return f"the bytecode of this {version} is not known yet"
    return ""

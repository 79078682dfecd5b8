"""Which interpreter of the process runs this: only the main one is instrumented.

The address, the entry in the runtime directory and the pid are those of the process; a subinterpreter that announced itself would take
them from the main interpreter, and withdraw them when it ends. Imports nothing of ours: each subinterpreter asks when it starts.
"""

from __future__ import annotations

import _thread
import importlib
from typing import Any


def is_main() -> bool:
    """Whether it is the main interpreter of the process; True where that cannot be told."""
    known: Any = getattr(_thread, "_is_main_interpreter", None)
    if known is not None:
        return bool(known())
    # Before Python 3.12.
    try:
        interpreters: Any = importlib.import_module("_xxsubinterpreters")
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())

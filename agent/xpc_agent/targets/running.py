"""The main program while it runs: what its code is still to define."""

from __future__ import annotations

import sys

from .module import find_module, main_names
from .raw import namespace_of


def is_main(module: str) -> bool:
    """Whether the main program goes by that name."""
    main = sys.modules.get("__main__")
    return main is not None and (module == "__main__" or module in main_names()) and find_module(module) is main


def is_to_come(module: str, name: str) -> bool:
    """Whether the main program may yet define what is not there: its code names it, and has not run to its end.

    So a name that is misspelt is told from one for which the program has not come far enough.
    """
    if not is_main(module):
        return False
    namespace = namespace_of(sys.modules["__main__"])
    first = name.partition(".")[0]
    for frame in sys._current_frames().values():
        one = frame
        while one is not None:
            if one.f_globals is namespace and one.f_code.co_name == "<module>":
                return first in one.f_code.co_names
            one = one.f_back  # type: ignore[assignment]
    return False

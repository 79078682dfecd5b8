"""The main program while it runs: what its code is still to define."""

from __future__ import annotations

import sys
from opcode import EXTENDED_ARG, opmap
from typing import Any, Optional, Set

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
    frame = _main_frame()
    return frame is not None and name.partition(".")[0] in frame.f_code.co_names


def names_to_come(module: str) -> Set[str]:
    """What the main program, if that is the module, may yet define: what its code stores behind the place where it is now."""
    frame = _main_frame() if is_main(module) else None
    if frame is None:
        return set()
    store = opmap["STORE_NAME"]
    code, names, extended = frame.f_code.co_code, set(), 0
    for place in range(0, len(code), 2):
        operation, argument = code[place], code[place + 1] | extended
        extended = argument << 8 if operation == EXTENDED_ARG else 0
        if operation == store and place > frame.f_lasti:
            names.add(frame.f_code.co_names[argument])
    return names


def _main_frame() -> Optional[Any]:
    """The frame of the main program's own code, while it runs."""
    namespace = namespace_of(sys.modules["__main__"])
    for frame in sys._current_frames().values():
        one: Optional[Any] = frame
        while one is not None:
            if one.f_globals is namespace and one.f_code.co_name == "<module>":
                return one
            one = one.f_back
    return None

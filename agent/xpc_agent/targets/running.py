"""The main program while it runs: what its code is still to define."""

from __future__ import annotations

import os
import sys
from opcode import EXTENDED_ARG, opmap
from typing import Any, Iterator, List, Optional, Set

from ..collecting import held
from ..guard import guard
from .module import find_module, is_initializing, main_names
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
    if frame is None:
        return is_to_begin()
    return name.partition(".")[0] in frame.f_code.co_names


def names_to_come(module: str) -> Set[str]:
    """What the main program, if that is the module, may yet define: what its code stores behind the place where it is now; a star while it
    is to begin."""
    frame = _main_frame() if is_main(module) else None
    if frame is None:
        return {"*"} if is_main(module) and is_to_begin() else set()
    store = opmap["STORE_NAME"]
    code, names, extended = frame.f_code.co_code, set(), 0
    for place in range(0, len(code), 2):
        operation, argument = code[place], code[place + 1] | extended
        extended = argument << 8 if operation == EXTENDED_ARG else 0
        if operation == store and place > frame.f_lasti:
            names.add(frame.f_code.co_names[argument])
    return names


# The main program was still to begin when somebody looked.
_is_to_begin = False


def is_to_begin() -> bool:
    """Whether the main program has yet to begin: Python imports `site`, or has done so, and no code of the program has been seen since."""
    global _is_to_begin
    if is_initializing(sys.modules.get("site")):
        _is_to_begin = True
    elif _is_to_begin and (_main_frame() is not None or any(frame.f_code.co_name == "_shutdown" for frame in frames_of_threads())):
        # A short one may have come to its end unseen: its main thread waits for the others.
        _is_to_begin = False
    return _is_to_begin


def own_folders() -> List[str]:
    """Where modules of the program may be that Python looks for there only once `site` has been imported."""
    if not is_initializing(sys.modules.get("site")):
        return []
    try:
        return [os.path.dirname(os.path.abspath(sys.argv[0])), os.getcwd()]
    except (AttributeError, IndexError, OSError):
        return []


def _main_frame() -> Optional[Any]:
    """The frame of the main program's own code, while it runs."""
    global _is_to_begin
    main = sys.modules.get("__main__")
    if main is None:
        return None  # `runpy` takes it out for a moment
    namespace = namespace_of(main)
    for frame in frames_of_threads():
        if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
            _is_to_begin = False
            return frame
    return None


def frames_of_threads(besides: int = 0) -> List[Any]:
    """Those of all threads but one.

    While its frames are asked for, a collection of garbage could let a thread go on, and Python 3.11 makes an object of one that has gone.
    """
    return held(lambda: [*_walk(besides)]) if guard.ours else [*_walk(besides)]


def _walk(besides: int) -> Iterator[Any]:
    for thread, frame in sys._current_frames().items():
        one: Optional[Any] = None if thread == besides else frame
        while one is not None:
            yield one
            one = one.f_back

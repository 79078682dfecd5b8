"""The local variables of a frame, read so that the application does not notice.

Up to Python 3.12 asking a frame for `f_locals` makes a dict that stays in the frame, and keeps what is in it: objects that the function
deletes would live until it ends. So it is emptied again, but for three: that of a class or a module, which is its namespace; that of code
which may get it itself, by `locals`, `exec` or the like, and puts names of its own there; and one that somebody else holds, such as who
reports errors.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any, Dict

from ..targets.flags import CO_OPTIMIZED

STAYS = sys.version_info < (3, 13)
"""Whether such a dict stays in the frame."""

# Of the dict, while it is a local variable of who asks and the argument of `holders`: nobody but the frame has it.
OURS_ALONE = 3
holders = sys.getrefcount

# What gives the application the dict of its local variables.
_GIVE_LOCALS = frozenset(("locals", "vars", "dir", "eval", "exec", "_getframe", "f_locals"))


def gives_locals(code: CodeType) -> bool:
    """Whether the code may have the dict of its own variables."""
    return not _GIVE_LOCALS.isdisjoint(code.co_names)


def is_emptied(code: CodeType) -> bool:
    """Whether the dict is emptied after it was read, if nobody holds it."""
    return STAYS and bool(code.co_flags & CO_OPTIMIZED) and not gives_locals(code)


def read(frame: FrameType) -> Dict[str, Any]:
    """A copy of the variables that have a value."""
    seen = frame.f_locals
    found = dict(seen)
    if is_emptied(frame.f_code) and holders(seen) <= OURS_ALONE:
        seen.clear()  # type: ignore[attr-defined, unused-ignore]
    return found

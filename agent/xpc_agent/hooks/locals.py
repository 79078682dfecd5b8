"""The local variables of the application's own frames in the traceback of an exception, captured when it leaves the target.

Rules:
- Frames of libraries are told without them, and so is a module that is being imported.
- Up to Python 3.12 asking a frame for them makes a dict that stays in the frame, and holds what is in it: it is emptied again. Where the
  code may have that dict itself, since it names `locals` or the like, nothing is asked; and one that somebody else holds, such as who
  reports errors, stays as it is.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Dict, List, Optional, Tuple

from xpc_instrument.core.values.captures import Capturer
from xpc_instrument.core.values.redaction import Redaction

from ..targets.flags import CO_OPTIMIZED
from ..trees.codes import is_application, is_ours
from .gate import get_traceback

MOST_FRAMES = 20
"""Of one traceback, the innermost."""

# What gives the application the dict of its local variables.
_GIVE_LOCALS = frozenset(("locals", "vars", "dir", "eval", "exec", "_getframe", "f_locals"))
_STAYS = sys.version_info < (3, 13)
# The frame, the variable below, and the argument of `getrefcount`.
_OURS_ALONE = 3
_holders = sys.getrefcount

Frame = Tuple[str, int, str, Optional[List[Any]]]


class Locals:
    """Captures those of one exception, also again with a lower depth: the variables are read once."""

    def __init__(self, error: BaseException, capturer: Capturer, redaction: Redaction) -> None:
        self._capturer = capturer
        self._redaction = redaction
        self._read = _frames(error)

    def frames(self, depth: Optional[int]) -> List[Frame]:
        """File, line and function of each frame, the innermost last, and its variables as captured; None of those that are not told."""
        return [(file, line, name, None if found is None else self._captured(found, depth)) for file, line, name, found in self._read]

    def _captured(self, found: Dict[str, Any], depth: Optional[int]) -> List[Any]:
        named, capture, hides = self._capturer.named, self._capturer.capture, self._redaction.hides
        return [
            (name, named(name, value) if depth is None or hides(name) else capture(value, depth))
            for name, value in found.items()
            if name.isidentifier()
        ]


def _frames(error: BaseException) -> List[Tuple[str, int, str, Optional[Dict[str, Any]]]]:
    trace = get_traceback(error)
    whole = []
    while trace is not None:
        if not is_ours(trace.tb_frame.f_code.co_filename):
            whole.append(trace)
        trace = trace.tb_next
    found = []
    for one in whole[-MOST_FRAMES:]:
        code = one.tb_frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        found.append((code.co_filename, one.tb_lineno or 0, name, _read(one.tb_frame) if is_application(code.co_filename) else None))
    return found


def _read(frame: FrameType) -> Optional[Dict[str, Any]]:
    code = frame.f_code
    if not code.co_flags & CO_OPTIMIZED:
        return None
    if not _STAYS:
        return dict(frame.f_locals)
    if not _GIVE_LOCALS.isdisjoint(code.co_names):
        return None
    seen = frame.f_locals
    found = dict(seen)
    if _holders(seen) <= _OURS_ALONE:
        seen.clear()  # type: ignore[attr-defined, unused-ignore]
    return found

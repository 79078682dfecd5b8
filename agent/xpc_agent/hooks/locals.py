"""The local variables of the application's own frames in the traceback of an exception, captured when it leaves the target.

Rules:
- Frames of libraries are told without them, and so is a module that is being imported.
- Where code may have the dict of its variables itself, nothing is asked up to Python 3.12: see `variables.py`.
"""

from __future__ import annotations

from types import FrameType
from typing import Any, Dict, List, Optional, Tuple

from xpc_instrument.core.values.captures import Capturer
from xpc_instrument.core.values.redaction import Redaction

from ..targets.flags import CO_OPTIMIZED
from ..trees.codes import is_application, is_ours
from .gate import get_traceback
from .variables import STAYS, gives_locals, read

MOST_FRAMES = 20
"""Of one traceback, the innermost."""


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
    return None if STAYS and gives_locals(code) else read(frame)

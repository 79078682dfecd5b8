"""Probes on lines from Python 3.12 on: events of `sys.monitoring` that are local to a code object.

Rules:
- Python tells of a line wherever it comes to it; a probe fires only at the instructions at which its statements begin. All others are told
  of once, and then disabled, each for itself.
- What is disabled stays so until the events of the code object are taken off and put on again; so they are with each new probe.
- The code that has hooks inside was made of the function's own, and has the same lines: its events come and go with those.
- Nothing is changed that the application has: its code objects stay what they are, and frames that run already are seen too.
- All but `told` is under the lock of the table.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from ...monitoring import monitoring
from ..within import followers
from .starts import Body

_OWNER = "lines"
_getframe = sys._getframe
# Absent before Python 3.12.
_tools: Any = getattr(sys, "monitoring", None)

Hit = Callable[..., None]
# A code object, a line of it, and what is called there from now on.
Change = Tuple[CodeType, int, Sequence[Hit]]


class LineEvents:
    """All lines of this process that are told of."""

    def __init__(self) -> None:
        # By the number of a code object, which is kept in `_codes`: what is called, by the offset of an instruction.
        self._places: Dict[int, Mapping[int, Sequence[Hit]]] = {}
        self._codes: Dict[int, CodeType] = {}
        # Of the function's own code: the hits by line.
        self._hits: Dict[int, Dict[int, Sequence[Hit]]] = {}
        self._derived: Dict[int, List[CodeType]] = {}
        self.told = self._teller()

    def put(self, changes: Sequence[Change], derived: Sequence[Tuple[CodeType, CodeType]]) -> None:
        """From now on these are called with the frame, and no others on the same lines. `derived` are pairs of a code object and one
        that was made of it.

        Raises `UndecodableError` and `TargetError`, and has changed nothing.
        """
        bodies = {id(code): Body(code) for code, _, _ in changes}
        if not self._hits and any(hits for _, _, hits in changes):
            monitoring.acquire(_OWNER)
            monitoring.listen(_tools.events.LINE, self.told)
            followers.append(self._follow)
        for code, line, hits in changes:
            lines = self._hits.setdefault(id(code), {})
            self._codes[id(code)] = code
            if hits:
                lines[line] = hits
            else:
                lines.pop(line, None)
        for number, body in bodies.items():
            lines, made = self._hits[number], self._derived.setdefault(number, [])
            made += [new for below, new in derived if below is body.code and not any(new is one for one in made)]
            self._show(body, lines)
            for new in made:
                self._show(Body(new), lines)
            if not lines:
                for one in (body.code, *made):
                    self._codes.pop(id(one), None)
                del self._hits[number], self._derived[number]
        if not self._hits and self._follow in followers:
            followers.remove(self._follow)
            monitoring.listen(_tools.events.LINE, None)
            monitoring.release(_OWNER)

    def _follow(self, below: CodeType, new: CodeType) -> None:
        """Hooks have been put inside a function, which is armed next."""
        lines = self._hits.get(id(below))
        if lines:
            self._derived[id(below)].append(new)
            self._show(Body(new), lines)

    def _show(self, body: Body, lines: Mapping[int, Sequence[Hit]]) -> None:
        code = body.code
        self._codes[id(code)] = code
        if id(code) in self._places:
            monitoring.drop([code], _EVENTS, _OWNER)
        if not lines:
            self._places.pop(id(code), None)
            return
        places: Dict[int, List[Hit]] = {}
        for line, hits in lines.items():
            for one in body.starts.get(line, ()):
                # What leads errors of the agent out has the line of the `def`, and no columns.
                if one.name != "RAISE_VARARGS" or one.location[2] is not None:
                    places.setdefault(one.offset, []).extend(hits)
        self._places[id(code)] = places
        monitoring.add([code], _EVENTS, _OWNER)

    def _teller(self) -> Callable[[CodeType, int], Any]:
        places, number, frame_of, disable = self._places.get, id, _getframe, _tools.DISABLE

        def told(code: CodeType, line: int) -> Any:
            """The callback."""
            known = places(number(code))
            if known is None:
                return disable
            frame = frame_of(1)
            hits = known.get(frame.f_lasti)
            if hits is None:
                return disable
            for hit in hits:
                hit(frame)
            return None

        return told


# A function of one line is told of only when its start is, from 3.13 on (cpython issue 155992).
_EVENTS: int = _tools.events.LINE | _tools.events.PY_START if _tools is not None else 0

"""What the main program defines, told before it can be called: for a program that a verb has started and that waits for it.

Rules:
- It begins in the main thread, just before the program does, and ends when all that is waited for is there, behind the last name that the
  program may bind, or when the program has taken many steps: what comes later is found as in a program that runs (`points/watch.py`).
- Looking is put off to the next instruction that may run other code: nothing can be called before, so that a row of definitions is looked
  at once.
- From Python 3.12 on, events of `sys.monitoring` tell of the instructions of the program's own code, of most of them once. Before, a trace
  function does, unless there is one. It is taken off for the time of each call that the program makes, by what ends with the frame of the
  call, and so costs these nothing, nor is it seen there.
- It looks in another thread (`look`): the program does nothing but wait, and not for long.
"""

from __future__ import annotations

import logging
import sys
from opcode import EXTENDED_ARG, opmap
from types import CodeType, FrameType
from typing import Any, Callable, Optional, Set

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.interrupts import raise_interrupt
from xpc_instrument.core.unpatched import get_ident

from ..guard import guarded
from ..monitoring import Monitoring, monitoring
from .raw import namespace_of

log = logging.getLogger("xpc_agent")

ANY = "*"
"""Among the names that are waited for: any may be."""
# How many steps the program may be followed for: an instruction is one, a call is several. A step takes 0.3 us at most.
_MOST_STEPS, _STEPS_OF_CALL = 100_000, 8
_OWNER = "definitions"
# Instructions that call nothing, by which definitions are made and bound.
_QUIET = frozenset(
    opmap[name]
    for name in (
        *("CACHE", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "RESUME", "PUSH_NULL", "COPY", "SWAP", "DUP_TOP", "ROT_TWO", "SETUP_ANNOTATIONS"),
        *("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_CONST_IMMORTAL", "LOAD_CONST_MORTAL", "LOAD_NAME", "LOAD_BUILD_CLASS", "LOAD_LOCALS"),
        *("BUILD_TUPLE", "BUILD_MAP", "BUILD_CONST_KEY_MAP", "MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE", "STORE_NAME", "STORE_GLOBAL"),
    )
    if name in opmap
)
_STORES = frozenset((opmap["STORE_NAME"], opmap["STORE_GLOBAL"]))
_RETURNS = frozenset(opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opmap)


class _Steps:
    """What to do at each instruction of the program's code; `wanted` and `look` as of `follow`."""

    def __init__(self, code: CodeType, wanted: Callable[[], Set[str]], look: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._look = look
        names = wanted()
        # By offset: the instructions that bind what is waited for, those of them to which the program has not come yet, all that may
        # call something, and those at which the program ends.
        self._binding: Set[int] = set()
        self._calling: Set[int] = set()
        self._ending: Set[int] = set()
        read, extended = code.co_code, 0
        for place in range(0, len(read), 2):
            operation, argument = read[place], read[place + 1] | extended
            extended = argument << 8 if operation == EXTENDED_ARG else 0
            if operation not in _QUIET:
                self._calling.add(place)
                if operation in _RETURNS:
                    self._ending.add(place)
            elif operation in _STORES and (ANY in names or code.co_names[argument] in names):
                self._binding.add(place)
        self._to_come = set(self._binding)
        self._is_bound = False
        self.left = _MOST_STEPS if self._binding else 0
        """How many steps are left, 0 at the end."""

    def step(self, place: int) -> bool:
        """The instruction there comes next; False if it need not be told of again."""
        self.left = max(0, self.left - 1)
        if place in self._binding:
            self._is_bound = True
            self._to_come.discard(place)
            return True
        is_due = self._is_bound and place in self._calling
        if is_due:
            self._is_bound = False
            try:
                if not self._look() or not self._to_come or not self._wanted():
                    self.left = 0
            except Exception as error:
                raise_interrupt(error)
                log.exception("following what the main program defines failed; it is looked for again and again instead")
                self.left = 0
        if place in self._ending:
            self.left = 0
        return is_due


class _Following:
    """The program that is followed."""

    def __init__(self, wanted: Callable[[], Set[str]], look: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._look = look
        self._steps: Optional[_Steps] = None

    def _has_begun(self, code: CodeType, frame: FrameType) -> bool:
        """Whether that is the program's own code, which begins now."""
        main = sys.modules.get("__main__")
        if code.co_name != "<module>" or main is None or frame.f_globals is not namespace_of(main):
            return False
        try:
            self._steps = _Steps(code, self._wanted, self._look)
        except Exception as error:
            raise_interrupt(error)
            log.exception("the code of the main program cannot be followed; what it defines is looked for again and again instead")
        return True


class _Monitored(_Following):
    """By events."""

    def begin(self) -> None:
        monitoring.acquire(_OWNER)
        monitoring.listen(_events.PY_START, self._called)
        monitoring.everywhere(_events.PY_START)

    @guarded
    def _called(self, code: CodeType, _place: int) -> Any:
        # Below this frame and that of the guard.
        if not self._has_begun(code, sys._getframe(2)):
            return _disable
        monitoring.everywhere(0)
        monitoring.listen(_events.PY_START, None)
        if self._steps is not None and self._steps.left:
            monitoring.listen(_events.INSTRUCTION, self._told)
            monitoring.add([code], _events.INSTRUCTION, _OWNER)
        else:
            monitoring.release(_OWNER)
        return None

    @guarded
    def _told(self, code: CodeType, place: int) -> Any:
        steps = self._steps
        if steps is None:
            return _disable
        again = steps.step(place)
        if not steps.left:
            self._steps = None
            monitoring.drop([code], _events.INSTRUCTION, _OWNER)
            monitoring.listen(_events.INSTRUCTION, None)
            monitoring.release(_OWNER)
        return None if again else _disable


class _Traced(_Following):
    """By a trace function."""

    def begin(self) -> None:
        self._thread = get_ident()
        if sys.gettrace() is None:
            sys.settrace(self._called)

    @guarded
    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        if self._steps is None:
            if self._has_begun(frame.f_code, frame):
                return self._begin_program(frame)
            if frame.f_globals.get("__name__") == "runpy":
                return None  # it runs the program
        elif not self._steps.left:
            sys.settrace(None)
            return None
        else:
            self._steps.left = max(0, self._steps.left - _STEPS_OF_CALL)
        sys.settrace(None)
        return _Call(self._returned)

    def _begin_program(self, frame: FrameType) -> Any:
        if self._steps is None or not self._steps.left:
            sys.settrace(None)
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._told

    @guarded
    def _told(self, frame: FrameType, event: str, _argument: Any) -> Any:
        steps, is_ours = self._steps, getattr(sys.gettrace(), "__self__", None) is self
        if steps is not None and steps.left and is_ours and event == "opcode":
            steps.step(frame.f_lasti)
        if steps is None or not steps.left or not is_ours or event == "return":
            # Another's, since the program has put one in its place, is left alone.
            self._steps = None
            frame.f_trace, frame.f_trace_lines, frame.f_trace_opcodes = None, True, False
            if is_ours:
                sys.settrace(None)
            return None
        return self._told

    @guarded
    def _returned(self) -> None:
        if (self._steps is None or self._steps.left) and get_ident() == self._thread and sys.gettrace() is None:
            sys.settrace(self._called)


class _Call:
    """The trace function of a frame, whose end tells that the frame has ended."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def __call__(self, *_told: Any) -> Any:
        """A debugger has begun below."""
        return None

    def __del__(self) -> None:
        self._ended()


# Absent before Python 3.12.
_tools: Any = getattr(sys, "monitoring", None)
_events: Any = getattr(_tools, "events", None)
_disable: Any = getattr(_tools, "DISABLE", None)


def follow(wanted: Callable[[], Set[str]], look: Callable[[], bool]) -> None:
    """Called in the main thread before the program begins: from now on `look` is called as soon as it may have bound something of what is
    `wanted`, names of its module, and before anything else can run; until it returns False. What is in the way of that is logged, and
    nothing is followed."""
    try:
        (_Monitored if Monitoring.IS_THERE else _Traced)(wanted, look).begin()
    except (TargetError, ValueError, RuntimeError) as error:
        raise_interrupt(error)
        log.debug("what the main program defines is looked for again and again instead: %s", error)

"""Where the statements of a code object begin, by line: at those places a probe on the line fires.

Rules:
- A statement, or a clause (`elif`, `except`, what a `with` names on a line of its own), begins once, on its first line: what goes on over
  several lines is one. `for` begins once a loop, `while` with each test, `with` not once more when it is left; a `finally`
  that the compiler has copied begins in each copy, also in that for `return`, whose value is on the stack meanwhile: there a statement
  begins on the lines on which one begins in the copy for exceptions.
- What begins a statement is the first instruction of its line while no statement is under way, which is one that has left something on the
  stack. The head of `for` and `with` is over where their body begins. The depths are those of `dis.stack_effect`, followed along jumps and
  into handlers.
- So a part of an `and`, an `or` or an `a if b else c` that has a line of its own, and leaves nothing on the stack to go on with, is a
  clause too: the bytecode is that of statements which nest. `if (` alone on a line has none, and what follows it begins the statement.
- The compiler's own clean-up (of `except ... as`, of comprehensions, of generators) belongs to no statement.
- Where a line has both instructions that do something and some that only lead on, a probe fires at the former.
"""

from __future__ import annotations

import opcode
import sys
from types import CodeType
from typing import Dict, FrozenSet, List, Optional, Set

from ...targets.flags import CO_VARARGS, CO_VARKEYWORDS
from ..inside.instructions import Instruction, UndecodableError, decoded
from . import wordcode

VERSION = sys.version_info[:2]
_HANDLERS_IN_TABLE = VERSION >= (3, 11)


def _named(names: str) -> FrozenSet[str]:
    return frozenset(names.split())


_ENDS = _named("RETURN_VALUE RETURN_CONST RAISE_VARARGS RERAISE JUMP_FORWARD JUMP_ABSOLUTE JUMP_BACKWARD JUMP_BACKWARD_NO_INTERRUPT")
_LEAVES = _named("RETURN_VALUE RETURN_CONST RAISE_VARARGS RERAISE")
_PROLOGUE = _named("MAKE_CELL COPY_FREE_VARS RETURN_GENERATOR RESUME GEN_START")
# What may begin a statement and takes nothing from the stack. All else that begins one takes what its own line has put there before.
_PUSHES = _named(
    "LOAD_CONST LOAD_GLOBAL LOAD_NAME LOAD_DEREF LOAD_CLOSURE LOAD_CLASSDEREF LOAD_BUILD_CLASS LOAD_ASSERTION_ERROR "
    "LOAD_LOCALS LOAD_FAST LOAD_FAST_CHECK LOAD_FAST_LOAD_FAST LOAD_FAST_BORROW LOAD_FAST_BORROW_LOAD_FAST_BORROW "
    "LOAD_FAST_AND_CLEAR LOAD_FROM_DICT_OR_DEREF LOAD_SMALL_INT LOAD_COMMON_CONSTANT PUSH_NULL NOP NOT_TAKEN "
    "SETUP_FINALLY SETUP_WITH SETUP_ASYNC_WITH POP_BLOCK POP_EXCEPT DELETE_FAST DELETE_NAME DELETE_GLOBAL DELETE_DEREF "
    "RETURN_CONST BUILD_MAP BUILD_LIST BUILD_TUPLE BUILD_SET BUILD_STRING JUMP_FORWARD JUMP_ABSOLUTE JUMP_BACKWARD "
    "DUP_TOP LOAD_SUPER_ATTR SETUP_ANNOTATIONS"
)
_IDLE = _named("NOP NOT_TAKEN JUMP_FORWARD JUMP_ABSOLUTE JUMP_BACKWARD JUMP_BACKWARD_NO_INTERRUPT POP_BLOCK")
_NEVER = _named(
    "END_FOR POP_ITER RERAISE END_SEND CLEANUP_THROW WITH_EXCEPT_START END_ASYNC_FOR FOR_ITER SEND YIELD_VALUE "
    "JUMP_BACKWARD_NO_INTERRUPT STORE_FAST STORE_NAME STORE_GLOBAL STORE_DEREF STORE_FAST_STORE_FAST STORE_FAST_LOAD_FAST "
    "UNPACK_SEQUENCE UNPACK_EX RETURN_VALUE SWAP ROT_TWO ROT_THREE ROT_FOUR ROT_N"
)
_CONSTANTS = _named("LOAD_CONST LOAD_COMMON_CONSTANT DUP_TOP")
# The last of the head of a `for` or a `with`.
_BODY_FOLLOWS = _named("FOR_ITER GET_ANEXT SETUP_WITH SETUP_ASYNC_WITH BEFORE_WITH BEFORE_ASYNC_WITH LOAD_SPECIAL")
# Up to 3.11 comprehensions have code objects of their own, and later none: so no statement ever begins in one. The others are made of the
# head of a function or a class.
_NO_STATEMENTS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<generic parameters")

_stack_effect = opcode.stack_effect
_HAVE_ARGUMENT = opcode.HAVE_ARGUMENT


class _Statement:
    """One that begins at a place of the code: its line there, the first and last line of its instructions, the depth of the stack below.

    It is under way while there is more on the stack, until the instruction at `until`, and up to that place of the text.
    """

    __slots__ = ("below", "first", "last", "line", "place", "text", "until")

    def __init__(self, place: int, line: int, below: int) -> None:
        self.place = place
        self.line = self.first = self.last = line
        self.below = below
        self.until = 0
        self.text = (0, 0)

    def is_over(self, one: Instruction, depth: int) -> bool:
        """Whether an instruction at such a depth comes behind it."""
        line, _, column, _ = one.location
        return depth <= self.below and one.offset >= self.until and (line is None or (line, column or 0) >= self.text)

    def leads(self, one: Instruction) -> None:
        """A jump of it leads to where it has left something on the stack: that of the first part of `return a or b`."""
        if "_OR_POP" in one.name:
            assert one.target is not None
            self.until = max(self.until, one.target.offset)
        elif VERSION >= (3, 12) and "POP_JUMP" in one.name:
            # It is copied first, with the text of the whole; a pattern of `match` is so as well, with its own.
            self.text = max(self.text, (one.location[1] or 0, one.location[3] or 0))


class Body:
    """A code object, decoded: `starts` has the instructions at which statements begin, by line.

    `bound` has, of each instruction by its offset, the local variables that have a value there whatever way led to it. Raises
    `UndecodableError` for what is not understood.
    """

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.instructions: List[Instruction] = decoded(code) if _HANDLERS_IN_TABLE else wordcode.decoded(code)
        self._depths: Dict[int, int] = {}
        self.bound: Dict[int, FrozenSet[int]] = {}
        self._begin = self._first()
        self._flow()
        self.starts: Dict[int, List[Instruction]] = {}
        if not _has_no_statements(code):
            handlers = self._handlers()
            self.starts = self._find(handlers)
            if handlers:
                self.starts = self._find(handlers, frozenset(one.location[0] for found in self.starts.values() for one in found))

    # depths ------------------------------------------------------------------------------------------------------------

    def _flow(self) -> None:
        """Follow all ways through the code."""
        code, body = self.code, self.instructions
        index = {id(one): place for place, one in enumerate(body)}
        flags = code.co_flags
        parameters = code.co_argcount + code.co_kwonlyargcount + bool(flags & CO_VARARGS) + bool(flags & CO_VARKEYWORDS)
        deleted = frozenset(one.arg for one in body if one.name in ("DELETE_FAST", "LOAD_FAST_AND_CLEAR"))
        depths, bounds = self._depths, self.bound
        waiting: List[Instruction] = []

        def reach(one: Instruction, depth: int, bound: FrozenSet[int]) -> None:
            before = bounds.get(one.offset)
            if one.offset not in depths:
                depths[one.offset] = depth
            elif before is not None and bound >= before:
                return
            bounds[one.offset] = bound if before is None else bound & before
            waiting.append(one)

        reach(body[0], 0, frozenset(range(parameters)))
        while waiting:
            one = waiting.pop()
            depth, bound, name = depths[one.offset], bounds[one.offset], one.name
            if one.handler is not None:
                reach(one.handler.target, one.handler.depth + 1 + one.handler.lasti, bound - deleted)
            after = _bound_after(one, bound)
            arg = one.arg if one.op >= _HAVE_ARGUMENT else None
            if one.target is not None and name != "END_ASYNC_FOR":
                led = after - deleted if name.startswith("SETUP_") else after
                reach(one.target, depth + _stack_effect(one.op, arg, jump=True), led)
            place = index[id(one)] + 1
            if name not in _ENDS and place < len(body):
                # 3.11 does not count that a generator is sent None first.
                effect = 1 if name == "RETURN_GENERATOR" else _stack_effect(one.op, arg, jump=False)
                reach(body[place], depth + effect, after)

    # starts ------------------------------------------------------------------------------------------------------------

    def _find(self, handlers: Set[int], known: FrozenSet[Optional[int]] = frozenset()) -> Dict[int, List[Instruction]]:
        """The starts; on the lines that are `known` to have one a statement begins although another, before it, is under way."""
        body, depths = self.instructions, self._depths
        before = self._before()
        found: List[_Statement] = []
        # The statement that is under way, None if none is.
        now: Optional[_Statement] = None
        returning: Optional[_Statement] = None
        previous: Optional[int] = None
        cleans_up = in_comprehension = False
        # Of what the compiler makes of `"%s" % value`.
        made_up = (self.code.co_firstlineno, self.code.co_firstlineno, 0, 0)
        for place in range(self._begin, len(body)):
            one = body[place]
            depth = depths.get(one.offset)
            if depth is None:
                continue
            if cleans_up:
                if one.name in _ENDS:
                    cleans_up, previous = False, None
                continue
            if now is not None and now.is_over(one, depth):
                now, in_comprehension = None, False
            if one.offset in handlers:
                now = None
                if _HANDLERS_IN_TABLE and one.name not in ("PUSH_EXC_INFO", "END_ASYNC_FOR"):
                    cleans_up = one.name not in _ENDS
                    continue
                previous = None
            if one.name == "PUSH_EXC_INFO":
                previous = None
                continue
            line = one.location[0]
            if line is not None and one.location != made_up:
                if now is not None and one.name == "POP_TOP" and line > now.last and depth - 1 <= now.below:
                    # From 3.14 on what `match` has on the stack is let go of with the line of what is done next.
                    now = None
                begins = previous != line and one.name not in _NEVER
                if now is not None and begins and line in known and line > now.last and depth == now.below + 1 and one.name != "POP_BLOCK":
                    # It is `return`, whose value waits until what is in `finally` has run.
                    returning, now = now, None
                elif now is None and returning is not None and line <= returning.last and depth > returning.below:
                    now = returning
                if now is not None:
                    now.first, now.last = min(now.first, line), max(now.last, line)
                elif begins and not self._goes_on(place, before, handlers) and not self._leaves_with(place):
                    now = _Statement(place, line, depth - (one.name not in _PUSHES))
                    found.append(now)
                previous = line
            if now is not None and one.target is not None and depths.get(one.target.offset, 0) > now.below:
                now.leads(one)
            in_comprehension = in_comprehension or one.name == "LOAD_FAST_AND_CLEAR"
            if one.name in _LEAVES or (one.name in _BODY_FOLLOWS and not in_comprehension):
                now = None
            if one.name in _LEAVES:
                returning = None
        lines: Dict[int, List[int]] = {}
        for statement in found:
            came = before.get(body[statement.place].offset, ())
            is_part = any(statement.first <= (other.location[0] or 0) < statement.line for other in came)
            lines.setdefault(statement.line if is_part else statement.first, []).append(statement.place)
        return {line: [body[place] for place in self._busy(line, places)] for line, places in lines.items()}

    def _first(self) -> int:
        """The place of the first instruction that is the function's own."""
        body, place = self.instructions, 0
        while place < len(body):
            name = body[place].name
            if name not in _PROLOGUE and not (name == "POP_TOP" and place and body[place - 1].name == "RETURN_GENERATOR"):
                break
            place += 1
        return place

    def _handlers(self) -> Set[int]:
        found = {one.handler.target.offset for one in self.instructions if one.handler is not None}
        return found | {one.target.offset for one in self.instructions if one.target is not None and one.name.startswith("SETUP_")}

    def _before(self) -> Dict[int, List[Instruction]]:
        """What an instruction may come after, by its offset."""
        found: Dict[int, List[Instruction]] = {}
        body = self.instructions
        for place, one in enumerate(body):
            if one.offset not in self._depths:
                continue
            if one.target is not None:
                found.setdefault(one.target.offset, []).append(one)
            if one.name not in _ENDS and place + 1 < len(body):
                found.setdefault(body[place + 1].offset, []).append(one)
        return found

    def _goes_on(self, place: int, before: Dict[int, List[Instruction]], handlers: Set[int]) -> bool:
        """Whether it only goes on with a statement of its line."""
        one = self.instructions[place]
        came = before.get(one.offset)
        if not came or one.offset in handlers or place == self._begin:
            return False
        line = one.location[0]
        return all(other.location[0] == line and other.offset < one.offset and other.name != "PUSH_EXC_INFO" for other in came)

    def _leaves_with(self, place: int) -> bool:
        """Whether the body of a `with` is over: three times None is given to something that the head has put on the stack."""
        names = [one.name for one in self.instructions[place : place + 6] if one.name not in ("POP_BLOCK", "PRECALL")]
        return all(one in _CONSTANTS for one in names[:3]) and names[3:4] in (["CALL"], ["CALL_FUNCTION"])

    def _busy(self, line: int, places: List[int]) -> List[int]:
        busy = [place for place in places if not self._is_idle(line, place)]
        return busy or places

    def _is_idle(self, line: int, place: int) -> bool:
        body = self.instructions
        while place < len(body) and body[place].location[0] == line:
            if body[place].name not in _IDLE:
                return False
            if body[place].name in _ENDS:
                return True
            place += 1
        return True


def _has_no_statements(code: CodeType) -> bool:
    if code.co_name == "__annotate__":
        # What the compiler makes of annotations, from 3.14 on; but for one that somebody has written inside of a function.
        return not str(getattr(code, "co_qualname", "")).endswith("<locals>.__annotate__")
    return code.co_name.startswith(_NO_STATEMENTS)


def _bound_after(one: Instruction, bound: FrozenSet[int]) -> FrozenSet[int]:
    name, arg = one.name, one.arg
    if name == "STORE_FAST":
        return bound | {arg}
    if name == "DELETE_FAST":
        return bound - {arg}
    return bound


__all__ = ["Body", "UndecodableError"]

"""What is put into a function's bytecode, and how it asks what to do.

    enter(<the values of all parameters, by position; *args as a tuple, **kwargs as a dict>)
        -> None                           run the body, nothing at the end
         | (None, token)                  run the body, then leave(token, ...) or failed(token, ...)
         | ((value of each parameter), token)   the same with other arguments
         | ((value,), None)               return the value at once
    leave(token, value) -> what is returned
    failed(token, error) -> None          the same exception goes on
         | (value,)                       return the value
    raised(token or None, error) -> None  one of the three above raised, by decision or because it was interrupted

No token is None. What the four raise leaves the function, at the line of its `def`; so does what `enter` or `failed` was made to raise.

Layout, for CPython 3.11 and later:
- Behind RESUME: [None, leave] is pushed and `enter` is called. While the body runs, three values lie below its own: [token, leave, token],
  or [None, leave, None] where `enter` said None. So the depth of each handler of the body grows by three.
- Each return finds [token, leave, token, value], the last three of which are the layout of a call.
- The handler around the body keeps one value: [token, offset, error]. It calls `failed`, and restores what `sys.exc_info()` says.
- The handler around the three calls finds the same, gives it to `raised`, and raises it again with the line of the `def`. `raised` cuts
  the frames of the agent off: see `tracebacks`.
- What is put in has no line, or a tracer would see one more; only the instruction that raises has that of the `def`.
- Between the end of `enter` and the body nothing looks for signals or pending exceptions: CPython looks at RESUME, at jumps backward, and
  behind the call of something that is not written in Python. So an interrupt comes either in `enter`, and goes to `raised`, or in the
  body, and goes to `failed`. One that comes when `leave` or `failed` has just begun goes to `raised`, with the token.
- A `yield` notes how many handlers are around it, so that `close()` of a generator that has only the compiler's own need not resume it.
  That note has to follow, or `failed` would not be called.
"""

from __future__ import annotations

import opcode
import sys
import types
from typing import Any, Callable, Iterator, List, Optional, Tuple

from ...targets.flags import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_VARARGS, CO_VARKEYWORDS
from .check import differs
from .instructions import Handler, Instruction, UndecodableError, decoded, encoded, made
from .tables import NOWHERE, Location
from .tracebacks import cut
from .versions import RefusedError

VERSION = sys.version_info[:2]

_GENERATORS = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
_HEAD = frozenset(("MAKE_CELL", "COPY_FREE_VARS", "RETURN_GENERATOR", "RESUME"))
_RETURNS = frozenset(opcode.opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opcode.opmap)

_RETURN_GENERATOR = opcode.opmap.get("RETURN_GENERATOR")
_YIELD, _RESUME = opcode.opmap["YIELD_VALUE"], opcode.opmap.get("RESUME")

_PRECALL = VERSION == (3, 11)
_NULL_FIRST = VERSION < (3, 13)
_IF_NONE = "POP_JUMP_FORWARD_IF_NONE" if VERSION == (3, 11) else "POP_JUMP_IF_NONE"
_IF_NOT_NONE = _IF_NONE.replace("NONE", "NOT_NONE")
# Turns a StopIteration that leaves a generator into a RuntimeError; 3.11 does that outside of the bytecode.
_INTRINSIC_STOPITERATION_ERROR = 3

# What lies below the body's own values, and what of it the handlers keep.
_BASE = 3
_KEPT = 1
# The most that the tail has on the stack: token, offset, error before, error, and a call with two arguments.
_TAIL = 8


Enter = Callable[..., Any]
Leave = Callable[[Any, Any], Any]
Failed = Callable[[Any, BaseException], Optional[Tuple[Any]]]
Raised = Callable[[Any, BaseException], None]


class _Block:
    """Instructions in the making, of one location and one handler unless told otherwise."""

    def __init__(self, location: Location = NOWHERE, handler: Optional[Handler] = None) -> None:
        self.out: List[Instruction] = []
        self.location = location
        self.handler = handler

    def add(self, name: str, arg: int = 0, target: Optional[Instruction] = None) -> Instruction:
        one = made(name, arg, self.location)
        one.target, one.handler = target, self.handler
        self.out.append(one)
        return one

    def here(self, label: Instruction) -> None:
        """A place to jump to."""
        label.location, label.handler = self.location, self.handler
        self.out.append(label)

    def load(self, const: int) -> None:
        """Something to call."""
        if _NULL_FIRST:
            self.add("PUSH_NULL")
        self.add("LOAD_CONST", const)
        if not _NULL_FIRST:
            self.add("PUSH_NULL")

    def call(self, count: int) -> None:
        if _PRECALL:
            self.add("PRECALL", count)
        self.add("CALL", count)


class _Insertion:
    """One code object, decoded, into which hooks are put."""

    def __init__(self, code: types.CodeType) -> None:
        self.code = code
        body = decoded(code)
        first = 0
        while first < len(body) and (body[first].name in _HEAD or (first and body[first - 1].name == "RETURN_GENERATOR")):
            first += 1
        if not first or body[first - 1].name != "RESUME":
            raise RefusedError("its bytecode does not begin as expected")
        self.head, self.body = body[:first], body[first:]
        if any(one.op == _RETURN_GENERATOR for one in self.body):
            raise RefusedError("it does something before it becomes a generator")
        self.is_generator = bool(code.co_flags & _GENERATORS)
        if self.is_generator and not any(one.op == _RETURN_GENERATOR for one in self.head):
            raise RefusedError("its bytecode does not begin as that of a generator")
        self.consts: List[Any] = list(code.co_consts)
        self.parameters = _parameters(code)

    def const(self, value: Any) -> int:
        self.consts.append(value)
        return len(self.consts) - 1

    def stack_size(self) -> int:
        """Enough for the body above what lies below it and one copy of a value, for a call of `enter`, and for the tail."""
        return max(self.code.co_stacksize + _BASE + 1, len(self.parameters) + 5, _TAIL)

    def call_enter(self, block: _Block, enter: Enter) -> None:
        block.load(self.const(enter))
        for load, _, number in self.parameters:
            block.add(load, number)
        block.call(len(self.parameters))

    def with_prologue(self, enter: Enter, raised: Raised) -> List[Instruction]:
        # What goes around the start of a generator goes around this.
        outer = self.head[-1].handler
        tail = _Block(handler=outer)
        # [offset, error] -> [None, offset, error]
        entered = tail.add("LOAD_CONST", self.const(None))
        tail.add("SWAP", 3)
        tail.add("SWAP", 2)
        self._raising(tail, outer, raised)
        block = _Block(handler=Handler(entered, 0, True))
        self.call_enter(block, enter)
        block.add("POP_TOP")
        return self.head + block.out + self.body + tail.out

    def with_all(self, enter: Enter, leave: Leave, failed: Failed, raised: Raised) -> List[Instruction]:
        tail = _Block()
        # A generator's own handler of this kind does not go around what is put in.
        stop = made("CALL_INTRINSIC_1", _INTRINSIC_STOPITERATION_ERROR) if self.is_generator and VERSION >= (3, 12) else None
        outer = Handler(stop, 0, True) if stop is not None else None
        on_failed, on_raised = self._tail(tail, outer, failed, raised)
        around = Handler(on_failed, _KEPT, True)
        start = self._prologue(enter, leave, outer, Handler(on_raised, _KEPT, True))
        start[-1].handler = around
        if stop is not None:
            tail.handler = None
            tail.here(stop)
            tail.add("RERAISE", 1)
        for one in self.head:
            one.handler = outer if one.handler is not None else None
        for one in self.body:
            inner = one.handler
            one.handler = around if inner is None else Handler(inner.target, inner.depth + _BASE, inner.lasti)
            if self.is_generator:
                _one_handler_more(one)
        return self.head + start + self._with_epilogues(outer, Handler(on_raised, _KEPT, True)) + tail.out

    def _prologue(self, enter: Enter, leave: Leave, outer: Optional[Handler], on_raised: Handler) -> List[Instruction]:
        block = _Block(handler=outer)
        token, change, start = made("POP_TOP"), made("NOP"), made("NOP")
        none = self.const(None)
        block.add("LOAD_CONST", none)
        block.add("LOAD_CONST", self.const(leave))
        block.handler = on_raised
        self.call_enter(block, enter)
        block.handler = outer
        # [None, leave, what enter said]
        block.add("COPY", 1)
        block.add(_IF_NONE, target=start)
        block.add("UNPACK_SEQUENCE", 2)
        # [None, leave, token, values]
        block.add("COPY", 1)
        block.add(_IF_NONE, target=token)
        block.add("COPY", 2)
        block.add(_IF_NOT_NONE, target=change)
        # [None, leave, None, (value,)]
        block.add("UNPACK_SEQUENCE", 1)
        block.add("SWAP", 4)
        for _ in range(_BASE):
            block.add("POP_TOP")
        block.add("RETURN_VALUE")
        block.here(change)
        block.add("UNPACK_SEQUENCE", len(self.parameters))
        for _, store, number in self.parameters:
            block.add(store, number)
        block.add("LOAD_CONST", none)
        block.here(token)
        # [None, leave, token]
        block.add("COPY", 1)
        block.add("SWAP", 4)
        block.add("POP_TOP")
        block.here(start)
        return block.out

    def _with_epilogues(self, outer: Optional[Handler], on_raised: Handler) -> List[Instruction]:
        out: List[Instruction] = []
        moved = {}
        for one in self.body:
            if one.op not in _RETURNS:
                out.append(one)
                continue
            # From the instruction before the call on: 3.13 and later look there for the handler of what a function in Python raises.
            block = _Block(one.location, on_raised)
            plain = made("SWAP", 4)
            if one.name == "RETURN_CONST":
                block.add("LOAD_CONST", one.arg)
            # [token, leave, token, value]
            block.add("COPY", 2)
            block.add(_IF_NONE, target=plain)
            block.call(1)
            block.handler = outer
            block.add("SWAP", 2)
            block.add("POP_TOP")
            block.add("RETURN_VALUE")
            block.here(plain)
            for _ in range(_BASE):
                block.add("POP_TOP")
            block.add("RETURN_VALUE")
            moved[id(one)] = block.out[0]
            out += block.out
        for one in out:
            if one.target is not None:
                one.target = moved.get(id(one.target), one.target)
            if one.handler is not None and id(one.handler.target) in moved:
                raise RefusedError("a handler of it begins with a return")
        return out

    def _tail(self, block: _Block, outer: Optional[Handler], failed: Failed, raised: Raised) -> Tuple[Instruction, Instruction]:
        """The two handlers. Both are entered with [token, offset, error]."""
        go_on, unchanged, another = made("POP_TOP"), made("SWAP", 2), made("SWAP", 2)
        block.handler = outer
        on_failed = block.add("PUSH_EXC_INFO")
        # [token, offset, error before, error]
        block.handler = Handler(another, 3, False)
        block.add("COPY", 4)
        block.add(_IF_NONE, target=unchanged)
        block.load(self.const(failed))
        block.add("COPY", 6)
        block.add("COPY", 4)
        block.call(2)
        block.add("COPY", 1)
        block.add(_IF_NONE, target=go_on)
        block.add("UNPACK_SEQUENCE", 1)
        # [token, offset, error before, error, value]
        block.handler = outer
        block.add("SWAP", 3)
        block.add("POP_EXCEPT")
        block.add("POP_TOP")
        block.add("SWAP", 3)
        block.add("POP_TOP")
        block.add("POP_TOP")
        block.add("RETURN_VALUE")
        block.here(go_on)
        block.here(unchanged)
        # [token, offset, error before, error]
        block.add("POP_EXCEPT")
        block.add("RERAISE", 1)
        # `failed` raised: [token, offset, error before, the other error]
        block.here(another)
        block.add("POP_EXCEPT")
        return on_failed, self._raising(block, outer, raised)

    def _raising(self, block: _Block, outer: Optional[Handler], raised: Raised) -> Instruction:
        """The handler of what `enter`, `leave` and `failed` raise. It is entered with [token, offset, error]."""
        undo = made("SWAP", 3)
        block.handler = outer
        first = block.add("PUSH_EXC_INFO")
        # [token, offset, error before, error]
        block.handler = Handler(undo, 3, True)
        block.load(self.const(raised))
        block.add("COPY", 6)
        block.add("COPY", 4)
        block.call(2)
        block.add("POP_TOP")
        # While it is the error that is handled, so that its context stays as it is.
        block.location = (self.code.co_firstlineno, self.code.co_firstlineno, None, None)
        block.add("RAISE_VARARGS", 1)
        block.location, block.handler = NOWHERE, outer
        block.here(undo)
        # [token, offset, error, offset, error before]
        block.add("POP_EXCEPT")
        block.add("SWAP", 2)
        block.add("RERAISE", 1)
        return first


def inserted(
    code: types.CodeType, enter: Enter, leave: Optional[Leave] = None, failed: Optional[Failed] = None, raised: Raised = cut
) -> types.CodeType:
    """The code with hooks in it; without `leave` and `failed`, only `enter` is called, and what it returns is dropped.

    Raises `RefusedError` for a code that is not as expected, and where what came out is not what was meant.
    """
    try:
        insertion = _Insertion(code)
        if leave is None or failed is None:
            meant = insertion.with_prologue(enter, raised)
        else:
            meant = insertion.with_all(enter, leave, failed, raised)
        made_code = encoded(meant, code, co_consts=tuple(insertion.consts), co_stacksize=insertion.stack_size())
        difference = differs(made_code, code, meant)
    except UndecodableError as error:
        raise RefusedError(str(error)) from error
    if difference:
        raise RefusedError(f"what was put in came out otherwise: {difference}")
    return made_code


def _depth_mark() -> int:
    """The bit of a generator's RESUME that says that its `yield` has no handler around it but the compiler's own; 0 before 3.13."""

    def bare() -> Iterator[None]:
        yield

    def handled() -> Iterator[None]:
        try:
            yield
        finally:
            handled()

    if VERSION < (3, 13):
        return 0
    marks = [[one.arg for one in decoded(function.__code__) if one.name == "RESUME"][1] for function in (bare, handled)]
    return marks[0] & ~marks[1]


_DEPTH_MARK = _depth_mark()


def _one_handler_more(one: Instruction) -> None:
    """Around what may be a `yield` there is one more handler."""
    if VERSION == (3, 12) and one.op == _YIELD:
        one.arg += 1
    elif one.op == _RESUME:
        one.arg &= ~_DEPTH_MARK


def _parameters(code: types.CodeType) -> List[Tuple[str, str, int]]:
    """How each parameter is loaded and stored, in the order of `co_varnames`. One that is a cell has the number of its variable."""
    flags = code.co_flags
    count = code.co_argcount + code.co_kwonlyargcount + bool(flags & CO_VARARGS) + bool(flags & CO_VARKEYWORDS)
    return [
        ("LOAD_DEREF", "STORE_DEREF", number) if name in code.co_cellvars else ("LOAD_FAST", "STORE_FAST", number)
        for number, name in enumerate(code.co_varnames[:count])
    ]

"""Probes on lines up to Python 3.11: a call in the function's own code where a statement begins.

Rules:
- What is called is given the values of the variables that it asks for, as far as they have one there whatever way led to it; a variable
  that inner functions share is given as its cell.
- A code object with calls in it takes the place of the original in all functions that have it, and in the constants of the code around it,
  so that functions that are made later have it too. Functions that have hooks keep them meanwhile (`Patch.rebase`).
- With the last probe each has its very own code object again. A frame that runs already keeps the code that it began with.
- What is put in has the line of what it stands before, so that a tracer sees nothing of it.
- All of it is under the lock of the table.
"""

from __future__ import annotations

import gc
import sys
from types import CodeType, FunctionType
from typing import Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Sequence, Set, Tuple

from ..inside import instructions
from ..inside.instructions import Handler, Instruction, made
from . import wordcode
from .starts import Body

VERSION = sys.version_info[:2]
_encoded = instructions.encoded if VERSION >= (3, 11) else wordcode.encoded
_FIRST_CELL = VERSION < (3, 11)

Hit = Callable[..., None]


class Call(NamedTuple):
    """What is to be called on a line: `names` are the variables that are asked for; `make` is told which are given, and which as cells."""

    names: Sequence[str]
    make: Callable[[Mapping[str, bool]], Hit]


# A code object, a line of it, and what is called there from now on.
Change = Tuple[CodeType, int, Sequence[Call]]
Rebase = Callable[[CodeType, CodeType], None]


class Injection:
    """All that is put into the code of this process."""

    def __init__(self) -> None:
        # By the number of the original.
        self._calls: Dict[int, Dict[int, Sequence[Call]]] = {}
        self._now: Dict[int, CodeType] = {}
        # By the number of what is there now: the original. Both live as long as they are listed.
        self._originals: Dict[int, Tuple[CodeType, CodeType]] = {}

    def original(self, code: CodeType) -> CodeType:
        """What a code object was before there were calls in it."""
        found = self._originals.get(id(code))
        return code if found is None else found[1]

    def put(self, changes: Sequence[Change], roots: Sequence[CodeType], functions: Sequence[FunctionType], rebase: Rebase) -> None:
        """From now on these calls are made, and no others on the same lines. The code objects lie in `roots`; `functions` are those that
        are known to have one.

        Raises `UndecodableError` and has changed nothing.
        """
        before = {id(code): dict(self._calls.get(id(code), {})) for code, _, _ in changes}
        for code, line, calls in changes:
            lines = self._calls.setdefault(id(code), {})
            if calls:
                lines[line] = calls
            else:
                lines.pop(line, None)
        made: List[Tuple[CodeType, CodeType, CodeType]] = []
        try:
            for root in roots:
                self._rebuild(root, set(before), made)
        except BaseException:
            self._calls.update(before)
            raise
        self._exchange(made, functions, rebase)

    def _rebuild(self, code: CodeType, changed: Set[int], changes: List[Tuple[CodeType, CodeType, CodeType]]) -> CodeType:
        """The code object that stands for an original from now on; `changes` gets each with what it was and what it is to be."""
        consts = tuple([self._rebuild(one, changed, changes) if type(one) is CodeType else one for one in code.co_consts])
        now = self._now.get(id(code), code)
        if id(code) not in changed and all(one is other for one, other in zip(consts, now.co_consts)):
            return now
        calls = self._calls.get(id(code))
        is_original = all(one is other for one, other in zip(consts, code.co_consts))
        new = code if is_original else code.replace(co_consts=consts)
        if calls:
            new = injected(new, calls)
        changes.append((code, now, new))
        return new

    def _exchange(self, changes: Sequence[Tuple[CodeType, CodeType, CodeType]], functions: Sequence[FunctionType], rebase: Rebase) -> None:
        by_number = {id(now): new for _, now, new in changes}
        # One look through all objects. Those that `gc.freeze` has put aside are not among them, but the known ones are.
        holders = [one for one in gc.get_referrers(*[now for _, now, _ in changes]) if type(one) is FunctionType]
        for holder in (*holders, *functions):
            new = by_number.get(id(holder.__code__))
            if new is not None:
                holder.__code__ = new
        for original, now, new in changes:
            rebase(now, new)
            self._originals.pop(id(now), None)
            if new is original:
                self._now.pop(id(original), None)
                self._calls.pop(id(original), None)
            else:
                self._now[id(original)] = new
                self._originals[id(new)] = new, original


def injected(code: CodeType, calls: Mapping[int, Sequence[Call]]) -> CodeType:
    """The code with a call before each statement of these lines. Raises `UndecodableError`."""
    body = Body(code)
    consts = list(code.co_consts)
    blocks: Dict[int, List[Instruction]] = {}
    most = 0
    for line, several in calls.items():
        starts = body.starts.get(line, [])
        if not starts:
            raise instructions.UndecodableError(f"no statement begins on line {line}")
        bound = frozenset.intersection(*[body.bound[one.offset] for one in starts])
        for call in several:
            given = _given(code, call.names, bound)
            consts.append(call.make({name: is_cell for name, (_, _, is_cell) in given.items()}))
            for one in starts:
                loads = [(load, number) for load, number, _ in given.values()]
                blocks.setdefault(id(one), []).extend(_block(one, len(consts) - 1, loads))
            most = max(most, len(given) + 3)
    out: List[Instruction] = []
    for one in body.instructions:
        out += [*blocks.get(id(one), ()), one]
    for one in body.instructions:
        if one.target is not None and id(one.target) in blocks:
            one.target = blocks[id(one.target)][0]
    handlers: Dict[int, Handler] = {}
    for one in out:
        handler = one.handler
        if handler is not None and id(handler.target) in blocks:
            one.handler = handlers.setdefault(id(handler), Handler(blocks[id(handler.target)][0], handler.depth, handler.lasti))
    return _encoded(out, code, co_consts=tuple(consts), co_stacksize=code.co_stacksize + most)


def _given(code: CodeType, names: Sequence[str], bound: FrozenSet[int]) -> Dict[str, Tuple[str, int, bool]]:
    """How each variable is loaded that can be: the instruction, its argument, and whether that gives a cell."""
    found: Dict[str, Tuple[str, int, bool]] = {}
    varnames = code.co_varnames
    cells = (*code.co_cellvars, *code.co_freevars)
    # From 3.11 on variables and cells are counted together, a parameter that is a cell once.
    places = (*varnames, *[name for name in code.co_cellvars if name not in varnames], *code.co_freevars)
    for name in names:
        if name in cells:
            found[name] = "LOAD_CLOSURE", cells.index(name) if _FIRST_CELL else places.index(name), True
        elif name in varnames and varnames.index(name) in bound:
            found[name] = "LOAD_FAST", varnames.index(name), False
    return found


def _block(one: Instruction, const: int, loads: Sequence[Tuple[str, int]]) -> List[Instruction]:
    words: List[Tuple[str, int]] = [("PUSH_NULL", 0)] if VERSION >= (3, 11) else []
    words += [("LOAD_CONST", const), *loads]
    words += [("PRECALL", len(loads)), ("CALL", len(loads))] if VERSION >= (3, 11) else [("CALL_FUNCTION", len(loads))]
    words.append(("POP_TOP", 0))
    line = one.location[0]
    block = [made(name, arg, (line, line, None, None)) for name, arg in words]
    for each in block:
        each.handler = one.handler
    return block

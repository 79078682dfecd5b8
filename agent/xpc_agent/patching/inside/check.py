"""Whether code that was made is what was meant: it is decoded again and compared."""

from __future__ import annotations

import types
from typing import Dict, List, Optional, Tuple

from .instructions import Handler, Instruction, decoded

# What must be as it was. `co_code`, the tables and `co_stacksize` change, and `co_consts` gets more.
_UNTOUCHED = (
    "co_argcount",
    "co_cellvars",
    "co_filename",
    "co_firstlineno",
    "co_flags",
    "co_freevars",
    "co_kwonlyargcount",
    "co_name",
    "co_names",
    "co_nlocals",
    "co_posonlyargcount",
    "co_qualname",
    "co_varnames",
)


def differs(made: types.CodeType, code: types.CodeType, meant: List[Instruction]) -> str:
    """In what `made` is not `meant`, or not like `code` where nothing was to change; "" where all is well. May raise `UndecodableError`."""
    for name in _UNTOUCHED:
        if getattr(made, name) != getattr(code, name):
            return name
    if made.co_consts[: len(code.co_consts)] != code.co_consts:
        return "co_consts"
    if made.co_stacksize < code.co_stacksize:
        return "co_stacksize"
    found = decoded(made)
    if len(found) != len(meant):
        return f"{len(found)} instructions instead of {len(meant)}"
    number = {id(one): index for index, one in enumerate(found)}
    number.update((id(one), index) for index, one in enumerate(meant))
    if len(number) != 2 * len(meant):
        return "an instruction that stands twice"
    for index, (one, other) in enumerate(zip(meant, found)):
        if one.op != other.op or one.arg != other.arg or one.location != other.location:
            return f"instruction {index}, {one.name}"
        if one.target is not other.target and _number(one.target, number) != _number(other.target, number):
            return f"the target of instruction {index}, {one.name}"
        if one.handler is not other.handler and _handler(one.handler, number) != _handler(other.handler, number):
            return f"the handler of instruction {index}, {one.name}"
    return ""


def _number(one: Optional[Instruction], number: Dict[int, int]) -> Optional[int]:
    return None if one is None else number[id(one)]


def _handler(handler: Optional[Handler], number: Dict[int, int]) -> Optional[Tuple[int, int, bool]]:
    return None if handler is None else (number[id(handler.target)], handler.depth, handler.lasti)

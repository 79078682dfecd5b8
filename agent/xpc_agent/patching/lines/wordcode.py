"""Bytecode to a list of instructions and back, for CPython 3.9 and 3.10, whose formats are frozen.

As `inside/instructions.py` for later versions, whose instructions these are, but for what is around them: exceptions are handled by blocks
that instructions set up, some jumps are absolute, and the table of lines is that of `Objects/lnotab_notes.txt`, in its form for 3.9
(`co_lnotab`) or for 3.10 (`co_linetable`).
"""

from __future__ import annotations

import opcode
import sys
from types import CodeType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ..inside.instructions import Instruction, UndecodableError

_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_RELATIVE, _ABSOLUTE = frozenset(opcode.hasjrel), frozenset(opcode.hasjabs)
_SIZE = 2
# What the argument of a jump counts: bytes, and from 3.10 on instructions.
_UNIT = 2 if sys.version_info >= (3, 10) else 1


def decoded(code: CodeType) -> List[Instruction]:
    """The instructions of a code object, in order. Raises `UndecodableError`."""
    raw = code.co_code
    lines = dict(_lines(code))
    found: List[Instruction] = []
    at: Dict[int, Instruction] = {}
    leads: List[Tuple[Instruction, int]] = []
    begins = high = 0
    for offset in range(0, len(raw), _SIZE):
        op, arg = raw[offset], raw[offset + 1] | high
        if op == _EXTENDED:
            high = arg << 8
            continue
        line = lines.get(begins)
        one = Instruction(op, arg, (line, line, None, None))
        one.offset, one.units = begins, (offset - begins) // _SIZE + 1
        begins, high = offset + _SIZE, 0
        if op in _RELATIVE:
            leads.append((one, begins + arg * _UNIT))
        elif op in _ABSOLUTE:
            leads.append((one, arg * _UNIT))
        found.append(one)
        at[one.offset] = one
    for one, target in leads:
        if target not in at:
            raise UndecodableError("a jump leads to no instruction")
        one.target = at[target]
    return found


def _lines(code: Any) -> Iterator[Tuple[int, Optional[int]]]:
    """The line of each offset."""
    if sys.version_info >= (3, 10):
        for start, end, line in code.co_lines():
            for offset in range(start, end, _SIZE):
                yield offset, line
        return
    starts: Dict[int, int] = {}
    offset, line = 0, code.co_firstlineno
    starts[0] = line
    for step, more in zip(code.co_lnotab[::2], code.co_lnotab[1::2]):
        offset += step
        line += more - 256 if more >= 128 else more
        starts[offset] = line
    now: Optional[int] = None
    for offset in range(0, len(code.co_code), _SIZE):
        now = starts.get(offset, now)
        yield offset, now


def _units(arg: int) -> int:
    return 1 if arg < 1 << 8 else 2 if arg < 1 << 16 else 3 if arg < 1 << 24 else 4


def encoded(instructions: Sequence[Instruction], code: CodeType, **changes: Any) -> CodeType:
    """The code object with these instructions, and with `changes` as `code.replace` takes them. Raises `UndecodableError`."""
    _place(instructions)
    raw = bytearray()
    for one in instructions:
        for number in range(one.units - 1, 0, -1):
            raw += bytes((_EXTENDED, one.arg >> 8 * number & 255))
        raw += bytes((one.op, one.arg & 255))
    table: Mapping[str, Any]
    if sys.version_info >= (3, 10):
        table = {"co_linetable": _table(instructions, code.co_firstlineno, len(raw))}
    else:
        table = {"co_lnotab": _older_table(instructions, code.co_firstlineno)}
    return code.replace(co_code=bytes(raw), **table, **changes)


def _place(instructions: Sequence[Instruction]) -> None:
    """Give each instruction its offset and each jump its argument; a longer argument moves all that follows, so until nothing grows."""
    for one in instructions:
        one.units = 1 if one.target is not None else _units(one.arg)
    grown = True
    while grown:
        grown = False
        offset = 0
        for one in instructions:
            one.offset = offset
            offset += one.units * _SIZE
        for one in instructions:
            if one.target is None:
                continue
            distance = one.target.offset - (0 if one.op in _ABSOLUTE else one.offset + one.units * _SIZE)
            if distance < 0:
                raise UndecodableError(f"{one.name} would jump in the wrong direction")
            one.arg = distance // _UNIT
            if _units(one.arg) > one.units:
                one.units = _units(one.arg)
                grown = True


def _table(instructions: Sequence[Instruction], first: int, size: int) -> bytes:
    """Of 3.10: (bytes of code, lines since the last entry) in order; -128 for no line."""
    runs: List[Tuple[int, Optional[int]]] = []
    for one in instructions:
        if not runs or runs[-1][1] != one.location[0]:
            runs.append((one.offset, one.location[0]))
    table = bytearray()
    before = first
    for (start, line), (end, _) in zip(runs, [*runs[1:], (size, None)]):
        step = end - start
        delta = -128 if line is None else line - before
        before = before if line is None else line
        if line is not None:
            while not -127 <= delta <= 127:
                part = 127 if delta > 0 else -127
                table += bytes((0, part & 255))
                delta -= part
        while step > 254:
            table += bytes((254, delta & 255))
            step -= 254
            delta = -128 if line is None else 0
        table += bytes((step, delta & 255))
    return bytes(table)


def _older_table(instructions: Sequence[Instruction], first: int) -> bytes:
    """Of 3.9: (bytes of code, lines) since the last entry, in order."""
    table = bytearray()
    offset, line = 0, first
    for one in instructions:
        now = one.location[0]
        if now is None or now == line:
            continue
        step, delta = one.offset - offset, now - line
        while step > 254:
            table += bytes((254, 0))
            step -= 254
        while not -128 <= delta <= 127:
            part = 127 if delta > 0 else -128
            table += bytes((step, part & 255))
            step, delta = 0, delta - part
        table += bytes((step, delta & 255))
        offset, line = one.offset, now
    return bytes(table)

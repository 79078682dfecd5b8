"""Bytecode to a list of instructions and back, for CPython 3.11 and later.

Rules:
- Caches and EXTENDED_ARG are no instructions here: they come and go with the encoding.
- A jump knows the instruction that it leads to, and an instruction knows its exception handler, so that others can be put between.
- Whatever is not as expected raises `UndecodableError`: nothing is guessed.
"""

from __future__ import annotations

import opcode
import sys
import types
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from .tables import NOWHERE, UNIT, Location, Region, exceptions, locations, regions

_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_JUMPS = frozenset(opcode.hasjrel)
# END_ASYNC_FOR does not jump, but from 3.14 on its argument says how far behind it its SEND is.
_BACKWARD = frozenset(op for op in _JUMPS if "BACKWARD" in opcode.opname[op] or opcode.opname[op] == "END_ASYNC_FOR")

_by_version: Any = getattr(opcode, "_inline_cache_entries", {})
# The size of the cache behind each opcode, in bytes; up to 3.12 the table is a list, and from then on by name.
_CACHES: List[int] = [
    UNIT * (_by_version.get(name, 0) if hasattr(_by_version, "get") else _by_version[op]) for op, name in enumerate(opcode.opname[:256])
]

_TOGETHER = sys.version_info >= (3, 12)
_EMPTY = [bytes(size) for size in _CACHES]


class UndecodableError(Exception):
    """The bytecode is not as expected; the message says in what."""


class Instruction:
    """One instruction. `handler` is where its exceptions go; `target`, of a jump, where that leads; then `arg` is set by the encoding."""

    __slots__ = ("arg", "handler", "location", "offset", "op", "target", "units")

    def __init__(
        self,
        op: int,
        arg: int = 0,
        location: Location = NOWHERE,
        target: Optional[Instruction] = None,
        handler: Optional[Handler] = None,
    ) -> None:
        self.op = op
        self.arg = arg
        self.location = location
        self.target = target
        self.handler = handler
        # Set by both decoding and encoding: where it begins, in bytes, and its size without the cache, in code units.
        self.offset = -1
        self.units = 1

    @property
    def name(self) -> str:
        return opcode.opname[self.op]

    @property
    def end(self) -> int:
        return self.offset + self.units * UNIT + _CACHES[self.op]


class Handler:
    """Where exceptions go, how many values stay on the stack, and whether the offset of the instruction is pushed."""

    __slots__ = ("depth", "lasti", "target")

    def __init__(self, target: Instruction, depth: int, lasti: bool) -> None:
        self.target = target
        self.depth = depth
        self.lasti = lasti

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handler):
            return NotImplemented
        return self.target is other.target and self.depth == other.depth and self.lasti == other.lasti

    def __hash__(self) -> int:
        return hash((id(self.target), self.depth, self.lasti))


def made(name: str, arg: int = 0, location: Location = NOWHERE) -> Instruction:
    """An instruction by its name. Raises `UndecodableError` where this version has none of that name."""
    op = opcode.opmap.get(name)
    if op is None:
        raise UndecodableError(f"this version has no instruction {name}")
    return Instruction(op, arg, location)


def _new(code: types.CodeType) -> Any:
    """With the attributes that came with 3.11, which the oldest supported version does not have."""
    return code


def decoded(code: types.CodeType) -> List[Instruction]:
    """The instructions of a code object, in order. Raises `UndecodableError`."""
    raw = code.co_code
    found: List[Instruction] = []
    at: Dict[int, Instruction] = {}
    leads: Dict[int, int] = {}
    where = list(_new(code).co_positions())
    offset = begins = high = 0
    while offset < len(raw):
        op, arg = raw[offset], raw[offset + 1] | high
        if op == _EXTENDED:
            high = arg << 8
            offset += UNIT
            continue
        one = Instruction(op, arg, where[begins // UNIT])
        one.offset, one.units = begins, (offset - begins) // UNIT + 1
        offset += UNIT + _CACHES[op]
        if op in _JUMPS:
            leads[begins] = offset - arg * UNIT if op in _BACKWARD else offset + arg * UNIT
        found.append(one)
        at[begins] = one
        begins, high = offset, 0
    if offset != len(raw):
        raise UndecodableError("the bytecode ends in the middle of an instruction")
    try:
        for begins, target in leads.items():
            at[begins].target = at[target]
        _handled(found, at, regions(_new(code).co_exceptiontable))
    except (KeyError, ValueError) as error:
        raise UndecodableError(f"a jump or a handler leads to no instruction: {error}") from error
    return found


def _handled(found: Sequence[Instruction], at: Dict[int, Instruction], table: Iterator[Region]) -> None:
    """Give each instruction its handler. Regions are in order and do not overlap."""
    index = last = 0
    for region in table:
        if region.start < last:
            raise UndecodableError("the exception table is not in order")
        last = region.end
        handler = Handler(at[region.target], region.depth, region.lasti)
        while index < len(found) and found[index].offset < region.start:
            index += 1
        while index < len(found) and found[index].offset < region.end:
            found[index].handler = handler
            index += 1


def _units(arg: int) -> int:
    return 1 if arg < 1 << 8 else 2 if arg < 1 << 16 else 3 if arg < 1 << 24 else 4


def encoded(instructions: Sequence[Instruction], code: types.CodeType, **changes: Any) -> types.CodeType:
    """The code object with these instructions, and with `changes` as `code.replace` takes them. Raises `UndecodableError`."""
    _place(instructions)
    raw = bytearray()
    for one in instructions:
        for number in range(one.units - 1, 0, -1):
            raw += bytes((_EXTENDED, one.arg >> 8 * number & 255))
        raw.append(one.op)
        raw.append(one.arg & 255)
        raw += _EMPTY[one.op]
    replaced: types.CodeType = _new(code).replace(
        co_code=bytes(raw),
        co_linetable=locations(_runs(instructions), code.co_firstlineno),
        co_exceptiontable=exceptions(_regions(instructions)),
        **changes,
    )
    return replaced


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
            offset += one.units * UNIT + _CACHES[one.op]
        for one in instructions:
            if one.target is None:
                continue
            distance = one.target.offset - one.end
            one.arg = (-distance if one.op in _BACKWARD else distance) // UNIT
            if one.arg < 0:
                raise UndecodableError(f"{one.name} would jump in the wrong direction")
            if _units(one.arg) > one.units:
                one.units = _units(one.arg)
                grown = True


def _runs(instructions: Sequence[Instruction]) -> Iterator[Tuple[int, Location]]:
    """Sizes in bytes and locations, from 3.12 on with neighbours of one location together: as CPython's compiler has them."""
    size, location = 0, NOWHERE
    for one in instructions:
        if one.location != location or not _TOGETHER:
            yield size, location
            size, location = 0, one.location
        size += one.end - one.offset
    yield size, location


def _regions(instructions: Sequence[Instruction]) -> Iterator[Region]:
    start: Optional[Instruction] = None
    before: Optional[Instruction] = None
    for one in instructions:
        if before is not None and before.handler is one.handler:
            pass
        elif before is None or before.handler != one.handler:
            if start is not None and start.handler is not None:
                yield _region(start, one.offset)
            start = one
        before = one
    if start is not None and before is not None and start.handler is not None:
        yield _region(start, before.end)


def _region(start: Instruction, end: int) -> Region:
    handler = start.handler
    assert handler is not None
    return Region(start.offset, end, handler.target.offset, handler.depth, handler.lasti)

"""The two tables beside the bytecode of CPython 3.11 and later: where each instruction comes from, and what handles its exceptions.

Their formats are those of CPython's `Objects/locations.md` and `Objects/exception_handling_notes.txt`. Offsets are in bytes here, and in
code units (two bytes) in the tables.
"""

from __future__ import annotations

from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

# (line, end line, column, end column), as `code.co_positions()` gives it.
Location = Tuple[Optional[int], Optional[int], Optional[int], Optional[int]]
NOWHERE: Location = (None, None, None, None)

UNIT = 2
_LONGEST = 8  # code units that one entry of the location table can be for


class Region(NamedTuple):
    """One entry of an exception table: what is raised from `start` until `end` goes to `target`."""

    start: int
    end: int
    target: int
    # How many values stay on the stack, and whether the offset of the instruction that raised is pushed.
    depth: int
    lasti: bool


def _number(value: int) -> bytes:
    """Six bits a byte, the lowest first; the bit 64 says that more follow."""
    out = bytearray()
    while value >= 64:
        out.append(64 | value & 63)
        value >>= 6
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    return _number(-value << 1 | 1 if value < 0 else value << 1)


def locations(entries: Iterable[Tuple[int, Location]], first_line: int) -> bytes:
    """A location table, of (size in bytes, location) in order. The forms are chosen as CPython's compiler does."""
    table = bytearray()
    before = first_line
    for size, location in entries:
        units = size // UNIT
        while units:
            some = min(units, _LONGEST)
            units -= some
            table += _entry(location, before, some - 1)
            before = before if location[0] is None else location[0]
    return bytes(table)


def _entry(location: Location, before: int, length: int) -> bytes:
    line, end_line, column, end_column = location
    if line is None:
        return bytes((0xF8 | length,))
    delta = line - before
    if column is None or end_column is None or end_line is None:
        return bytes((0xE8 | length,)) + _signed(delta)
    if end_line == line:
        if delta == 0 and column < 80 and 0 <= end_column - column < 16:
            return bytes((0x80 | column >> 3 << 3 | length, (column & 7) << 4 | end_column - column))
        if 0 <= delta < 3 and column < 128 and end_column < 128:
            return bytes((0xD0 + (delta << 3 | length), column, end_column))
    return bytes((0xF0 | length,)) + _signed(delta) + _number(end_line - line) + _number(column + 1) + _number(end_column + 1)


def _big_number(value: int, mark: int = 0) -> bytes:
    """Six bits a byte, the highest first; the bit 64 says that more follow. `mark` goes to the first byte."""
    digits = [value & 63]
    value >>= 6
    while value:
        digits.append(64 | value & 63)
        value >>= 6
    digits.reverse()
    digits[0] |= mark
    return bytes(digits)


def exceptions(regions: Iterable[Region]) -> bytes:
    """An exception table, of regions in order."""
    table = bytearray()
    for region in regions:
        table += _big_number(region.start // UNIT, 128) + _big_number((region.end - region.start) // UNIT)
        table += _big_number(region.target // UNIT) + _big_number(region.depth << 1 | region.lasti)
    return bytes(table)


def regions(table: bytes) -> Iterator[Region]:
    """What an exception table says, in order."""
    rest = iter(table)

    def following() -> Optional[int]:
        value = None
        for byte in rest:
            value = (value or 0) << 6 | byte & 63
            if not byte & 64:
                break
        return value

    while True:
        start = following()
        if start is None:
            return
        size, target, last = following(), following(), following()
        if size is None or target is None or last is None:
            raise ValueError("an exception table that ends in the middle of an entry")
        yield Region(start * UNIT, (start + size) * UNIT, target * UNIT, last >> 1, bool(last & 1))

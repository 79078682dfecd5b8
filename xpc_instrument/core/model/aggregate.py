"""Counts, sums, extremes and quantiles of numbers, by key: what one process counts, what many processes have counted, and the difference.

Rules:
- A cell is a list, `[count, sum, least, most, buckets, errors]`, which the thread that counts changes in place. The same five numbers and
  the buckets cross as JSON, and are added up here: adding is all that merging is, over threads, processes and time.
- A bucket holds what lies within a 32nd of an octave, so that the middle of it is at most 1.6 % off (half a bucket, 1/64 of its lower
  end). 0 has a bucket of its own, negative numbers those of their absolute values with a minus.
- What is told of a process is cumulative: an answer that is lost costs nothing. What happened in between two is the difference, of which
  the extremes are known as well as their buckets.
- Keys are atoms, of which texts are cut at 200 characters, or tuples of them. 1, 1.0 and True, which a dict takes for the same, stay apart.
"""

from __future__ import annotations

from math import frexp, isfinite, ldexp
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

Cell = List[Any]
Key = Tuple[Any, ...]

COUNT, SUM, LEAST, MOST, BUCKETS, ERRORS = range(6)

LONGEST_KEY = 200
"""Characters of a text that is a key."""

MOST_KEYS = 1_000
"""Keys that a process counts apart; all others are one, `OTHER`."""

OTHER: Key = ("other",)

# In an octave.
_PARTS = 32
# Above the exponent of the least number that there is, 2 ** -1074, so that the buckets of positive numbers are positive.
_SHIFT = 1100


def bucket_of(value: float) -> int:
    """The bucket of a number. Raises `OverflowError` for an int that no float holds, `ValueError` for what is not finite."""
    fraction, exponent = frexp(value)
    if fraction >= 0.5:
        return (exponent + _SHIFT) * _PARTS + int(fraction * 64)
    if fraction <= -0.5:
        return -((exponent + _SHIFT) * _PARTS + int(fraction * -64))
    if fraction == 0.0:
        return 0
    raise ValueError(f"{value!r} is in no bucket")


def middle_of(bucket: int) -> float:
    """The number in the middle of a bucket."""
    if not bucket:
        return 0.0
    octave, part = divmod(abs(bucket) - _PARTS, _PARTS)
    size = ldexp((part + _PARTS + 0.5) / 64, octave - _SHIFT)
    return size if bucket > 0 else -size


def octave_of(bucket: int) -> Tuple[float, float]:
    """Between which powers of two, or 0 and 0, the numbers of a bucket lie."""
    if not bucket:
        return 0.0, 0.0
    octave = abs(bucket) // _PARTS - 1 - _SHIFT
    low, high = ldexp(0.5, octave), ldexp(0.5, octave + 1) if octave < 1024 else float("inf")
    return (low, high) if bucket > 0 else (-high, -low)


def new_cell() -> Cell:
    """One that has counted nothing."""
    return [0, 0, float("inf"), float("-inf"), {}, 0]


def count(cell: Cell, value: float) -> None:
    """Count one number, as the application does. Raises as `bucket_of`, and counts nothing then."""
    bucket = bucket_of(value)
    cell[COUNT] += 1
    cell[SUM] += value
    cell[LEAST] = min(cell[LEAST], value)
    cell[MOST] = max(cell[MOST], value)
    cell[BUCKETS][bucket] = cell[BUCKETS].get(bucket, 0) + 1


def add(cell: Cell, other: Cell) -> None:
    """Add what another cell has counted."""
    cell[COUNT] += other[COUNT]
    cell[SUM] += other[SUM]
    cell[LEAST] = min(cell[LEAST], other[LEAST])
    cell[MOST] = max(cell[MOST], other[MOST])
    buckets = cell[BUCKETS]
    # At once, since the thread whose it is goes on.
    for bucket, number in other[BUCKETS].copy().items():
        buckets[bucket] = buckets.get(bucket, 0) + number
    cell[ERRORS] += other[ERRORS]


def since(now: Cell, before: Optional[Cell]) -> Cell:
    """What was counted in between two, of the same counts."""
    if before is None:
        return [*now[:BUCKETS], dict(now[BUCKETS]), now[ERRORS]]
    buckets = {bucket: number - before[BUCKETS].get(bucket, 0) for bucket, number in now[BUCKETS].items()}
    buckets = {bucket: number for bucket, number in buckets.items() if number > 0}
    least, most = float("inf"), float("-inf")
    if buckets:
        least = max(now[LEAST], middle_of(min(buckets)))
        most = min(now[MOST], middle_of(max(buckets)))
    return [max(0, now[COUNT] - before[COUNT]), now[SUM] - before[SUM], least, most, buckets, max(0, now[ERRORS] - before[ERRORS])]


def quantile(cell: Cell, part: float) -> float:
    """The number below which that part of them lies, within 1.6 %; 0 if there is none."""
    buckets = cell[BUCKETS]
    needed = part * sum(buckets.values())
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= needed:
            return float(min(max(middle_of(bucket), cell[LEAST]), cell[MOST]))
    return 0.0


def average(cell: Cell) -> float:
    """0 if there is nothing."""
    return float(cell[SUM] / cell[COUNT]) if cell[COUNT] else 0.0


def octaves(cell: Cell) -> List[Tuple[float, float, int]]:
    """How many numbers lie between which powers of two, from the least on, those of which none lies in between included."""
    counted: Dict[Tuple[float, float], int] = {}
    for bucket, number in cell[BUCKETS].items():
        bounds = octave_of(bucket)
        counted[bounds] = counted.get(bounds, 0) + number
    found = sorted(counted)
    lines: List[Tuple[float, float, int]] = []
    for index, (low, high) in enumerate(found):
        if index and 0 < lines[-1][1] < low <= lines[-1][1] * 2**40:
            while lines[-1][1] < low:
                lines.append((lines[-1][1], lines[-1][1] * 2, 0))
        lines.append((low, high, counted[low, high]))
    return lines


# keys --------------------------------------------------------------------------------------------------------------------


def key_part(value: Any) -> Any:
    """What a value counts as in a key: an atom, one that dicts confuse with another in a tuple with its kind; None if it is no atom."""
    kind = type(value)
    if kind is str:
        return value if len(value) <= LONGEST_KEY else value[:LONGEST_KEY]
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else ("text", "int beyond 64 bits")
    if kind is bool:
        return "bool", int(value)
    if kind is float:
        # One that is no number is not even equal to itself: each would be a key of its own. JSON has neither that nor infinity.
        return ("float", value) if isfinite(value) else ("text", repr(value))
    if value is None:
        return "none", 0
    return None


def shown_part(part: Any) -> Any:
    """The value that a part of a key stands for."""
    if not isinstance(part, (tuple, list)):
        return part
    kind, value = part
    return bool(value) if kind == "bool" else None if kind == "none" else value


# tables ------------------------------------------------------------------------------------------------------------------

Table = Dict[Key, Cell]


def merge(into: Table, table: Mapping[Key, Cell]) -> None:
    """Add all cells of a table."""
    for key, cell in table.items():
        mine = into.get(key)
        if mine is None:
            mine = into[key] = new_cell()
        add(mine, cell)


def to_json(table: Mapping[Key, Cell]) -> List[Any]:
    """For `from_json`. A cell that has counted nothing is left out."""
    rows = []
    for key, cell in table.items():
        # A number that has been counted has its bucket last, and this may be the thread in between.
        buckets = [number for pair in cell[BUCKETS].copy().items() for number in pair]
        if cell[COUNT]:
            rows.append([list(key), cell[COUNT], _dumped(cell[SUM]), _dumped(cell[LEAST]), _dumped(cell[MOST]), buckets, cell[ERRORS]])
    return rows


def _dumped(number: Any) -> Any:
    # What is not finite has no difference to itself: a sum may be beyond all floats, and the least and most of nothing are infinite.
    return number if number - number == 0 else repr(number)


def _loaded(number: Any) -> Any:
    return float(number) if isinstance(number, str) else number


def from_json(rows: Iterable[Sequence[Any]]) -> Table:
    """The inverse of `to_json`. Raises `ValueError` or `TypeError` for what it cannot have given."""
    table: Table = {}
    for parts, counted, total, least, most, buckets, errors in rows:
        key = tuple(tuple(part) if isinstance(part, list) else part for part in parts)
        table[key] = [counted, *map(_loaded, (total, least, most)), dict(zip(buckets[::2], buckets[1::2])), errors]
    return table

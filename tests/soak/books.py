"""The books of a soak: what became of each call, in a file that its processes map, so that what a killed one has written stays.

The application writes that a call begins, that its original runs, and how the call ended; the scripts write that a hook of theirs is called,
and that it gives an answer of its own. When a process is gone the soak reads its book, and takes nobody's word for what is in it.

Rules:
- A call is known by its number: that of the book, and its place there. The number is what the target is called with, so that originals
  and hooks know it without asking anybody.
- A record is `RECORD` bytes: how the call ended, how often its original ran, and one for each hook that there may be at a time.
- Each byte has one writer at a time: that is why nothing is lost where processes write at once, and why no lock could be left held.
- A script has a seat, and two bytes of each record belong to that seat. The next script gets the seat when this one is gone: a call knows
  its hooks from its beginning, and so no two hooks of one call have the same byte.
"""

from __future__ import annotations

import itertools
import mmap
import re
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

SEATS = 7
HOOKS_OF_A_SEAT = 2
RECORD = 2 + SEATS * HOOKS_OF_A_SEAT

# Calls that a book has room for. The file is sparse: what is not used takes no room on the disk.
_BITS = 26
_PLACES = 1 << _BITS
# Records that are read at a time.
_CHUNK = 1 << 16

# How a call ended; `REPLACED + hook` and `REPLACED_AFTERWARDS + hook` say by which hook.
UNUSED, BEGUN, ORIGINAL, CUT_SHORT = range(4)
REPLACED, REPLACED_AFTERWARDS = 32, 64

# What a script writes of a hook.
CALLED, ANSWERED, CALLED_TWICE = 1, 2, 255

_ANSWER = re.compile(r"(?:raised )?hooked (\d+) (\d+) (outright|afterwards)")


def answer_of(number: int, hook: int, how: str) -> str:
    """What a hook gives for a call: no other call, and no other hook, gives the same."""
    return f"hooked {number} {hook} {how}"


def ending_of(number: int, outcome: Any) -> int:
    """How a call ended that had this outcome, if a hook of that very call gave it; else 0."""
    text = outcome[0] if isinstance(outcome, list) and len(outcome) == 1 else outcome
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    found = _ANSWER.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) != number:
        return 0
    return (REPLACED if found[3] == "outright" else REPLACED_AFTERWARDS) + int(found[2])


class Book:
    """That of one application, and of its forked children, as the application writes it."""

    def __init__(self, folder: Path, number: int) -> None:
        path = _path(folder, number)
        with path.open("w+b") as file:
            file.truncate(_PLACES * RECORD)
            self._bytes = mmap.mmap(file.fileno(), 0)
        # In one step of C, whatever interrupts the thread.
        self._next: Callable[[], int] = itertools.count((number << _BITS) + 1).__next__

    def new(self) -> int:
        """The number of a call that is to be made."""
        return self._next()

    def begin(self, number: int) -> None:
        self._bytes[_place(number)] = BEGUN

    def ran(self, number: int) -> None:
        """The original of this call runs."""
        self._bytes[_place(number) + 1] += 1

    def has_begun(self, number: int) -> bool:
        """Whether it is under way."""
        return self._bytes[_place(number)] == BEGUN

    def end(self, number: int, ending: int) -> None:
        self._bytes[_place(number)] = ending

    def ran_so_often(self, number: int) -> int:
        """How often the original of this call has run."""
        return self._bytes[_place(number) + 1]


class Pages:
    """All books, as the hooks of one script write them."""

    def __init__(self, folder: Path, seat: int) -> None:
        self._folder = folder
        self._seat = seat
        self._books: Dict[int, mmap.mmap] = {}

    def hook(self, of_the_seat: int) -> int:
        """The number of a hook of this script, of those that it has at the same time."""
        return self._seat * HOOKS_OF_A_SEAT + of_the_seat

    def called(self, number: int, hook: int) -> None:
        book, at = self._book(number), _place(number) + 2 + hook
        book[at] = CALLED_TWICE if book[at] else CALLED

    def answers(self, number: int, hook: int) -> None:
        """The hook is about to give an answer of its own."""
        book, at = self._book(number), _place(number) + 2 + hook
        if book[at] == CALLED:
            book[at] = ANSWERED

    def _book(self, number: int) -> mmap.mmap:
        book = self._books.get(number >> _BITS)
        if book is None:
            with _path(self._folder, number >> _BITS).open("r+b") as file:
                book = mmap.mmap(file.fileno(), 0)
            # Another thread may have been faster, and its map is as good.
            book = self._books.setdefault(number >> _BITS, book)
        return book


def _path(folder: Path, number: int) -> Path:
    return folder / f"book-{number}"


def _place(number: int) -> int:
    return (number & (_PLACES - 1)) * RECORD


# reading -----------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """What a record says, for the sums: `problem` if it must not be."""

    ending: str
    hooks: int
    problem: str = ""


def read(record: bytes) -> Entry:
    """What one record says."""
    ending, originals, hooks = record[0], record[1], record[2:]
    called = sum(hook != 0 for hook in hooks)
    problem = ""
    if CALLED_TWICE in hooks:
        problem = "a hook was called twice for it"
    elif originals > 1:
        problem = f"its original ran {originals} times"
    if ending == ORIGINAL:
        return Entry("original", called, problem or ("" if originals == 1 else "it had the outcome of an original that did not run"))
    if ending == CUT_SHORT:
        return Entry("cut short", called, problem)
    if ending == BEGUN:
        return Entry("cut off", called, problem)
    if ending >= REPLACED:
        outright = ending < REPLACED_AFTERWARDS
        hook = ending - (REPLACED if outright else REPLACED_AFTERWARDS)
        if hook >= len(hooks) or hooks[hook] != ANSWERED:
            problem = problem or f"it had an answer that hook {hook} has not given"
        elif outright and originals:
            problem = problem or "it had its replacement, and its original ran"
        elif not (outright or originals or any(other == ANSWERED for at, other in enumerate(hooks) if at != hook)):
            problem = problem or "its hook answered after the original, which did not run"
        return Entry("replaced" if outright else "replaced afterwards", called, problem)
    if any(record):
        return Entry("unused", called, problem or "a call ran that nobody had made")
    return Entry("unused", 0)


class Sums:
    """What books say together."""

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        # Calls for which at least one hook was called, and how often one was.
        self.hooked = self.hooks = 0
        self.problems: List[str] = []

    @property
    def calls(self) -> int:
        return sum(self.endings.values())

    def add(self, folder: Path, number: int) -> int:
        """Read the book of an application that is gone; returns how many of its calls have no end."""
        cut_off = 0
        for record, many in _records(_path(folder, number)).items():
            entry = read(record)
            if entry.problem:
                self.problems.append(f"book {number}: {many} calls with the record {record.hex(' ', 2)}: {entry.problem}")
            if entry.ending != "unused":
                self.endings[entry.ending] += many
                self.hooked += many * (entry.hooks > 0)
                self.hooks += many * entry.hooks
            cut_off += many * (entry.ending == "cut off")
        return cut_off


def _records(path: Path) -> Dict[bytes, int]:
    """How many records of each kind there are in a book: few are different."""
    found: Counter[bytes] = Counter()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            found.update(chunk[at : at + RECORD] for at in range(0, len(chunk), RECORD))
    found.pop(bytes(RECORD), None)
    return found


def _chunks(file: Any) -> Iterator[bytes]:
    """To the first that has nothing in it: places are taken in order."""
    while True:
        chunk = file.read(_CHUNK * RECORD)
        if chunk.count(0) == len(chunk):
            return
        yield chunk


def number_in(value: Any) -> Optional[int]:
    """The number of a call by what its target was called with; None if it cannot be told, as of a value that crossed as a reference."""
    if isinstance(value, int):
        return value
    return int.from_bytes(value[:8], "big") if isinstance(value, bytes) and len(value) >= 8 else None


def with_number(number: int, data: bytes) -> bytes:
    """Data that has the number of a call in it."""
    return number.to_bytes(8, "big") + data

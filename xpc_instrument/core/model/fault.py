"""Faults, as `inject` has them: what an invocation gets in the place of the original, as a text that is plain data.

    TERMS  = TERM ["->" TERM ...]                    the first that applies
    TERM   = [P%] [N*] ACTION                        with probability P, at most N times
    ACTION = raise(TYPE [, LITERAL...]) | return(LITERAL) | sleep(TIME[..TIME]) | sleep(normal, TIME, TIME) | hang | off

Rules:
- Nothing is evaluated and nothing imported: a LITERAL is what `ast.literal_eval` takes, TYPE a built-in exception or `module:Name`, which
  the application looks up among what it has imported.
- A text is at most `LONGEST` characters with at most `MOST` terms, and is read in time in proportion to its length.
"""

from __future__ import annotations

import ast
import re
from typing import Any, List, NamedTuple, Optional, Tuple

from .errors import XpcError
from .times import TIME_FORM, parse_seconds
from .words import did_you_mean, nearest

LONGEST = 2_000
MOST = 20

FORM = "[P%] [N*] raise(TYPE, ...), return(VALUE), sleep(TIME), sleep(TIME..TIME), sleep(normal, TIME, TIME), hang or off, -> between terms"

_ACTIONS = ("raise", "return", "sleep", "hang", "off")
# Under what is counted which calls no term applied to; the others go by the number of the term.
NONE = -1

# How long one may sleep, in seconds: an hour; what is to last longer hangs.
_LONGEST_SLEEP = 3600.0

_PROBABILITY = re.compile(r"\s*(\d{1,3}(?:\.\d{1,9})?)\s*%", re.ASCII)
_COUNT = re.compile(r"\s*(\d{1,9})\s*\*", re.ASCII)
_NAME = re.compile(r"\s*([A-Za-z_]\w*)", re.ASCII)
_TYPE = re.compile(r"(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:)?[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class FaultError(XpcError, ValueError):
    """The terms of a fault cannot be read; the message has the place."""


class Term(NamedTuple):
    """One term."""

    text: str
    action: str
    """`raise`, `return`, `sleep`, `hang` or `off`."""

    probability: float = 1.0
    times: Optional[int] = None
    """How often at most; None without a bound."""

    type: str = ""
    """Of `raise`: a built-in's name, or `module:Name`."""

    values: Tuple[Any, ...] = ()
    """Of `raise` the arguments of the exception, of `return` the one value."""

    low: float = 0.0
    """Of `sleep`, in seconds; with `normal` the mean."""

    high: float = 0.0
    """Of `sleep`, in seconds; with `normal` the standard deviation."""

    normal: bool = False


def parse_terms(text: str) -> Tuple[Term, ...]:
    """The terms that a text has, in their order. Raises `FaultError`."""
    if not isinstance(text, str):
        raise FaultError(f"expected the terms of a fault as a text, got {text!r:.80}: {FORM}")
    if len(text) > LONGEST:
        raise FaultError(f"the terms have {len(text):,} characters; expected at most {LONGEST:,}")
    reader = _Reader(text)
    terms = [reader.term()]
    while reader.rest().strip():
        if not reader.takes("->"):
            raise reader.mistake('expected "->" or the end')
        if len(terms) == MOST:
            raise reader.mistake(f"expected at most {MOST} terms")
        terms.append(reader.term())
    return tuple(terms)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rest(self) -> str:
        return self._text[self._at :]

    def mistake(self, what: str) -> FaultError:
        """An error at this place, with a caret below it."""
        skipped = len(self.rest()) - len(self.rest().lstrip())
        place = min(self._at + skipped, len(self._text))
        begin, end = max(0, place - 60), place + 60
        shown = "".join(one if one.isprintable() else "?" for one in self._text[begin:end])
        return FaultError(f"the terms of the fault: {what}\n    {shown}\n    {' ' * (place - begin)}^\n    expected {FORM}")

    def takes(self, word: str) -> bool:
        """Whether it goes on with that, which is skipped then."""
        rest = self.rest()
        blank = len(rest) - len(rest.lstrip())
        if not rest.startswith(word, blank):
            return False
        self._at += blank + len(word)
        return True

    def term(self) -> Term:
        begin = self._at
        probability, count = 1.0, None
        match = _PROBABILITY.match(self._text, self._at)
        if match:
            probability = float(match[1]) / 100
            if not 0 < probability <= 1:
                raise self.mistake("expected a probability above 0 % and up to 100 %")
            self._at = match.end()
        match = _COUNT.match(self._text, self._at)
        if match:
            count = int(match[1])
            if not count:
                raise self.mistake("expected a number of times from 1 on")
            self._at = match.end()
        match = _NAME.match(self._text, self._at)
        action = match[1] if match else ""
        if match is None or action not in _ACTIONS:
            near = nearest(action, _ACTIONS) if action else None
            raise self.mistake(f"expected raise, return, sleep, hang or off{did_you_mean(near)}")
        self._at = match.end()
        made = Term("", action, probability, count)
        if action == "raise":
            made = self._raise(made)
        elif action == "return":
            made = made._replace(values=(self._literal(self._one(self._arguments())),))
        elif action == "sleep":
            made = self._sleep(made)
        return made._replace(text=self._text[begin : self._at].strip())

    def _raise(self, made: Term) -> Term:
        pieces = self._arguments()
        if not _TYPE.fullmatch(pieces[0]):
            raise self.mistake("raise: expected the name of an exception first, such as TimeoutError or shop.bank:Declined")
        return made._replace(type=pieces[0], values=tuple(self._literal(piece) for piece in pieces[1:]))

    def _sleep(self, made: Term) -> Term:
        pieces = self._arguments()
        if pieces[0] == "normal":
            if len(pieces) != 3:
                raise self.mistake("sleep: expected the mean and the deviation, such as sleep(normal, 100ms, 20ms)")
            return made._replace(low=self._seconds(pieces[1]), high=self._seconds(pieces[2]), normal=True)
        low, dots, high = self._one(pieces).partition("..")
        first = self._seconds(low.strip())
        last = self._seconds(high.strip()) if dots else first
        if last < first:
            raise self.mistake("sleep: expected the shorter time first")
        return made._replace(low=first, high=last)

    def _one(self, pieces: List[str]) -> str:
        if len(pieces) != 1:
            raise self.mistake(f"expected one value, found {len(pieces)}")
        return pieces[0]

    def _seconds(self, text: str) -> float:
        seconds = parse_seconds(text)
        if seconds is None or seconds > _LONGEST_SLEEP:
            raise self.mistake(f"sleep: expected {TIME_FORM}, and at most 1h; found {text[:40]!r}")
        return seconds

    def _literal(self, text: str) -> Any:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise self.mistake(f"expected a Python literal, such as 1, 'text', None or {{'ok': False}}; found {text[:60]!r}") from None

    def _arguments(self) -> List[str]:
        """What stands in the parentheses that come now, split at its commas; those within brackets and quotes are left alone."""
        if not self.takes("("):
            raise self.mistake('expected "("')
        pieces, depth, quote, begin, at = [], 0, "", self._at, self._at
        while at < len(self._text):
            one = self._text[at]
            if quote:
                at += one == "\\"
                quote = "" if one == quote else quote
            elif one in "'\"":
                quote = one
            elif one in "([{":
                depth += 1
            elif one in ")]}":
                if not depth:
                    break
                depth -= 1
            elif one == "," and not depth:
                pieces.append(self._text[begin:at].strip())
                begin = at + 1
            at += 1
        if at >= len(self._text) or self._text[at] != ")":
            raise self.mistake('expected ")"')
        pieces.append(self._text[begin:at].strip())
        if not all(pieces):
            raise self.mistake("there is nothing where a value is expected")
        self._at = at + 1
        return pieces

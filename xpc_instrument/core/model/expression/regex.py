"""Regular expressions whose search ends soon, whatever the text is.

Python's matcher tries one way after the other, holds the interpreter while it does, and has no time limit: `(a+)+$` on thirty letters
takes minutes. So what can be tried is counted before: each part that may match in several ways multiplies the steps, one without an upper
bound by the length of the text. From that follows how long a text may be.

Rules:
- A repetition of what may itself match in several ways is refused, and so are references and lookarounds.
- The steps for the longest text stay under `MOST_STEPS`, which takes some milliseconds; a text that is longer is refused when it comes.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Callable, Tuple

from ..errors import ExpressionError

try:
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:
    import sre_parse as parser

# At 1 to 3 ns each.
MOST_STEPS = 2_000_000
MOST_TEXT = 10_000
# An expression that can look at no more characters is of no use.
_LEAST_TEXT = 50
_MOST_WIDTH = 1000
# With IGNORECASE `re` looks at each character of a range when it compiles.
_MOST_RANGE = 512
# More of a repetition is as good as no bound.
_BOUNDED = 100

_ALLOWED = "literals, classes, groups, alternatives, * + ? {m,n} of what matches in one way, ^ $ \\b"
_SINGLE = frozenset(("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"))


def _refuse(why: str) -> ExpressionError:
    return ExpressionError(f"this regular expression {why}", allowed=_ALLOWED)


@functools.lru_cache(maxsize=128)
def prepared(pattern: str) -> Tuple[Callable[[str], Any], int]:
    """The search of a pattern, and for texts of how many characters. Raises `ExpressionError`."""
    try:
        parsed = _parsed(pattern)
    except (re.error, OverflowError, RecursionError, MemoryError, ValueError) as error:
        raise _refuse(f"cannot be read: {error}") from None
    if parsed.getwidth()[0] > _MOST_WIDTH:
        raise _refuse(f"matches no text under {_MOST_WIDTH} characters")
    flags = parsed.state.flags
    ignoring = bool(flags & re.IGNORECASE)
    fixed, unbounded = _ways(parsed, ignoring)
    if not _is_anchored(parsed, flags):
        # It is tried from each place.
        unbounded += 1
    # The steps behind each way are those of the text that is left.
    most = MOST_TEXT if not unbounded else int((MOST_STEPS / fixed) ** (1 / unbounded))
    if fixed > MOST_STEPS or most < _LEAST_TEXT:
        raise _refuse("may try too many ways to match")
    return re.compile(pattern).search, min(most, MOST_TEXT)


def _parsed(pattern: str) -> Any:
    # Whatever it warns of is a matter of taste, as of possible sets in a future version; that of its own name is ours.
    if "[[" in pattern or "--" in pattern or "&&" in pattern or "~~" in pattern or "||" in pattern:
        raise re.error("it has [[, --, &&, ~~ or ||, whose meaning is to change; a backslash before the second makes it a plain character")
    return parser.parse(pattern)


def _ways(parsed: Any, ignoring: bool) -> Tuple[int, int]:
    """In how many ways it may match at one place: a factor, and how often the length of the text is one more."""
    fixed, unbounded = 1, 0
    for operator, argument in parsed:
        name = str(operator)
        if name in _SINGLE:
            if name == "IN" and ignoring and any(str(kind) == "RANGE" and value[1] - value[0] > _MOST_RANGE for kind, value in argument):
                raise _refuse("has a wide range of characters and ignores case")
            continue
        if name == "SUBPATTERN":
            ways = _ways(argument[3], ignoring or bool(argument[1] & re.IGNORECASE))
        elif name == "BRANCH":
            several = [_ways(one, ignoring) for one in argument[1]]
            ways = sum(one[0] for one in several), max(one[1] for one in several)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            if _ways(inner, ignoring) != (1, 0):
                raise _refuse("repeats what may match in several ways")
            ways = (1, 0) if least == most else (1, 1) if int(most) > _BOUNDED else (int(most) - least + 1, 0)
        else:
            raise _refuse(f"has a {name.lower().replace('_', ' ')}")
        fixed, unbounded = fixed * ways[0], unbounded + ways[1]
        if fixed > MOST_STEPS:
            raise _refuse("may try too many ways to match")
    return fixed, unbounded


def _is_anchored(parsed: Any, flags: int) -> bool:
    """Whether it is tried at the beginning of the text only."""
    first = parsed[0] if len(parsed) else None
    if first is None or str(first[0]) != "AT":
        return False
    return str(first[1]) == "AT_BEGINNING_STRING" or (str(first[1]) == "AT_BEGINNING" and not flags & re.MULTILINE)

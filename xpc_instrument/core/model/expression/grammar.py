"""What an expression may say: its text is read, and what is not allowed is refused with the place, what was seen and what is allowed.

Rules:
- The length of the text, and how deep it nests, are looked at before Python's own parser gets it; the number of its nodes right after.
- Nothing warns: the application may have made errors of warnings, or may show them. What Python would warn of (a backslash that means
  nothing, a number that runs into a word) is written out, or refused, before.
- An expression is one line.
- Nothing is imported when one is read: that may be while a lock is held.
"""

from __future__ import annotations

import ast
import re
from typing import Any, Iterator, List, NoReturn, Tuple

from ..errors import ExpressionError
from ..words import did_you_mean

OFF, OBSERVE, TRUSTED = "off", "observe", "trusted"
LEVELS = (OFF, OBSERVE, TRUSTED)

# Datadog and the like take conditions of a few hundred characters; what is longer is a program.
MOST_CHARACTERS = 1000
MOST_NODES = 200
# Of what is generated, each level nests up to five brackets; Python's tokenizer takes 200.
MOST_NESTED = 30
# Of brackets and of operators in front of each other in the text, which Python's parser takes one by one: it recurses in C.
_MOST_OPEN = 50

_STRING = re.compile(r"""([A-Za-z]*)('''|\"\"\"|'|\")""")
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:[0-9][0-9_]*)?\.?[0-9][0-9_]*\.?(?:[eE][+-]?[0-9_]+)?[jJ]?)")
_PREFIXES = re.compile(rf"(?:[-+~]\s*|not\b\s*){{{_MOST_OPEN},}}")
# What may follow a backslash in a text that is no raw one.
_ESCAPES = "\\'\"abfnrtv01234567x"
_ESCAPES_OF_STR = _ESCAPES + "NuU"


def refuse(text: str, offset: int, seen: str, allowed: str = "", nearest: Any = None) -> NoReturn:
    """Raise `ExpressionError`; `offset` is the place in the text, in characters."""
    raise ExpressionError(
        _message(text, offset, seen, allowed, nearest), text=text, offset=offset, seen=seen, allowed=allowed, nearest=nearest
    )


def _message(text: str, offset: int, seen: str, allowed: str, near: Any) -> str:
    # Of a long text the part around the place.
    start = max(0, offset - 60) if len(text) > 100 else 0
    shown = text[start : start + 100]
    line = "".join(one if one.isprintable() else "?" for one in shown)
    expected = f"; allowed: {allowed}" if allowed else ""
    hint = did_you_mean(None if near is None else repr(near))
    return f"{seen}{expected}{hint}\n  {line}\n  {' ' * (offset - start)}^"


def parse_text(text: str, level: str) -> ast.expr:
    """The tree of an expression. Raises `ExpressionError`."""
    if level == OFF:
        refuse(text if isinstance(text, str) else "", 0, 'the config of the application does not allow expressions (expressions = "off")')
    if not isinstance(text, str) or not text.strip():
        refuse(text if isinstance(text, str) else "", 0, "an expression is a text that is not empty")
    if len(text) > MOST_CHARACTERS:
        refuse(text, MOST_CHARACTERS, f"an expression of {len(text)} characters", f"up to {MOST_CHARACTERS}")
    for place, one in enumerate(text):
        if one in "\n\r\f\0" or "\ud800" <= one <= "\udfff":
            refuse(text, place, f"the character {one!r}", "one line of printable text")
    written, doubled = _without_warnings(text)
    start = len(written) - len(written.lstrip())

    def place_of(column: int) -> int:
        place = column + start
        return min(place - sum(one < place for one in doubled), len(text))

    try:
        tree = ast.parse(written.strip(), mode="eval").body
    except SyntaxError as error:
        refuse(text, place_of(max(0, (error.offset or 1) - 1)), f"this is no Python expression: {error.msg}")
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        refuse(text, 0, f"Python cannot read it: {error or type(error).__name__}")
    source = written.strip().encode()
    for node in walk(tree):
        # Columns count bytes of UTF-8, from the first character that is no space.
        column = getattr(node, "col_offset", None)
        if column is not None:
            node.col_offset = place_of(len(source[:column].decode(errors="replace")))  # type: ignore[attr-defined]
    _check_size(text, tree)
    return tree


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree. `ast.walk` has an import statement."""
    waiting = [tree]
    for node in waiting:
        waiting += ast.iter_child_nodes(node)
        yield node


def _check_size(text: str, tree: ast.expr) -> None:
    waiting: List[Tuple[ast.AST, int]] = [(tree, 1)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)):
            continue
        count += 1
        if count > MOST_NODES:
            refuse(text, 0, f"an expression of more than {MOST_NODES} parts", "a shorter one")
        if depth > MOST_NESTED:
            refuse(text, getattr(node, "col_offset", 0), f"parts that nest more than {MOST_NESTED} levels", "a flatter expression")
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]


def _without_warnings(text: str) -> Tuple[str, List[int]]:
    """The same expression, of which Python does not warn, and the places in it of the backslashes that the text does not have."""
    found = _PREFIXES.search(text)
    if found is not None:
        refuse(text, found.start(), "operators in front of each other", f"up to {_MOST_OPEN}")
    parts: List[str] = []
    doubled: List[int] = []
    place = depth = 0
    while place < len(text):
        one = text[place]
        if one == "#":
            refuse(text, place, "a comment", "an expression alone")
        depth += (one in "([{") - (one in ")]}")
        if depth > _MOST_OPEN:
            refuse(text, place, f"more than {_MOST_OPEN} brackets that are open", "a flatter expression")
        string = _STRING.match(text, place)
        if string is not None:
            written, place = _string(text, string.end(), string.group(1).lower(), string.group(2), doubled)
            parts.append(string.group() + written)
            continue
        if one.isalpha() or one == "_":
            end = place
            while end < len(text) and (text[end].isalnum() or text[end] == "_"):
                end += 1
        else:
            number = _NUMBER.match(text, place) if one.isdigit() or one == "." else None
            end = place + 1 if number is None else number.end()
            if number is not None and end < len(text) and (text[end].isalpha() or text[end] == "_"):
                refuse(text, end, f"a number that runs into {text[end]!r}", "a space between them")
        parts.append(text[place:end])
        place = end
    return "".join(parts), doubled


def _string(text: str, place: int, prefix: str, quote: str, doubled: List[int]) -> Tuple[str, int]:
    """The rest of a string literal with its closing quote, each backslash that means nothing doubled; and the place behind it."""
    parts: List[str] = []
    escapes = _ESCAPES if "b" in prefix else _ESCAPES_OF_STR
    while place < len(text):
        if text.startswith(quote, place):
            return "".join(parts) + quote, place + len(quote)
        one = text[place]
        if one != "\\":
            parts.append(one)
            place += 1
            continue
        after = text[place + 1 : place + 2]
        if "r" not in prefix and after not in escapes:
            parts.append("\\")
            doubled.append(place + len(doubled))
        if "r" not in prefix and re.match(r"[4-7][0-7][0-7]", text[place + 1 : place + 4]):
            refuse(text, place, "an octal escape above 377", "\\x, \\u or the character itself")
        parts.append(text[place : place + 2])
        place += 2
    # Not closed: Python says so.
    return "".join(parts), place

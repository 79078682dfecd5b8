"""Templates: text with `{EXPR}`, `{EXPR!r}` and `{EXPR:.80}` in it, as an f-string has it.

Rules:
- The application evaluates the expressions; the script formats what they gave. So nothing of the application's is formatted in it.
- `{{` and `}}` are braces. An expression that has braces, or a colon outside of brackets, stands in brackets.
- A format is that of Python for numbers and texts; a value that is neither is shown as text first. Widths go up to 1,000.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, Union

from .expression import Expression, parse
from .grammar import MOST_CHARACTERS, OBSERVE, refuse

_MOST_WIDTH = 1000
_SPEC = re.compile(r"(?:.?[<>=^])?[-+ ]?z?#?0?(\d+)?[_,]?(?:\.(\d+))?[a-zA-Z%]?")
_NUMBERS = (bool, int, float)


class Field:
    """One `{...}`."""

    __slots__ = ("conversion", "expression", "spec")

    def __init__(self, expression: Expression, conversion: str, spec: str) -> None:
        self.expression = expression
        self.conversion = conversion
        self.spec = spec

    def format(self, value: Any) -> str:
        """The text of its value."""
        if type(value) in _NUMBERS and not self.conversion:
            shown: Any = value
        elif self.conversion in ("r", "a"):
            shown = ascii(value) if self.conversion == "a" else repr(value)
        else:
            shown = str(value)
        try:
            return format(shown, self.spec)
        except (ValueError, TypeError):
            # It is for another type than the value has in this call.
            return str(shown)


class Template:
    """What `parse_template` gives: `expressions` in the order in which `format` takes their values."""

    __slots__ = ("_parts", "expressions", "names", "text")

    def __init__(self, text: str, parts: Sequence[Union[str, Field]]) -> None:
        self.text = text
        self._parts = tuple(parts)
        self.expressions: Tuple[Expression, ...] = tuple(part.expression for part in parts if isinstance(part, Field))
        self.names = frozenset().union(*(one.names for one in self.expressions))

    def check_names(self, known: Iterable[str]) -> None:
        """Raise `ExpressionError` for the first name that is none of `known`."""
        known = tuple(known)
        for one in self.expressions:
            one.check_names(known)

    def format(self, values: Sequence[Any]) -> str:
        """The text, with one value for each expression: an atom, or what has texts of its own."""
        left = iter(values)
        return "".join(part if isinstance(part, str) else part.format(next(left)) for part in self._parts)


def parse_template(text: str, level: str = OBSERVE) -> Template:
    """Read and check a template. Raises `ExpressionError`."""
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        refuse("", 0, "a template that is no text, or a long one", f"a text up to {MOST_CHARACTERS} characters")
    parts: List[Union[str, Field]] = []
    place = 0
    while place < len(text):
        one = text[place]
        if text[place : place + 2] in ("{{", "}}"):
            parts.append(one)
            place += 2
        elif one == "}":
            refuse(text, place, "a closing brace without an opening one", "}} for a brace")
        elif one == "{":
            field, place = _field(text, place, lambda expression: parse(expression, level))
            parts.append(field)
        else:
            end = min((at for at in (text.find("{", place), text.find("}", place)) if at >= 0), default=len(text))
            parts.append(text[place:end])
            place = end
    return Template(text, parts)


def _field(text: str, start: int, read: Callable[[str], Expression]) -> Tuple[Field, int]:
    end = _end_of_expression(text, start + 1)
    source, conversion, spec = text[start + 1 : end], "", ""
    if text.startswith("!", end):
        conversion = text[end + 1 : end + 2]
        if conversion not in ("r", "s", "a") or text[end + 2 : end + 3] not in (":", "}"):
            refuse(text, end, f"the conversion {text[end : end + 2]!r}", "!r, !s, !a")
        end += 2
    if text.startswith(":", end):
        close = text.find("}", end)
        spec, end = text[end + 1 : close], close
        _check_spec(text, end, spec)
    if not text.startswith("}", end) or end < 0:
        refuse(text, start, "a brace that is not closed", "{EXPR}, {EXPR!r}, {EXPR:.80}; {{ for a brace")
    return Field(read(source), conversion, spec), end + 1


def _check_spec(text: str, place: int, spec: str) -> None:
    found = _SPEC.fullmatch(spec)
    if found is None or any(int(one[:9]) > _MOST_WIDTH for one in found.groups() if one):
        refuse(text, max(0, place - len(spec)), f"the format {spec!r:.40}", f"one of Python's, as .80 or >10.2f, up to {_MOST_WIDTH} wide")


def _end_of_expression(text: str, place: int) -> int:
    """The place of what ends an expression: `}`, `!r` or `:`, outside of texts and brackets."""
    depth = 0
    quote: Optional[str] = None
    while place < len(text):
        one = text[place]
        if quote is not None:
            place += one == "\\"
            quote = None if one == quote else quote
        elif one in "'\"":
            quote = one
        elif one in "([{":
            depth += 1
        elif depth and one in ")]}":
            depth -= 1
        elif not depth and (one in "}:" or (one == "!" and not text.startswith("!=", place))):
            return place
        place += 1
    return len(text)

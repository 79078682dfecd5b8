"""Words of error messages: what a user wrote, quoted, and the nearest thing that would have been right; what a peer wrote, on one line.

difflib is imported when it is needed, so that an application's start-up does not pay for it; by `load_matching` for those who ask while
they hold a lock, as an import may wait for others.
"""

from __future__ import annotations

import json
import re
from codecs import unicode_escape_encode
from typing import Any, Iterable, List, Optional


def quoted(text: str, bare: bool = False) -> str:
    """`text` in double quotes, on one line, shortened; `bare` leaves plain keys without quotes."""
    if bare and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", text):
        return text
    return json.dumps(text if len(text) <= 100 else f"{text[:100]}...", ensure_ascii=not text.isprintable())


# Of what the other side of a connection says a line of the log has so many characters.
SHOWN = 200


def one_line(text: str, most: int = SHOWN) -> str:
    """`text` as a part of a line: what is no printable character is escaped, and at the end of what is longer than `most` stands "..."."""
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join(one if one.isprintable() else unicode_escape_encode(one)[0].decode() for one in shown)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def counted(number: int, one: str, several: str = "") -> str:
    """`1 lane`, `2 lanes`; `several` is the plural where that is not `one` and an s."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def with_article(noun: str) -> str:
    """`a list`, `an async_generator`."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def did_you_mean(hint: Optional[str]) -> str:
    """The end of a message: the nearest valid thing, if there is one."""
    return f"; did you mean {hint}?" if hint else ""


def nearest(word: str, words: Iterable[str]) -> Optional[str]:
    """The one of `words` that is most like `word`; None if none is like it."""
    return next(iter(nearest_few(word, words, 1)), None)


def nearest_few(word: str, words: Iterable[str], count: int = 3, cutoff: float = 0.6) -> List[str]:
    """Up to `count` of `words` that are like `word`, the most like it first."""
    load_matching()
    found: List[str] = _get_close_matches(word[:100], list(words), count, cutoff)
    return found


_get_close_matches: Any = None


def load_matching() -> None:
    """Import what `nearest` and `nearest_few` need, if that has not been done."""
    global _get_close_matches
    if _get_close_matches is None:
        from difflib import get_close_matches

        _get_close_matches = get_close_matches

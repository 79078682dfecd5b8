"""Words of error messages: what a user wrote, quoted, and the nearest thing that would have been right.

difflib is imported when it is needed, so that an application's start-up does not pay for it.
"""

from __future__ import annotations

import json
import re
from typing import Iterable, List, Optional


def quoted(text: str, bare: bool = False) -> str:
    """`text` in double quotes, on one line, shortened; `bare` leaves plain keys without quotes."""
    if bare and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", text):
        return text
    return json.dumps(text if len(text) <= 100 else f"{text[:100]}...", ensure_ascii=not text.isprintable())


def did_you_mean(hint: Optional[str]) -> str:
    """The end of a message: the nearest valid thing, if there is one."""
    return f"; did you mean {hint}?" if hint else ""


def nearest(word: str, words: Iterable[str]) -> Optional[str]:
    """The one of `words` that is most like `word`; None if none is like it."""
    return next(iter(nearest_few(word, words, 1)), None)


def nearest_few(word: str, words: Iterable[str], count: int) -> List[str]:
    """Up to `count` of `words` that are like `word`, the most like it first."""
    import difflib

    return difflib.get_close_matches(word[:100], list(words), count)

"""How far Hypothesis searches: whole on some interpreters, and a part of it on the others, which run the same Python code.

A search of pure Python finds on one interpreter what it finds on another. The whole is made by `dev.py test`, and in the matrix by the oldest
and the newest version; those between them, which leave out the tests marked `long`, and Pyodide, which is three times as slow, make a part.
"""

from __future__ import annotations

import sys

_PART = 5

_only_a_part = sys.platform == "emscripten"


def search_a_part() -> None:
    """Have `examples` give fewer from here on: called before the tests are imported."""
    global _only_a_part
    _only_a_part = True


def examples(number: int) -> int:
    """How many examples to try here, of as many as the whole search has."""
    return max(10, number // _PART) if _only_a_part else number

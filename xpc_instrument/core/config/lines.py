"""TOML: the parser, and the lines on which its keys stand, which parsers do not tell.

`key_lines` is a second pass over text that a parser has accepted, so it need not check anything.
"""

from __future__ import annotations

import bisect
import re
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..model.errors import ConfigError
from .rules import KeyPath


def parser(source: str) -> Any:
    """The TOML parser: `tomllib`, or `tomli` before Python 3.11."""
    import importlib

    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return importlib.import_module(name)
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise ConfigError(
            f"{source}: cannot be read, since this Python {version} ({sys.executable}) has no module {name}; "
            f"install tomli there (pip install tomli), or give the targets with --probe instead of a file"
        ) from None


_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*("(?:\\.|[^"\\])*"|'[^']*'|[^\s.=\[\]{}#,"']+)[ \t]*""")
_SCALAR = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*'|[^,\]}#\n]+''', re.DOTALL
)  # a multi-line string may end in one or two quotes of its own, hence {3,5}


def key_lines(text: str) -> Dict[KeyPath, int]:
    """The line, from 1, of every key, table and array item in TOML that a parser has accepted.

    A path is made of keys and, for items of arrays and arrays of tables, indexes: `("probe", 1, "allow", 0)`.
    """
    toml = parser("<config>")
    newlines = [match.start() for match in re.finditer("\n", text)]
    lines: Dict[KeyPath, int] = {}
    sizes: Dict[KeyPath, int] = {}  # arrays of tables -> their tables so far
    table: KeyPath = ()
    # The arrays and inline tables around `position`, each with the index of its current item, or None for a table. A
    # list instead of recursion: parsers accept deeper nesting than is left of the interpreter's recursion limit.
    around: List[Tuple[KeyPath, Optional[int]]] = []

    def keys(position: int) -> Tuple[List[str], int]:
        found = []
        while True:
            match = _KEY.match(text, position)
            if match is None:
                raise AssertionError(f"no key at offset {position} of accepted TOML")
            found.append(toml.loads(f"k = {match[1]}")["k"] if match[1][0] in "\"'" else match[1])
            position = match.end()
            if text[position] != ".":
                return found, position
            position += 1

    def record(base: KeyPath, names: Sequence[str], position: int) -> KeyPath:
        for name in names:
            # A name of an array of tables means its newest table.
            base = (*base, sizes[base] - 1, name) if base in sizes else (*base, name)
            lines.setdefault(base, bisect.bisect_left(newlines, position) + 1)
        return base

    position = 0
    while True:
        blank = _BLANK.match(text, position)
        position = position if blank is None else blank.end()
        if position >= len(text):
            return lines
        mark = text[position]
        if not around and mark == "[":
            double = text.startswith("[[", position)
            names, end = keys(position + 1 + double)
            table = record((), names, position)
            if double:
                sizes[table] = sizes.get(table, 0) + 1
                table = (*table, sizes[table] - 1)
                lines.setdefault(table, bisect.bisect_left(newlines, position) + 1)
            position = end + 1 + double
            continue
        if around and mark in ",]}":
            path, index = around.pop()
            if mark == ",":
                around.append((path, None if index is None else index + 1))
            position += 1
            continue
        if around and around[-1][1] is not None:
            path = (*around[-1][0], around[-1][1])
            lines[path] = bisect.bisect_left(newlines, position) + 1
        else:
            names, end = keys(position)
            path = record(around[-1][0] if around else table, names, position)
            blank = _BLANK.match(text, end + 1)  # past the "="
            position = end + 1 if blank is None else blank.end()
        if text[position] in "[{":
            around.append((path, 0 if text[position] == "[" else None))
            position += 1
        else:
            scalar = _SCALAR.match(text, position)
            if scalar is None:
                raise AssertionError(f"no value at offset {position} of accepted TOML")
            position = scalar.end()

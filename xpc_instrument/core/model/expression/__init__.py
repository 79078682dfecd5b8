"""Expressions: Python syntax, evaluated in the application, of which none runs code of the application.

`grammar.py` says what may stand there, `compiler.py` makes a function of it, `guards.py` and `attributes.py` are what that function calls,
`regex.py` and `template.py` are parts of the language. docs/expressions.md is what users read of it.

Rules:
- An expression is checked where it is written, in the script, and again in the application: what comes over the wire is text.
- At the level "observe" the rules of `grammar.py` hold; "trusted" is any Python expression, and for applications whose config says so.
- What is shown of an expression hides secrets as a capture does: by the names that it reads, the keys of dicts among them, whatever is
  made of them. A condition may ask for anything, since it only says yes or no.
- Which names there are is known in the application only (`Expression.check_names`); a parameter wins over a name of ours.
"""

from __future__ import annotations

from .expression import AT_END, WORDS, Expression, parse
from .grammar import LEVELS, OBSERVE, OFF, TRUSTED
from .refusals import Hidden, TooMuch, WouldRunCode
from .template import Template, parse_template

__all__ = [
    "AT_END",
    "LEVELS",
    "OBSERVE",
    "OFF",
    "TRUSTED",
    "WORDS",
    "Expression",
    "Hidden",
    "Template",
    "TooMuch",
    "WouldRunCode",
    "parse",
    "parse_template",
]

"""Patterns that stand for functions: what may be hooked on demand, and what is searched for.

Rules:
- `*` stands for one name, or a part of one; `**` for any number of names with the dots between them: `shop.**` is all below `shop` and the
  module `shop` itself, `shop.*` the modules right below it, `shop.**:*charge*` what has `charge` in its name.
- Without a colon a pattern names modules, and stands for all that they define.
"""

from __future__ import annotations

import re
from typing import Optional, Tuple

from .words import quoted

PATTERN_FORM = '"package.**", "package.module:*" or "package.**:*charge*"'

_PART = re.compile(r"[\w*]+")


def pattern_mistake(text: str) -> Optional[str]:
    """What is wrong with a pattern, in words; None if nothing is."""
    if not text.isprintable() or " " in text:
        return f"there is white space or a control character in it; expected {PATTERN_FORM}"
    module, colon, name = text.partition(":")
    if not module or (colon and not name) or ":" in name:
        return f"expected a module, or a module and a name with one ':' between them, such as {PATTERN_FORM}"
    for part in (*module.split("."), *(name.split(".") if colon else ())):
        if not _PART.fullmatch(part) or not part.replace("*", "_").isidentifier():
            problem = f"{quoted(part)} is no identifier" if part else "there is an empty part next to a '.' in it"
            return f"{problem}; expected {PATTERN_FORM}"
    return None


class Pattern:
    """A pattern that is valid (`pattern_mistake`), ready to be asked often."""

    __slots__ = ("_module", "_name", "_special", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        module, _, name = text.partition(":")
        self._special = name.rpartition(".")[2].startswith("__")
        self._module = re.compile(_regex(module))
        self._name = re.compile(_regex(name or "**"))

    def matches_module(self, module: str) -> bool:
        """Whether functions of a module may be meant."""
        return self._module.fullmatch(module) is not None

    def matches(self, module: str, name: str) -> bool:
        """Whether `module:name` is meant."""
        return self.matches_module(module) and self._name.fullmatch(name) is not None

    def hooks(self, module: str, name: str) -> bool:
        """Whether a hook on the pattern goes on `module:name`; on special methods only if the pattern's last part begins with `__`."""
        last = name.rpartition(".")[2]
        if last.startswith("__") and last.endswith("__") and not self._special:
            return False
        return self.matches(module, name)

    @property
    def package(self) -> str:
        """The modules that it is about: the names in front of the first star."""
        module = self.text.partition(":")[0]
        return module.partition("*")[0].rpartition(".")[0] if "*" in module else module


def compiled(texts: Tuple[str, ...]) -> Tuple[Pattern, ...]:
    """Patterns of several texts."""
    return tuple(map(Pattern, texts))


def _regex(text: str) -> str:
    found = "".join(".*" if one == "**" else "[^.]*" if one == "*" else re.escape(one) for one in re.split(r"(\*\*+|\*)", text) if one)
    # `shop.**` is `shop` too.
    return found[: -len(r"\..*")] + r"(?:\..*)?" if found.endswith(r"\..*") and found != r"\..*" else found

"""The four modes of a hook, and registry names that carry one, such as `before:shop.checkout:charge`."""

from __future__ import annotations

import enum
from typing import Tuple


class Mode(str, enum.Enum):
    """When a hook is called, relative to the original."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"
    INSTEAD = "instead"

    def __str__(self) -> str:
        return self.value


_PREFIXES = {mode.value: mode for mode in Mode}


def is_target(name: str) -> bool:
    """Whether a registry name means a probe point: `module:Qualified.name`, with or without a mode in front."""
    return ":" in name


def split_name(name: str) -> Tuple[Mode, str]:
    """The (mode, target) that a registry name means; a bare target means `instead`."""
    prefix, colon, rest = name.partition(":")
    if colon and ":" in rest and prefix in _PREFIXES:
        return _PREFIXES[prefix], rest
    return Mode.INSTEAD, name


def join_name(mode: Mode, target: str) -> str:
    """The registry name of a hook in `mode` on `target`; the inverse of `split_name`."""
    return f"{mode.value}:{target}"

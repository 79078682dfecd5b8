"""Which functions of the imported modules a pattern stands for, as `ls APP PATTERN` shows them. Nothing is imported, and no code runs."""

from __future__ import annotations

import types
from typing import Any, Dict, List

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.pattern import Pattern, pattern_mistake

from ..late import is_ours
from ..points.on_demand import why_nothing
from ..points.table import ProbeTable
from ..targets.glob import functions_of
from ..targets.module import find_module, is_initializing, names_of_modules
from ..targets.raw import is_a
from ..targets.resolve import Resolved, resolve
from ..targets.signature import signature_spec

# Targets in one answer; the rest is counted.
MOST = 1_000


def search(text: str, table: ProbeTable) -> Dict[str, Any]:
    """`targets`, sorted, each with where it is defined, its parameters and whether it can be hooked, and `more`, how many were left out;
    `why-nothing` says what the nearest is where nothing matches.

    Raises `TargetError` for a pattern that is none.
    """
    mistake = pattern_mistake(text)
    if mistake:
        raise TargetError(f"pattern {text!r:.200}: {mistake}")
    pattern = Pattern(text)
    found: List[str] = []
    for name in names_of_modules(text):
        module = find_module(name)
        if module is None or is_ours(name) or not pattern.matches_module(name) or is_initializing(module):
            continue
        found += [f"{name}:{one}" for one in functions_of(module) if pattern.matches(name, one)]
    found.sort()
    why = "" if found else why_nothing(pattern, may_come=False)
    return {"targets": [_describe(target, table) for target in found[:MOST]], "more": max(0, len(found) - MOST), "why-nothing": why}


def _describe(target: str, table: ProbeTable) -> Dict[str, Any]:
    point = table.points.get(target)
    told = {"target": target, "state": "", "reason": "", "kind": "", "file": "", "line": 0, "signature": None}
    try:
        resolved = resolve(target)
    except TargetError as error:
        return {**told, "state": "unpatchable", "reason": str(error)}
    told.update(kind=resolved.kind.value, signature=signature_spec(resolved), **_place(resolved))
    if point is not None:
        return {**told, "state": point.state if not point.hooks else "armed", "reason": point.reason}
    if table.on_demand.allows(target):
        return {**told, "state": "on demand"}
    return {**told, "state": "not allowed", "reason": "neither a probe point of the config nor on demand"}


def _place(resolved: Resolved) -> Dict[str, Any]:
    """The file, and the line of its `def` or first decorator, as the compiler noted them; nothing for what was not written in Python."""
    function = resolved.function
    if not is_a(function, types.FunctionType):
        return {}
    code = function.__code__
    return {"file": code.co_filename, "line": code.co_firstlineno}

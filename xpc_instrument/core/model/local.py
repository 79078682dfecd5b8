"""Hooks that live in the application, as plain data: what a script asks for, checked on both sides.

`kind` says what the hook does:

`when` is an expression, or empty: what is counted are the invocations for which it is true when they have ended.

- `stat`: counts a number by key. `of` is what is counted, `duration` or an expression; `by` are the expressions of the key.
- `stack`: counts the callers, by the `depth` innermost frames.
- `watch`: shows the invocation, with the values of the expressions in `show` if there are any, else all; `depth` is how deep values are
  captured, `stack` how many frames of the caller are told, and with `errors` only those are shown that raise. With `rejected` those are
  shown as well that do not meet the condition, at a rate of their own; with `locals` the local variables in the traceback of what is
  raised, of frames of the application's own. Nobody waits for it.
- `line`: shows that a statement of a line begins, with the values of the expressions in `show`, and with `locals` all of its local
  variables; `depth` and `stack` as with `watch`. It is on a line and not on a function.
- `tree`: shows what the invocation calls, `depth` levels of it, 0 for all, in code that the patterns in `include` stand for, or if there
  are none, the application's own; what took less than `least` seconds in all is left out.
- `inject`: does the first of its `terms` that applies (`fault.py`), in the mode `instead`, and counts what it has done.
- `record`: tells the invocation in full, so that it can be run again; `recording` is a name that all hooks of one recording have, and those
  `inside` are of what is called meanwhile. Nobody waits for it.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

from .pattern import pattern_mistake

STAT, STACK, WATCH, LINE, TREE, INJECT, RECORD = "stat", "stack", "watch", "line", "tree", "inject", "record"

DURATION = "duration"

MOST_FRAMES = 50
"""Of a caller's stack."""

DEEPEST = 5
"""Levels of captured values."""

DEEPEST_TREE = 200
"""Levels of a tree: as deep as only recursion goes, and less deep than what reads JSON can go."""

_MOST_PARTS = 8
_MOST_SHOWN = 20
_KINDS: Dict[str, Dict[str, type]] = {
    STAT: {"when": str, "of": str, "by": list},
    STACK: {"when": str, "depth": int},
    WATCH: {"when": str, "show": list, "depth": int, "stack": int, "errors": bool, "rejected": bool, "locals": bool},
    LINE: {"when": str, "show": list, "depth": int, "stack": int, "locals": bool},
    TREE: {"when": str, "depth": int, "least": float, "include": list},
    INJECT: {"terms": str},
    RECORD: {"when": str, "recording": str, "inside": bool},
}


def check_local(local: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what no hook can be."""
    kind = local.get("kind")
    expected = _KINDS.get(kind) if isinstance(kind, str) else None
    if expected is None:
        raise ValueError(f"a hook of the kind {kind!r:.80}: expected one of {', '.join(_KINDS)}; both sides need the same version")
    if local.keys() != {"kind", *expected} or any(type(local[key]) is not value for key, value in expected.items()):
        raise ValueError(f"a hook of the kind {kind!r}: expected {', '.join(sorted(expected))}, got {dict(local)!r:.200}")
    if kind == STAT and not (len(local["by"]) <= _MOST_PARTS and all(isinstance(one, str) for one in local["by"])):
        raise ValueError(f"by={local['by']!r:.200}: expected at most {_MOST_PARTS} expressions")
    if kind in (WATCH, LINE):
        if not (len(local["show"]) <= _MOST_SHOWN and all(isinstance(one, str) for one in local["show"])):
            raise ValueError(f"show={local['show']!r:.200}: expected at most {_MOST_SHOWN} expressions")
        if not 0 <= local["depth"] <= DEEPEST:
            raise ValueError(f"depth={local['depth']!r:.80}: expected a number of levels from 0 to {DEEPEST}")
        if not 0 <= local["stack"] <= MOST_FRAMES:
            raise ValueError(f"stack={local['stack']!r:.80}: expected a number of frames from 0 to {MOST_FRAMES}")
    if kind == TREE:
        for pattern in local["include"]:
            mistake = pattern_mistake(pattern) if isinstance(pattern, str) else "expected a text"
            if mistake:
                raise ValueError(f"include={pattern!r:.200}: {mistake}")
        if len(local["include"]) > _MOST_SHOWN:
            raise ValueError(f"include={local['include']!r:.200}: expected at most {_MOST_SHOWN} patterns")
        if not 0 <= local["depth"] <= DEEPEST_TREE:
            raise ValueError(f"depth={local['depth']!r:.80}: expected a number of levels up to {DEEPEST_TREE}, 0 for all")
        if not 0 <= local["least"] < float("inf"):
            raise ValueError(f"min={local['least']!r:.80}: expected a time in seconds")
    if kind == INJECT:
        from .fault import parse_terms  # late: the agent checks all hooks here, and few of them are faults

        parse_terms(local["terms"])
    if kind == STACK and not 1 <= local["depth"] <= MOST_FRAMES:
        raise ValueError(f"depth={local['depth']!r:.80}: expected a number of frames from 1 to {MOST_FRAMES}")

"""What differs between two trees of values (`core/values/typed.py`), place by place.

Rules:
- What was redacted is not compared; what could not be recorded is compared by its type. Sets have no order, and neither have the keys of a
  dict. 1, 1.0 and True are three different values.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from ..model.record import Record
from ..values.typed import Tree
from .trees import below, children

_WITHOUT_ORDER = ("set", "frozenset")
# Characters of one value in a line for people.
_LONGEST = 120


class Missing:
    """Its one instance stands where there is no value."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = Missing()


class PlainText(str):
    """A text that is shown as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Difference(Record):
    """One place at which a call that was run again differs from what was recorded."""

    id: str
    """Of the call."""

    target: str
    path: str
    """Where: ``result.total``, ``exception``, ``inner[0].amount``."""

    was: Any
    """What was recorded there: a tree of JSON."""

    now: Any

    def __str__(self) -> str:
        return f"{self.path}: {tree_text(self.was)} is now {tree_text(self.now)}"


def differences(was: Tree, now: Tree, path: str) -> Iterator[Tuple[str, Any, Any]]:
    """Each place at which two trees differ, with what is there."""
    if isinstance(was, dict) and "cut" in was and "type" in was:
        if was["cut"] != "redacted" and _type_of(was) != _type_of(now):
            yield path, was, now
    elif type(was) is not type(now):
        yield path, was, now
    elif isinstance(was, list):
        yield from _in_lists(was, now, path)
    elif isinstance(was, dict) and was.get("type") != now.get("type"):
        yield path, was, now
    elif isinstance(was, dict) and "type" in was:
        yield from _in_typed(was, now, path)
    elif isinstance(was, dict):
        yield from _in_dicts(was, now, path)
    elif was != now:
        yield path, was, now


def _in_lists(was: List[Tree], now: List[Tree], path: str) -> Iterator[Tuple[str, Any, Any]]:
    for place in range(max(len(was), len(now))):
        one = was[place] if place < len(was) else NOTHING
        other = now[place] if place < len(now) else NOTHING
        yield from differences(one, other, f"{path}[{place}]")


def _in_dicts(was: Dict[str, Tree], now: Dict[str, Tree], path: str) -> Iterator[Tuple[str, Any, Any]]:
    for name in [*was, *(name for name in now if name not in was)]:
        yield from differences(was.get(name, NOTHING), now.get(name, NOTHING), below(path, name))


def _in_typed(was: Dict[str, Tree], now: Dict[str, Tree], path: str) -> Iterator[Tuple[str, Any, Any]]:
    if was.keys() != now.keys():
        yield path, was, now
    elif "items" in was and was["type"] in _WITHOUT_ORDER:
        if sorted(map(_key, was["items"])) != sorted(map(_key, now["items"])):
            yield path, was, now
    elif "items" in was and was["type"] == "dict":
        old, new = ({_key(key): (key, value) for key, value in one["items"]} for one in (was, now))
        for key in [*old, *(key for key in new if key not in old)]:
            shown, value = old.get(key) or (new[key][0], NOTHING)
            yield from differences(value, new[key][1] if key in new else NOTHING, f"{path}[{tree_text(shown)}]")
    elif "items" in was:
        yield from _in_lists(was["items"], now["items"], path)
    elif "args" in was:
        yield from _in_lists(was["args"], now["args"], f"{path}.args")
    elif "fields" in was or "tuple" in was:
        part = "fields" if "fields" in was else "tuple"
        yield from _in_dicts(was[part], now[part], path)
    elif was != now:
        yield path, was, now


def _key(tree: Tree) -> str:
    return json.dumps(tree, sort_keys=True)


def _type_of(tree: Tree) -> str:
    if isinstance(tree, dict) and "type" in tree:
        return str(tree["type"])
    return type(tree).__name__


def ignoring(patterns: Sequence[str]) -> Any:
    """What tells of a place whether it is ignored: that, or one that it lies below, is one of the patterns."""
    parts = []
    for pattern in patterns:
        text = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", r"[^.\[\]]*")
        parts.append(f"(?:{text})(?:[.\\[].*)?")
    return re.compile("|".join(parts)).fullmatch if parts else lambda path: None


def places(tree: Tree, path: str) -> Iterator[str]:
    """Each place of a tree, as a difference would name it."""
    yield path
    for inner, one in children(tree, path):
        if isinstance(tree, dict) and tree.get("type") == "dict" and "items" in tree:
            # Of a pair, its key is the place.
            yield from places(one[1], f"{path}[{tree_text(one[0])}]")
        else:
            yield from places(one, inner)


# for people -------------------------------------------------------------------------------------------------------------


def tree_text(tree: Any) -> str:
    """A tree as Python would show the value, cut where it is long."""
    text = _shown(tree)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _shown(tree: Any) -> str:
    if isinstance(tree, list):
        return f"[{', '.join(map(_shown, tree))}]"
    if not isinstance(tree, dict):
        return repr(tree)
    if "type" not in tree:
        return f"{{{', '.join(f'{key!r}: {_shown(value)}' for key, value in tree.items())}}}"
    name = str(tree["type"]).rpartition(":")[2].rpartition(".")[2]
    if "cut" in tree:
        return "<redacted>" if tree["cut"] == "redacted" else f"<{name}: {tree['cut']}>"
    if tree["type"] in ("int", "float", "complex"):
        return str(tree["text"])
    if "text" in tree:
        return f"{name}({tree['text']!r})"
    if "member" in tree or "value" in tree:
        return f"{name}.{tree['member']}" if "member" in tree else f"{name}({tree['value']!r})"
    if "base64" in tree:
        return f"<{name} of {len(tree['base64']) * 3 // 4}>"
    if "name" in tree:
        return str(tree["name"])
    if "args" in tree:
        return f"{name}({', '.join(map(_shown, tree['args']))})"
    if "items" in tree:
        items = tree["items"]
        if name == "tuple":
            return f"({', '.join(map(_shown, items))}{',' if len(items) == 1 else ''})"
        if name == "dict":
            return f"{{{', '.join(f'{_shown(key)}: {_shown(value)}' for key, value in items)}}}"
        return f"{name}({', '.join(map(_shown, items))})"
    fields: Any = tree.get("fields", tree.get("tuple", {}))
    return f"{name}({', '.join(f'{key}={_shown(value)}' for key, value in fields.items())})"


def arguments_text(target: str, arguments: Any) -> str:
    """A call as it would be typed."""
    name = target.rpartition(":")[2]
    shown = []
    for key, value in arguments.items():
        if key == "self" or (key.startswith("*") and (value == {} or (isinstance(value, dict) and value.get("items") == []))):
            continue
        shown.append(f"{key}={tree_text(value)}")
    return f"{name}({', '.join(shown)})"

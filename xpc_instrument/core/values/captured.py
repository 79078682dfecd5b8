"""What the script sees of a capture (`captures.py`): atoms as they are, all else as a frozen `Captured`; as text; and as JSON.

A tree comes from another process and may be anything: what is no tree as `captures.py` describes it is shown as `<not understood>`.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ..model.words import one_line
from .captures import Capturer, Tree

# Texts that stand for the value itself, and need no name of their type around them.
_BARE = frozenset(("int", "complex", "range", "ellipsis", "NotImplementedType"))
_NAMED = {"type": "class", "function": "function", "method": "method", "builtin_function_or_method": "function", "module": "module"}
_BRACKETS = {"list": "[]", "tuple": "()", "set": "{}"}
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_REASONS = {"time": "not captured in time", "changed": "changed while it was captured", "items": "not captured: too many values"}
_ATOMS = (type(None), bool, int, float, str)
# Fewer cannot be the tuple of a kind.
_LENGTHS = {"s": 3, "b": 3, "q": 4, "d": 4, "o": 4, "t": 3, "e": 6, "a": 4, "!": 4, "@": 2}


class Captured:
    """A value as it was captured: what it held then, and no reference to it.

    `type` is `module:Name`, or the name alone of a built-in one; `cut` says why something was left out ("depth", "items", "fields",
    "length", "time", "redacted", "seen", "changed"), or is None. Fields of an object are attributes, and items by their name, which also
    reaches a field called `type` or `cut`; items of sequences and mappings are items. `len` is the size that the value had, also where less
    was captured; iterating gives what was captured: items, keys, names of fields. Equal to plain data of the same shape: an object to the
    dict of its fields; what was cut is equal to nothing but the same capture.
    """

    __slots__ = ("_tree",)
    _tree: Tree

    def __init__(self, tree: Tree) -> None:
        object.__setattr__(self, "_tree", tree)

    @property
    def type(self) -> str:
        """The name of its type; "" where that is not told."""
        return _type_of(self._tree)

    @property
    def cut(self) -> Optional[str]:
        """Why something of it was left out; None if nothing was, but for what is inside of it."""
        return _cut_of(self._tree)

    def __getattr__(self, name: str) -> Any:
        for key, tree in _fields_of(self._tree):
            if key == name:
                return revive(tree)
        raise AttributeError(f"{render(self._tree)[:200]} has no field {name!r}" + (f": it was cut ({self.cut})" if self.cut else ""))

    def __getitem__(self, key: Any) -> Any:
        kind, tree = self._tree[0], self._tree
        if kind == "q":
            found = tree[2][key]
            return [revive(one) for one in found] if isinstance(key, slice) else revive(found)
        for own, one in tree[2] if kind == "d" else _fields_of(tree):
            if revive(own) == key:
                return revive(one)
        raise KeyError(key)

    def __len__(self) -> int:
        kind, tree = self._tree[0], self._tree
        if kind in ("q", "d", "o"):
            return int(tree[3])
        if kind in ("s", "b"):
            return int(tree[2])
        if kind == "!" and tree[3] is not None:
            return int(tree[3])
        raise TypeError(f"{self.type} has no length that was captured")

    def __bool__(self) -> bool:
        return self._tree[0] not in ("q", "d") or bool(self._tree[3])

    def __iter__(self) -> Iterator[Any]:
        kind, tree = self._tree[0], self._tree
        if kind == "q":
            return iter([revive(one) for one in tree[2]])
        if kind in ("d", "o", "e"):
            return iter([revive(key) for key, _ in (tree[2] if kind == "d" else _fields_of(tree))])
        raise TypeError(f"{self.type} has no items that were captured")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Captured):
            return bool(self._tree == other._tree)
        return _is_same(self._tree, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return render(self._tree)

    def __str__(self) -> str:
        kind, tree = self._tree[0], self._tree
        return str(tree[2]) if kind == "t" else f"{tree[1]}..." if kind == "s" else render(tree)

    def __dir__(self) -> List[str]:
        return sorted({"type", "cut", *(name for name, _ in _fields_of(self._tree))})

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} of what was captured cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of what was captured cannot be deleted")

    def __reduce__(self) -> Tuple[Any, ...]:
        return Captured, (self._tree,)


def revive(tree: Tree) -> Any:
    """The value of a tree: an atom, bytes, an int of any size; or a `Captured`."""
    if isinstance(tree, _ATOMS):
        return tree
    if not _is_tree(tree):
        return Captured(("!", "not understood", None, None))
    if tree[0] == "b" and type(tree[1]) is bytes and len(tree[1]) == tree[2]:
        return tree[1]
    if tree[0] == "t" and tree[1] == "int" and tree[2].lstrip("-").isdigit():
        return int(tree[2])
    return Captured(tree)


def _is_tree(tree: Any) -> bool:
    return type(tree) is tuple and bool(tree) and type(tree[0]) is str and _LENGTHS.get(tree[0]) == len(tree)


def _type_of(tree: Tree) -> str:
    kind = tree[0]
    if kind == "s":
        return "str"
    if kind == "b":
        return "bytes"
    named = tree[2] if kind == "!" else tree[1]
    return named if isinstance(named, str) else ""


def _cut_of(tree: Tree) -> Optional[str]:
    kind = tree[0]
    if kind == "!":
        return str(tree[1])
    if kind == "@":
        return "seen"
    if kind in ("s", "b"):
        return "length" if len(tree[1]) < tree[2] else None
    if kind in ("q", "d", "o"):
        return ("fields" if kind == "o" else "items") if len(tree[2]) < tree[3] else None
    return None


def _fields_of(tree: Tree) -> Any:
    kind = tree[0]
    return tree[2] if kind == "o" else [("args", ("q", "tuple", tree[2], len(tree[2]))), *tree[5]] if kind == "e" else ()


def _is_same(tree: Tree, other: Any) -> bool:
    """Whether plain data has the shape of a tree."""
    if isinstance(tree, _ATOMS):
        return type(other) is type(tree) and bool(other == tree)
    if isinstance(other, Captured):
        return bool(tree == other._tree)
    if not _is_tree(tree) or _cut_of(tree) is not None:
        return False
    kind = tree[0]
    if kind == "q":
        if type(other) is not _SEQUENCES.get(tree[1]) or len(other) != len(tree[2]):
            return False
        if isinstance(other, (set, frozenset)):
            return all(any(_is_same(one, item) for item in other) for one in tree[2])
        return all(map(_is_same, tree[2], other))
    if kind in ("d", "o"):
        if not isinstance(other, dict) or len(other) != len(tree[2]) or (kind == "d" and tree[1] != "dict"):
            return False
        return all(any(_is_same(key, own) and _is_same(one, value) for own, value in other.items()) for key, one in tree[2])
    return bool(Capturer().capture(other) == tree)


# as text --------------------------------------------------------------------------------------------------------------------


def render(tree: Tree, width: Optional[int] = None, indent: int = 0) -> str:
    """A text like a `repr`: on one line, or, with a `width`, on as many as it needs to stay within."""
    if isinstance(tree, _ATOMS):
        return repr(tree)
    if not _is_tree(tree):
        return "<not understood>"
    kind, name = tree[0], one_line(_type_of(tree))
    if kind == "s":
        return f"{tree[1]!r}... ({tree[2]} characters)"
    if kind == "b":
        return repr(tree[1]) + (f"... ({tree[2]} bytes)" if tree[2] > len(tree[1]) else "")
    if kind == "t":
        return _text(name, str(tree[2]))
    if kind == "a":
        return f"<{_short(name)} {one_line(str(tree[2]))} {'x'.join(map(str, tree[3]))}>"
    if kind == "@":
        return f"<{_short(name)} seen above>"
    if kind == "!":
        return _left_out(str(tree[1]), _short(name), tree[3])
    parts, brackets = _parts(tree, name, width, indent + 2)
    line = brackets[0] + ", ".join(parts) + brackets[1]
    if width is None or (len(line) + indent <= width and "\n" not in line):
        return line
    pad = "\n" + " " * (indent + 2)
    return brackets[0] + pad + f",{pad}".join(parts) + "\n" + " " * indent + brackets[1]


def _parts(tree: Tree, name: str, width: Optional[int], indent: int) -> Tuple[List[str], Tuple[str, str]]:
    """The texts of what is in a container, and its brackets."""
    kind = tree[0]
    if kind == "e":
        return [render(one, width, indent) for one in tree[2]], (f"{_short(name)}(", ")")
    missing = tree[3] - len(tree[2])
    more = [f"... {missing} more"] if missing > 0 else []
    if kind == "q":
        parts = [render(one, width, indent) for one in tree[2]] + more
        if name == "tuple" and len(parts) == 1:
            parts = [parts[0] + ","] if width is None else parts
        if name in _BRACKETS and (name != "set" or parts):
            return parts, (_BRACKETS[name][0], _BRACKETS[name][1])
        return parts, (f"{_short(name)}([", "])") if parts else (f"{_short(name)}(", ")")
    if kind == "d":
        shown = [f"{render(key)}: {render(one, width, indent)}" for key, one in tree[2]] + more
        return shown, ("{", "}") if name == "dict" else (f"{_short(name)}({{", "})")
    return [f"{one_line(str(key))}={render(one, width, indent)}" for key, one in tree[2]] + more, (f"{_short(name)}(", ")")


def _short(name: str) -> str:
    """The name of a type without its module."""
    bare = name.rpartition(":")[2]
    return bare if ":" in name else bare.rpartition(".")[2] or bare


def _text(name: str, text: str) -> str:
    if name in _BARE:
        return one_line(text, 1300)
    if name in _NAMED:
        return f"<{_NAMED[name]} {one_line(text)}>"
    return f"{_short(name)}({text!r})"


def _left_out(why: str, name: str, size: Optional[int]) -> str:
    if why == "redacted":
        return "<redacted>"
    if why == "depth":
        return f"<{name} ...>" if size is None else f"<{name} of {size} ...>"
    return f"<{name}: {_REASONS.get(why, one_line(why))}>" if name else f"<{_REASONS.get(why, one_line(why))}>"


# as JSON --------------------------------------------------------------------------------------------------------------------


def to_json(tree: Tree) -> Any:
    """What `json.dumps` takes: lists, tuples and dicts with texts for keys as such, all else as an object with its `type`."""
    if isinstance(tree, float) and not isfinite(tree):
        return {"type": "float", "text": repr(tree)}
    if isinstance(tree, _ATOMS):
        return tree
    if not _is_tree(tree):
        return {"cut": "not understood"}
    kind = tree[0]
    cut: Dict[str, Any] = {} if _cut_of(tree) is None else {"cut": _cut_of(tree)}
    if kind == "s":
        return {"type": "str", "text": tree[1], "size": tree[2], **cut}
    if kind == "b":
        return {"type": "bytes", "text": repr(tree[1]), **({"size": tree[2]} if cut else {}), **cut}
    if kind == "t":
        value = revive(tree)
        return value if isinstance(value, int) else {"type": tree[1], "text": tree[2]}
    if kind == "a":
        return {"type": tree[1], "dtype": tree[2], "shape": list(tree[3])}
    if kind == "e":
        return exception_to_json(tree)
    if kind == "o":
        return {"type": tree[1], "fields": {str(name): to_json(one) for name, one in tree[2]}, **cut}
    if kind == "q":
        items = [to_json(one) for one in tree[2]]
        return items if not cut and tree[1] in ("list", "tuple") else {"type": tree[1], "size": tree[3], "items": items, **cut}
    if kind == "d":
        if not cut and tree[1] == "dict" and all(isinstance(key, str) for key, _ in tree[2]):
            return {key: to_json(one) for key, one in tree[2]}
        return {"type": tree[1], "size": tree[3], "items": [[to_json(key), to_json(one)] for key, one in tree[2]], **cut}
    size = tree[3] if kind == "!" else None
    name = _type_of(tree)
    return {**({"type": name} if name else {}), **({} if size is None else {"size": size}), **cut}


def exception_to_json(tree: Tree) -> Dict[str, Any]:
    """The `exception` of an event: its type, message, and stack, the innermost frame last."""
    found = {
        "type": tree[1],
        "message": message_of(tree),
        "stack": [{"file": file, "line": line, "function": function} for file, line, function in tree[3]],
    }
    return found if tree[4] is None else {**found, "cause": to_json(tree[4])}


def message_of(tree: Tree) -> str:
    """What `str` would give for an exception that leaves that to its arguments."""
    args = [revive(one) for one in tree[2]]
    if len(args) == 1:
        return str(args[0])
    return f"({', '.join(map(repr, args))})" if args else ""

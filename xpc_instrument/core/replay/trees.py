"""The trees of values that a recording holds (`core/values/typed.py`): whether they have the form of one, and the places in them.

A place is written as Python would: `result.items[2].price`, `result['a b']`.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Tuple

from ..values.typed import Tree

# The forms of trees that are not written as JSON has them: the key that tells the form, and what it holds.
_FORMS: Dict[str, type] = {
    "cut": str,
    "text": str,
    "items": list,
    "base64": str,
    "member": str,
    "value": int,
    "name": str,
    "tuple": dict,
    "fields": dict,
}
# What may stand beside it.
_BESIDE = {"text": ("zone", "fold"), "items": ("most",), "fields": ("args",)}
_OF_PAIRS = ("dict", "collections:OrderedDict")
_DEEPEST = 200


def check_tree(tree: Any, depth: int = 0) -> Tree:
    """The tree, which has the form that all trees have. Raises `ValueError` or `TypeError` for anything else."""
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if depth > _DEEPEST:
        raise ValueError("a value that is too deep")
    if type(tree) is dict and "type" in tree:
        _check_form(tree)
    elif type(tree) not in (list, dict):
        raise TypeError(f"{type(tree).__name__} is nothing that a recording holds")
    for _, one in children(tree, ""):
        check_tree(one, depth + 1)
    return tree


def _check_form(tree: Dict[str, Any]) -> None:
    kind = tree["type"]
    form = next((one for one in _FORMS if one in tree), "")
    is_one = type(kind) is str and type(tree.get(form)) is _FORMS.get(form) and tree.keys() <= {"type", form, *_BESIDE.get(form, ())}
    if not is_one or type(tree.get("args", [])) is not list:
        raise TypeError(f"a value of the type {kind!r:.80} that has {', '.join(map(str, tree))!r:.200}")
    if form == "items" and kind in _OF_PAIRS and not all(type(one) is list and len(one) == 2 for one in tree["items"]):
        raise TypeError(f"a {kind} whose items are no pairs")


def children(tree: Tree, path: str) -> Iterator[Tuple[str, Tree]]:
    """What a tree is made of, with the place of each."""
    if isinstance(tree, list):
        for place, one in enumerate(tree):
            yield f"{path}[{place}]", one
    elif isinstance(tree, dict) and "type" not in tree:
        for name, one in tree.items():
            yield below(path, name), one
    elif isinstance(tree, dict):
        for place, one in enumerate(tree.get("items", ())):
            yield f"{path}[{place}]", one
        for place, one in enumerate(tree.get("args", ())):
            yield f"{path}.args[{place}]", one
        for name, one in (tree["fields"] if "fields" in tree else tree.get("tuple", {})).items():
            yield below(path, name), one


def below(path: str, name: str) -> str:
    """The place of what has a name."""
    if not path:
        return name
    return f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"

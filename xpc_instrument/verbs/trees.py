"""How a tree is shown: drawn for people, a node in a line, and as JSON."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..core.model.times import shown_seconds
from ..script.trees import Tree, TreeNode
from .events import utc

OWN = "own time"

# The branches of a drawing, and what stands for them in a pipe.
_BRANCHES = ("├─ ", "└─ ", "│  ", "   ")
_PLAIN = ("  ", "  ", "  ", "  ")
# Columns that the name has at least, however narrow the terminal is.
_LEAST = 20
# Columns that names are filled up to in a pipe, where nothing is cut: one deep recursion is not to make all lines as wide.
_FILLED = 60
_CUT = {"nodes": "more than 10,000 nodes", "depth": "more than 200 levels", "calls": "more than a million calls"}


class _Line(NamedTuple):
    name: str
    repeats: str
    time: str
    percent: str
    place: str
    rest: str


def tree_text(tree: Tree, width: int = 0, drawn: bool = True) -> List[str]:
    """The tree in lines; where `width` is not 0 and does not hold them, they have less of each, and names are cut in front."""
    head = f"{tree.pid} {tree.thread_name or f'thread {tree.thread}'}  {tree.target}  {shown_seconds(tree.duration)}{_failed(tree)}"
    lines = list(_lines(tree, _BRANCHES if drawn else _PLAIN))
    texts = [head, *_laid_out(lines, width)]
    if tree.cut:
        texts.append(f"cut: {_CUT.get(tree.cut, tree.cut)}; the rest is in the own time of what is above it")
    return texts


def _lines(tree: Tree, branches: Tuple[str, str, str, str]) -> Iterator[_Line]:
    whole = tree.duration or 1.0
    waiting: List[Tuple[Optional[TreeNode], TreeNode, str, bool]] = _below(tree, "")
    while waiting:
        node, parent, prefix, is_last = waiting.pop()
        branch = prefix + branches[1 if is_last else 0]
        seconds = parent.own if node is None else node.duration
        time, percent = shown_seconds(seconds), f"{seconds / whole * 100:.0f} %"
        if node is None:
            yield _Line(branch + OWN, "", time, percent, "", "")
            continue
        count = f"x{node.count}" if node.count > 1 else ""
        span = f"(min {shown_seconds(node.min)}, max {shown_seconds(node.max)})" if node.count > 1 else ""
        rest = "  ".join(part for part in (span, _failed(node).strip()) if part)
        yield _Line(branch + node.target, count, time, percent, f"{_place(node.file)}:{node.line}", rest)
        waiting += _below(node, prefix + branches[3 if is_last else 2])


def _below(node: TreeNode, prefix: str) -> List[Tuple[Optional[TreeNode], TreeNode, str, bool]]:
    """What is drawn below a node, the last first: its children, and where it has some, its own time."""
    below: List[Optional[TreeNode]] = [*node.children, None] if node.children else []
    return [(one, node, prefix, place == 0) for place, one in enumerate(reversed(below))]


def _laid_out(lines: List[_Line], width: int) -> List[str]:
    counts = max((len(line.repeats) for line in lines), default=0)
    places = max((len(line.place) for line in lines), default=0)
    numbers = counts + (2 if counts else 0) + 2 + 8 + 2 + 5
    names = max((len(line.name) for line in lines), default=0)
    shows_rest = shows_place = True
    if width:
        rests = max((len(line.rest) + 2 for line in lines if line.rest), default=0)
        shows_rest = names + numbers + 2 + places + rests <= width
        # Names that are wider than half of it are cut before the places go.
        shows_place = min(names, width // 2) + numbers + 2 + places <= width
        numbers += 2 + places if shows_place and not shows_rest else 0
        names = names if shows_rest else min(names, max(_LEAST, width - numbers))
    found = []
    for line in lines:
        count = f"  {line.repeats.rjust(counts)}" if counts else ""
        name = _fitted(line.name, names) if width else line.name.ljust(min(names, _FILLED))
        text = f"{name}{count}  {line.time.rjust(8)}  {line.percent.rjust(5)}"
        if shows_place and line.place:
            text += f"  {line.place.ljust(places) if line.rest and shows_rest else line.place}"
        if shows_rest and line.rest:
            text += f"  {line.rest}"
        elif "!!" in line.rest:
            text += f"  {line.rest[line.rest.index('!!') :]}"
        found.append(text)
    return found


def _fitted(name: str, width: int) -> str:
    """A name in so many columns: it is cut in front, where names are least told apart, and its branches take half of them at most."""
    if len(name) <= width:
        return name.ljust(width)
    branches = len(name) - len(name.lstrip("│├└─ "))
    branches = min(branches, width // 2)
    return f"{name[:branches]}…{name[branches + 1 + len(name) - width :]}"


def _failed(node: TreeNode) -> str:
    if not node.errors:
        return ""
    return f"  !! {node.error}" if node.count == 1 else f"  !! {node.error} in {node.errors}"


def _place(file: str) -> str:
    """The end of a path, enough to find the file by."""
    return os.sep.join(file.split(os.sep)[-2:])


def node_json(node: TreeNode) -> Dict[str, Any]:
    """A node, and all below it."""
    return {
        "target": node.target,
        "count": node.count,
        "duration": round(node.duration, 9),
        "own": round(node.own, 9),
        "min": round(node.min, 9),
        "max": round(node.max, 9),
        "errors": node.errors,
        "error": node.error,
        "file": node.file,
        "line": node.line,
        "children": [node_json(child) for child in node.children],
    }


def tree_json(tree: Tree, app: str) -> Dict[str, Any]:
    """A tree as an object for JSON."""
    return {
        "type": "tree",
        "time": utc(tree.time),
        "app": app,
        "pid": tree.pid,
        "thread": tree.thread_name,
        "id": tree.id,
        "target": tree.target,
        "tree": node_json(tree),
        "calls": tree.calls,
        "cut": tree.cut,
        "overhead": round(tree.overhead, 9),
    }

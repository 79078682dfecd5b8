"""How a tree is drawn: whole where there is room, and never wider than the terminal."""

from __future__ import annotations

import re
from typing import Any

from xpc_instrument.script.trees import Tree, TreeNode
from xpc_instrument.verbs.trees import tree_json, tree_text


def node(target: str, duration: float, *children: TreeNode, count: int = 1, errors: int = 0) -> Any:
    own = duration - sum(child.duration for child in children)
    error = "TimeoutError" if errors else ""
    return dict(  # noqa: C408 - keywords
        target=target, count=count, duration=duration, own=own, min=duration / count, max=duration / count, errors=errors, error=error,
        file="/srv/shop/web.py", line=15, children=children,
    )  # fmt: skip


POST = TreeNode(**node("shop.gateway:Gateway.post", 0.0512, count=2, errors=1))
CHARGE = TreeNode(**node("shop.checkout:charge", 0.0519, POST))
TOTAL = TreeNode(**node("shop.checkout:total", 0.0001))
TREE = Tree(
    **node("shop.web:pay", 0.0524, TOTAL, CHARGE),
    time=1.0, pid=4711, thread=1, thread_name="MainThread", id="4711-1", cut="", calls=4, overhead=0.0,
)  # fmt: skip


def test_it_is_drawn_with_branches_on_a_terminal() -> None:
    head, *lines = tree_text(TREE, 200)
    assert head == "4711 MainThread  shop.web:pay  52.4ms"
    assert [re.split(r"(?<=[a-z]) {2,}", line)[0] for line in lines] == [
        "├─ shop.checkout:total",
        "├─ shop.checkout:charge",
        "│  ├─ shop.gateway:Gateway.post",
        "│  └─ own time",
        "└─ own time",
    ]
    assert lines[2].endswith("x2    51.2ms   98 %  shop/web.py:15  (min 25.6ms, max 25.6ms)  !! TimeoutError in 1")


def test_in_a_pipe_it_is_plain() -> None:
    assert all(line.isascii() for line in tree_text(TREE, 0, drawn=False))


def test_a_narrow_terminal_has_less_of_it_but_names_and_times() -> None:
    lines = tree_text(TREE, 50)[1:]
    assert all("ms" in line or "us" in line for line in lines)
    assert any("post" in line and "…" in line for line in lines)
    assert not any("shop/web.py" in line for line in lines)


def test_what_is_cut_is_said_and_json_has_all() -> None:
    data = tree_json(TREE, "shop")
    assert (data["type"], data["tree"]["children"][1]["children"][0]["count"]) == ("tree", 2)
    assert data["time"] == "1970-01-01T00:00:01.000Z"


def deep(levels: int) -> TreeNode:
    below: Any = ()
    for _ in range(levels):
        below = (TreeNode(**node("shop.checkout:rec", 0.01, *below)),)
    return below[0]  # type: ignore[no-any-return]


DEEP = Tree(
    **node("shop.web:pay", 0.0524, TOTAL, CHARGE, deep(200)),
    time=1.0, pid=4711, thread=1, thread_name="MainThread", id="4711-1", cut="", calls=4, overhead=0.0,
)  # fmt: skip


def test_one_that_is_deep_leaves_the_others_as_they_are_in_a_pipe() -> None:
    lines = tree_text(DEEP, 0, drawn=False)[1:]
    assert max(len(line) for line in lines if "total" in line or "charge" in line or "post" in line) < 150
    assert all("shop.checkout:rec" in line and "shop/web.py:15" in line for line in lines if "rec" in line)


def test_one_that_is_deep_leaves_places_and_names_on_a_terminal() -> None:
    for width in (100, 140):
        lines = tree_text(DEEP, width)[1:]
        assert all("shop/web.py:15" in line for line in lines if "own time" not in line)
        assert all("checkout:rec" in line for line in lines if "rec" in line)
        assert max(len(line) for line in lines if "!!" not in line) <= width

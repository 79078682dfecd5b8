"""The pages of the API leave nothing out: each public name is on one of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

import xpc_agent
import xpc_instrument

pytestmark = pytest.mark.no_process

PAGES = Path(__file__).resolve().parents[2] / "docs" / "api"
DIRECTIVE = re.compile(r"^\.\. (?:auto|py:)(module|currentmodule|function|class|exception|data):: ([\w.]+)\n((?:   :.*\n)*)", re.MULTILINE)


def directives() -> Iterator[Tuple[str, List[str]]]:
    """What the pages document: the whole names, and the members that are left out of each."""
    for page in sorted(PAGES.glob("*.rst")):
        module = ""
        for kind, name, options in DIRECTIVE.findall(page.read_text()):
            if "module" in kind:
                module = name
                continue
            excluded = re.search(r":exclude-members: (.*)", options)
            yield f"{module}.{name}" if module else name, excluded.group(1).split(", ") if excluded else []


def test_each_public_name_is_on_one_page() -> None:
    public = [f"{module.__name__}.{name}" for module in (xpc_instrument, xpc_agent) for name in module.__all__]
    assert sorted(name for name, _ in directives()) == sorted(public)


def test_pages_leave_out_nothing_that_is_not_there() -> None:
    for name, excluded in directives():
        thing = getattr(xpc_instrument, name.rpartition(".")[2], None)
        assert [member for member in excluded if not hasattr(thing, member)] == []

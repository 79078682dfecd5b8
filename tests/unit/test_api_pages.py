"""The pages of the API leave nothing out: each public name is on one of them, and has a docstring to be shown there."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

import xpc_agent
import xpc_instrument

PAGES = Path(__file__).resolve().parents[2] / "docs" / "api"
DIRECTIVE = re.compile(
    r"^\.\. (?:auto|py:)(module|currentmodule|function|class|exception|data):: ([\w.]+)(?:\(.*\))?\n((?:   :.*\n)*)", re.MULTILINE
)


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


def members() -> Iterator[Tuple[str, Any]]:
    """Everything that the pages show: functions and classes, and the methods and properties of our classes, inherited ones too."""
    for name, excluded in directives():
        module, _, last = name.rpartition(".")
        thing = getattr(importlib.import_module(module), last)
        if not inspect.isclass(thing):
            if callable(thing):
                yield name, thing
            continue
        yield name, thing
        ours = [one for one in thing.__mro__ if one.__module__.startswith("xpc_")]
        for member, value in {name: value for one in reversed(ours) for name, value in vars(one).items()}.items():
            if not member.startswith("_") and member not in excluded and (callable(value) or isinstance(value, (property, classmethod))):
                yield f"{name}.{member}", value


def test_each_public_name_is_on_one_page() -> None:
    public = [f"{module.__name__}.{name}" for module in (xpc_instrument, xpc_agent) for name in module.__all__]
    # The plugin's names come with its fixtures, and are imported by nobody.
    assert sorted(name for name, _ in directives() if ".pytest_plugin." not in name) == sorted(public)


@pytest.mark.parametrize(("name", "thing"), [pytest.param(*pair, id=pair[0]) for pair in members()])
def test_what_the_pages_show_says_what_it_is(name: str, thing: Any) -> None:
    text = thing.__doc__ or ""
    # What dataclasses write themselves is the constructor once more.
    assert text.strip()
    assert not text.startswith(f"{name.rpartition('.')[2]}(")
    # A letter right behind a closing backquote is no end to Sphinx, which then takes the rest for code.
    assert [quoted for quoted, letter in re.findall(r"`([^`]+)`(\w?)", text.replace("``", "")) if letter] == []


def test_pages_leave_out_nothing_that_is_not_there() -> None:
    for name, excluded in directives():
        module, _, last = name.rpartition(".")
        thing = getattr(importlib.import_module(module), last)
        assert [member for member in excluded if not hasattr(thing, member)] == []

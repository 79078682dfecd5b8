"""The lines of the keys in TOML, which parsers do not tell."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpc_instrument.core.config.lines import key_lines

toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

Where = Tuple[Any, ...]

ODD: List[Tuple[str, Dict[Where, int]]] = [
    ("", {}),
    ("# only\n\n", {}),
    ("\n a . b.'c.d' = 1 # x = 2", {("a",): 2, ("a", "b"): 2, ("a", "b", "c.d"): 2}),
    ('"a\\u0062" = 1\n\'a"\' = 2\n"" = 3', {("ab",): 1, ('a"',): 2, ("",): 3}),
    ("a = [\n  1, # one ]\n\n  [2,\n 3],\n]\nb = 1", {("a",): 1, ("a", 0): 2, ("a", 1): 4, ("a", 1, 0): 4, ("a", 1, 1): 5, ("b",): 7}),
    ("a = { b = 1, c.d = [ 2 ], e = {} }\nf = []", {("a", "b"): 1, ("a", "c", "d"): 1, ("a", "c", "d", 0): 1, ("a", "e"): 1, ("f",): 2}),
    ("a = [\n{b = 1},\n{b = '}',\nc = 2}]" if sys.version_info >= (3, 15) else "a = [\n{b = 1},\n\n{b = '}'}]", {("a", 0, "b"): 2}),
    ('a = """\nb = 1\n\\"""\n"""\nc = 1', {("a",): 1, ("c",): 5}),
    ("a = '''\nb = \\'''\nc = 1", {("a",): 1, ("c",): 3}),
    ('a = """x"""""\nb = """"""\nc = \'\'\'\'\'x\'\'\'\'\'\nd = ["]", \'}#\']\ne = 1', {("b",): 2, ("c",): 3, ("d", 1): 4, ("e",): 5}),
    ("a = 1979-05-27 07:32:00 # date\r\nb = 1\r\n\r\n[c]\r\nd = 1", {("a",): 1, ("b",): 2, ("c",): 4, ("c", "d"): 5}),
    ("[[a]]\nb = 1\n[[a]]\nb = 2\n[[a.c]]\n[a.c.d]\ne = 1\n[f]", {("a",): 1, ("a", 1): 3, ("a", 1, "b"): 4, ("a", 1, "c", 0, "d", "e"): 7}),
    ("[ a . 'b' ]\nc = 1\n[a]\nd = 1", {("a",): 1, ("a", "b", "c"): 2, ("a", "d"): 4}),
    ('a = \'x\\\'\nb = "\\\\" # "\nc = 1', {("b",): 2, ("c",): 3}),
    ("a = " + "[" * 60 + "]" * 60 + "\nb = 1", {("a", *[0] * 59): 1, ("b",): 2}),
]


@pytest.mark.parametrize(("text", "expected"), ODD)
def test_odd_but_valid_toml_has_its_lines(text: str, expected: Dict[Where, int]) -> None:
    toml.loads(text)
    lines = key_lines(text)
    assert {where: lines.get(where) for where in expected} == expected
    assert set(lines) == set(places(toml.loads(text)))


def places(value: Any, where: Where = ()) -> List[Where]:
    """The place of every key and item in a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in pairs for place in [(*where, key), *places(item, (*where, key))]]


# Documents are generated as text with the places of their keys beside it: a value is (text, [(place in it, line in it from 0)]).

blank = st.sampled_from(["", " ", "\t"])
gap = st.sampled_from(["", " ", "\n", "\r\n", ' # ] } , = "\n', "\n\n"])
SINGLE = ["1", "-1.5e3", "true", "inf", "0xff", "1979-05-27", "07:32:00", "1979-05-27 07:32:00Z", '""', "''", '"a\\"]#"', "'\\'"]
MULTIPLE = ['"""a\n"b"\n\\"""c"""', '"""\r\n"""""', "'''\n'x''\n'''", "''''x'''''"]
scalars = st.sampled_from([*SINGLE, *MULTIPLE])
plain = st.sampled_from(["a", "b", "c-d", "1", "true"])
keys = st.one_of(
    plain.map(lambda key: (key, key)), plain.map(lambda key: (f'" {key}."', f" {key}.")), plain.map(lambda key: (f"'{key}#'", f"{key}#"))
)


@st.composite
def arrays(draw: Any, inner: Any) -> Tuple[str, List[Tuple[Where, int]]]:
    text, found = "[", []
    for index, (value, within) in enumerate(draw(st.lists(inner, max_size=3))):
        text += ("," if index else "") + draw(gap)
        line = text.count("\n")
        found += [((index,), line), *(((index, *where), line + more) for where, more in within)]
        text += value + draw(gap)
    return text + "]", found


@st.composite
def inline_tables(draw: Any, inner: Any) -> Tuple[str, List[Tuple[Where, int]]]:
    text, found = "{", []
    for index, ((written, key), (value, within)) in enumerate(
        draw(st.lists(st.tuples(keys, inner), max_size=3, unique_by=lambda pair: pair[0][1]))
    ):
        text += ("," if index else "") + draw(blank)
        line = text.count("\n")
        text += written + draw(blank) + "=" + draw(blank)
        found += [((key,), line), *(((key, *where), text.count("\n") + more) for where, more in within)]
        text += value + draw(blank)
    return text + "}", found


values = st.recursive(scalars.map(lambda text: (text, [])), lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)


@st.composite
def documents(draw: Any) -> Tuple[str, Dict[Where, int]]:
    text, lines = draw(gap), {}
    headers = draw(st.lists(st.tuples(keys, st.booleans()), max_size=3, unique_by=lambda pair: pair[0][1]))
    tables: List[Tuple[str, Where]] = [("", ())]
    for (written, key), several in headers:
        # Keys of the top have another prefix, so that a header never meets them.
        for index in range(draw(st.integers(1, 3)) if several else 1):
            header = f"[[x.{written}]]" if several else f"[x.{written}]"
            tables.append((header, ("x", key, index) if several else ("x", key)))
    for header, table in tables:
        if header:
            line = text.count("\n") + 1
            for size in range(1, len(table) + 1):
                lines.setdefault(table[:size], line)
            text += header + draw(blank) + "\n"
        for (written, key), (value, within) in draw(st.lists(st.tuples(keys, values), max_size=3, unique_by=lambda pair: pair[0][1])):
            dotted = draw(st.booleans())
            name: Where = ("y", key) if dotted else ("z" + key,)
            line = text.count("\n") + 1
            for size in range(1, len(name) + 1):
                lines.setdefault((*table, *name[:size]), line)
            text += (f"y{draw(blank)}.{draw(blank)}{written}" if dotted else f'"z{key}"') + draw(blank) + "="
            lines.update({(*table, *name, *where): line + more for where, more in within})
            text += f"{draw(blank)}{value}{draw(st.sampled_from(['', ' # = ', ' ']))}\n{draw(gap)}"
            text += "\n" if not text.endswith("\n") else ""
    return text, lines


@settings(max_examples=50)
@given(documents())
def test_every_key_and_item_has_its_line_in_any_document(document: Tuple[str, Dict[Where, int]]) -> None:
    text, expected = document
    parsed = toml.loads(text)
    assert set(expected) == set(places(parsed))
    assert key_lines(text) == expected

"""The terms of faults, from their text: what each means, and what is refused where."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpc_instrument.core.model.fault import LONGEST, FaultError, Term, parse_terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise(TimeoutError)", {"action": "raise", "type": "TimeoutError"}),
        ("raise(shop.bank:Declined.Hard, 'no, (money', 3)", {"type": "shop.bank:Declined.Hard", "values": ("no, (money", 3)}),
        ('10%raise(TimeoutError, "slow bank")', {"probability": 0.1, "values": ("slow bank",)}),
        ("0.5% 3*return({'ok': [1, (2, None)]})", {"probability": 0.005, "times": 3, "values": ({"ok": [1, (2, None)]},)}),
        ("return(None)", {"action": "return", "values": (None,)}),
        (r"return('it\'s')", {"values": ("it's",)}),
        ("2*sleep(100ms)", {"action": "sleep", "times": 2, "low": 0.1, "high": 0.1}),
        ("sleep( 100ms .. 0.3 )", {"low": 0.1, "high": 0.3}),
        ("sleep(normal, 1s, 20ms)", {"low": 1.0, "high": 0.02, "normal": True}),
        ("hang", {"action": "hang"}),
        (" off ", {"action": "off"}),
    ],
)
def test_a_term_is_what_it_says(text: str, expected: Dict[str, Any]) -> None:
    (term,) = parse_terms(text)
    assert {key: getattr(term, key) for key in expected} == pytest.approx(expected) if "low" in expected else True
    assert all(
        getattr(term, key) == pytest.approx(value) if isinstance(value, float) else getattr(term, key) == value
        for key, value in expected.items()
    )


def test_terms_come_in_their_order_and_keep_their_text() -> None:
    terms = parse_terms('10%raise(TimeoutError, "a -> b")->  3* sleep(100ms..300ms)  -> off')
    assert [term.text for term in terms] == ['10%raise(TimeoutError, "a -> b")', "3* sleep(100ms..300ms)", "off"]


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("", "expected raise, return", 0),
        ("rais(TimeoutError)", "did you mean raise", 0),
        ("raise", 'expected "\\("', 5),
        ("raise()", "nothing where a value is expected", 6),
        ("raise(1)", "expected the name of an exception first", 8),
        ("raise(TimeoutError, open('x'))", "expected a Python literal", 30),
        ("raise(TimeoutError, 1 + x)", "expected a Python literal", 26),
        ("return(1, 2)", "expected one value, found 2", 12),
        ("return(1", r'expected "\)"', 7),
        ("return([1)", r'expected "\)"', 7),
        ("sleep(2h)", "at most 1h", 9),
        ("sleep(soon)", "such as 200ms", 11),
        ("sleep(2s..1s)", "the shorter time first", 13),
        ("sleep(normal, 1s)", "the mean and the deviation", 17),
        ("0%off", "above 0 %", 0),
        ("101%off", "up to 100 %", 0),
        ("0*off", "from 1 on", 0),
        ("off off", '"->" or the end', 4),
        ("off ->", "expected raise, return", 6),
        ("->".join(["off"] * 21), "at most 20 terms", 100),
        ("return('\x1b[31m') x", '"->" or the end', 16),
    ],
)
def test_what_is_no_term_is_refused_with_its_place(text: str, message: str, column: int) -> None:
    with pytest.raises(FaultError, match=message) as caught:
        parse_terms(text)
    lines = str(caught.value).splitlines()
    assert lines[1].isprintable()
    if column < 60:
        assert lines[2].index("^") == 4 + column


def test_what_is_too_long_or_no_text_is_refused() -> None:
    with pytest.raises(FaultError, match=r"2,001 characters; expected at most 2,000"):
        parse_terms("o" * (LONGEST + 1))
    with pytest.raises(FaultError, match="as a text, got None"):
        parse_terms(None)  # type: ignore[arg-type]


PIECES = [
    "raise",
    "return",
    "sleep",
    "hang",
    "off",
    "->",
    "(",
    ")",
    ",",
    "10%",
    "3*",
    "'",
    '"',
    "\\",
    "1",
    "TimeoutError",
    "a:B",
    "..",
    "5ms",
    "normal",
    " ",
    "[",
]


@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=20).map("".join)))
def test_no_text_does_anything_but_give_terms_or_a_fault_error(text: str) -> None:
    try:
        terms = parse_terms(text)
    except FaultError:
        pass
    else:
        assert parse_terms(" -> ".join(term.text for term in terms)) == terms
        assert all(isinstance(term, Term) and 0 < term.probability <= 1 for term in terms)

"""What is shown of words that somebody else has written."""

from __future__ import annotations

import pytest

from xpc_instrument.core.model.words import SHOWN, counted, one_line


@pytest.mark.parametrize("text", ["", "a plain text", "größer als 1 €", "x" * SHOWN])
def test_a_short_printable_text_is_shown_as_it_is(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize("breaking", ["\n", "\r", "\x00", "\x1b", "\x85", "\u2028", "\u202e", "\ud800", "\U000e0041"])
def test_what_breaks_a_line_or_turns_its_order_is_escaped(breaking: str) -> None:
    shown = one_line(f"a{breaking}b")
    assert shown.isprintable()
    assert shown == f"a{breaking.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("one", ["y", "\n", "\U000e0041"])
def test_a_long_one_is_cut_after_it_was_escaped(one: str) -> None:
    shown = one_line(one * 100_000)
    assert len(shown) == SHOWN
    assert shown.endswith("...")


def test_a_number_of_things_is_one_of_them_or_several() -> None:
    assert [counted(number, "lane") for number in (0, 1, 2)] == ["0 lanes", "1 lane", "2 lanes"]
    assert [counted(number, "process", "processes") for number in (1, 3)] == ["1 process", "3 processes"]

"""Spans of time, as they are typed and as they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpc_instrument.core.model.times import parse_seconds, shown_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("5s", 5.0), ("10m", 600.0), ("1h", 3600.0), ("3", 3.0), ("1.5s", 1.5), (".5", 0.5), ("40us", 4e-5), ("0", 0.0)],
)
def test_a_span_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 s", "-1s", "1e3", "5d", "1.s", "inf", "nan", "٣s", "1_000", "1.5.2s", "5S"])
def test_what_is_no_span_is_none(text: str) -> None:
    assert parse_seconds(text) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0us"),
        (2e-8, "0us"),
        (0.43e-6, "0.4us"),
        (0.96e-6, "1us"),
        (4.2e-6, "4us"),
        (0.000999, "999us"),
        (0.0009996, "1ms"),
        (0.0382, "38.2ms"),
        (0.2, "200ms"),
        (0.9996, "1s"),
        (1.5, "1.5s"),
        (99.9, "99.9s"),
        (99.96, "1m 40s"),
        (725, "12m 5s"),
        (10800, "3h 0m"),
        (-0.2, "-200ms"),
    ],
)
def test_a_span_is_shown_in_the_unit_in_which_it_is_best_read(seconds: float, text: str) -> None:
    assert shown_seconds(seconds) == text


@given(st.floats(1e-6, 99))
def test_what_is_shown_is_what_it_was_within_its_digits(seconds: float) -> None:
    assert parse_seconds(shown_seconds(seconds)) == pytest.approx(seconds, rel=0.06, abs=1e-6)

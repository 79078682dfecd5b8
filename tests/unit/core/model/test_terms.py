"""The terms of a registration: what can be agreed on, and that it arrives as it was said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpc_instrument.core.model.terms import Terms

positive = st.floats(0, 1e6, exclude_min=True)
TERMS = st.builds(
    Terms,
    limit=st.none() | st.integers(1, 10**9),
    expires=st.none() | positive,
    sample=st.none() | st.floats(0, 1, exclude_min=True),
    rate=st.none() | positive,
    wait=st.booleans(),
) | st.builds(Terms, timeout=st.floats(0, 86_400, exclude_min=True))


@given(TERMS)
def test_terms_arrive_as_they_were_said(terms: Terms) -> None:
    assert Terms.from_json(json.loads(json.dumps(terms.to_json()))) == terms


def test_what_is_not_said_does_not_cross() -> None:
    assert Terms().to_json() == {}
    assert Terms(rate=2).to_json() == {"rate": 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("limit", value) for value in (0, -1, 1.5, True, "3")),
        *(("expires", value) for value in (0, -0.5, 1e10, False, "1", float("nan"), float("inf"))),
        *(("sample", value) for value in (0, 1.01, -1, True, "0.5", float("nan"))),
        *(("rate", value) for value in (0, -1, 1e10, True, [], float("inf"))),
        *(("timeout", value) for value in (0, -1, 1e5, True, "1", float("nan"))),
        *(("wait", value) for value in (0, 1, None, "no")),
    ],
)
def test_what_cannot_be_agreed_on_is_refused_with_what_was_seen(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}=.*expected"):
        Terms(**{field: value})
    with pytest.raises(ValueError, match=f"{field}="):
        Terms.from_json({field: value})


def test_a_term_of_a_later_version_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown term 'tone'.*same version"):
        Terms.from_json({"limit": 1, "tone": "polite"})

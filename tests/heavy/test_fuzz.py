"""The fuzz targets in short, the same inputs each time; `python3 dev.py fuzz` takes as long as it is given."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import mutated
from tests.fuzz.targets import TARGETS, Unpickled, arm, fuzz_reader, pieces_of, seeds

SEEDS = seeds()


@pytest.fixture(autouse=True)
def armed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpickling is an alarm while a test of this file runs."""
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, getattr(pickle, name))
    arm()


@pytest.mark.parametrize("target", TARGETS)
def test_what_once_was_wrong_and_what_is_right_is_taken(target: str) -> None:
    for seed in SEEDS[target]:
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_changed_bytes_are_taken(target: str) -> None:
    chance = random.Random(target)
    for _ in range(1500):
        TARGETS[target](mutated(chance, SEEDS[target]))


@pytest.mark.parametrize("target", TARGETS)
@settings(derandomize=True, max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_are_taken(target: str, data: Any) -> None:
    TARGETS[target](data.draw(st.binary(max_size=300) | st.sampled_from(SEEDS[target]).flatmap(_prefixed)))


def _prefixed(seed: bytes) -> Any:
    return st.builds(lambda head, tail, cut: head + seed[:cut] + tail, st.binary(max_size=4), st.binary(max_size=40), st.integers(0, 400))


def test_the_alarm_rings() -> None:
    with pytest.raises(Unpickled):
        pickle.loads(b"N.")


def test_a_reader_whose_frames_depend_on_how_the_bytes_are_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from xpc_instrument.core.protocol.codec import FrameReader

    right = FrameReader.feed
    monkeypatch.setattr(FrameReader, "feed", lambda reader, data: None if len(data) == 1 else right(reader, data))
    with pytest.raises(AssertionError):
        fuzz_reader(SEEDS["reader"][0])


def test_the_first_bytes_say_how_the_others_are_cut() -> None:
    assert pieces_of(b"\x02\x01\x03abcdefg") == ([b"a", b"bcd", b"efg"], b"abcdefg")
    assert pieces_of(b"\x00abc") == ([b"abc"], b"abc")
    assert pieces_of(b"") == ([], b"")

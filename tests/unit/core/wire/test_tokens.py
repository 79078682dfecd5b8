"""Tokens: each is taken once, whoever takes it, and nothing of the application's is taken for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from xpc_instrument.core.model.errors import ChannelError
from xpc_instrument.core.wire.tokens import MOST, Purse, Tokens


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    made = Tokens(50)
    yield made
    made.close()


def test_each_is_taken_once_by_whoever_takes_it(tokens: Tokens) -> None:
    one, other = Purse(tokens.name), Purse(tokens.name)
    assert [one.take() for _ in range(20)] == [other.take() for _ in range(20)] == [True] * 20
    assert tokens.left == 10
    pid = os.fork()
    if not pid:
        os._exit(sum(one.take() for _ in range(7)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert [one.take() for _ in range(5)] == [True, True, True, False, False]
    assert (other.take(), tokens.left) == (False, 0)
    one.close()
    other.close()
    assert not one.take()


@pytest.mark.parametrize("count", [1, 65_536, 65_537, MOST])
def test_there_are_as_many_as_a_pipe_can_hold(count: int) -> None:
    made = Tokens(count)
    assert made.left == count
    made.close()
    assert made.left == 0


def test_more_than_a_pipe_can_hold_are_refused() -> None:
    with pytest.raises(ChannelError, match=f"at most {MOST}"):
        Tokens(MOST + 1)


def test_a_file_that_has_the_number_of_a_pipe_that_was_closed_is_left_alone(tokens: Tokens, tmp_path: Path) -> None:
    purse = Purse(tokens.name)
    (tmp_path / "own").write_bytes(b"own")
    own = os.open(tmp_path / "own", os.O_RDONLY)
    os.dup2(own, purse._end)
    os.close(own)
    number = purse._end
    assert not purse.take()
    purse.close()
    assert os.read(number, 10) == b"own"
    os.close(number)


def test_what_is_of_another_machine_or_namespace_or_gone_is_not_opened(tokens: Tokens) -> None:
    pid, end, device, number, boot = tokens.name.split(" ")
    for name in (
        f"{pid} {end} {device} {number} another",
        f"{pid} {end} {device} 1 {boot}",
        f"{pid} 0 {device} {number} {boot}",
        f"{pid} 1000000 {device} {number} {boot}",
        f"../../etc/passwd {end} {device} {number} {boot}",
        "nothing",
        "",
    ):
        with pytest.raises(ChannelError, match="cannot be had"):
            Purse(name)

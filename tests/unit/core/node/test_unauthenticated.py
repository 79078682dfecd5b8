"""Which of the unauthenticated connections is closed for another, and when there are too many to look at."""

from __future__ import annotations

from typing import Any

import pytest

from xpc_instrument.core.node import unauthenticated as module
from xpc_instrument.core.node.unauthenticated import UnauthenticatedClient, UnauthenticatedClients, origin_of


def client(origin: str, spoken: bool = False) -> UnauthenticatedClient:
    found = UnauthenticatedClient(None, 10.0, origin)  # type: ignore[arg-type]
    found.spoken = spoken
    return found


def standing(*clients: UnauthenticatedClient, limit: int) -> UnauthenticatedClients:
    found = UnauthenticatedClients(limit)
    for one in clients:
        found.add(one)
    return found


def test_nobody_gives_way_while_there_is_room() -> None:
    assert standing(client("a"), client("a"), limit=2).one_too_many(0.0) is None


def test_the_address_with_the_most_loses_one_of_its_own() -> None:
    honest = client("honest")
    crowd = [client("crowd") for _ in range(3)]
    found = standing(honest, *crowd, limit=3)
    assert found.one_too_many(0.0) is crowd[0]


def test_who_has_said_nothing_goes_before_who_has_spoken() -> None:
    spoken = [client("a", spoken=True) for _ in range(5)]
    silent = client("a")
    assert standing(*spoken, silent, limit=5).one_too_many(0.0) is silent


def test_of_those_who_have_all_spoken_none_can_be_pushed_out_with_certainty() -> None:
    honest = client("a", spoken=True)
    losers = set()
    for _ in range(300):
        found = standing(honest, *[client("a", spoken=True) for _ in range(3)], limit=3)
        losers.add(found.one_too_many(0.0) is honest)
    assert losers == {True, False}


@pytest.mark.parametrize(
    ("where", "origin"),
    [
        (("192.0.2.7", 80), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 80, 0, 0), "20010db800010002"),
        (("2001:db8:1:2:ffff::1", 80, 0, 0), "20010db800010002"),
        (("fe80::1%eth0", 80, 0, 2), "fe80000000000000"),
        ("", ""),
        (b"", ""),
    ],
)
def test_where_a_connection_comes_from(where: Any, origin: str) -> None:
    assert origin_of(where) == origin


def test_many_that_give_way_within_a_second_are_a_storm_until_the_second_is_over() -> None:
    found = standing(client("a"), client("a"), limit=1)
    for _ in range(module._STORM):
        found.one_too_many(100.0)
    assert not found.are_storming(100.1)
    found.one_too_many(100.2)
    assert found.are_storming(100.3)
    assert not found.are_storming(101.5)

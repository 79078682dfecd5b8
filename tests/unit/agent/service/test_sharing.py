"""Names by which a member calls: whose hook one is, and that no other text leads anywhere."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from xpc_agent.relay import relay_name
from xpc_agent.service.sharing import Sharing

PEERS: Dict[str, Any] = {"a session": object()}


def test_the_name_that_a_member_calls_leads_to_the_hook_of_the_session() -> None:
    found = Sharing("shop", PEERS, True).find(relay_name("a session", 17).decode())
    assert found is not None
    assert (found.peer, found.hook, found.callback) == (PEERS["a session"], 17, None)


@pytest.mark.parametrize(
    "name",
    [
        "\0",
        "\0\0",
        "\0a session",
        "\0a session\0",
        "\0a session\0x",
        "\0a session\0-1",
        "\0a session\0\N{SUPERSCRIPT TWO}",
        "\0a session\0" + "1" * 5000,
        "\0another\0001",
    ],
)
def test_any_other_name_leads_nowhere(name: str) -> None:
    assert Sharing("shop", PEERS, True).find(name) is None


def test_without_a_fixed_address_nobody_is_called_so() -> None:
    assert Sharing("shop", PEERS, False).find(relay_name("a session", 17).decode()) is None

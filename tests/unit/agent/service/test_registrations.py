"""Hooks that sessions put on probe points: what is refused, and that nothing is left of one that is dropped."""

from __future__ import annotations

import os
import sys
import types
from typing import Any, Callable, Dict, Iterator, List

import pytest

from xpc_agent.points.table import ProbeTable
from xpc_agent.relay import RelayedPeer
from xpc_agent.service.registrations import Registrations
from xpc_instrument.core.config.file import from_probes
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.messages import Register
from xpc_instrument.core.values.traits import python_version

NAME = "shop_of_registrations"


@pytest.fixture
def shop() -> Iterator[Any]:
    module = sys.modules[NAME] = types.ModuleType(NAME)
    exec("def charge(n): return n\ndef refund(n): return n\n", module.__dict__)
    yield module
    del sys.modules[NAME]


class Service:
    """The table and the registrations of one process; `peer` is a script that has never been dialled."""

    def __init__(self, module: Any) -> None:
        config = from_probes("shop", [f"{NAME}:*"])
        self.table = ProbeTable(config)
        self.table.module_imported(module)
        self.table.every_point()
        never: List[Any] = []
        self.registrations = Registrations(config, self.table, dict, never.append, never.append)
        joiner = Joiner(parse_address("unix:/nowhere"), b"", limits=Limits(), on_notice=never.append)
        self.peer = RelayedPeer(joiner, "a session", f"pid {os.getpid()}", os.getpid(), python_version())

    def add(self, name: str, hook: int = 1, **terms: Any) -> None:
        self.registrations.add_hook(self.peer, Register(0, name, hook, "call", terms, ""))

    def hooks(self) -> Dict[str, int]:
        return {target.partition(":")[2]: len(point.hooks) for target, point in self.table.points.items()}


@pytest.fixture
def service(shop: Any) -> Iterator[Service]:
    service = Service(shop)
    yield service
    service.table.restore_all()


DROPS: Dict[str, Callable[[Registrations], None]] = {
    "the hook": lambda registrations: registrations.drop_hook("a session", 1, 0.0, lambda: None),
    "its session": lambda registrations: registrations.drop_session("a session"),
    "all": lambda registrations: registrations.drop_all(),
}


@pytest.mark.parametrize("dropped", DROPS)
def test_nothing_is_left_of_a_hook_that_is_dropped(service: Service, shop: Any, dropped: str) -> None:
    code = shop.charge.__code__
    service.add(f"before:{NAME}:charge")
    assert service.hooks() == {"charge": 1, "refund": 0}
    assert shop.charge.__code__ is not code
    service.registrations.drop_session("another session")
    service.registrations.drop_hook("a session", 2, 0.0, lambda: None)
    assert service.hooks() == {"charge": 1, "refund": 0}
    DROPS[dropped](service.registrations)
    assert service.hooks() == {"charge": 0, "refund": 0}
    assert shop.charge.__code__ is code


def test_the_end_of_a_hook_is_told_where_no_event_of_it_waits(service: Service) -> None:
    done: List[bool] = []
    service.add(f"after:{NAME}:charge")
    service.registrations.drop_hook("a session", 1, 5.0, lambda: done.append(True))
    assert done == [True]


def test_only_inherited_hooks_of_a_session_are_orphans(service: Service) -> None:
    service.add(f"before:{NAME}:charge", 1)
    service.add(f"before:{NAME}:refund", 2)
    (inherited,) = service.table.points[f"{NAME}:charge"].hooks
    inherited.orphan_since = 1.0
    service.registrations.drop_orphans("a session")
    assert service.hooks() == {"charge": 0, "refund": 1}


def test_a_hook_that_was_inherited_is_the_same_when_its_session_registers_it_again(service: Service) -> None:
    service.add(f"before:{NAME}:charge")
    (hook,) = service.table.points[f"{NAME}:charge"].hooks
    hook.orphan_since = 1.0
    service.add(f"before:{NAME}:charge")
    assert service.table.points[f"{NAME}:charge"].hooks == [hook]
    assert hook.orphan_since == 0.0


@pytest.mark.parametrize(
    ("name", "terms", "said"),
    [
        (f"before:{NAME}:chrge", {}, f"is no probe point of shop.*the nearest are {NAME}:charge"),
        (f"instead:{NAME}:charge", {"wait": False}, "has to be waited for"),
    ],
)
def test_what_cannot_be_a_hook_is_refused_with_the_reason(service: Service, name: str, terms: Any, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        service.add(name, **terms)
    assert service.hooks() == {"charge": 0, "refund": 0}


@pytest.mark.parametrize(
    ("name", "hook", "said"),
    [
        (f"before:{NAME}:" + "x" * 5000, 1, "can be a name"),
        (f"before:{NAME}:charge", -1, "expected one that a frame can hold"),
        (f"before:{NAME}:charge", 1 << 32, "expected one that a frame can hold"),
    ],
)
def test_what_no_frame_could_say_is_refused_before_anything_looks_at_it(service: Service, name: str, hook: int, said: str) -> None:
    peer: Any = service.peer
    with pytest.raises(TargetError, match=said):
        service.registrations.register(peer, Register(1, name, hook, "call", {}, NAME))
    assert service.hooks() == {"charge": 0, "refund": 0}


def test_a_point_takes_so_many_hooks_and_no_more(service: Service) -> None:
    most = from_probes("shop", [f"{NAME}:*"]).limits.max_hooks
    for number in range(most):
        service.add(f"before:{NAME}:charge", number)
    with pytest.raises(TargetError, match="max-hooks"):
        service.add(f"before:{NAME}:charge", most)
    service.add(f"before:{NAME}:refund", most)
    assert service.hooks() == {"charge": most, "refund": 1}

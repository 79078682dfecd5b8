"""Hooks that nobody waits for: what the application pays, what arrives, in which order, and that every call is delivered or counted."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, start_app
from tests.programs import Program, kill
from xpc_instrument import find_free_port
from xpc_instrument.errors import ReferenceExpiredError
from xpc_instrument.references import Reference

EIGHT_THREADS = "[one.join() for one in [shop.threading.Thread(target=lambda: [shop.charge(i) for i in range({})]) for _ in range(8)] if not one.start()]"
PATIENCE = 30.0


@pytest.fixture
def start(run_program: Callable[..., Program], tmp_path: Path) -> Callable[..., App]:
    """Start the application with these limits."""

    def start(limits: str = "") -> App:
        return start_app(run_program, tmp_path, f'[limits]\n{limits}\n[[probe]]\ntarget = "shop:*"\n')

    return start


class Seen:
    """A hook that keeps what it sees, and lets a test wait until it has seen so much."""

    def __init__(self, show: Callable[[Any], Any] = lambda call: call.args[0]) -> None:
        self.values: List[Any] = []
        self._show = show
        self._more = threading.Condition()

    def __call__(self, call: Any) -> None:
        value = self._show(call)
        with self._more:
            self.values.append(value)
            self._more.notify_all()

    def wait_for(self, count: int) -> List[Any]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.values) >= count, PATIENCE), f"{len(self.values)} of {count}"
            return list(self.values)


def test_events_arrive_in_the_order_of_the_calls(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen()
        handle = session.before("shop:charge", seen, wait=False)
        app.evaluate("[shop.charge(i) for i in range(3000)] and None")
        handle.remove()
        assert seen.values == list(range(3000))
        assert (handle.delivered, handle.dropped) == (3000, 0)
        # Disarmed: the next call is none of its own.
        app.evaluate("shop.charge(1)")
        assert handle.delivered == 3000

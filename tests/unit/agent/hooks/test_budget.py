"""What observing costs, as its budget counts it."""

from __future__ import annotations

import threading
import time

from xpc_agent.hooks.budget import LONG, Budget


class Observer:
    target = "shop:charge"
    over_budget = False

    def rest(self) -> None:
        raise AssertionError("it costs next to nothing")

    def _notify(self, kind: str, **data: object) -> None:
        raise AssertionError(kind)


def _used(seconds: float) -> None:
    """Have another thread use the processor for so long, and wait for it."""

    def use() -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()


def test_the_wait_for_another_thread_costs_nothing() -> None:
    budget = Budget(Observer())
    began = budget.begin()
    _used(0.05)
    budget.end(began)
    assert 0.0 < budget._cost < 0.05


def test_one_long_piece_of_work_in_so_many_is_timed_and_stands_for_all() -> None:
    budget = Budget(Observer())
    began = [budget.begin() for _ in range(2 * LONG)]
    assert [one >= 0.0 for one in began] == [True, *[False] * (LONG - 1)] * 2
    for one in began[1:LONG]:
        budget.end(one)
    assert budget._cost == 0.0
    budget.end(began[LONG])
    assert budget._cost > 0.0
